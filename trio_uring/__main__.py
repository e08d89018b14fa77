# SPDX-License-Identifier: MIT OR Apache-2.0
"""``python -m trio_uring``: what this kernel can do, and a first use of a direct descriptor."""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._abi import AT_FDCWD, FEATURE_KERNEL, OP_KERNEL, SETUP_KERNEL
from ._errors import RingUnavailableError
from ._probe import BEHAVIOURS, Probe, probe, ring_memory_counts
from ._ring import Ring

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from enum import IntEnum, IntFlag

READ_BYTES = 4096


def main(arguments: list[str] | None = None) -> int:
    """The exit status: 0, or 1 if io_uring cannot be used here."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if arguments[:1] == ["bench"]:
        return _run_bench(arguments[1:])
    options = _parser().parse_args(arguments)
    try:
        status: int = options.run(options)
    except RingUnavailableError as error:
        _complain(error)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m trio_uring", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    asked = commands.add_parser("probe", help="what io_uring can do on this machine")
    asked.add_argument("--json", action="store_true", help="for programs")
    asked.set_defaults(run=_run_probe)
    shown = commands.add_parser("demo", help="open, read and close through a direct descriptor")
    shown.add_argument(
        "file", nargs="?", default=__file__, help="the file whose first line to print"
    )
    shown.set_defaults(run=_run_demo)
    # For the help alone: it has options of its own, see main().
    commands.add_parser("bench", help="how fast it is, beside other libraries")
    return parser


def _complain(error: RingUnavailableError) -> None:
    print(f"io_uring is not usable: {error.reason}.\n{error.remedy}.", file=sys.stderr)


# -- probe -----------------------------------------------------------------------------------------


def _run_probe(options: argparse.Namespace) -> int:
    found = probe()
    counts = ring_memory_counts() if found.usable else None
    if options.json:
        print(json.dumps(_as_json(found, counts), indent=2))
    elif found.usable:
        _print_table(found, counts)
    if found.error is not None:
        _complain(found.error)
    return 0 if found.usable else 1


def _as_json(found: Probe, counts: bool | None) -> dict[str, Any]:
    return {
        "usable": found.usable,
        "kernel": found.kernel,
        "reason": found.reason,
        "remedy": found.remedy,
        "ring_memory_counts": counts,
        "memlock_bytes": _limit(resource.RLIMIT_MEMLOCK),
        "features": [feature.name for feature in FEATURE_KERNEL if feature & found.features],
        "setup_flags": [flag.name for flag in SETUP_KERNEL if flag & found.setup_flags],
        "ops": [op.name for op in OP_KERNEL if op in found.ops],
        "behaviours": dict(found.behaviours),
        "untried": dict(found.untried),
    }


def _print_table(found: Probe, counts: bool | None) -> None:
    print(f"Linux {found.kernel}: io_uring is usable")
    for note in found.notes:
        print(f"  {note}")
    print("\nLimits")
    print(f"  {'RLIMIT_MEMLOCK':<24}{_amount(resource.RLIMIT_MEMLOCK, ' bytes')}")
    print(f"  {'rings count against it':<24}{_word(counts)}")
    print(f"  {'RLIMIT_NOFILE':<24}{_amount(resource.RLIMIT_NOFILE, ' files, slots of a table')}")
    _print_flags(
        "Features", FEATURE_KERNEL, (name for name in FEATURE_KERNEL if name & found.features)
    )
    _print_flags("Set-up flags", SETUP_KERNEL, (f for f in SETUP_KERNEL if f & found.setup_flags))
    _print_flags("Operations", OP_KERNEL, found.ops)
    print("\nBehaviours, found by trying")
    for name, (kernel, meaning) in BEHAVIOURS.items():
        answer = _word(found.behaviours.get(name))
        print(f"  {name:<24}{kernel:<6}{answer:<5}{found.untried.get(name, meaning)}")


def _print_flags(
    title: str, kernels: Mapping[Any, str], present: Iterable[IntEnum | IntFlag]
) -> None:
    known = frozenset(present)
    print(f"\n{title}, with the kernel that brought each")
    for member, kernel in kernels.items():
        print(f"  {member.name:<24}{kernel:<6}{_word(member in known)}")


def _word(answer: bool | None) -> str:
    return "?" if answer is None else "yes" if answer else "no"


def _limit(which: int) -> int | None:
    soft, _ = resource.getrlimit(which)
    return None if soft == resource.RLIM_INFINITY else soft


def _amount(which: int, unit: str) -> str:
    limit = _limit(which)
    return "none" if limit is None else f"{limit}{unit}"


# -- demo ------------------------------------------------------------------------------------------


def _run_demo(options: argparse.Namespace) -> int:
    try:
        line = first_line(options.file)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.file}, through slot 0 of a ring, without a file descriptor:\n{line}")
    return 0


def first_line(path: str) -> str:
    """The first line of a file, which is opened into slot 0, read from it and closed in it.

    Raises:
        OSError: it cannot be opened or read.
    """
    buffer = bytearray(READ_BYTES)
    with Ring(4) as ring:
        ring.register_files([-1])
        ring.openat_direct(1, AT_FDCWD, path, os.O_RDONLY, 0, 0)
        _finish(ring, path)
        ring.read(2, 0, buffer, 0).use_registered_fd()
        nbytes = _finish(ring, path)
        ring.close_direct(3, 0)
        _finish(ring, path)
    return buffer[:nbytes].partition(b"\n")[0].decode(errors="replace")


def _finish(ring: Ring, path: str) -> int:
    ring.submit()
    result = ring.copy_cqe().res
    if result < 0:
        raise OSError(-result, os.strerror(-result), path)
    return result


# -- bench -----------------------------------------------------------------------------------------


def _run_bench(arguments: list[str]) -> int:
    """Runs tests/benchmarks, which is not installed: it needs a compiler and other libraries."""
    program = Path(__file__).parent.parent / "tests" / "benchmarks"
    if not (program / "__main__.py").exists():
        print(
            "The benchmarks are in the source distribution of trio_uring: unpack it, and there\n"
            "  pip install --group bench -e . && python -m trio_uring bench",
            file=sys.stderr,
        )
        return 1
    sys.argv = [str(program), *arguments]
    runpy.run_path(str(program), run_name="__main__")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # "probe | head" ends without a word
    sys.exit(main())
