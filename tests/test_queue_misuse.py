# SPDX-License-Identifier: MIT OR Apache-2.0
"""A ring that is closed, another thread's, a parent's, forgotten, left at exit: no crash, ever."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ring_calls import ring_calls
from ring_help import WAIT_S, a_pipe, open_ring, wait_cqes

from trio_uring import _queue
from trio_uring.lowlevel import (
    Cqe,
    ForkedRingError,
    Ring,
    RingClosedError,
    SetupFlag,
    WrongThreadError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What a dead ring still knows, and what its flags alone refuse.
ANSWERS = {"close", "cq", "sq", "in_flight", "sq.entries", "sq.mask", "cq.entries", "cq.mask"} | {
    *("sq.sqe_head", "sq.sqe_tail", "get_sqe128", "nop128", "uring_cmd128"),
    *("unregister_ring_fd",),
}


def refusals(ring: Ring, error: type[Exception]) -> dict[str, str]:
    """Which calls did something else than raise ``error``, and what."""
    surprises = {}
    for name, call in ring_calls(ring).items():
        if name in ANSWERS:
            with contextlib.suppress(error, ValueError, OSError):
                call()
            continue
        try:
            surprises[name] = f"returned {call()!r}"
        except error:
            pass
        except Exception as exc:
            surprises[name] = repr(exc)
    return surprises


def single_issuer_ring(entries: int = 4) -> Ring:
    try:
        return open_ring(entries, SetupFlag.SINGLE_ISSUER)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            pytest.skip("this kernel has no SINGLE_ISSUER (before 6.0): EINVAL")
        raise


def in_thread(call: Callable[[], object]) -> None:
    """Runs ``call`` in another thread; its exception comes here."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


# -- after close -----------------------------------------------------------------------------------


def test_every_call_on_a_closed_ring_says_so() -> None:
    """RingClosedError from each public method and property, or an answer that needs no ring."""
    ring = open_ring(4)
    ring.close()
    assert refusals(ring, RingClosedError) == {}
    with pytest.raises(RingClosedError), ring:
        ring.nop(1)
    assert repr(ring) == "<Ring closed>"


def test_a_kept_entry_of_a_closed_ring_is_dead() -> None:
    """Its memory is gone: reading and writing a field raise, and so does preparing it."""
    ring = open_ring(2)
    entries = [ring.nop(1), ring.get_sqe()]
    ring.close()
    for sqe in entries:
        for use in (lambda sqe=sqe: sqe.opcode, sqe.link_with_next, lambda sqe=sqe: repr(sqe)):
            with pytest.raises(Exception, match=r"requires a buffer|unpack_from|out of range"):
                use()
        with pytest.raises(Exception, match="requires a buffer"):
            sqe.user_data = 1
        assert bytes(sqe) == b""


def test_a_kept_view_of_a_closed_ring_is_dead() -> None:
    """The views sq and cq of a ring are refused with it."""
    ring = open_ring(2)
    sq, cq = ring.sq, ring.cq
    ring.close()
    for read in (lambda: sq.head, lambda: sq.flags, lambda: cq.tail, lambda: cq.cqes):
        with pytest.raises(RingClosedError):
            read()


# -- threads ---------------------------------------------------------------------------------------


def test_another_thread_is_refused_before_anything_is_queued() -> None:
    """SINGLE_ISSUER: each call raises WrongThreadError there, and the owner notices nothing."""
    with single_issuer_ring() as ring:
        ring.nop(1)
        calls = []

        def try_all() -> None:
            calls.append(refusals_without_close(ring))

        in_thread(try_all)
        assert calls == [{}]
        assert ring.sq_ready() == 1
        assert ring.submit_and_copy_cqes(4, 1) == [Cqe(1, 0, 0)]


def refusals_without_close(ring: Ring) -> dict[str, str]:
    calls = ring_calls(ring)
    del calls["close"]
    surprises = {}
    for name, call in calls.items():
        if name in ANSWERS:
            continue
        try:
            surprises[name] = f"returned {call()!r}"
        except WrongThreadError:
            pass
        except Exception as exc:
            surprises[name] = repr(exc)
    return surprises


def test_another_thread_may_close_but_not_wait() -> None:
    """What is in flight keeps its buffer for ever, as nobody can see it end."""
    ring = single_issuer_ring()
    with a_pipe() as (reader, _):
        buffer = bytearray(8)
        ring.read(1, reader, buffer, 0)
        ring.submit()
        kept = len(_queue._kept_for_ever)
        in_thread(ring.close)
        assert (ring.fd, len(_queue._kept_for_ever)) == (-1, kept + 1)
        with pytest.raises(BufferError):
            buffer.append(1)


def test_a_ring_without_issuer_may_be_used_by_threads_in_turn() -> None:
    """A plain ring has no owner: prepared here, submitted there, copied here."""
    with open_ring(4) as ring:
        ring.nop(1)
        in_thread(ring.submit)
        assert wait_cqes(ring, 1) == [Cqe(1, 0, 0)]


@contextlib.contextmanager
def waiting_thread(ring: Ring) -> Iterator[None]:
    """Another thread waits for a completion inside the ring, and has it in the end."""
    with a_pipe() as (reader, writer):
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        copied: list[Cqe] = []
        thread = threading.Thread(target=lambda: copied.append(ring.copy_cqe()))
        thread.start()
        while not ring._ring.busy:
            assert thread.is_alive()
            os.sched_yield()
        try:
            yield
        finally:
            os.write(writer, b"x")
            thread.join()
        assert copied == [Cqe(1, select.POLLIN, 0)]


@pytest.mark.parametrize(
    "name",
    ["submit", "flush_sq", "copy_cqe", "cq_ready", "close", "enable_rings", "unregister_files"],
)
def test_two_threads_at_once_are_refused(name: str) -> None:
    """While one waits inside the ring, the other gets WrongThreadError; the wait is undisturbed."""
    with open_ring(4) as ring, waiting_thread(ring):
        with pytest.raises(WrongThreadError, match=r"another thread|inside"):
            getattr(ring, name)()
        assert ring.fd >= 0


def test_what_a_refused_submit_left_is_submitted_later() -> None:
    """The entry stays in the queue, and what it borrows stays locked, until a submit works."""
    buffer = bytearray(8)
    with open_ring(4) as ring, a_pipe() as (reader, writer):
        with waiting_thread(ring):
            ring.read(2, reader, buffer, 0)
            with pytest.raises(WrongThreadError):
                ring.submit()
        with pytest.raises(BufferError):
            buffer.append(1)
        os.write(writer, b"12345678")
        assert ring.submit_and_copy_cqes(4, 1, WAIT_S) == [Cqe(2, 8, 0)]
        buffer.append(1)


def test_threads_that_fight_for_a_ring_do_not_crash() -> None:
    """Four threads submit and copy without a lock for a while: only WrongThreadError comes out."""
    other: list[BaseException] = []
    start = threading.Barrier(4)

    def fight(ring: Ring) -> None:
        start.wait()
        for _ in range(300):
            try:
                ring.submit_and_copy_cqes(8, 0)
                ring.copy_cqes(8)
                ring.cq_ready()
            except WrongThreadError:
                continue
            except BaseException as exc:
                other.append(exc)

    with open_ring(8) as ring:
        threads = [threading.Thread(target=fight, args=(ring,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert other == []


# -- fork ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def forked(child: Callable[[], object]) -> Iterator[int]:
    """Runs ``child`` in a fork; the exit status of that must be 0 in the end."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child()
            status = 0
        except BaseException as exc:
            os.write(2, f"in the child: {exc!r}\n".encode())
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_a_forked_child_is_refused_and_disturbs_nothing() -> None:
    """ForkedRingError from each call there; the descriptor is gone; the parent's op completes."""
    with open_ring(4) as ring, a_pipe() as (reader, writer):
        buffer = bytearray(8)
        ring.read(1, reader, buffer, 0)
        ring.submit()
        ring.nop(2)
        fd = ring.fd

        def child() -> None:
            surprises = refusals(ring, ForkedRingError)
            assert surprises == {}, surprises
            assert (ring.fd, repr(ring), ring.close()) == (-1, "<Ring forked>", [])
            buffer.append(1)
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)

        with forked(child):
            pass
        os.write(writer, b"12345678")
        assert sorted(ring.submit_and_copy_cqes(4, 2, WAIT_S)) == [Cqe(1, 8, 0), Cqe(2, 0, 0)]
        assert buffer == b"12345678"


def test_a_child_of_a_child_is_refused_too() -> None:
    """The mark survives the second fork."""
    with open_ring(1) as ring:

        def grandchild() -> None:
            with pytest.raises(ForkedRingError):
                ring.submit()

        def child() -> None:
            with forked(grandchild):
                pass

        with forked(child):
            pass


def test_a_child_may_have_a_ring_of_its_own() -> None:
    """A fork makes its own ring and uses it beside the dead one."""
    with open_ring(1):

        def child() -> None:
            with Ring(1) as own:
                own.nop(1)
                assert own.submit_and_copy_cqes(1, 1) == [Cqe(1, 0, 0)]

        with forked(child):
            pass


def test_a_forked_child_has_no_part_of_the_queues() -> None:
    """Rows 65, 65b: it could take the parent's completions, and keep its files open."""
    mark = "anon_inode:[io_uring]"
    with open_ring(1):
        assert mark in Path("/proc/self/maps").read_text()

        def child() -> None:
            assert mark not in Path("/proc/self/maps").read_text()

        with forked(child):
            pass


def test_a_forked_child_keeps_no_direct_descriptor_alive() -> None:
    """Row 65b: the port of a listener in the file table is free once the parent has closed the
    ring, although a child that was forked before still lives."""
    with a_pipe() as (reader, writer), contextlib.ExitStack() as stack:
        ring = stack.enter_context(open_ring(4))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            address = listener.getsockname()
            try:
                ring.register_files([listener.fileno()])
            except OSError as exc:
                pytest.skip(f"no file table: {exc}")
        ring.accept(1, 0).use_registered_fd()
        ring.submit()

        def child() -> None:
            os.close(writer)
            os.read(reader, 1)

        with forked(child):
            ring.close()
            bind_again(address)
            os.write(writer, b"x")


def bind_again(address: tuple[str, int]) -> None:
    """The kernel gives a port back a moment after its last file was closed."""
    for _ in range(int(WAIT_S / 0.01)):
        with socket.socket() as again:
            again.settimeout(0.01)
            try:
                again.bind(address)
                return
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
        threading.Event().wait(0.01)
    raise AssertionError(f"{address} stays in use")


# -- exec, garbage, exit ---------------------------------------------------------------------------


def test_the_descriptor_is_closed_by_exec() -> None:
    """Row 66: FD_CLOEXEC is set, and a program started without close_fds does not see the ring."""
    with open_ring(1) as ring:
        assert fcntl.fcntl(ring.fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        listing = "import os; print([os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)])"
        listing += f"; print(os.path.exists('/proc/self/fd/{ring.fd}'))"
        done = subprocess.run(
            [sys.executable, "-c", listing], capture_output=True, close_fds=False, check=True
        )
        assert done.stdout.decode().splitlines()[1] == "False"


def test_a_forgotten_ring_warns_and_closes() -> None:
    """The garbage collector's ResourceWarning names it, and its descriptor is closed."""
    rings = [open_ring(1)]
    fd = rings[0].fd
    rings[0].nop(1)
    rings[0].submit()
    with pytest.warns(ResourceWarning, match=f"unclosed <Ring fd={fd}>"):
        rings.clear()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_a_forgotten_ring_is_closed_although_its_warning_is_an_error() -> None:
    """-W error::ResourceWarning: the error is reported, and the descriptor closed all the same."""
    script = """
import os, warnings
from trio_uring.lowlevel import Ring
warnings.simplefilter("error", ResourceWarning)
ring = Ring(1)
fd = ring.fd
del ring
try:
    os.fstat(fd)
except OSError:
    print("closed")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "closed\n")
    assert "ResourceWarning: unclosed <Ring fd=" in done.stderr


def test_a_ring_forgotten_in_another_thread_is_closed() -> None:
    """The thread that collects it may not enter a SINGLE_ISSUER ring; it closes it, no more."""
    rings = [single_issuer_ring()]
    fd = rings[0].fd
    rings[0].nop(1)
    rings[0].submit_and_copy_cqes(1, 1)
    with pytest.warns(ResourceWarning, match="unclosed"):
        in_thread(rings.clear)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


EXITS = {
    "open, idle": "",
    "a receive in flight": "ring.recv(1, a, bytearray(1 << 16)); ring.submit()",
    "a thousand in flight": """
buffers = [bytearray(4096) for _ in range(1000)]
for number, buffer in enumerate(buffers):
    if number % 8 == 0:
        ring.submit()
    ring.recv(number, a, buffer)
ring.submit()
""",
    "closed without an end": """
ring.recv(1, a, bytearray(1 << 16))
ring.submit()
ring.close(timeout=0)
_queue._keep_for_ever(bytearray(1 << 20))
""",
    "a daemon thread inside": """
import threading, os
threading.Thread(target=ring.copy_cqe, daemon=True).start()
while not ring._ring.busy:
    os.sched_yield()
""",
    "in a cycle with its buffer": """
class Node: pass
node = Node()
node.me, node.ring, node.buffer = node, ring, bytearray(4096)
ring.recv(1, a, node.buffer)
ring.submit()
del node, ring
""",
    "prepared, not submitted": "ring.recv(1, a, bytearray(1 << 16))",
    "with a file table and buffers": """
ring.register_files([0, 1, 2])
ring.register_buffers([bytearray(4096)])
""",
}


@pytest.mark.parametrize("what", EXITS)
def test_the_interpreter_ends_cleanly_with_a_ring(what: str) -> None:
    """Row 70: exit status 0 and not a word on stderr, however the ring is left."""
    script = f"""
import socket
from trio_uring import _queue
from trio_uring.lowlevel import Ring
s, t = socket.socketpair()
a = s.fileno()
ring = Ring(8)
{EXITS[what]}
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=WAIT_S
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
