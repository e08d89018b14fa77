# SPDX-License-Identifier: MIT OR Apache-2.0
"""Shortcuts of the adopted driver: operations finished in place, a ring that is left alone."""

from __future__ import annotations

import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from engine_help import WAIT_S, engine, passes, run_python, socket_pair
from run_modes import MODE

import trio_uring
from trio_uring._adopted import IDLE_MAX
from trio_uring._hot import ALONE_MIN, PROMPT_MAX
from trio_uring.lowlevel import Op
from trio_uring.testing import requires_direct_descriptors, requires_op, used_slots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = requires_direct_descriptors()


@pytest.fixture(autouse=True)
def _driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", "adopted")


@pytest.fixture
async def file(tmp_path: Path) -> AsyncIterator[trio_uring.FixedFile]:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    async with await trio_uring.open_direct(path) as file:
        yield file


class Passes(trio.abc.Instrument):
    """Counts the passes of the loop."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        """Trio's word that a pass begins."""
        self.count += 1


async def passes_of(count: int, file: trio_uring.FixedFile) -> int:
    """How many passes so many reads took."""
    counted = Passes()
    trio.lowlevel.add_instrument(counted)
    for _ in range(count):
        assert await file.read_at(3, 0) == b"con"
    trio.lowlevel.remove_instrument(counted)
    return counted.count


# -- finished in place -----------------------------------------------------------------------------


async def test_a_task_that_is_alone_reads_what_is_cached_without_a_pass(
    file: trio_uring.FixedFile,
) -> None:
    """But for one pass in PROMPT_MAX + 1 operations: others must get their turn some time."""
    await passes_of(2 * ALONE_MIN, file)
    count = 20 * (PROMPT_MAX + 1)
    assert count / (PROMPT_MAX + 1) <= await passes_of(count, file) + 1 <= count / 4


async def test_tasks_that_a_step_starts_are_not_alone(file: trio_uring.FixedFile) -> None:
    """Both run in the pass in which the one that starts them was woken."""
    await passes_of(2 * ALONE_MIN, file)
    for count in range(2 * (PROMPT_MAX + 1)):
        happened: list[str] = []

        async def read(happened: list[str] = happened) -> None:
            happened.append("begun")
            await file.read_at(3, 0)
            happened.append("read")

        for _ in range(count):
            await file.read_at(3, 0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            nursery.start_soon(read)
        assert happened == ["begun", "begun", "read", "read"]
        await passes_of(2 * ALONE_MIN, file)


async def test_a_task_that_is_not_alone_yields_at_each_operation(
    file: trio_uring.FixedFile,
) -> None:
    """Two tasks read in turn: neither is ever a pass ahead of the other."""
    done = {"one": 0, "two": 0}

    async def read(name: str) -> None:
        for _ in range(200):
            await file.read_at(3, 0)
            done[name] += 1
            assert abs(done["one"] - done["two"]) <= 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read, "one")
        nursery.start_soon(read, "two")


async def test_every_read_is_a_checkpoint(file: trio_uring.FixedFile) -> None:
    """Trio's own assertion holds for each, finished in place or not."""
    for _ in range(3 * PROMPT_MAX):
        with trio.testing.assert_checkpoints():
            await file.read_at(3, 0)


async def test_a_timeout_ends_a_loop_of_reads(file: trio_uring.FixedFile) -> None:
    """Deadlines are looked at once a pass, and there is one in time."""
    with trio.fail_after(WAIT_S), trio.move_on_after(0.01) as scope:
        while True:
            await file.read_at(3, 0)
    assert scope.cancelled_caught


async def test_readiness_and_other_threads_get_into_a_loop_of_reads(
    file: trio_uring.FixedFile,
) -> None:
    """A socket that is readable, and a callback from a thread, stop the reader."""
    ours, theirs = socket.socketpair()
    token = trio.lowlevel.current_trio_token()
    called: list[bool] = []
    with ours, theirs, trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:

            async def stop() -> None:
                await trio.lowlevel.wait_readable(ours)
                thread = threading.Thread(target=token.run_sync_soon, args=(called.append, True))
                thread.start()
                while not called:
                    await file.read_at(3, 0)
                thread.join()
                nursery.cancel_scope.cancel()

            nursery.start_soon(stop)
            await passes_of(100, file)
            theirs.send(b"x")
            while True:
                await file.read_at(3, 0)


async def test_a_cancelled_task_reads_nothing_in_place(file: trio_uring.FixedFile) -> None:
    """The operation is never submitted."""
    await passes_of(50, file)
    before = trio_uring.current_statistics().completed
    with trio.CancelScope() as scope:
        scope.cancel()
        await file.read_at(3, 0)
    assert scope.cancelled_caught
    await passes(2)
    # The entry became a NOP, and at most the poll of epoll was there beside it.
    assert trio_uring.current_statistics().completed - before <= 2


def test_ctrl_c_gets_into_a_loop_of_reads(tmp_path: Path) -> None:
    """It is delivered to the main task."""
    path = tmp_path / "file"
    path.write_bytes(b"content")

    async def main() -> None:
        async with await trio_uring.open_direct(path) as file:
            await passes_of(50, file)
            signal.raise_signal(signal.SIGINT)
            while True:
                await file.read_at(3, 0)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)


async def test_operations_are_counted_wherever_they_end(file: trio_uring.FixedFile) -> None:
    """In place, or in a pass beside one that waits."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.recv, 10)
        await passes_of(2 * ALONE_MIN, file)
        while engine()._prompt_left < 10:
            await file.read_at(3, 0)
        for count in (5, 100, 10):
            if count == 10:  # never in place
                nursery.start_soon(passes, 50)
                await passes(2)
            before = trio_uring.current_statistics()
            for _ in range(count):
                await file.read_at(3, 0)
            after = trio_uring.current_statistics()
            assert after.submitted - before.submitted == count
            assert after.completed - before.completed == count
        theirs.send(b"x")


@trio.lowlevel.enable_ki_protection
def interrupt() -> None:
    """Where Ctrl-C has to wait for a checkpoint."""
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_that_had_to_wait_comes_at_the_next_read(tmp_path: Path) -> None:
    """Also at one that would be finished in place."""
    path = tmp_path / "file"
    path.write_bytes(b"content")
    done: list[bytes] = []

    async def main() -> None:
        async with await trio_uring.open_direct(path) as file:
            await passes_of(2 * ALONE_MIN, file)
            while engine()._prompt_left < 3:
                await file.read_at(3, 0)
            interrupt()
            while True:
                done.append(await file.read_at(3, 0))

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert done == []


async def test_whom_a_task_woke_runs_before_it_reads_on(file: trio_uring.FixedFile) -> None:
    """Finished in place, its reads would be over first."""
    for _ in range(3):
        event = trio.Event()
        ran: list[bool] = []

        async def wait(event: trio.Event = event, ran: list[bool] = ran) -> None:
            await event.wait()
            ran.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await passes_of(2 * ALONE_MIN, file)
            while engine()._prompt_left < 3:
                await file.read_at(3, 0)
            event.set()
            for _ in range(2):
                await file.read_at(3, 0)
            assert ran


async def test_a_task_that_was_not_alone_just_now_yields(file: trio_uring.FixedFile) -> None:
    """A server of many has passes in which only one of them can run."""
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            nursery.start_soon(passes, 5)
    assert await passes_of(ALONE_MIN - 2, file) >= ALONE_MIN - 2


class Woken(trio.abc.Instrument):
    """What Trio knows of a task when it runs again; who was scheduled, if it is to be told."""

    def __init__(self, task: trio.lowlevel.Task) -> None:
        self._task: Any = task
        self.steps: list[tuple[object, object]] = []
        self.scheduled = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's word that a task runs."""
        if task is self._task:
            self.steps.append((self._task._abort_func, self._task.custom_sleep_data))


class Told(Woken):
    """`Woken`, that is told of each task that is scheduled."""

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        """Trio's word that a task will run."""
        self.scheduled += task is self._task


@pytest.mark.parametrize("kind", [Woken, Told])
async def test_a_task_is_woken_as_trio_would_and_instruments_are_told(kind: type[Woken]) -> None:
    """It cannot be cancelled out of what is over, and who slept with it left no data."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.recv, 10)
        await passes(3)
        [task] = nursery.child_tasks
        task.custom_sleep_data = "of a sleep"
        woken = kind(task)
        trio.lowlevel.add_instrument(woken)
        theirs.send(b"x")
        with trio.fail_after(WAIT_S):
            while not woken.steps:
                await passes(1)
        trio.lowlevel.remove_instrument(woken)
        assert woken.steps == [(None, None)]
        assert woken.scheduled == (kind is Told)


async def test_what_comes_meanwhile_is_not_lost(file: trio_uring.FixedFile) -> None:
    """A receive that completes while another task finishes reads in place gets its data."""
    async with socket_pair() as (ours, theirs):
        got: list[bytes] = []

        async def receive() -> None:
            got.append(await ours.recv(100))

        for number in range(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await passes(2)
                await passes_of(ALONE_MIN + number % 5, file)
                theirs.send(b"%d" % number)
                await file.read_at(3, 0)
        assert got == [b"%d" % number for number in range(50)]


# -- left alone ------------------------------------------------------------------------------------


not_as_a_guest = pytest.mark.skipif(
    MODE == "guest", reason="the passes of a guest run are its host's, and always the ring's"
)


def sleeps() -> bool:
    """The passes of this run are epoll's."""
    driver: Any = engine().driver
    return bool(driver._asleep)


async def fall_asleep() -> None:
    await passes(2 * IDLE_MAX)
    assert sleeps()


@not_as_a_guest
async def test_a_run_without_operations_does_not_enter_its_ring() -> None:
    """Its passes are those of stock Trio."""
    trio_uring.current_statistics()
    await fall_asleep()
    before = trio_uring.current_statistics().enters
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for _ in range(10):
            theirs.send(b"x")
            await trio.lowlevel.wait_readable(ours)
            assert ours.recv(1) == b"x"
            await trio.to_thread.run_sync(int)
    assert trio_uring.current_statistics().enters == before


@not_as_a_guest
async def test_the_first_operation_wakes_it(file: trio_uring.FixedFile) -> None:
    """Also one of a batch, a receive, and an open; and then it falls asleep again."""
    async with socket_pair() as (ours, theirs):
        for number in range(4):
            await fall_asleep()
            if number == 0:
                assert await file.read_at(3, 0) == b"con"
            elif number == 1:
                assert await file.read_many(bytearray(6), [0, 1]) == [3, 3]
            elif number == 2:
                theirs.send(b"data")
                assert await ours.recv(10) == b"data"
            else:
                async with await trio_uring.open_direct("/dev/null"):
                    pass


async def test_what_is_in_flight_keeps_it_awake() -> None:
    """A receive that waits."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        nursery.start_soon(ours.recv, 10)
        await passes(3 * IDLE_MAX)
        assert not sleeps()
        theirs.send(b"x")


@not_as_a_guest
async def test_a_dropped_handle_is_closed_while_it_sleeps() -> None:
    """No operation is needed for it."""
    file = await trio_uring.open_direct("/dev/null")
    await fall_asleep()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del file
    await passes(2)
    assert used_slots() == {}


@not_as_a_guest
async def test_a_sleep_that_is_not_of_whole_milliseconds_ends_in_the_ring() -> None:
    """epoll waits for the most of it, and the ring for the rest."""
    trio_uring.current_statistics()
    await fall_asleep()
    with trio.fail_after(WAIT_S):
        before = trio_uring.current_statistics().enters
        # On a busy machine epoll may wake too late for there to be a rest.
        while trio_uring.current_statistics().enters == before:
            started = trio.current_time()
            await trio.sleep(0.0301)
            assert trio.current_time() - started >= 0.0301


async def test_a_clock_that_jumps_does_so_when_nothing_is_left(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An early return of epoll must not be taken for the end of the time."""
    trio_uring.current_statistics()
    await passes(3 * IDLE_MAX)
    assert not sleeps()
    await trio.sleep(1000)


@not_as_a_guest
async def test_waiting_for_all_tasks_to_block_waits_its_time() -> None:
    """``cushion`` is the least that it waits."""
    trio_uring.current_statistics()
    await fall_asleep()
    started = trio.current_time()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert trio.current_time() - started >= 0.05


def test_a_forked_child_that_goes_on_in_the_loop_is_told_what_is_wrong() -> None:
    """It must not look into memory that is not there, asleep or awake."""
    program = """
import os, sys, trio, trio_uring
async def main(passes):
    file = await trio_uring.open_direct("/dev/zero")
    for _ in range(passes):
        await trio.lowlevel.checkpoint()
    pid = os.fork()
    if pid:
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
        await file.aclose()
        return
    try:
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        await file.read_at(1, 0)
    except trio_uring.ForkedRingError:
        os._exit(7)
    finally:
        os._exit(8)
for passes in (0, 100):
    try:
        trio.run(main, passes)
    except BaseException as exc:
        os._exit(7 if "ForkedRingError" in repr(exc.__cause__) + repr(exc) else 9)
"""
    assert run_python(program).stdout == "7\n7\n"


class Sleeps(trio.abc.Instrument):
    """Counts how often the loop waits for a deadline."""

    def __init__(self) -> None:
        self.count = 0

    def before_io_wait(self, timeout: float) -> None:
        """Trio's word that it waits, and no longer than for so many seconds."""
        self.count += 0.01 < timeout < 1


@not_as_a_guest
@requires_op(Op.SOCKET)  # of the kernel that brought shared buffers; without them it is two steps
async def test_the_loop_sleeps_through_the_end_of_an_exchanges_send() -> None:
    """It is over as it is submitted; only the answer, or the deadline, wakes the task."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        theirs.send(b"warm")
        assert await ours.recv(4) == b"warm"
        for _ in range(2):  # a task that is alone sends and receives in two steps
            nursery.start_soon(passes, 3)
        await passes(5)
        sleeps = Sleeps()
        trio.lowlevel.add_instrument(sleeps)
        with trio.move_on_after(0.05):
            await ours.exchange(b"question", 100)
        trio.lowlevel.remove_instrument(sleeps)
        assert theirs.recv(100) == b"question"
        assert sleeps.count == 1
