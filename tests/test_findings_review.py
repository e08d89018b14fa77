# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a second reading of the handles found: rare moments, one test each."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
from engine_help import engine, run_python, socket_pair
from ring_help import open_ring

import trio_uring
from trio_uring.lowlevel import BufferSelection
from trio_uring.testing import adopt_ring, requires_direct_descriptors, used_slots

if TYPE_CHECKING:
    from pathlib import Path

    from trio_uring._handle import Handle

pytestmark = requires_direct_descriptors()

# linux/socket.h; Python has no name for it. XDP sockets are raw ones.
AF_XDP = 44


async def test_splice_to_a_handle_of_another_run_is_refused(tmp_path: Path) -> None:
    """Its slot number would name another file in this ring's table."""
    source = tmp_path / "source"
    source.write_bytes(b"for somebody else")
    foreign: list[trio_uring.FixedFile] = []
    opened, over = threading.Event(), threading.Event()

    async def other() -> None:
        async with await trio_uring.open_direct("/dev/null", os.O_WRONLY) as target:
            foreign.append(target)
            opened.set()
            over.wait(30)

    thread = threading.Thread(target=trio.run, args=(other,))
    thread.start()
    opened.wait(30)
    try:
        async with await trio_uring.open_direct(source) as file:
            assert foreign[0].slot == file.slot
            with pytest.raises(RuntimeError, match="another Trio run"):
                await file.splice_to(foreign[0], 4, 0)
    finally:
        over.set()
        thread.join()


async def test_a_socket_of_a_family_without_a_name_is_a_handle() -> None:
    """Its family is a plain number, as in the standard library, and its slot is freed once."""
    try:
        socket.socket(AF_XDP, socket.SOCK_RAW).close()
    except OSError as exc:
        pytest.skip(f"no AF_XDP socket here: {exc}")
    async with await trio_uring.socket_direct(AF_XDP, socket.SOCK_RAW) as sock:
        assert sock.family == AF_XDP
        assert sock.type is socket.SOCK_RAW
    statistics = trio_uring.current_statistics()
    assert (statistics.slots_used, used_slots()) == (0, {})


async def test_an_installed_descriptor_outlives_getsockname_beside_it() -> None:
    """A socket that somebody has a copy of is never shut down, whatever went on meanwhile."""

    async def install(sock: trio_uring.FixedSocket) -> None:
        os.close(await sock.install_fd())

    for _ in range(20):
        async with socket_pair() as (ours, _peer):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.getsockname)
                nursery.start_soon(install, ours)
                nursery.start_soon(ours.getsockname)
            assert not ours._sole_owner


async def test_a_forced_close_empties_the_slot_when_the_kernel_takes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An error of the kernel to the cancel requests leaves no slot behind."""
    async with socket_pair() as (ours, _), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await ours.recv(1)

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()

        def refuse() -> None:
            raise OSError(errno.ENOMEM, "refused")

        with monkeypatch.context() as patch:
            patch.setattr(engine(), "flush_now", refuse)
            await trio.aclose_forcefully(ours)
        assert used_slots() == {}


def test_a_handle_that_a_forked_child_drops_says_nothing() -> None:
    """The slot is the parent's, and so is the socket that would wake the parent's loop."""
    done = run_python(
        """
import gc, os, warnings
import trio, trio_uring

async def main():
    file = await trio_uring.open_direct("/dev/null")
    token = file._engine.token
    pid = os.fork()
    if not pid:
        warnings.simplefilter("error")
        try:
            type(token).run_sync_soon = lambda *args: os._exit(3)
            file.__del__()
        except ResourceWarning:
            os._exit(2)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), await file.read_at(1, 0))
    await file.aclose()

warnings.filterwarnings("ignore", category=DeprecationWarning)
trio.run(main)
"""
    )
    assert done.stdout == "0 b''\n"


@pytest.mark.parametrize("move", ["adopt", "move_to"])
def test_ctrl_c_does_not_lose_a_handle_between_two_scopes(
    move: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes at the next checkpoint: a handle that moves has one owner or the other."""
    forget = trio_uring.FileScope._forget

    def interrupted(scope: trio_uring.FileScope, file: Handle) -> None:
        forget(scope, file)
        signal.raise_signal(signal.SIGINT)

    owned: list[tuple[Handle, ...]] = []

    async def main() -> None:
        async with trio_uring.open_file_scope() as outer, trio_uring.open_file_scope() as inner:
            file = await inner.open_direct("/dev/null")
            with monkeypatch.context() as patch:
                patch.setattr(trio_uring.FileScope, "_forget", interrupted)
                if move == "adopt":
                    outer.adopt(file)
                else:
                    file.move_to(outer)
            owned.append(outer.files)
            assert outer.files == (file,)
            await trio.sleep_forever()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main)
    assert len(owned[0]) == 1


class _Interrupted(BufferSelection):
    """A signal handler raises just before the group of the selection is written."""

    __slots__ = ("armed",)

    @property
    def limit(self) -> int:
        self.armed = True
        return 1

    def __getattribute__(self, name: str) -> Any:
        if name == "group_id" and getattr(self, "armed", False):
            raise KeyboardInterrupt
        return super().__getattribute__(name)


def test_an_interrupted_receive_leaves_no_half_written_entry() -> None:
    """Without BUFFER_SELECT it would be a receive to address 0."""
    with open_ring(4) as ring:
        selection = _Interrupted(1)
        with pytest.raises(KeyboardInterrupt):
            ring.recv(1, 0, selection)
        assert ring.sq_ready() == 0


async def test_two_tasks_may_leave_an_accept_block() -> None:
    """One in the loop, one that ends the block: both are woken, and nothing is left."""
    adopt_ring()
    async with trio_uring.open_nursery() as nursery:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.bind("")
            sock.listen()
            listener = await nursery.register(sock)
        assert isinstance(listener, trio_uring.FixedSocket)
        refused: list[BaseException] = []

        async def next_one(connections: Any) -> None:
            try:
                await connections.__anext__()
            except trio.ClosedResourceError as exc:
                refused.append(exc)

        async with listener.accept_direct_multishot() as connections:
            nursery.start_soon(next_one, connections)
            await trio.testing.wait_all_tasks_blocked()
    assert len(refused) == 1
