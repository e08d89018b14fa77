# SPDX-License-Identifier: MIT OR Apache-2.0
"""Each operation about polls, times, rings, tables and waits has the effect that it names."""

from __future__ import annotations

import array
import errno
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from kernel_help import both_complete, completes, skip_unknown
from ring_help import a_pipe, open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    FILE_INDEX_ALLOC,
    FILES_SKIP,
    CancelFlag,
    CqeFlag,
    EpollEvent,
    EpollEvents,
    EpollOp,
    FutexWaiter,
    Op,
    PinnedBuffer,
    PollFlag,
    SetupFlag,
    Siginfo,
    SocketOp,
    SubmissionQueueFull,
    TimeoutFlag,
    Timespec,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_uring.lowlevel import Ring

HOUR_S = 3600
BITSET_ANY = 0xFFFFFFFF


def _results(ring: Ring, count: int) -> dict[int, int]:
    return {cqe.user_data: cqe.res for cqe in wait_cqes(ring, count)}


# -- nop ---------------------------------------------------------------------------------------


def test_many_nops_complete_with_their_numbers_wherever_the_queue_wraps() -> None:
    """nop_many takes arrays, lists and ranges, and any number that fits."""
    with open_ring(4) as ring:
        for numbers in ([1, 2, 3], range(4), array.array("Q", [7, 1 << 63]), (), [5]):
            ring.nop_many(numbers)
            assert ring.submit() == len(numbers)
            assert [cqe.user_data for cqe in wait_cqes(ring, len(numbers))] == list(numbers)
        with pytest.raises(SubmissionQueueFull):
            ring.nop_many(range(5))
        assert ring.submit() == 0


def test_a_big_entry_is_a_nop_like_any_other() -> None:
    """nop128 takes two places in a queue of both sizes, also where the pair would wrap."""
    try:
        ring = open_ring(4, SetupFlag.SQE_MIXED)
    except OSError as exc:
        pytest.skip(f"no SQE_MIXED, of Linux 6.19: {exc}")
    with ring:
        for number in range(5):
            ring.nop128(number)
            ring.submit()
            assert wait_cqes(ring, 1) == [(number, 0, 0)]


def test_a_ring_with_small_entries_has_no_big_ones() -> None:
    """Neither NOP nor command: it would write over the entry after it."""
    with open_ring(2) as ring:
        with pytest.raises(ValueError, match="SQE128"):
            ring.nop128(1)
        with pytest.raises(ValueError, match="SQE128"):
            ring.uring_cmd128(1, 0, 0)
        assert ring.sq_ready() == 0


# -- poll --------------------------------------------------------------------------------------


def test_a_poll_tells_what_happened() -> None:
    """Once; the file is readable, and its end is gone."""
    with a_pipe() as (reader, writer), open_ring(1) as ring:
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        assert ring.copy_cqes(1) == []
        os.write(writer, b"x")
        assert wait_cqes(ring, 1) == [(1, select.POLLIN, 0)]


def test_a_multishot_poll_tells_again_and_again() -> None:
    """A completion with MORE for each event, until it is removed."""
    with a_pipe() as (reader, writer), open_ring(2) as ring:
        ring.poll_multishot(1, reader, select.POLLIN)
        ring.submit()
        for _ in range(2):
            os.write(writer, b"x")
            cqe = wait_cqes(ring, 1)[0]
            if not cqe.flags & CqeFlag.MORE:
                pytest.skip("this kernel takes a multishot poll, of Linux 5.13, for a single one")
            assert cqe == (1, select.POLLIN, CqeFlag.MORE)
            os.read(reader, 1)
        ring.poll_remove(2, 1)
        ring.submit()
        assert _results(ring, 2) == {1: -errno.ECANCELED, 2: 0}


def test_a_poll_can_be_given_other_events_and_another_number() -> None:
    """poll_update changes a poll that waits; its completion comes with the new number."""
    with a_pipe() as (_, writer), open_ring(2) as ring:
        ring.poll_add(1, writer, select.POLLPRI)
        ring.submit()
        assert ring.copy_cqes(1) == []
        flags = PollFlag.UPDATE_EVENTS | PollFlag.UPDATE_USER_DATA
        ring.poll_update(2, 1, 9, select.POLLOUT, flags)
        ring.submit()
        first = wait_cqes(ring, 1)[0]
        skip_unknown(Op.POLL_REMOVE, first.res if first.user_data == 2 else 0, "5.13")
        assert {first, *wait_cqes(ring, 1)} == {(2, 0, 0), (9, select.POLLOUT, 0)}


# -- time --------------------------------------------------------------------------------------


def test_a_timeout_ends_with_the_time_or_with_the_completions() -> None:
    """ETIME when the time is over, 0 when as many others have completed."""
    with open_ring(2) as ring:
        for ts in (0, 0.001, (0, 1000), Timespec(0, 1)):
            assert completes(ring, ring.timeout(1, ts)).res == -errno.ETIME
        ring.timeout(1, HOUR_S, count=1)
        ring.nop(2)
        assert both_complete(ring, Op.TIMEOUT) == {1: 0, 2: 0}


def test_a_timeout_can_be_a_point_in_time() -> None:
    """With ABS, of the monotonic clock or of another one."""
    with open_ring(1) as ring:
        flags = TimeoutFlag.ABS
        assert completes(ring, ring.timeout(1, time.monotonic(), flags=flags)).res == -errno.ETIME
        flags |= TimeoutFlag.REALTIME
        cqe = completes(ring, ring.timeout(1, time.time(), flags=flags), "5.15")
        assert cqe.res == -errno.ETIME


def test_a_timeout_can_have_its_time_in_the_entry() -> None:
    """With IMMEDIATE_ARG the entry has nanoseconds, and nothing is borrowed."""
    with open_ring(1) as ring:
        sqe = ring.timeout(1, 0.0015, flags=TimeoutFlag.IMMEDIATE_ARG)
        assert (sqe.addr, sqe.pins) == (1_500_000, None)
        assert completes(ring, sqe, "7.1").res == -errno.ETIME


def test_a_timeout_is_removed_or_given_another_time() -> None:
    """timeout_update makes an hour short, timeout_remove ends it with ECANCELED."""
    with open_ring(2) as ring:
        for number, change in enumerate((ring.timeout_update, ring.timeout_remove)):
            ring.timeout(1, HOUR_S)
            ring.submit()
            if change == ring.timeout_update:
                ring.timeout_update(2, 0.001, 1)
            else:
                ring.timeout_remove(2, 1)
            ring.submit()
            first = wait_cqes(ring, 1)[0]
            skip_unknown(Op.TIMEOUT_REMOVE, first.res if first.user_data == 2 else 0, "5.11")
            ended = (-errno.ETIME, -errno.ECANCELED)[number]
            assert {first, *wait_cqes(ring, 1)} == {(1, ended, 0), (2, 0, 0)}


def test_a_linked_timeout_ends_what_it_is_linked_to() -> None:
    """The read is cancelled; the order of both completions is not fixed."""
    with a_pipe() as (reader, _), open_ring(2) as ring:
        ring.read(1, reader, bytearray(1), 0).link_with_next()
        ring.link_timeout(2, 0.001)
        ring.submit()
        results = _results(ring, 2)
        assert results[1] in (-errno.ECANCELED, -errno.EINTR)
        assert results[2] in (-errno.ETIME, -errno.EALREADY)


# -- cancel ------------------------------------------------------------------------------------


def test_cancel_ends_an_operation_by_its_number() -> None:
    """The operation's own completion tells; what is not there is ENOENT."""
    with a_pipe() as (reader, _), open_ring(2) as ring:
        ring.poll_add(1, reader, select.POLLIN)
        ring.submit()
        ring.cancel(2, 1)
        ring.submit()
        assert _results(ring, 2) == {1: -errno.ECANCELED, 2: 0}
        ring.cancel(2, 1)
        assert run_one(ring).res == -errno.ENOENT


def test_cancel_ends_all_operations_on_a_file() -> None:
    """By descriptor or by slot, and the completion of the request counts them."""
    with a_pipe() as (reader, _), open_ring(4) as ring:
        ring.register_files([reader])
        for fd, flags in ((reader, 0), (0, CancelFlag.FD_FIXED)):
            for number in (1, 2):
                ring.poll_add(number, reader, select.POLLIN)
            if flags:
                ring.poll_add(1, 0, select.POLLIN).use_registered_fd()
            count = ring.submit()
            ring.cancel_fd(3, fd, flags | CancelFlag.ALL)
            ring.submit()
            first = wait_cqes(ring, 1)[0]
            skip_unknown(Op.ASYNC_CANCEL, first.res, "6.0" if flags else "5.19")
            rest = wait_cqes(ring, count)
            assert [cqe.res for cqe in (first, *rest) if cqe.user_data == 3] == [count]


# -- provided buffers, files -------------------------------------------------------------------


def test_provided_buffers_can_be_taken_back() -> None:
    """remove_buffers tells how many there were; then the group is empty."""
    with open_ring(1) as ring:
        memory = bytearray(32)
        assert completes(ring, ring.provide_buffers(1, memory, 8, 4, 5, buffer_id=3)).res >= 0
        assert completes(ring, ring.remove_buffers(1, 3, 5)).res == 3
        assert completes(ring, ring.remove_buffers(1, 3, 5)).res == 1
        ring.remove_buffers(1, 3, 5)
        assert run_one(ring).res in (0, -errno.ENOENT)


def test_more_buffers_than_the_memory_holds_are_refused() -> None:
    """The kernel would write behind it."""
    with open_ring(1) as ring:
        for size, count in ((8, 5), (41, 1), (-8, 1), (8, -1)):
            with pytest.raises(ValueError, match="fit"):
                ring.provide_buffers(1, bytearray(39), size, count, 0)
        assert ring.sq_ready() == 0


def test_files_are_put_into_slots() -> None:
    """A list of descriptors, -1 to empty a slot and FILES_SKIP to leave one."""
    with a_pipe() as (reader, writer), open_ring(1) as ring:
        ring.register_files([reader, -1, reader])
        assert completes(ring, ring.files_update(1, [FILES_SKIP, writer, -1], 0)).res == 3
        ring.write(1, 1, b"data", -1).use_registered_fd()
        assert run_one(ring).res == 4
        buffer = bytearray(4)
        ring.read(1, 0, buffer, -1).use_registered_fd()
        assert (run_one(ring).res, bytes(buffer)) == (4, b"data")
        ring.read(1, 2, buffer, -1).use_registered_fd()
        assert run_one(ring).res == -errno.EBADF


def test_files_are_put_into_free_slots() -> None:
    """With FILE_INDEX_ALLOC the slots come in the array; a list could not tell them."""
    with a_pipe() as (reader, writer), open_ring(1) as ring:
        ring.register_files([-1, reader, -1])
        fds = array.array("i", [writer, writer])
        assert _updated(ring, fds) == 2
        assert sorted(fds) == [0, 2]
        with pytest.raises(TypeError):
            ring.files_update(1, [writer], FILE_INDEX_ALLOC)
        assert ring.sq_ready() == 0


def _updated(ring: Ring, fds: array.array[int]) -> int:
    """The result; the test is skipped on a kernel that takes the offset for a number."""
    ring.files_update(1, fds, FILE_INDEX_ALLOC)
    res = run_one(ring).res
    if res == -errno.EOVERFLOW:
        pytest.skip("FILES_UPDATE of this kernel has no FILE_INDEX_ALLOC, of Linux 6.0")
    skip_unknown(Op.FILES_UPDATE, res, "6.0")
    return res


# -- other rings -------------------------------------------------------------------------------


def test_a_message_is_a_completion_of_the_other_ring() -> None:
    """It has the number, result and flags that the sender chose; to itself as well."""
    with open_ring(2) as sender, open_ring(2) as receiver:
        assert completes(sender, sender.msg_ring(1, receiver.fd, 5, 1 << 40)).res == 0
        assert wait_cqes(receiver, 1) == [(1 << 40, 5, 0)]
        sender.msg_ring(1, sender.fd, 6, 2)
        sender.submit()
        assert set(wait_cqes(sender, 2)) == {(1, 0, 0), (2, 6, 0)}
        completes(sender, sender.msg_ring_cqe_flags(1, receiver.fd, 7, 3, 0, 0x10000), "6.3")
        assert wait_cqes(receiver, 1) == [(3, 7, 0x10000)]


def test_a_message_can_bring_a_file() -> None:
    """From a slot of one ring to a slot of the other, a given one or any."""
    with a_pipe() as (reader, writer), open_ring(1) as sender, open_ring(1) as receiver:
        sender.register_files([writer])
        receiver.register_files([-1, -1, -1])
        completes(sender, sender.msg_ring_fd(1, receiver.fd, 0, 2, 7), "6.0")
        assert wait_cqes(receiver, 1) == [(7, 0, 0)]
        completes(sender, sender.msg_ring_fd_alloc(1, receiver.fd, 0, 8), "6.0")
        ((number, slot, _),) = wait_cqes(receiver, 1)
        assert (number, slot in (0, 1)) == (8, True)
        for place in (2, slot):
            receiver.write(1, place, b"x", -1).use_registered_fd()
            assert run_one(receiver).res == 1
        assert os.read(reader, 8) == b"xx"


def test_a_message_to_a_duplicate_of_a_descriptor_is_expected_too() -> None:
    """Which ring it is cannot be told: every ring leaves operations with that number alone."""
    with a_pipe() as (reader, _), open_ring(2) as sender, open_ring(2) as receiver:
        other = os.dup(receiver.fd)
        buffer = bytearray(1)
        receiver.read(7, reader, buffer, 0)
        receiver.submit()
        sender.msg_ring(1, other, 0, 7)
        cqe = run_one(sender)
        os.close(other)
        skip_unknown(Op.MSG_RING, cqe.res)
        assert wait_cqes(receiver, 1) == [(7, 0, 0)]
        with pytest.raises(BufferError):
            buffer.append(0)


# -- other waits -------------------------------------------------------------------------------


def test_epoll_is_told_and_asked_by_operations() -> None:
    """epoll_ctl adds, changes and removes; epoll_wait brings the events with their numbers."""
    with a_pipe() as (reader, writer), select.epoll() as epoll, open_ring(1) as ring:
        epfd = epoll.fileno()
        for fd, mask in ((reader, select.EPOLLIN), (writer, select.EPOLLOUT)):
            event = EpollEvent(mask, 1 << 40 | fd)
            sqe = ring.epoll_ctl(1, epfd, fd, EpollOp.ADD, event)
            assert completes(ring, sqe).res == 0
        os.write(writer, b"x")
        assert {fd & 0xFF for fd, _ in epoll.poll(0)} == {reader, writer}
        sqe = ring.epoll_ctl(1, epfd, writer, EpollOp.MOD, EpollEvent(0))
        assert completes(ring, sqe).res == 0
        assert len(epoll.poll(0)) == 1
        events = EpollEvents(4)
        assert completes(ring, ring.epoll_wait(1, epfd, events)).res == 1
        assert events.first(1) == [(select.EPOLLIN, 1 << 40 | reader)]
        assert completes(ring, ring.epoll_ctl(1, epfd, reader, EpollOp.DEL)).res == 0
        assert epoll.poll(0) == []


def test_waitid_tells_of_a_child() -> None:
    """Its number, how it ended and with which status; without a struct just that it ended."""
    with open_ring(1) as ring:
        with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as child:
            info, options = Siginfo(), os.WEXITED | os.WNOWAIT
            cqe = completes(ring, ring.waitid(1, os.P_PID, child.pid, info, options))
            assert cqe.res == 0
            assert (info.si_pid, info.si_code, info.si_status) == (child.pid, os.CLD_EXITED, 3)
            assert (info.si_uid, info.si_signo, info.si_errno) == (os.getuid(), 17, 0)
            assert completes(ring, ring.waitid(1, os.P_PID, child.pid, None, options)).res == 0
        assert child.returncode == 3


@contextmanager
def _shared_words(count: int) -> Iterator[list[memoryview]]:
    with mmap.mmap(-1, mmap.PAGESIZE) as memory, memoryview(memory) as view:
        words = [view[4 * i : 4 * i + 4] for i in range(count)]
        try:
            yield words
        finally:
            for word in words:
                word.release()


def test_a_futex_wakes_who_waits_for_it() -> None:
    """The waiter wants the value that is there; a waker wakes as many as it says."""
    with _shared_words(1) as (word,), open_ring(2) as ring:
        word[:] = struct.pack("=I", 5)
        ring.futex_wait(1, word, 4, BITSET_ANY)
        cqe = run_one(ring)
        skip_unknown(Op.FUTEX_WAIT, cqe.res)
        assert cqe.res == -errno.EAGAIN
        ring.futex_wait(1, word, 5, BITSET_ANY)
        ring.submit()
        assert ring.copy_cqes(1) == []
        ring.futex_wake(2, word, 1, BITSET_ANY)
        ring.submit()
        assert _results(ring, 2) == {1: 0, 2: 1}


def test_one_of_several_futexes_wakes() -> None:
    """The result is the index of the one that was woken."""
    with _shared_words(3) as words, open_ring(2) as ring:
        ring.futex_waitv(1, [FutexWaiter(word, 0) for word in words])
        ring.submit()
        early = ring.copy_cqes(1)
        if early:
            skip_unknown(Op.FUTEX_WAITV, early[0].res)
        assert early == []
        ring.futex_wake(2, words[1], 1, BITSET_ANY)
        ring.submit()
        assert _results(ring, 2) == {1: 1, 2: 1}


def test_a_futex_is_four_bytes_in_one_place() -> None:
    """Another size or a crooked address is refused before an entry is taken."""
    buffer = PinnedBuffer(bytearray(16))
    with open_ring(1) as ring:
        for futex in (buffer[:8], buffer[4 - buffer.address % 4 + 1 :][:4]):
            with pytest.raises(ValueError, match="futex"):
                ring.futex_wait(1, futex, 0, BITSET_ANY)
            with pytest.raises(ValueError, match="futex"):
                ring.futex_waitv(1, [FutexWaiter(futex, 0)])
        assert ring.sq_ready() == 0


# -- commands ----------------------------------------------------------------------------------


def test_a_command_carries_its_bytes_and_keeps_the_buffers_in_them() -> None:
    """Here as a socket takes setsockopt: the address of the value is in the command's bytes."""
    with socket.create_server(("127.0.0.1", 0)) as sock, open_ring(1) as ring:
        value = bytearray(struct.pack("=i", 1))
        pinned = PinnedBuffer(value)
        command = struct.pack("=Q", pinned.address)
        sqe = ring.uring_cmd(1, SocketOp.SETSOCKOPT, sock.fileno(), command, [pinned])
        sqe.level, sqe.optname, sqe.optlen = socket.SOL_SOCKET, socket.SO_KEEPALIVE, 4
        del pinned
        with pytest.raises(BufferError):
            value.append(0)
        assert completes(ring, sqe, "6.7").res == 0
        value.append(0)
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_a_command_has_room_for_16_bytes_or_80() -> None:
    """More would be in the entry after it; what is not given is zero."""
    with open_ring(2) as ring:
        for command in (b"x" * 16, b"y"):
            sqe = ring.uring_cmd(1, 7, -1, command)
            assert bytes(sqe)[48:] == command.ljust(16, b"\0")
            run_one(ring)
        with pytest.raises(ValueError, match="16 bytes"):
            ring.uring_cmd(1, 7, -1, bytes(17))
        assert ring.sq_ready() == 0
    try:
        ring = open_ring(2, SetupFlag.SQE128)
    except OSError as exc:
        pytest.skip(f"no SQE128, of Linux 5.19: {exc}")
    with ring:
        sqe = ring.uring_cmd128(1, 7, -1, b"x" * 80)
        assert bytes(memoryview(sqe.memory)[sqe.at + 48 : sqe.at + 128]) == b"x" * 80
        run_one(ring)
        sqe = ring.uring_cmd(2, 7, -1, b"y" * 80)
        assert bytes(memoryview(sqe.memory)[sqe.at + 48 : sqe.at + 128]) == b"y" * 80
        run_one(ring)
