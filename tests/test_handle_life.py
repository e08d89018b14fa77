# SPDX-License-Identifier: MIT OR Apache-2.0
"""The short ways through a handle's life keep what the long ones promise."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import sys
import weakref
from contextlib import nullcontext
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from engine_help import WAIT_S, connect, engine, passes, socket_pair, unix_listener

import trio_uring
from trio_uring import RingOptions, SlotsExhausted
from trio_uring._accept import AHEAD_MAX
from trio_uring._capabilities import capabilities
from trio_uring._handle import place_of
from trio_uring._operation import OWN_IDS
from trio_uring.lowlevel import Op
from trio_uring.testing import adopt_ring, requires_direct_descriptors, requires_op

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if TYPE_CHECKING:
    import socket
    from pathlib import Path

pytestmark = [requires_direct_descriptors(), pytest.mark.usefixtures("uring_leak_gate")]

# SEND_ZC came with 6.0, and so did multishot receive.
takes_ahead = requires_op(Op.SEND_ZC)
# Without it files are in ordinary descriptors, and closed by the system call.
in_slots = requires_op(Op.FIXED_FD_INSTALL)
HERE = re.escape(__file__)


class Steps(trio.abc.Instrument):
    """``with``: counts how often the loop lets the current task run."""

    count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio's word that a task runs."""
        self.count += task is self._task

    def __enter__(self) -> Steps:
        self._task = trio.lowlevel.current_task()
        trio.lowlevel.add_instrument(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        trio.lowlevel.remove_instrument(self)


def line() -> int:
    """Of the caller."""
    return sys._getframe(1).f_lineno


# -- open ------------------------------------------------------------------------------------------


async def test_the_place_of_a_handle_is_the_line_that_opened_it() -> None:
    """A file, a socket, a connection, in a scope or not: where the caller's code was."""
    async with unix_listener() as (listener, address), trio_uring.open_file_scope() as scope:
        opened = [
            (await trio_uring.open_direct("/dev/null"), line()),
            (await scope.open_direct("/dev/null"), line()),
            (await trio_uring.socket_direct(), line()),
            (await scope.socket_direct(), line()),
        ]
        with connect(address), connect(address):
            opened += [
                (await listener.accept_direct(), line()),
                (await scope.accept_direct(listener), line()),
            ]
        for file, expected in opened:
            assert place_of(file) == f"{__file__}:{expected}"
            await file.aclose()


async def test_a_dropped_file_warns_of_the_line_that_opened_it() -> None:
    """The place is in the words of the warning."""
    file, expected = await trio_uring.open_direct("/dev/null"), line()
    with pytest.warns(ResourceWarning, match=f"{HERE}:{expected}$"):
        del file
        gc.collect()
    await passes(2)


async def test_a_path_may_be_of_any_kind_and_length(tmp_path: Path) -> None:
    """Text, bytes, path objects, names that are no text; what is too long the kernel refuses."""
    name = os.fsencode(tmp_path) + b"/\xff\xc3\xa4"
    with open(name, "wb") as file:
        file.write(b"content")
    for path in (name, os.fsdecode(name), tmp_path / os.fsdecode(b"\xff\xc3\xa4")):
        async with await trio_uring.open_direct(path) as opened:
            assert await opened.read_at(100, 0) == b"content"
    for length in (5000, 16383, 16384, 100_000):
        with pytest.raises(OSError, match="Errno") as failure:
            await trio_uring.open_direct("x" * length)
        assert failure.value.errno == errno.ENAMETOOLONG
    for path in ("/dev/null\0", b"/dev/null\0"):
        with pytest.raises(ValueError, match="null byte"):
            await trio_uring.open_direct(path)


async def test_names_that_are_opened_at_once_are_not_mixed_up(tmp_path: Path) -> None:
    """Each operation has its path in memory of its own, until the kernel has read it."""
    names = [str(number) * (number % 50 + 1) for number in range(100)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode())

    async def read(name: str) -> None:
        async with await trio_uring.open_direct(tmp_path / name) as file:
            assert await file.read_at(1000, 0) == name.encode()

    async with trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(read, name)


@pytest.mark.parametrize("length", [255, 256, 257, 4095])
async def test_a_path_of_any_length_ends_where_it_ends(tmp_path: Path, length: int) -> None:
    """Also where the memory that it is copied to was used for something else before."""
    file = tmp_path / "file"
    file.write_bytes(b"x" * 16384)
    start, end = os.fspath(tmp_path), "/file"
    middle = length - len(start) - len(end)
    path = start + "/." * (middle // 2) + "/" * (middle % 2) + end
    assert len(path) == length
    for _ in range(3):
        async with await trio_uring.open_direct(path) as opened:
            assert await opened.read_at(16384, 0) == file.read_bytes()


async def test_arguments_that_fit_no_entry_cost_no_slot() -> None:
    """They are refused; slot and record are free again, and what is opened next is opened."""
    adopt_ring(RingOptions(slots_max=1))
    for flags, mode in ((-1 << 40, 0o666), (0, -1)) * 5:
        with pytest.raises(ValueError, match="does not fit"):
            await trio_uring.open_direct("/dev/null", flags, mode)
    if capabilities().install:
        with pytest.raises(ValueError, match="does not fit"):
            await trio_uring.socket_direct(1 << 40)
    assert len(engine().records) <= OWN_IDS + 2
    async with await trio_uring.open_direct("/dev/null", wait=False):
        with pytest.raises(SlotsExhausted):
            await trio_uring.open_direct("/dev/null", wait=False)


# -- close -----------------------------------------------------------------------------------------


async def test_the_end_of_a_block_waits_for_the_close_that_another_task_began() -> None:
    """Also where nothing is in flight: a second close is over when the first is."""
    async with await trio_uring.open_direct("/dev/null") as file:
        slot = file.slot
        async with trio.open_nursery() as nursery:
            nursery.start_soon(file.aclose)
            while not file.closed:
                await passes(1)
            await file.aclose()
            assert slot in engine().table._free


async def test_a_cancelled_close_is_over_for_who_waits_for_it() -> None:
    """The second closer is woken, and the slot is free, however the first close ended."""
    async with socket_pair() as (sock, _):
        slot = sock.slot
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.aclose()
        assert scope.cancelled_caught
        with trio.fail_after(WAIT_S):
            await sock.aclose()
        assert slot in engine().table._free


@in_slots
async def test_a_close_that_the_kernel_takes_no_entry_for_closes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It raises, and the slot is empty and free; what is opened into it next works."""
    adopt_ring(RingOptions(slots_max=1))
    file = await trio_uring.open_direct("/dev/null")
    ring = engine().ring

    def refuse() -> None:
        raise trio_uring.SubmissionQueueFull

    with monkeypatch.context() as patch:
        patch.setattr(engine(), "_make_room", refuse)
        patch.setattr(ring, "_limit", ring._tail)
        with pytest.raises(trio_uring.SubmissionQueueFull):
            await file.aclose()
    assert file.closed
    async with await trio_uring.open_direct("/dev/zero", wait=False) as other:
        assert await other.read_at(1, 0) == b"\0"


async def test_a_close_is_a_checkpoint() -> None:
    """Other tasks run meanwhile, and a cancellation is delivered; also the second time."""
    file = await trio_uring.open_direct("/dev/null")
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await file.aclose()
    file = await trio_uring.open_direct("/dev/null")
    with trio.testing.assert_checkpoints():
        async with file:
            pass


# -- multishot receive -----------------------------------------------------------------------------


@takes_ahead
async def test_what_a_multishot_has_delivered_costs_one_checkpoint_each() -> None:
    """A chunk that is there is a checkpoint of one step, and so is one that is waited for."""
    async with socket_pair() as (sock, peer), sock.recv_multishot() as received:
        peer.send(b"0")
        assert await received.__anext__() == b"0"
        for number in b"1234":
            peer.send(bytes([number]))
            await passes(3)
        assert len(received._chunks) == 4
        for number in b"1234":
            with Steps() as steps, trio.testing.assert_checkpoints():
                assert await received.__anext__() == bytes([number])
            assert steps.count == 1
        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_when_blocked, peer)
            with Steps() as steps, trio.testing.assert_checkpoints():
                assert await received.__anext__() == b"last"
            assert steps.count == 1


async def send_when_blocked(peer: socket.socket) -> None:
    await trio.testing.wait_all_tasks_blocked()
    peer.send(b"last")


@takes_ahead
@pytest.mark.parametrize("starved", [False, True], ids=["multishot", "without buffers"])
async def test_a_multishot_that_is_left_while_its_reader_waits_ends_both(starved: bool) -> None:
    """The reader is told so, the block waits for it, and the socket can be read again."""
    async with socket_pair() as (sock, peer):
        told = False

        async def read() -> None:
            nonlocal told
            with pytest.raises(trio.ClosedResourceError):
                await received.__anext__()
            told = True

        async with trio.open_nursery() as nursery:
            async with sock.recv_multishot() as received:
                received._starved = starved
                nursery.start_soon(read)
                await trio.testing.wait_all_tasks_blocked()
            assert not received._busy
        assert told
        peer.send(b"more")
        assert await sock.recv(10) == b"more"


@takes_ahead
async def test_a_reader_that_is_cancelled_is_not_woken_twice() -> None:
    """A chunk that comes after the cancellation waits for the next reader."""
    async with socket_pair() as (sock, peer), sock.recv_multishot() as received:
        for number in range(20):
            with trio.move_on_after(0) as scope:
                await received.__anext__()
            assert scope.cancelled_caught
            peer.send(bytes([number]))
            await passes(number % 4)
            assert await received.__anext__() == bytes([number])


# -- accept ----------------------------------------------------------------------------------------


async def test_connections_that_came_together_are_handed_out_together() -> None:
    """Of 16 that are there only one lets other tasks run, but that one does; nobody is lost."""
    count = 3 * AHEAD_MAX
    async with unix_listener() as (listener, address), trio_uring.open_file_scope() as scope:
        with contextlib.ExitStack() as stack:
            for number in range(count):
                stack.enter_context(connect(address)).send(bytes([number]))
            async with listener.accept_direct_multishot() as connections:
                steps = stack.enter_context(Steps())
                yielded = []
                for _ in range(count):
                    before = steps.count
                    scope.adopt(await connections.__anext__())
                    yielded.append(steps.count > before)
        said = [await file.recv(10) for file in scope.files]  # type: ignore[attr-defined]
        assert sorted(said) == [bytes([number]) for number in range(count)]
    assert yielded[0]
    assert sum(yielded) < count // 4
    assert all(any(yielded[at : at + AHEAD_MAX]) for at in range(count - AHEAD_MAX + 1))


async def test_a_block_that_is_over_keeps_no_listener() -> None:
    """A listener that is dropped after it is told of at once, not when garbage is collected."""
    async with unix_listener() as (listener, address):
        connections = listener.accept_direct_multishot()
        with connect(address):
            async with connections:
                await (await connections.__anext__()).aclose()
        over = weakref.ref(connections)
        gc.disable()
        try:
            del connections
            assert over() is None
        finally:
            gc.enable()


async def test_a_connection_that_is_there_is_not_taken_by_who_is_cancelled() -> None:
    """Each is a point of cancellation; who comes next gets it."""
    async with unix_listener() as (listener, address):
        async with listener.accept_direct_multishot() as connections:
            with connect(address), connect(address) as second:
                second.send(b"second")
                await (await connections.__anext__()).aclose()
                while not connections._ready:
                    await passes(1)
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await connections.__anext__()
                assert scope.cancelled_caught
                async with await connections.__anext__() as connection:
                    assert await connection.recv(10) == b"second"


async def test_a_connection_was_opened_where_the_loop_over_connections_is() -> None:
    """It comes in the middle of Trio's own code; the user's is where the accepting began."""
    async with unix_listener() as (listener, address):
        connections, expected = listener.accept_direct_multishot(), line()
        async with connections:
            with connect(address):
                async with await connections.__anext__() as connection:
                    assert place_of(connection) == f"{__file__}:{expected}"
                    assert (connection.family, connection.type) == (listener.family, listener.type)


# -- owners ----------------------------------------------------------------------------------------


async def test_a_scope_ends_with_one_checkpoint() -> None:
    """Closing is one, and so is the end of a scope that owns nothing."""

    async def spin() -> None:
        # While another task can run, every checkpoint is a step.
        while True:
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(spin)
        for count in range(3):
            scope = trio_uring.open_file_scope()
            for _ in range(count):
                await scope.open_direct("/dev/null")
            # A step of Trio's loop: one that a completion has caused is told again if it ends in a
            # checkpoint, and an instrument that it has added is told of it.
            await trio.lowlevel.checkpoint()
            with Steps() as steps, trio.testing.assert_checkpoints():
                await scope.aclose()
            assert steps.count == max(count, 1)
        nursery.cancel_scope.cancel()


async def test_a_task_closes_its_handle_once_and_only_while_it_owns_it() -> None:
    """What it closed or gave away is not its own any more; else it is closed, also after errors."""
    async with trio_uring.open_file_scope() as other:

        async def close(file: trio_uring.FixedFile) -> None:
            await file.aclose()

        async def give_away(file: trio_uring.FixedFile) -> None:
            file.move_to(other)

        async def keep(file: trio_uring.FixedFile) -> None:
            pass

        async def fail(file: trio_uring.FixedFile) -> None:
            raise KeyError

        for task in (close, give_away, keep, fail):
            file = await other.open_direct("/dev/null")
            expected = pytest.raises(BaseExceptionGroup) if task is fail else nullcontext()
            with expected:
                async with trio_uring.open_nursery() as nursery:
                    nursery.start_soon_with(file, task)
                    assert file not in other.files
            assert file.closed == (task is not give_away)
            assert other.files == ((file,) if task is give_away else ())
            await file.aclose()
