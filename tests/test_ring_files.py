# SPDX-License-Identifier: MIT OR Apache-2.0
"""Each operation on open files does to a real file what the system call of its name does."""

from __future__ import annotations

import array
import errno
import mmap
import os
from typing import TYPE_CHECKING

import pytest
from kernel_help import completes, skip_unknown
from ring_help import a_file, a_pipe, open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    CQE_BUFFER_SHIFT,
    FILE_INDEX_ALLOC,
    SPLICE_F_FD_IN_FIXED,
    BufferSelection,
    CqeFlag,
    FsyncFlag,
    Op,
    PinnedBuffer,
    SubmissionQueueFull,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio_uring.lowlevel import Ring

U64 = 1 << 64


def _provide(ring: Ring, count: int, size: int, group_id: int) -> bytearray:
    memory = bytearray(count * size)
    assert completes(ring, ring.provide_buffers(1, memory, size, count, group_id)).res >= 0
    return memory


# -- data --------------------------------------------------------------------------------------


def test_a_read_at_minus_one_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    """Offset -1, or the same as an unsigned number, is the position of the file, and moves it."""
    with a_file(tmp_path, b"abcdef") as fd, open_ring(1) as ring:
        buffer = bytearray(2)
        for offset, part in ((-1, b"ab"), (U64 - 1, b"cd"), (-1, b"ef")):
            assert completes(ring, ring.read(1, fd, buffer, offset)).res == 2
            assert buffer == part


def test_a_write_at_minus_one_appends_to_what_was_written(tmp_path: Path) -> None:
    """Offset -1 writes at the position of the file."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        for part in (b"ab", b"cd"):
            assert completes(ring, ring.write(1, fd, part, -1)).res == 2
        assert os.pread(fd, 8, 0) == b"abcd"


def test_a_read_takes_a_list_of_buffers(tmp_path: Path) -> None:
    """A list or tuple of buffers is filled in order, as by preadv(2)."""
    with a_file(tmp_path, b"abcdef") as fd, open_ring(1) as ring:
        first, second = bytearray(2), bytearray(8)
        assert ring.read(1, fd, [first, second], 1).opcode == Op.READV
        assert run_one(ring).res == 5
        assert bytes(first + second[:3]) == b"bcdef"


def test_a_read_takes_a_buffer_that_the_kernel_selects(tmp_path: Path) -> None:
    """With a BufferSelection the completion names the provided buffer that has the data."""
    with a_file(tmp_path, b"abcdef") as fd, open_ring(1) as ring:
        memory = _provide(ring, 2, 4, group_id=7)
        cqe = completes(ring, ring.read(2, fd, BufferSelection(7, 3), 0))
        assert (cqe.res, bool(cqe.flags & CqeFlag.BUFFER)) == (3, True)
        number = cqe.flags >> CQE_BUFFER_SHIFT
        assert memory[4 * number : 4 * number + 4] == b"abc\0"


@pytest.mark.parametrize("number", [-1, 1 << 16])
def test_a_buffer_group_has_a_number_of_16_bits(number: int) -> None:
    """What does not fit in the entry is refused before there is one."""
    with pytest.raises(ValueError, match="65535"):
        BufferSelection(number)


def test_vectored_reads_and_writes_use_all_their_buffers(tmp_path: Path) -> None:
    """Readv and writev move the bytes of several buffers in order."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        assert completes(ring, ring.writev(1, fd, [b"abc", b"", memoryview(b"de")], 1)).res == 5
        assert os.pread(fd, 8, 0) == b"\0abcde"
        first, second = bytearray(3), bytearray(4)
        assert completes(ring, ring.readv(1, fd, [first, second], 0)).res == 6
        assert first + second == b"\0abcde\0"


def test_fixed_reads_and_writes_go_through_the_locked_buffer(tmp_path: Path) -> None:
    """Any part of the registered buffer will do."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        buffer = PinnedBuffer(bytearray(b"abcdefgh"))
        ring.register_buffers([buffer])
        assert completes(ring, ring.write_fixed(1, fd, buffer[2:6], 0, 0)).res == 4
        assert completes(ring, ring.read_fixed(1, fd, buffer[0:2], 2, 0)).res == 2
        assert bytes(buffer) == b"efcdefgh"


def test_fixed_reads_refuse_memory_outside_of_the_locked_buffer(tmp_path: Path) -> None:
    """So what is not registered needs no pin: the kernel never writes there."""
    with a_file(tmp_path, b"data") as fd, open_ring(1) as ring:
        buffer, other = bytearray(8), bytearray(8)
        ring.register_buffers([buffer])
        ring.read_fixed(1, fd, other, 0, 0)
        assert run_one(ring).res == -errno.EFAULT


def test_vectored_fixed_operations_use_parts_of_the_locked_buffer(tmp_path: Path) -> None:
    """Readv_fixed and writev_fixed take several parts of one registered buffer."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        buffer = PinnedBuffer(bytearray(b"abcdefgh"))
        ring.register_buffers([buffer])
        assert completes(ring, ring.writev_fixed(1, fd, [buffer[6:8], buffer[0:2]], 0, 0)).res == 4
        assert os.pread(fd, 8, 0) == b"ghab"
        assert completes(ring, ring.readv_fixed(1, fd, [buffer[2:3], buffer[4:6]], 1, 0)).res == 3
        assert bytes(buffer) == b"abhdabgh"


def test_a_multishot_read_brings_every_write_in_a_buffer_of_its_own() -> None:
    """One entry, a completion for each write, with MORE; and ENOBUFS without it in the end."""
    with a_pipe() as (reader, writer), open_ring(2) as ring:
        memory = _provide(ring, 2, 4, group_id=1)
        ring.read_multishot(2, reader, BufferSelection(1))
        assert ring.submit() == 1
        for data in (b"abc", b"de"):
            os.write(writer, data)
            cqe = wait_cqes(ring, 1)[0]
            skip_unknown(Op.READ_MULTISHOT, cqe.res)
            assert (cqe.res, bool(cqe.flags & CqeFlag.MORE)) == (len(data), True)
            start = 4 * (cqe.flags >> CQE_BUFFER_SHIFT)
            assert bytes(memory[start : start + cqe.res]) == data
        os.write(writer, b"f")
        assert wait_cqes(ring, 1) == [(2, -errno.ENOBUFS, 0)]


# -- many at once ------------------------------------------------------------------------------


def test_many_reads_fill_their_parts_also_where_the_queue_wraps(tmp_path: Path) -> None:
    """The i-th operation reads from the i-th offset into the i-th part, from any place on."""
    with a_file(tmp_path, b"abcdefgh") as fd, open_ring(4) as ring:
        for before in range(5):
            for _ in range(before):
                completes(ring, ring.nop(9))
            buffer = bytearray(6)
            ring.read_many([10, 11, 12], fd, buffer, 2, array.array("Q", [6, 0, 3]))
            assert ring.submit() == 3
            assert sorted(wait_cqes(ring, 3)) == [(10, 2, 0), (11, 2, 0), (12, 2, 0)]
            assert bytes(buffer) == b"ghabde"


def test_many_writes_take_their_parts(tmp_path: Path) -> None:
    """The i-th operation writes the i-th part to the i-th offset."""
    with a_file(tmp_path) as fd, open_ring(4) as ring:
        ring.write_many(range(3), fd, b"abcdef", 2, [4, 2, 0])
        assert ring.submit() == 3
        assert sorted(wait_cqes(ring, 3)) == [(0, 2, 0), (1, 2, 0), (2, 2, 0)]
        assert os.pread(fd, 8, 0) == b"efcdab"


def test_many_fixed_reads_fill_their_parts(tmp_path: Path) -> None:
    """As read_many, into a registered buffer."""
    with a_file(tmp_path, b"abcdef") as fd, open_ring(4) as ring:
        buffer = PinnedBuffer(bytearray(4))
        ring.register_buffers([buffer])
        ring.read_fixed_many(array.array("Q", [1, 2]), fd, buffer, 2, [4, 0], 0)
        assert ring.submit() == 2
        assert sorted(wait_cqes(ring, 2)) == [(1, 2, 0), (2, 2, 0)]
        assert bytes(buffer) == b"efab"


def test_many_that_do_not_fit_are_none(tmp_path: Path) -> None:
    """Too many for the queue: SubmissionQueueFull, and nothing is prepared or borrowed."""
    with a_file(tmp_path) as fd, open_ring(2) as ring:
        buffer = bytearray(4)
        ring.nop(1)
        with pytest.raises(SubmissionQueueFull):
            ring.read_many([2, 3], fd, buffer, 2, [0, 0])
        buffer.append(0)
        assert ring.sq_ready() == 1


@pytest.mark.parametrize(
    ("user_data", "size", "offsets", "error"),
    [
        ([1, 2], 3, [0, 0], ValueError),
        ([1, 2], 4, [0], ValueError),
        ([1, 1 << 64], 4, [0, 0], OverflowError),
        ([1, 2], 4, array.array("i", [0, 0]), TypeError),
    ],
)
def test_many_with_columns_that_do_not_agree_are_none(
    user_data: list[int], size: int, offsets: list[int], error: type[Exception]
) -> None:
    """Lengths and types of the columns are checked before anything is prepared or borrowed."""
    with open_ring(2) as ring:
        buffer = bytearray(size)
        with pytest.raises(error):
            ring.read_many(user_data, 0, buffer, 2, offsets)
        buffer.append(0)
        assert ring.sq_ready() == 0


# -- sync, space, advice -----------------------------------------------------------------------


def test_syncs_succeed_on_a_file_and_not_on_a_pipe(tmp_path: Path) -> None:
    """fsync, fdatasync and sync_file_range answer as the system calls do."""
    with a_file(tmp_path, b"data") as fd, a_pipe() as (reader, _), open_ring(1) as ring:
        assert completes(ring, ring.fsync(1, fd)).res == 0
        assert completes(ring, ring.fsync(1, fd, FsyncFlag.DATASYNC)).res == 0
        assert completes(ring, ring.sync_file_range(1, fd, 4, 0, 2)).res == 0
        ring.fsync(1, reader)
        assert run_one(ring).res == -errno.EINVAL
        ring.sync_file_range(1, reader, 4, 0, 2)
        assert run_one(ring).res == -errno.ESPIPE


def test_space_is_allocated_and_given_back(tmp_path: Path) -> None:
    """fallocate makes the file longer, ftruncate shorter."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        assert completes(ring, ring.fallocate(1, fd, 0, 1000, 3000)).res == 0
        assert os.fstat(fd).st_size == 4000
        assert completes(ring, ring.ftruncate(1, fd, 123)).res == 0
        assert os.fstat(fd).st_size == 123


def test_advice_for_files_is_checked_by_the_kernel(tmp_path: Path) -> None:
    """fadvise takes what posix_fadvise(2) takes, and refuses what that refuses."""
    with a_file(tmp_path, b"data") as fd, a_pipe() as (reader, _), open_ring(1) as ring:
        assert completes(ring, ring.fadvise(1, fd, 0, 4, os.POSIX_FADV_WILLNEED)).res == 0
        ring.fadvise(1, reader, 0, 4, os.POSIX_FADV_WILLNEED)
        assert run_one(ring).res == -errno.ESPIPE


def test_advice_can_empty_whole_pages_and_no_others() -> None:
    """MADV_DONTNEED empties a page; a part of one is refused: the kernel would take all of it."""
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, 3 * mmap.PAGESIZE, private) as memory, open_ring(1) as ring:
        memory[:] = b"x" * len(memory)
        with memoryview(memory) as view:
            middle = view[mmap.PAGESIZE : 2 * mmap.PAGESIZE]
            assert completes(ring, ring.madvise(1, middle, mmap.MADV_DONTNEED)).res == 0
            for part in (view[1 : mmap.PAGESIZE + 1], view[:100], view[:-1]):
                with pytest.raises(ValueError, match="whole pages"):
                    ring.madvise(1, part, mmap.MADV_DONTNEED)
                part.release()
            middle.release()
        empty = bytes(mmap.PAGESIZE)
        full = b"x" * mmap.PAGESIZE
        assert memory[:] == full + empty + full
        assert ring.sq_ready() == 0
        assert completes(ring, ring.madvise(1, memory, mmap.MADV_WILLNEED)).res == 0


def test_discard_is_not_for_ordinary_files(tmp_path: Path) -> None:
    """The command has the range in its entry; a file that is no block device does not know it."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        sqe = ring.cmd_discard(1, fd, 4096, 8192)
        assert (sqe.opcode, sqe.cmd_op, sqe.addr, sqe.addr3) == (Op.URING_CMD, 0x1200, 4096, 8192)
        assert run_one(ring).res in (-errno.EOPNOTSUPP, -errno.EINVAL)


# -- pipes -------------------------------------------------------------------------------------


def test_splice_moves_bytes_between_a_file_and_a_pipe(tmp_path: Path) -> None:
    """From an offset of a file into a pipe, and from there to another offset."""
    with a_file(tmp_path, b"abcdef") as fd, a_pipe() as (reader, writer), open_ring(1) as ring:
        assert completes(ring, ring.splice(1, fd, 2, writer, -1, 3)).res == 3
        assert completes(ring, ring.splice(1, reader, U64 - 1, fd, 6, 3)).res == 3
        assert os.pread(fd, 16, 0) == b"abcdefcde"


def test_splice_takes_slots_at_both_ends() -> None:
    """The flag of the entry is for the output, a flag of splice for the input."""
    with a_pipe() as (reader, writer), a_pipe() as (reader2, writer2), open_ring(1) as ring:
        ring.register_files([reader, writer2])
        os.write(writer, b"data")
        ring.splice(1, 0, -1, 1, -1, 4, SPLICE_F_FD_IN_FIXED).use_registered_fd()
        assert run_one(ring).res == 4
        assert os.read(reader2, 8) == b"data"


def test_tee_copies_and_leaves_the_bytes_in_the_first_pipe() -> None:
    """Both pipes have the bytes afterwards."""
    with a_pipe() as (reader, writer), a_pipe() as (reader2, writer2), open_ring(1) as ring:
        os.write(writer, b"data")
        assert completes(ring, ring.tee(1, reader, writer2, 4)).res == 4
        assert (os.read(reader, 8), os.read(reader2, 8)) == (b"data", b"data")


def test_a_pipe_comes_in_an_array_of_two() -> None:
    """What is written to the second descriptor comes out of the first."""
    with open_ring(1) as ring:
        fds = array.array("i", [-1, -1])
        assert completes(ring, ring.pipe(1, fds, os.O_CLOEXEC)).res == 0
        reader, writer = fds
        os.write(writer, b"data")
        assert os.read(reader, 8) == b"data"
        assert not os.get_inheritable(reader)
        os.close(reader)
        os.close(writer)


def test_a_direct_pipe_comes_as_two_slots() -> None:
    """With FILE_INDEX_ALLOC the array has the slots, and reads and writes work on them."""
    with open_ring(2) as ring:
        ring.register_files([-1, -1])
        fds = array.array("i", [-1, -1])
        assert completes(ring, ring.pipe_direct(1, fds, 0, FILE_INDEX_ALLOC)).res == 0
        assert sorted(fds) == [0, 1]
        reader, writer = fds
        buffer = bytearray(4)
        ring.write(2, writer, b"data", -1).use_registered_fd()
        assert run_one(ring).res == 4
        ring.read(3, reader, buffer, -1).use_registered_fd()
        assert (run_one(ring).res, bytes(buffer)) == (4, b"data")


@pytest.mark.parametrize("fds", [array.array("i", [-1]), array.array("i", [0, 0, 0]), bytearray(7)])
def test_a_pipe_needs_room_for_exactly_two_descriptors(fds: array.array[int]) -> None:
    """More would hide a mistake, less would be written over."""
    with open_ring(1) as ring:
        with pytest.raises(ValueError, match=r"descriptors|ints"):
            ring.pipe(1, fds)
        assert ring.sq_ready() == 0


# -- close -------------------------------------------------------------------------------------


def test_close_with_a_descriptor_closes_it_and_without_closes_the_ring() -> None:
    """One name for the operation and for the end of the ring, told apart by their arguments."""
    reader, writer = os.pipe()
    with open_ring(1) as ring:
        assert completes(ring, ring.close(1, reader)).res == 0
        assert completes(ring, ring.close(user_data=1, fd=writer)).res == 0
        for fd in (reader, writer):
            with pytest.raises(OSError, match="Bad file"):
                os.fstat(fd)
        ring.nop(5)
        ring.submit()
        assert ring.close() == [(5, 0, 0)]
        assert ring.close(timeout=1) == ring.close(1.0) == []
        assert ring.fd == -1


def test_a_slot_is_closed_and_can_be_made_a_descriptor(tmp_path: Path) -> None:
    """fixed_fd_install gives a close-on-exec descriptor of the file; close_direct empties."""
    with a_file(tmp_path, b"data") as fd, open_ring(1) as ring:
        ring.register_files([fd])
        installed = completes(ring, ring.fixed_fd_install(1, 0)).res
        assert installed >= 0
        assert os.path.samestat(os.fstat(installed), os.fstat(fd))
        assert not os.get_inheritable(installed)
        os.close(installed)
        assert completes(ring, ring.close_direct(2, 0)).res == 0
        ring.close_direct(3, 0)
        assert run_one(ring).res == -errno.EBADF


@pytest.mark.parametrize("slot", [-1, FILE_INDEX_ALLOC, FILE_INDEX_ALLOC - 1])
def test_no_number_makes_close_direct_the_close_of_descriptor_zero(slot: int) -> None:
    """What would wrap to 0 in the entry is refused, and no entry is left behind."""
    with open_ring(1) as ring:
        with pytest.raises(ValueError, match="slot"):
            ring.close_direct(1, slot)
        assert ring.sq_ready() == 0
