# SPDX-License-Identifier: MIT OR Apache-2.0
"""What an attack on the hot path in C brought to light."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
from contextlib import suppress
from typing import Any

import pytest
import trio
from engine_help import WAIT_S, Asleep, engine, passes, run_python, socket_pair
from run_modes import MODE, guest_run

import trio_uring
from trio_uring import RingOptions
from trio_uring._adopted import IDLE_MAX
from trio_uring._hot import HotEngine
from trio_uring.testing import TINY_RING, adopt_ring, requires_direct_descriptors, used_slots

pytestmark = requires_direct_descriptors()

adopted = pytest.mark.skipif(MODE == "hosted", reason="what the adopted driver does")


async def busy() -> None:
    """Keeps the loop from sleeping, and others from being alone."""
    while True:
        await trio.lowlevel.checkpoint()


async def share_buffers(ours: trio_uring.FixedSocket, theirs: Any) -> None:
    """Makes the shared buffers, without which C begins no receive."""
    theirs.send(b"x")
    assert await ours.recv(1) == b"x"


# -- what is taken out to make room for the poll of the epoll descriptor ---------------------------


async def test_what_is_taken_out_to_make_room_for_the_poll_is_not_slept_through() -> None:
    """Readiness has just come, so that the poll must be armed; and the queue is full."""
    adopt_ring(TINY_RING)
    fds = [os.eventfd(0, os.EFD_NONBLOCK) for _ in range(TINY_RING.sq_entries)]
    try:
        async with await trio_uring.open_direct("/dev/zero") as file:

            async def read_when_ready(fd: int) -> None:
                await trio.lowlevel.wait_readable(fd)
                assert await file.read_at(1, 0) == b"\0"

            with trio.move_on_after(WAIT_S) as scope:
                async with trio.open_nursery() as nursery:
                    for fd in fds:
                        nursery.start_soon(read_when_ready, fd)
                    await trio.testing.wait_all_tasks_blocked()
                    for fd in fds:
                        os.eventfd_write(fd, 1)
            assert not scope.cancel_called
    finally:
        for fd in fds:
            os.close(fd)


@adopted
async def test_what_is_taken_out_to_make_room_for_the_poll_comes_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exchange whose receive ended before its send would not know what was sent."""
    adopt_ring(TINY_RING)
    ready = os.eventfd(1, os.EFD_NONBLOCK)
    take_out = HotEngine._take_out
    try:
        async with socket_pair() as (ours, theirs):
            await share_buffers(ours, theirs)

            def take_out_and_reply(engine: HotEngine) -> None:
                take_out(engine)
                with suppress(BlockingIOError):
                    if theirs.recv(10) == b"request":
                        theirs.send(b"reply")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(busy)
                await trio.lowlevel.wait_readable(ready)  # now the poll has fired
                monkeypatch.setattr(HotEngine, "_take_out", take_out_and_reply)
                with trio.fail_after(WAIT_S):
                    assert await ours.exchange(b"request", 10) == b"reply"
                await passes(3)
                assert trio_uring.current_statistics().late_completions == 0
                nursery.cancel_scope.cancel()
    finally:
        os.close(ready)


# -- exchanges -------------------------------------------------------------------------------------


@adopted
def test_a_cancel_in_the_middle_of_an_exchange_loses_no_send(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A guest run submits it at once; here it comes from what Python runs to make a record."""

    async def main() -> None:
        async with socket_pair() as (ours, theirs), socket_pair() as (idle, _):
            await share_buffers(ours, theirs)
            theirs.send(b"reply")
            scope = trio.CancelScope()

            async def receive() -> None:
                with scope:
                    await idle.recv(10)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                for _ in range(2):
                    nursery.start_soon(busy)
                await passes(3)
                new_record = HotEngine._new_record

                def cancel_and_make(self: HotEngine) -> Any:
                    scope.cancel()
                    return new_record(self)

                here = engine()
                taken = [here.begin_record(None) for _ in range(here._pool_count)]
                monkeypatch.setattr(HotEngine, "_new_record", cancel_and_make)
                with trio.fail_after(WAIT_S):
                    assert await ours.exchange(b"request", 10) == b"reply"
                assert theirs.recv(10) == b"request"
                for record in taken:
                    here.discarded(record, ValueError())
                nursery.cancel_scope.cancel()
            assert scope.cancelled_caught

    guest_run(main)


async def test_an_exchange_in_another_run_leaves_no_entry() -> None:
    """It is refused before anything has changed."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        await share_buffers(ours, theirs)
        nursery.start_soon(ours.recv, 1)
        for _ in range(2):
            nursery.start_soon(busy)
        await passes(3)
        queue = engine().ring._queue
        refused: list[bool] = []

        async def exchange() -> None:
            with pytest.raises(RuntimeError, match="another Trio run"):
                await theirs_too.exchange(b"x", 1)
            refused.append(True)

        async with socket_pair() as (theirs_too, other):
            await share_buffers(theirs_too, other)
            await passes(3)
            tail = queue.tail
            thread = threading.Thread(target=trio.run, args=(exchange,))
            thread.start()
            thread.join()
            assert refused == [True]
            assert queue.tail == tail
        nursery.cancel_scope.cancel()


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="None is not counted")
async def test_an_exchange_that_was_taken_back_keeps_no_reference() -> None:
    """Cancelled before it was submitted, its record is used again."""
    async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
        await share_buffers(ours, theirs)
        for _ in range(2):
            nursery.start_soon(busy)
        await passes(3)

        async def exchange(count: int) -> None:
            for _ in range(count):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await ours.exchange(b"x", 1)

        await exchange(10)
        gc.collect()
        before = sys.getrefcount(None)
        await exchange(1000)
        gc.collect()
        assert sys.getrefcount(None) - before < 500
        nursery.cancel_scope.cancel()


# -- passes ----------------------------------------------------------------------------------------


def sleeps_in_enter() -> bool:
    """The main thread is in io_uring_enter(2)."""
    with open(f"/proc/self/task/{os.getpid()}/syscall") as file:
        return file.read().startswith("426 ")


@pytest.mark.skipif(not os.access("/proc/self/syscall", os.R_OK), reason="no /proc/self/syscall")
@pytest.mark.skipif(MODE in ("hosted", "guest"), reason="the loop waits in epoll, or a host")
async def test_a_signal_is_handled_at_once_though_the_wait_had_submitted_something() -> None:
    """The kernel hides EINTR then; and nobody said that a signal shall write to Trio's socket."""
    handled, asleep = threading.Event(), Asleep()
    scope, in_time = trio.CancelScope(), []
    token = trio.lowlevel.current_trio_token()

    def kill() -> None:
        asleep.event.wait(WAIT_S)
        until = time.monotonic() + WAIT_S
        while not sleeps_in_enter() and time.monotonic() < until:
            time.sleep(0)
        os.kill(os.getpid(), signal.SIGUSR1)
        in_time.append(handled.wait(WAIT_S))
        token.run_sync_soon(scope.cancel)

    before = signal.signal(signal.SIGUSR1, lambda *_: handled.set())
    wakeup = signal.set_wakeup_fd(-1)
    killer = threading.Thread(target=kill)
    try:
        async with socket_pair() as (sock, _):
            await passes(2)
            killer.start()
            trio.lowlevel.add_instrument(asleep)
            with scope:
                await sock.poll(select.POLLPRI)
            trio.lowlevel.remove_instrument(asleep)
        assert in_time == [True]
    finally:
        killer.join()
        signal.set_wakeup_fd(wakeup)
        signal.signal(signal.SIGUSR1, before)


def test_passes_are_counted_no_further_than_anybody_looks() -> None:
    """The counts are ints of C: to overflow is a warning, and an error where warnings are."""

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            here = engine()
            here._passes_alone = 2**31 - 1
            await passes(2)
            assert await file.poll(select.POLLIN)
            assert here._passes_alone >= 0

    guest_run(main)


# -- arguments, and the end ------------------------------------------------------------------------


class Number:
    """An integer that is no `int`, as NumPy's are."""

    def __init__(self, value: int) -> None:
        self._value = value

    def __index__(self) -> int:
        return self._value

    def __bool__(self) -> bool:
        return self._value != 0

    def __lt__(self, other: int) -> bool:
        return self._value < other

    def __gt__(self, other: int) -> bool:
        return self._value > other

    def __le__(self, other: int) -> bool:
        return self._value <= other

    def __ge__(self, other: int) -> bool:
        return self._value >= other


async def test_numbers_may_be_what_has_an_index() -> None:
    """As everywhere in the standard library."""
    number: Any = Number
    async with await trio_uring.open_direct("/dev/zero") as file:
        assert await file.read_at(number(3), number(0)) == bytes(3)
        assert await file.read(number(3)) == bytes(3)
    async with socket_pair() as (ours, theirs):
        for _ in range(2):  # before and after the shared buffers are made
            theirs.send(b"data")
            assert await ours.recv(number(4)) == b"data"
        theirs.send(b"data")
        assert await ours.exchange(b"x", number(4)) == b"data"


UNCLOSED = """
import sys, trio, trio_uring, warnings
warnings.simplefilter("error", ResourceWarning)
kept = []
async def main():
    for _ in range(2):
        kept.append(await trio_uring.open_direct("/dev/zero"))
    return "result"
print(trio.run(main), [file.closed for file in kept])
"""


def test_a_run_ends_with_its_result_though_handles_are_open_and_warnings_are_errors() -> None:
    """The warning is reported as Python reports the exception of a ``__del__``."""
    done = run_python(UNCLOSED)
    assert done.stdout == "result [True, True]\n"
    assert done.stderr.count("was still open when its run ended") >= 2


# -- cancels that come in the middle of a step: of finalizers, of signal handlers ------------------


async def test_a_cancel_while_cancels_are_written_is_not_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is taken from the list is what was written, not what came last."""
    here: Any = engine()
    own_sqe = type(here).own_sqe
    scopes = [trio.CancelScope(), trio.CancelScope()]
    ended = [trio.Event(), trio.Event()]

    async def receive(sock: trio_uring.FixedSocket, number: int) -> None:
        with scopes[number]:
            await sock.recv(1)
        ended[number].set()

    def cancel_and_get(self: Any) -> Any:
        if scopes[0].cancel_called:
            scopes[1].cancel()
        return own_sqe(self)

    async with (
        socket_pair() as (one, peer_of_one),
        socket_pair() as (other, peer_of_other),
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(receive, one, 0)
        nursery.start_soon(receive, other, 1)
        await passes(3)
        monkeypatch.setattr(type(here), "own_sqe", cancel_and_get)
        scopes[0].cancel()
        with trio.move_on_after(WAIT_S):
            for event in ended:
                await event.wait()
        # A cancel is only asked for once: nothing else would end them.
        peer_of_one.send(b"x")
        peer_of_other.send(b"x")
    assert [scope.cancelled_caught for scope in scopes] == [True, True]


CANCEL_WHILE_LOOKING = """
import os, trio
from engine_help import passes, socket_pair
from run_modes import guest_run
from trio_uring._engine_ring import EngineRing
turned, scope = EngineRing.turned, trio.CancelScope()
def cancel_and_look(ring, count):
    if count > 0:
        scope.cancel()
    return turned(ring, count)
async def receive(sock):
    with scope:
        await sock.recv(1)
async def report(sock):
    print(await sock.recv(1), flush=True)
    os._exit(0)
async def main():
    async with socket_pair() as (one, _), socket_pair() as (other, peer):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive, one)
            nursery.start_soon(report, other)
            await passes(3)
            EngineRing.turned = cancel_and_look
            peer.send(b"x")
            await trio.sleep(WAIT_S)
            print("lost", flush=True)
            os._exit(0)
guest_run(main)
"""


def test_a_cancel_while_completions_are_looked_at_loses_none() -> None:
    """A guest run submits it at once, and takes out what has completed: to where the others are."""
    program = CANCEL_WHILE_LOOKING.replace("WAIT_S", "5")
    assert run_python(program).stdout == "b'x'\n"


# -- numbers that change, and records that are free ------------------------------------------------


class Changing:
    """A number of somebody else's, who changes it: asked twice, it is another."""

    def __init__(self, *values: int) -> None:
        self._values = list(values)

    def __index__(self) -> int:
        return self._values.pop(0) if len(self._values) > 1 else self._values[0]

    def __lt__(self, other: int) -> bool:
        return self._values[0] < other

    def __gt__(self, other: int) -> bool:
        return self._values[0] > other


async def test_the_kernel_writes_no_more_than_there_is_memory() -> None:
    """What is allocated, and what the kernel is told, is one number."""
    number: Any = Changing
    reader, writer = await trio_uring.pipe_direct()
    async with reader, writer:
        await writer.write(b"0123456789")
        # Of so many the memory has a few to spare.
        assert await reader.read(number(4, 7)) == b"0123"
        assert await reader.read(10) == b"456789"


# -- other threads, and too little memory ----------------------------------------------------------

CANCEL_ELSEWHERE = """
import contextlib, os, threading, trio
from engine_help import Asleep, socket_pair
from run_modes import guest_run
asleep, scope = Asleep(), trio.CancelScope()
def cancel():
    asleep.event.wait()
    with contextlib.suppress(RuntimeError):  # Trio is not made for threads
        scope.cancel()
def give_up():
    print("asleep", flush=True)
    os._exit(0)
async def main():
    async with socket_pair() as (sock, _):
        trio.lowlevel.add_instrument(asleep)
        thread = threading.Thread(target=cancel)
        thread.start()
        timer = threading.Timer(5, give_up)
        timer.start()
        with scope:
            await sock.recv(1)
        timer.cancel()
    print("cancelled", scope.cancelled_caught)
guest_run(main)
"""


def test_a_cancel_by_a_finalizer_in_another_thread_reaches_a_guest_run() -> None:
    """Garbage may be collected in the worker thread; with stock Trio the run wakes."""
    assert run_python(CANCEL_ELSEWHERE).stdout == "cancelled True\n"


LITTLE_MEMORY = """
import os, sys, threading, trio, trio_uring
from engine_help import engine, passes, socket_pair
def refuse(name):
    here = engine()
    usual = getattr(here, name)
    def refuse_once(*args):
        setattr(here, name, usual)
        raise MemoryError
    setattr(here, name, refuse_once)
def give_up():
    print("hangs", flush=True)
    os._exit(0)
async def receive(sock):
    try:
        await sock.recv(1)
    except MemoryError:
        print("MemoryError")
async def main():
    async with socket_pair() as (sock, peer):
        peer.send(b"x")
        await sock.recv(1)
        async with trio.open_nursery() as nursery:
            if sys.argv[1] == "_sleep":
                refuse("_sleep")
            nursery.start_soon(receive, sock)
            await passes(3)
            if sys.argv[1] == "_reschedule":
                refuse("_reschedule")
                peer.send(b"x")
        await trio.sleep(0)
        print(engine().in_flight, sock._receiving)
        if sys.argv[1] == "_reschedule":
            os._exit(0)  # the driver is broken
timer = threading.Timer(5, give_up)
timer.start()
trio.run(main)
timer.cancel()
"""


@pytest.mark.parametrize("name", ["_sleep", "_reschedule"])
def test_a_task_learns_that_there_was_no_memory(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it sleeps, nothing has begun; while it is woken, it gets the error."""
    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")
    monkeypatch.setenv("TRIO_URING_TEST_RUN", "adopted")
    assert run_python(LITTLE_MEMORY, name).stdout == "MemoryError\n0 False\n"


def test_what_was_submitted_in_vain_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer has submitted the receive, and then there is no memory to sleep with."""

    async def main() -> None:
        async with socket_pair() as (sock, peer):
            here, buffer = engine(), bytearray(4)
            usual = here._sleep

            def submit_and_refuse(abort: object) -> None:
                here._sleep = usual
                here.flush_now()
                raise MemoryError

            here._sleep = submit_and_refuse
            with trio.fail_after(WAIT_S):
                with pytest.raises(MemoryError):
                    await sock.recv_into(buffer)
                with pytest.raises(BufferError):
                    buffer.append(0)
                peer.send(b"data")
                while sock._in_flight:
                    await trio.lowlevel.checkpoint()
            assert buffer == b"data"
            buffer.append(0)

    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")
    trio.run(main)


# -- of the second hunt ----------------------------------------------------------------------------


async def test_an_exchange_from_another_thread_does_not_wake_a_ring_that_sleeps() -> None:
    """It is refused before it makes room; the run that owns the ring goes on."""
    async with socket_pair() as (ours, theirs):
        await share_buffers(ours, theirs)
        await passes(3 * IDLE_MAX)
        asleep = Asleep()
        trio.lowlevel.add_instrument(asleep)

        def elsewhere() -> str:
            asleep.event.wait(WAIT_S)
            with pytest.raises(RuntimeError) as refused:
                trio.run(ours.exchange, b"x", 5)
            return str(refused.value)

        assert "another Trio run" in await trio.to_thread.run_sync(elsewhere)
        trio.lowlevel.remove_instrument(asleep)
        theirs.send(b"y")
        assert await ours.recv(5) == b"y"
        with pytest.raises(BlockingIOError):
            theirs.recv(5)


async def test_nobody_sends_while_an_exchange_receives_in_memory_of_its_own() -> None:
    """There was no shared buffer left for it."""
    adopt_ring(RingOptions(recv_buffers=2, recv_buffer_bytes=64))
    async with socket_pair() as (a, first), socket_pair() as (b, second):
        async with socket_pair() as (ours, theirs), trio.open_nursery() as nursery:
            await share_buffers(a, first)
            for sock, peer in ((a, first), (b, second)):
                peer.send(b"takes a buffer")
                nursery.start_soon(sock.recv, 20)
            nursery.start_soon(ours.exchange, b"question", 10)
            with trio.fail_after(WAIT_S):
                await trio.lowlevel.wait_readable(theirs)
            await passes(5)
            with pytest.raises(trio.BusyResourceError):
                await ours.send(b"x")
            theirs.send(b"answer")


BROKEN_SUBMIT = """
import os, trio, trio.testing, trio_uring
from engine_help import engine, socket_pair
async def receive(sock):
    try:
        await sock.recv(10)
    except OSError as exc:
        print(exc, flush=True)
        os._exit(0)
def broken(self):
    raise OSError("broken")
async def main():
    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:
        nursery.start_soon(receive, sock)
        await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0)
        type(engine()).submit = broken
trio.run(main)
"""


def test_a_hosted_driver_that_breaks_as_it_submits_does_not_sleep_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The tasks that it wakes then are woken after Trio has decided how long to wait."""
    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")
    monkeypatch.setenv("TRIO_URING_TEST_RUN", "adopted")
    assert run_python(BROKEN_SUBMIT).stdout == "broken\n"


NO_MEMORY_FOR_A_BATCH = """
import sys, tempfile, types, trio, trio_uring, _testcapi
from engine_help import engine
@types.coroutine
def failing(coro, start):
    _testcapi.set_nomemory(start, start + 1)
    try:
        message = coro.send(None)
    except StopIteration:
        return
    finally:
        _testcapi.remove_mem_hooks()
    while True:
        sent = yield message
        try:
            message = coro.send(sent)
        except StopIteration:
            return
async def main(start, offsets):
    async with await trio_uring.open_direct(sys.executable) as file:
        await file.read_many(bytearray(40), offsets)
        try:
            await failing(file.read_many(bytearray(40), offsets), start)
        except MemoryError:
            failed.append(start)
        with trio.move_on_after(5) as scope:
            await file.aclose()
        assert not scope.cancelled_caught, start
        assert engine().ring._ring.batched == 0, start
        assert engine().in_flight == 0, start
failed = []
for offsets in ((0, 1, 2, 3), [0, 1, 2, 3]):
    for start in range(60):
        trio.run(main, start, offsets)
print(len(failed) > 10)
"""


@adopted
def test_a_batch_for_which_there_is_no_memory_has_not_begun() -> None:
    """Wherever its beginning fails; the handle can be closed."""
    pytest.importorskip("_testcapi", reason="this Python cannot be made to lack memory")
    assert run_python(NO_MEMORY_FOR_A_BATCH).stdout == "True\n"


# -- of a review: what runs while an operation begins ----------------------------------------------


async def test_a_handle_that_is_closed_while_its_record_is_made_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A finalizer can do so. The slot may be another file's when the entry is submitted."""
    usual = HotEngine._new_record
    async with socket_pair() as (sock, _), trio.open_nursery() as nursery:
        file = await trio_uring.open_direct("/dev/zero")
        while engine()._pool_count:  # until there is none left that is made already
            nursery.start_soon(sock.poll, select.POLLERR)
            await passes(1)

        def closing(self: Any) -> Any:
            file._close_now()
            return usual(self)

        monkeypatch.setattr(type(engine()), "_new_record", closing)
        with pytest.raises(trio.ClosedResourceError):
            await file.read_at(1, 0)
        monkeypatch.undo()
        assert file._in_flight == 0
        nursery.cancel_scope.cancel()


async def test_a_socket_that_is_closed_while_room_is_made_for_an_exchange_is_not_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor is anything sent."""
    async with socket_pair() as (ours, theirs):
        await share_buffers(ours, theirs)
        ring, usual = engine().ring, type(engine()).make_room

        def closing(self: Any, count: int) -> None:
            ours._close_now()
            usual(self, count)

        monkeypatch.setattr(type(engine()), "make_room", closing)
        ring._limit = ring._tail  # as far as is known there is no room
        with pytest.raises(trio.ClosedResourceError):
            await ours.exchange(b"x", 5)
        monkeypatch.undo()
        assert theirs.recv(5) == b""


def test_a_close_that_cannot_be_waited_for_has_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no memory to sleep with; the slot is free, and nobody else's is emptied."""

    async def main() -> None:
        file = await trio_uring.open_direct("/dev/zero")
        here = engine()
        usual = here._sleep

        def refuse(abort: object) -> None:
            here._sleep = usual
            raise MemoryError

        here._sleep = refuse
        with pytest.raises(MemoryError):
            await file.aclose()
        assert file.closed
        assert not used_slots()
        await file.aclose()
        async with await trio_uring.open_direct("/dev/zero") as again:
            assert await again.read_at(1, 0) == b"\0"

    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")
    trio.run(main)
