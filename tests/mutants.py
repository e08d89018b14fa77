# SPDX-License-Identifier: MIT OR Apache-2.0
"""Breaks one rule at a time in a copy of the package, and sees that the tests notice.

    python tests/mutants.py [NAME ...]

Each mutant replaces one piece of the source and names the tests that must fail then. A test of a
lifetime can pass for the wrong reason: these show that it can fail. Exit status 1 if one survives.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from build_help import build, extension_of

ROOT = Path(__file__).parent.parent
# A mutant may make a test hang or the interpreter crash: both are noticed.
TIMEOUT_S = 60


class Mutant(NamedTuple):
    """``old`` in ``file`` becomes ``new``; ``tests`` are pytest's -k expression and its files."""

    name: str
    file: str
    old: str
    new: str
    select: str
    tests: str = "test_lifetimes"


MUTANTS = [
    Mutant(
        "nothing is kept alive",
        "_queue_base.py",
        "self._pins.setdefault(user_data, []).append(pins)",
        "pass",
        "is_not_freed or is_locked_until or to_be_sent",
    ),
    Mutant(
        "pins stay on the entry only",
        "_queue_base.py",
        "        for sqe in self._lenders:\n            user_data, pins",
        "        for sqe in ():\n            user_data, pins",
        "is_not_freed or with_one_user_data",
    ),
    Mutant(
        "buffers are let go at any CQE",
        "_csrc/core.c",
        "if (cqe && ledger && !(cqe->flags & TU_CQE_F_MORE))",
        "if (cqe && ledger)",
        "multishot or zero_copy",
    ),
    Mutant(
        "the first of several with one user_data ends all",
        "_csrc/ledger.c",
        "    if (--entry->count)\n        return;",
        "    entry->count = 0;",
        "with_one_user_data or used_again_at_once",
    ),
    Mutant(
        "the ledger does not count",
        "_csrc/core.c",
        "int rc = ring->ledger.entries ? enter_in_ledger(ring, tail) : 0;",
        "int rc = 0;",
        "close_cancels_and_drains or close_finds or does_not_end_in_time",
    ),
    Mutant(
        "prepared entries are taken for submitted ones",
        "_queue_base.py",
        "if user_data not in self._lending and user_data not in self._foreign:",
        "if user_data not in self._foreign:",
        "many_at_once",
    ),
    Mutant(
        "messages end operations",
        "_queue_base.py",
        "if user_data not in self._lending and user_data not in self._foreign:",
        "if user_data not in self._lending:",
        "a_message or takes_an_operations_user_data",
    ),
    Mutant(
        "user_data is read when the buffer is lent",
        "_queue_base.py",
        "            user_data, pins = sqe.user_data, sqe.pins\n",
        "            user_data, pins = 7, sqe.pins\n",
        "changed_before_submit",
    ),
    Mutant(
        "what has not ended is freed at close",
        "_queue.py",
        "        if self._ring.ledger.in_flight or self._foreign:",
        "        if self._foreign:",
        "does_not_end_in_time or registered_buffer_is_kept or interrupted_close or silently",
    ),
    Mutant(
        "an interrupted close leaves the ring open",
        "_queue.py",
        "        finally:\n            self._end(mine)",
        "        except ValueError:\n            pass\n        else:\n            self._end(mine)",
        "interrupted_close",
    ),
    Mutant(
        "close does not cancel",
        "_queue_close.py",
        "            ring._cancel_all()\n",
        "",
        "close_cancels_and_drains",
    ),
    Mutant(
        "close cancels once",
        "_queue_close.py",
        "        while _is_waited_for(ring):\n            ring._cancel_all()",
        "        ring._cancel_all()\n        while _is_waited_for(ring):",
        "start_others or one_by_one",
    ),
    Mutant(
        "close cancels by entries only",
        "_queue_close.py",
        "    if ring.features & Feature.LINKED_FILE and _cancel_by_register(ring, flags):\n",
        "    if False:\n",
        "start_others",
    ),
    Mutant(
        "a silent operation is waited for",
        "_csrc/ledger.c",
        "    ledger->silent += silent != 0;\n",
        "",
        "ends_silently",
    ),
    Mutant(
        "the parent's mappings are the child's",
        "_csrc/core.c",
        "    if (madvise(rings, ring->ring_map_bytes, MADV_DONTFORK) ||\n"
        "        madvise(sqes, ring->sqes_map_bytes, MADV_DONTFORK))\n        return -errno;\n",
        "",
        "no_part_of_the_queues",
        "test_queue_misuse",
    ),
    Mutant(
        "a child keeps the descriptor",
        "_queue.py",
        "        lib.tu_abandon(self._ring)\n",
        "",
        "forked",
        "test_queue_misuse",
    ),
    Mutant(
        "any thread may enter",
        "_csrc/core.c",
        "    if (!rc && ring->owner && ring->owner != (uintptr_t)&this_thread) {",
        "    if (0) {",
        "foreign_thread",
        "test_ledger",
    ),
    Mutant(
        "two threads at once",
        "_csrc/core.c",
        "    if (__atomic_exchange_n(&ring->busy, 1, __ATOMIC_ACQUIRE))",
        "    if (0)",
        "while_another_is_inside",
        "test_ledger",
    ),
    Mutant(
        "entries outlive their memory",
        "_queue_base.py",
        "            sqe.memory = dead\n",
        "",
        "kept_entry",
        "test_queue_misuse",
    ),
    Mutant(
        "counters are compared, not subtracted",
        "_csrc/core.c",
        "    for (; head != tail && count < max; head++) {",
        "    for (; head < tail && count < max; head++) {",
        "wrap",
        "test_ledger",
    ),
    Mutant(
        "the hole of a removed user_data stays",
        "_csrc/ledger.c",
        "        if (from_home < from_hole)\n            continue;\n",
        "        continue;\n",
        "like_a_counter",
        "test_ledger",
    ),
    Mutant(
        "own memory is as large as was asked for",
        "_csrc/core.c",
        "    while (cq_entries < p->cq_entries) /* the kernel rounds up */\n"
        "        cq_entries *= 2;\n",
        "    if (p->cq_entries)\n        cq_entries = p->cq_entries;\n",
        "own_memory",
        "test_queue_setups",
    ),
    Mutant(
        "a signal ends a wait",
        "_queue_flow.py",
        "            if not wait_nr or (left is not None and left <= 0):\n",
        "            if True:\n",
        "signal",
        "test_queue",
    ),
    Mutant(
        "errors of submit are numbers",
        "_csrc/core.c",
        "return rc < 0 ? rc : (int64_t)ring->submitted;",
        "return rc < 0 ? rc : ring->submitted;",
        "submit_and_wait_with_nothing",
        "test_queue",
    ),
]


def apply(mutant: Mutant, folder: Path) -> None:
    path = folder / "trio_uring" / mutant.file
    source = path.read_text()
    if source.count(mutant.old) != 1:
        raise SystemExit(
            f"{mutant.name}: its text is {source.count(mutant.old)} times in {path.name}"
        )
    path.write_text(source.replace(mutant.old, mutant.new))
    if extension := extension_of(mutant.file):
        status, said = build(folder, extension, "-O1", "-w")
        if status:
            raise SystemExit(said)


def run_tests(select: str, tests: str, folder: Path) -> tuple[bool, str]:
    """Whether they pass, and the last line of the report."""
    paths = [str(ROOT / "tests" / f"{name}.py") for name in tests.split()]
    options = ["-q", "-x", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    command = [sys.executable, "-m", "pytest", *options, "--rootdir", str(ROOT)]
    try:
        done = subprocess.run(
            [*command, "-k", select, *paths],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        return False, f"no end within {TIMEOUT_S} s"
    if done.returncode == 5:
        raise SystemExit(f"no test is called {select!r}")
    return done.returncode == 0, (done.stdout.strip().splitlines() or ["nothing"])[-1]


def main(names: list[str]) -> int:
    survived = 0
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    for mutant in chosen:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            shutil.copytree(ROOT / "trio_uring", folder / "trio_uring")
            apply(mutant, folder)
            passed, report = run_tests(mutant.select, mutant.tests, folder)
        survived += passed
        print(f"{'SURVIVED' if passed else 'killed':8}  {mutant.name}: {report}", flush=True)
    print(f"{len(chosen) - survived} of {len(chosen)} mutants killed")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
