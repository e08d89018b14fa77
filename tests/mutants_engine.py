# SPDX-License-Identifier: MIT OR Apache-2.0
"""``python tests/mutants_engine.py [NAME...]``: breaks one rule of the engine at a time.

Each mutant is a name, a file of the package, a piece of its text, what to put in its place, and the
tests of which at least one must fail then: ``file::expression`` as for pytest's ``-k``. The tests
run in a copy of the project; a test that hangs is ended and has failed.
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
TIMEOUT_S = 90.0


class Mutant(NamedTuple):
    """One broken rule."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]
    also_old: str = ""
    also_new: str = ""


MUTANTS = [
    # Promise 1
    Mutant(
        "no_keep_alive_past_close",
        "_engine_begin.py",
        'self.ring.hold("engine", self.records)',
        "pass",
        ("test_promises.py::promise_1_a_ring_that_cannot_wait",),
    ),
    Mutant(
        "ring_closes_without_draining",
        "_engine.py",
        "else DRAIN_TIMEOUT_S\n",
        "else 0\n",
        ("test_promises.py::promise_1_a_ring_that_waits",),
    ),
    # Promise 2
    Mutant(
        "abort_succeeded_for_failed",
        "_operation.py",
        "return Abort.FAILED",
        "return Abort.SUCCEEDED",
        ("test_promises.py::promise_2", "test_races.py::recv or accept"),
    ),
    Mutant(
        "taken_back_without_a_nop",
        "_engine_begin.py",
        "SQEs old\n            prep_nop(sqe, IGNORED_ID)\n",
        "SQEs old\n",
        ("test_promises.py::promise_2", "test_races.py::test_an_open"),
    ),
    # Promise 3
    Mutant(
        "first_opened_is_closed_first",
        "_scope.py",
        "next(reversed(self._files))",
        "next(iter(self._files))",
        ("test_promises.py::promise_3",),
    ),
    Mutant(
        "a_task_leaves_its_handle_open",
        "_scope.py",
        "            await owner.file.aclose()",
        "            pass",
        ("test_handle_life.py::once_and_only",),
    ),
    Mutant(
        "a_task_closes_what_it_gave_away",
        "_scope.py",
        "        self.file = file._owner = None",
        "        file._owner = None",
        ("test_handle_life.py::once_and_only",),
    ),
    Mutant(
        "a_scope_is_closed_twice_over",
        "_scope.py",
        "        if was_empty:  # else",
        "        if True:  # else",
        ("test_handle_life.py::one_checkpoint",),
    ),
    Mutant(
        "connections_that_nobody_took_stay_open",
        "_accept.py",
        "            while self._ready:",
        "            while False:",
        ("test_slots.py::row_38",),
    ),
    Mutant(
        "closing_is_interrupted",
        "_handle.py",
        "            self._empty_at_once(slot)\n            raise",
        "            raise",
        ("test_promises.py::promise_3", "test_engine_sockets.py::row_20"),
    ),
    # Promise 4
    Mutant(
        "close_before_drain",
        "_handle.py",
        "        if self._in_flight:\n            self._drained",
        "        if False:\n            self._drained",
        ("test_engine_sockets.py::row_19 or row_34",),
    ),
    Mutant(
        "a_closed_handle_keeps_its_slot",
        "_handle.py",
        "slot, self._slot = self._slot, -1",
        "slot = self._slot",
        ("test_promises.py::promise_4", "test_slots.py::row_33"),
    ),
    Mutant(
        "slot_released_at_once",
        "_handle.py",
        "        if self._in_flight:\n            self._quarantined = slot",
        "        if False:\n            self._quarantined = slot",
        ("test_promises.py::promise_4",),
    ),
    Mutant(
        "no_generation_check",
        "_engine.py",
        "        if record.user_data == user_data:\n            record.complete",
        "        if True:\n            record.complete",
        ("test_engine_queues.py::row_9",),
    ),
    # Promise 5
    Mutant(
        "the_file_is_opened_before_there_is_a_slot",
        "_direct.py",
        "    at = AT_FDCWD if dir_fd is None else dir_fd\n",
        "    at = AT_FDCWD if dir_fd is None else dir_fd\n"
        "    os.close(os.open(path, flags, mode))\n",
        ("test_promises.py::promise_5", "test_slots.py::truncated or created"),
    ),
    Mutant(
        "who_asks_for_less_overtakes",
        "_file_table.py",
        "if self._waiters or len(self._free) < count:",
        "if len(self._free) < count:",
        ("test_slots.py::overtakes",),
    ),
    Mutant(
        "who_opens_a_file_overtakes",
        "_file_table.py",
        "if self._waiters or not self._free:",
        "if not self._free:",
        ("test_slots.py::overtakes",),
    ),
    Mutant(
        "a_name_is_not_kept",
        "_engine_slots.py",
        "flags, slot + 1, path",
        "flags, slot + 1, None",
        ("test_native.py::name_outlives",),
    ),
    Mutant(
        "a_refused_record_is_lost",
        "_engine_begin.py",
        "        operation.recycle()\n        if file is not None:",
        "        if file is not None:",
        ("test_engine_queues.py::cannot_be_written",),
    ),
    Mutant(
        "a_second_close_does_not_wait",
        "_handle.py",
        "        if self._closing:\n",
        "        if False:\n",
        ("test_engine_sockets.py::row_40",),
    ),
    Mutant(
        "a_close_without_an_entry_leaves_it_open",
        "_handle.py",
        "                self._close_now()\n            raise\n",
        "                pass\n            raise\n",
        ("test_handle_life.py::takes_no_entry",),
    ),
    Mutant(
        "a_withdrawn_waiter_blocks_the_queue",
        "_file_table.py",
        "        self._waiters.remove(waiter)\n        self._serve()",
        "        self._waiters.remove(waiter)",
        ("test_slots.py::cancelled_wait_lets",),
    ),
    Mutant(
        "a_dropped_slot_is_slept_over",
        "_handle.py",
        "engine.token.run_sync_soon(engine.reclaim_dropped)",
        "pass",
        ("test_slots.py::dropped",),
    ),
    # Promise 6
    Mutant(
        "an_empty_send_is_no_checkpoint",
        "_fixed_socket.py",
        "            else:\n                await trio.lowlevel.checkpoint()\n        except",
        "        except",
        ("test_promises.py::promise_6",),
    ),
    Mutant(
        "a_close_forgets_who_waits_for_a_slot",
        "_handle.py",
        "        for end in list(self._slot_waits()):\n            end()",
        "        pass",
        ("test_slots.py::waits_for_a_slot",),
    ),
    # Promise 7
    Mutant(
        "a_close_looks_like_an_error",
        "_engine.py",
        "record.closing = True",
        "record.closing = False",
        ("test_promises.py::promise_7",),
    ),
    Mutant(
        "two_readers_at_once",
        "_socket_receive.py",
        "        if self._receiving:",
        "        if False:",
        ("test_engine_sockets.py::row_55",),
    ),
    Mutant(
        "a_broken_stream_heals",
        "_socket_setup.py",
        "            self._receive_lost = exc",
        "            pass",
        ("test_engine_sockets.py::row_50",),
    ),
    # Promise 8
    Mutant(
        "send_all_sends_once",
        "_fixed_socket.py",
        "        while sent < len(data):",
        "        if sent < len(data):",
        ("test_promises.py::promise_8",),
    ),
    Mutant(
        "all_buffers_of_a_bundle_are_thought_full",
        "_shared_buffers.py",
        "if end <= self._count and set(full) == {size} and last >= nbytes - size * len(full):",
        "if end <= self._count:",
        ("test_recv_bundles.py::shortened",),
    ),
    Mutant(
        "the_last_buffer_of_a_bundle_is_thought_full",
        "_shared_buffers.py",
        " and last >= nbytes - size * len(full):",
        ":",
        ("test_recv_bundles.py::shortened",),
    ),
    Mutant(
        "a_chunk_is_thought_to_be_one_buffer",
        "_shared_buffers.py",
        "if nbytes > self._lengths[buffer_id]:",
        "if nbytes > self.nbytes:",
        ("test_recv_bundles.py::shortened",),
    ),
    Mutant(
        "a_bundle_gives_one_buffer_back",
        "_shared_buffers.py",
        'self._is_back[first:end] = b"\\1" * (end - first)',
        "self._is_back[first] = 1",
        ("test_recv_bundles.py::one_completion",),
    ),
    Mutant(
        "long_chunks_are_not_counted",
        "_recv_multishot.py",
        "            len(chunks) > 1 and sum(map(len, chunks)) >= self._bytes_ahead_max()",
        "            False",
        ("test_recv_bundles.py::stalls",),
    ),
    Mutant(
        "a_stream_that_has_flowed_keeps_memory_of_its_own",
        "_socket_receive.py",
        "self.type is stdlib_socket.SOCK_STREAM and count <= engine.options.recv_buffer_bytes",
        "False",
        ("test_recv_bundles.py::full_buffer",),
    ),
    Mutant(
        "drain_leaves_what_it_returns",
        "_recv_multishot.py",
        "        self._chunks.clear()\n        return chunks",
        "        return chunks",
        ("test_recv_bundles.py::drain_takes",),
    ),
    Mutant(
        "the_end_that_drain_knows_is_no_checkpoint",
        "_recv_multishot.py",
        "            await trio.lowlevel.cancel_shielded_checkpoint()\n",
        "",
        ("test_recv_bundles.py::drain_is_empty",),
    ),
    Mutant(
        "every_connection_costs_a_pass",
        "_accept.py",
        "            connection = self._ready.popleft()\n",
        "            await trio.lowlevel.checkpoint()\n"
        "            connection = self._ready.popleft()\n",
        ("test_handle_life.py::together",),
    ),
    Mutant(
        "a_block_that_is_over_keeps_its_records",
        "_accept.py",
        "            self._spare.clear()",
        "            pass",
        ("test_handle_life.py::keeps_no_listener",),
    ),
    Mutant(
        "a_connection_that_is_there_is_no_point_of_cancellation",
        "_accept.py",
        "            await trio.lowlevel.checkpoint_if_cancelled()\n            # Those",
        "            # Those",
        ("test_handle_life.py::who_is_cancelled",),
    ),
    Mutant(
        "a_chunk_costs_a_wait_and_a_checkpoint",
        "_recv_multishot.py",
        "            return chunks.popleft()\n        finally:",
        "            await trio.lowlevel.checkpoint()\n            return chunks.popleft()\n"
        "        finally:",
        ("test_handle_life.py::delivered",),
    ),
    Mutant(
        "what_is_there_is_no_checkpoint",
        "_recv_multishot.py",
        "                await trio.lowlevel.checkpoint()\n                return chunks.popleft()",
        "                return chunks.popleft()",
        ("test_handle_life.py::delivered",),
    ),
    Mutant(
        "who_leaves_a_block_is_not_woken",
        "_recv_multishot.py",
        "            if self._leaver is not None:\n                self._leaver.wake()\n\n",
        "\n",
        ("test_handle_life.py::left", "test_engine_sockets.py::multishot"),
    ),
    Mutant(
        "a_cancelled_reader_is_woken",
        "_waiter.py",
        "        self.task = None\n        return Abort",
        "        return Abort",
        ("test_handle_life.py::cancelled",),
    ),
    Mutant(
        "chunks_taken_ahead_are_dropped",
        "_recv_multishot.py",
        "socket._received.extend(self._chunks)",
        "pass",
        ("test_engine_sockets.py::row_62", "test_races.py::multishot"),
    ),
    # Promise 9
    Mutant(
        "any_run_may_use_any_ring",
        "_hot.py",
        "if task._runner is not self._runner:",
        "if False:",
        ("test_promises.py::promise_9", "test_engine_process.py::row_63"),
    ),
    # Promise 10
    Mutant(
        "set_up_fails_without_a_reason",
        "_queue_base.py",
        "raise setup_error(code)",
        'raise OSError(-code, "no ring")',
        ("test_promises.py::promise_10",),
    ),
    # Traps of the loop
    Mutant(
        "cancels_are_lost_when_the_queue_is_full",
        "_engine.py",
        "        self._stash += taken\n",
        "",
        ("test_engine_queues.py::row_15 or row_21",),
    ),
    Mutant(
        "epoll_is_polled_once",
        "_adopted.py",
        "        self._driver._armed = False\n",
        "",
        ("test_engine_queues.py::readiness or epoll_call",),
    ),
    Mutant(
        "a_loop_that_looks_around_when_idle",
        "_adopted.py",
        "return engine.turn(int(timeout * 1e9) if timeout else 0)",
        "return engine.turn(int(min(timeout, 0.05) * 1e9))",
        ("test_traps.py::idle_loop",),
    ),
    Mutant(
        "timeouts_of_whole_milliseconds",
        "_adopted.py",
        "int(timeout * 1e9) if timeout else 0",
        "int(timeout * 1000 + 1) * 1_000_000 if timeout else 0",
        ("test_traps.py::as_it_is",),
    ),
    Mutant(
        "a_hidden_end_of_the_time_is_waited_for_again",
        "_engine.py",
        "if not timeout_ns or (timeout_ns := deadline - monotonic_ns()) <= 0:",
        "if not timeout_ns or count == -errno.ETIME:",
        ("test_traps.py::a_submission_hides",),
    ),
    Mutant(
        "a_signal_ends_the_wait",
        "_engine.py",
        "if not timeout_ns or (timeout_ns := deadline - monotonic_ns()) <= 0:",
        "if True:",
        ("test_traps.py::a_signal",),
    ),
    Mutant(
        "a_signal_is_an_error",
        "_engine.py",
        "_TRY_AGAIN = frozenset({-errno.EINTR, ",
        "_TRY_AGAIN = frozenset({",
        ("test_kinds_of_run.py::ctrl_c",),
    ),
    Mutant(
        "writability_is_a_poll_of_the_ring",
        "_adopted.py",
        "return self._inner.wait_writable(fd)",
        "return self.engine.perform(prep_poll_add, fd.fileno(), 4)",
        ("test_traps.py::half_closed",),
    ),
    Mutant(
        "readability_is_a_poll_of_the_ring",
        "_adopted.py",
        "return self._inner.wait_readable(fd)",
        "return self.engine.perform(prep_poll_add, getattr(fd, 'fileno', lambda: fd)(), 1)",
        ("test_traps.py::epoll_refuses",),
    ),
    Mutant(
        "epoll_is_polled_for_edges",
        "_adopted.py",
        "        self._driver._armed = False\n",
        "        self._driver._armed = bool(flags & 2)\n",
        ("test_traps.py::left_there",),
        "prep_poll_add",
        "prep_poll_multishot",
    ),
    Mutant(
        "an_interrupted_worker_is_an_error",
        "_operation.py",
        "CANCELLED = INTERRUPTED | {",
        "CANCELLED = {",
        ("test_traps.py::interrupted_worker",),
    ),
    Mutant(
        "a_close_keeps_what_is_cancelled",
        "_handle.py",
        "            engine.flush_now()\n",
        "            pass\n",
        ("test_traps.py::let_go",),
    ),
    Mutant(
        "what_was_not_submitted_stays",
        "_engine_begin.py",
        "SQEs old\n            prep_nop(sqe, IGNORED_ID)\n",
        "SQEs old\n",
        ("test_traps.py::next_file",),
    ),
    Mutant(
        "a_guest_has_no_eventfd",
        "_adopted.py",
        "self.engine.ring.register_eventfd(self._eventfd)",
        "pass",
        ("test_engine_guest.py::row_28",),
    ),
    Mutant(
        "a_hosts_cancel_waits_for_a_pass",
        "_adopted.py",
        "self.submits_cancels_at_once = True",
        "pass",
        ("test_engine_guest.py::a_cancel_by_the_host",),
    ),
    Mutant(
        "a_cancel_after_the_end_reaches_the_ring",
        "_engine.py",
        "        if self.closed:\n            return\n        self._cancels.append",
        "        self._cancels.append",
        ("test_kinds_of_run.py::collected",),
    ),
    Mutant(
        "an_engine_stays_for_ever",
        "_engine.py",
        "        self.closed = True\n",
        "        self.closed = True\n        Engine.__dict__['turn'].__dict__[id(self)] = self\n",
        ("test_kinds_of_run.py::thousands",),
    ),
    Mutant(
        "any_trio_is_recognised",
        "_adopted.py",
        "= _MANAGER_METHODS\n",
        "= _MANAGER_METHODS or True\n",
        ("test_kinds_of_run.py::another_loop",),
    ),
    Mutant(
        "any_hot_path_is_recognised",
        "_hot.py",
        "_ASSERTED_WAKING == _RESCHEDULE_NAMES",
        "_ASSERTED_WAKING != None",
        ("test_kinds_of_run.py::another_loop",),
    ),
    Mutant(
        "a_fallback_in_silence",
        "_run.py",
        '        warnings.warn(f"running on plain Trio: {exc}", RuntimeWarning, stacklevel=3)\n',
        "",
        ("test_kinds_of_run.py::without_io_uring",),
    ),
    Mutant(
        "what_completed_before_a_crash_has_no_owner",
        "_engine.py",
        "            brought += [r.res for r",
        "            [r.res for r",
        ("test_kinds_of_run.py::comes_in_a_crash and (install or open)",),
    ),
    Mutant(
        "what_comes_while_a_run_ends_has_no_owner",
        "_engine.py",
        "[*self._stash, *self.ring.close(timeout)]",
        "self.ring.close(timeout) and []",
        ("test_kinds_of_run.py::comes_in_a_crash and (accept or multishot)",),
    ),
    # The rules of the hosted driver
    Mutant(
        "hosted_wakes_before_the_wait",
        "_hosted.py",
        "            self.engine.submit()\n",
        "            self.engine.dispatch(self.engine.turn(0))\n"
        "            if select.select([self._eventfd], [], [], 0)[0]:\n"
        "                os.eventfd_read(self._eventfd)\n",
        ("test_traps.py::hosted_a_task",),
    ),
    Mutant(
        "hosted_watches_no_eventfd",
        "_hosted.py",
        "        ring.register_eventfd(self._eventfd)\n",
        "",
        ("test_traps.py::hosted_operations_work",),
    ),
    Mutant(
        "hosted_hooks_fail_in_silence",
        "_hosted.py",
        "            self.engine.fail(exc)\n",
        "            pass\n",
        ("test_traps.py::hosted_an_error",),
    ),
    Mutant(
        "hosted_has_nobody_after_the_system_tasks",
        "_hosted.py",
        "if self._system_tasks_end and",
        "if False and",
        ("test_traps.py::hosted_operations_work",),
    ),
    Mutant(
        "hosted_leaves_system_tasks_alone",
        "_hosted.py",
        "                while self.engine.awaits():",
        "                while False:",
        ("test_traps.py::hosted_system_tasks",),
        "if self._system_tasks_end and",
        "if False and",
    ),
    Mutant(
        "hosted_forgets_its_eventfd",
        "_hosted.py",
        "                os.close(eventfd)\n",
        "                pass\n",
        ("test_traps.py::hosted_a_ring",),
    ),
    Mutant(
        "the_clock_jumps_over_files",
        "_clock_holder.py",
        "if self.jumps and not self._holding:",
        "if False:",
        ("test_engine_process.py::row_75",),
    ),
    Mutant(
        "a_driver_that_broke_wakes_only_operations",
        "_engine.py",
        "            record.driver_broke(failure)\n",
        "            if isinstance(record, Operation):\n"
        "                record.driver_broke(failure)\n",
        ("test_traps.py::wakes_all_who_wait",),
    ),
    # Shortcuts
    Mutant(
        "a_ring_that_sleeps_is_not_woken",
        "_adopted.py",
        "        ring._limit = ring._tail\n",
        "",
        ("test_hot.py::first_operation_wakes",),
    ),
    Mutant(
        "sleeping_is_for_whole_milliseconds",
        "_adopted.py",
        "        return self._inner.get_events(timeout - _EARLY_S)\n",
        "        return self._inner.get_events(timeout)\n",
        ("test_hot.py::whole_milliseconds",),
    ),
    Mutant(
        "waking_early_is_taken_for_idleness",
        "_adopted.py",
        " or self.clock_jumps or self._runner.waiting_for_idle\n",
        "\n",
        ("test_hot.py::clock_that_jumps or all_tasks_to_block",),
    ),
    Mutant(
        "a_cancel_that_found_nothing_is_forgotten",
        "_engine.py",
        "            self._cancels_again.append(user_data)\n",
        "            pass\n",
        ("test_traps.py::found_nothing",),
    ),
    Mutant(
        "a_cancel_is_made_again_for_ever",
        "_engine.py",
        "            self._not_found.discard(user_data)\n",
        "            pass\n",
        ("test_traps.py::found_nothing",),
    ),
    # Batches and exchanges
    Mutant(
        "a_batch_is_not_cancelled",
        "_batch.py",
        "            if result == _PENDING and not must_run:\n",
        "            if False:\n",
        ("test_many.py::can_be_cancelled",),
    ),
    Mutant(
        "an_exchange_that_was_taken_back_sends",
        "_operation.py",
        "            yield (self.position - 1) & U32, self.user_data | SEND_BIT\n",
        "            pass\n",
        ("test_exchange.py::sends_nothing",),
    ),
    Mutant(
        "a_batch_that_was_taken_back_keeps_its_number",
        "_batch.py",
        '        """As `Operation.taken_back`."""\n        self.abandon()\n',
        '        """As `Operation.taken_back`."""\n',
        ("test_many.py::before_it_is_submitted",),
    ),
    Mutant(
        "half_a_batch_is_taken_back",
        "_batch.py",
        "        for place in range(self.count):\n            yield",
        "        for place in range(self.count // 2):\n            yield",
        ("test_many.py::before_it_is_submitted",),
    ),
    Mutant(
        "an_exchange_is_cancelled_by_half",
        "_operation.py",
        "        return (self.user_data | SEND_BIT, self.user_data)\n",
        "        return (self.user_data,)\n",
        ("test_exchange.py::while_it_sends",),
    ),
]


def run_tests(copy: Path, tests: tuple[str, ...]) -> bool:
    """Whether they all pass."""
    for test in tests:
        file, _, expression = test.partition("::")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
        env = dict(os.environ, TRIO_URING_WAIT_S="5", PYTHONDONTWRITEBYTECODE="1")
        try:
            done = subprocess.run(
                [*command, f"tests/{file}", "-k", expression],
                cwd=copy,
                env=env,
                timeout=TIMEOUT_S,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
        if done.returncode > 1:  # below 0: a signal killed it, which is an answer, too
            raise SystemExit(f"pytest exits with {done.returncode} for {test}")
        if done.returncode:
            return False
    return True


def survives(mutant: Mutant, copy: Path) -> bool:
    """Whether the tests do not notice it."""
    file = copy / "trio_uring" / mutant.file
    text = file.read_text()
    if mutant.old not in text or mutant.also_old not in text:
        raise SystemExit(f"{mutant.name}: {mutant.file} does not have its text any more")
    broken = text.replace(mutant.old, mutant.new)
    if mutant.also_old:
        broken = broken.replace(mutant.also_old, mutant.also_new)
    extension = extension_of(mutant.file)
    try:
        write(copy, file, broken, extension)
        return run_tests(copy, mutant.tests)
    finally:
        write(copy, file, text, extension)


def write(copy: Path, file: Path, text: str, extension: str | None) -> None:
    """Writes a file of the package, and compiles it if it is C."""
    file.write_text(text)
    if extension:
        status, said = build(copy, extension, "-O1", "-w")
        if status:
            raise SystemExit(said)


def main(names: list[str], mutants: list[Mutant]) -> int:
    """Runs the mutants of these names, or all; 1 if one survives."""
    chosen = [mutant for mutant in mutants if not names or mutant.name in names]
    survivors = []
    with tempfile.TemporaryDirectory() as directory:
        copy = Path(directory)
        for part in ("trio_uring", "tests", "pyproject.toml"):
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, copy / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, copy / part)
        for mutant in chosen:
            alive = survives(mutant, copy)
            print(f"{'SURVIVED' if alive else 'killed':8}  {mutant.name}", flush=True)
            survivors += [mutant.name] * alive
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], MUTANTS))
