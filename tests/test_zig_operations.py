# SPDX-License-Identifier: MIT OR Apache-2.0
"""Parity with the first IO_Uring of the Zig library (2020): rows A27 to A38, A43 to A45."""

from __future__ import annotations

import errno
import inspect
import mmap
import os
import socket
from typing import TYPE_CHECKING

import pytest
from ring_help import a_file, a_pipe, open_ring, run_all, run_one, wait_cqes

from trio_uring.lowlevel import (
    Cqe,
    FsyncFlag,
    Op,
    Ring,
    SockAddr,
    Sqe,
    SqeFlag,
    SubmissionQueueFull,
)

if TYPE_CHECKING:
    from pathlib import Path

OPERATIONS = ["accept", "fsync", "nop", "read", "write", "readv", "writev"]


def test_accept_gives_a_descriptor_and_the_address_of_the_peer() -> None:
    """A27: as accept4(2); the pointer to the length of the address is in the field ``off``."""
    with socket.create_server(("127.0.0.1", 0)) as listener, open_ring(2) as ring:
        sqe = ring.accept(1, listener.fileno())
        assert (sqe.opcode, sqe.addr, sqe.off, sqe.op_flags) == (Op.ACCEPT, 0, 0, 0)
        with socket.create_connection(listener.getsockname()):
            os.close(run_one(ring).res)
        peer = SockAddr()
        sqe = ring.accept(2, listener.fileno(), peer, flags=socket.SOCK_CLOEXEC)
        assert (sqe.addr, sqe.off) == (peer.pointer, peer.length_pointer)
        assert sqe.op_flags == socket.SOCK_CLOEXEC
        with socket.create_connection(listener.getsockname()) as client:
            fd = run_one(ring).res
            assert not os.get_inheritable(fd)
            os.close(fd)
            assert peer.address == client.getsockname()


def test_fsync_can_sync_the_data_alone(tmp_path: Path) -> None:
    """A28: DATASYNC is in op_flags; completions are in no order, so it drains those before it."""
    with a_file(tmp_path) as fd, open_ring(2) as ring:
        ring.write(1, fd, b"data", 0)
        sqe = ring.fsync(2, fd, FsyncFlag.DATASYNC).drain_previous()
        assert (sqe.opcode, sqe.fd, sqe.op_flags) == (Op.FSYNC, fd, FsyncFlag.DATASYNC)
        assert ring.submit() == 2
        assert wait_cqes(ring, 2) == [(1, 4, 0), (2, 0, 0)]


def test_a_draining_nop_tells_when_the_ring_is_idle() -> None:
    """A29, A35: it waits for a pending read, and holds back what comes later as well."""
    with a_pipe() as (reader, writer), open_ring(4) as ring:
        ring.read(1, reader, bytearray(1), 0)
        ring.nop(2).drain_previous()
        ring.nop(3)
        assert ring.submit() == 3
        assert ring.copy_cqes(8) == []
        os.write(writer, b"x")
        # Linux 6.1 starts those that it held back last first.
        first, *held_back = [cqe.user_data for cqe in wait_cqes(ring, 3)]
        assert (first, sorted(held_back)) == (1, [2, 3])


def test_read_and_write_take_offsets_beyond_32_bits(tmp_path: Path) -> None:
    """A30: the offset is a u64 of its own, whatever the position of the file."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        offset, buffer = (1 << 32) + 10, bytearray(4)
        assert ring.write(1, fd, b"data", offset).off == offset
        assert run_one(ring) == (1, 4, 0)
        assert os.pread(fd, 8, offset) == b"data"
        assert ring.read(2, fd, buffer, offset).off == offset
        assert run_one(ring) == (2, 4, 0)
        assert buffer == b"data"
        assert os.lseek(fd, 0, os.SEEK_CUR) == 0


def test_a_buffer_of_more_than_32_bits_is_cut_to_what_the_kernel_moves() -> None:
    """A30: the length field has 32 bits; /dev/null takes 2 GiB less a page, as write(2)."""
    # A private mapping that cannot be written takes no memory.
    unused = mmap.mmap(-1, (1 << 32) + 1, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ)
    with unused, open("/dev/null", "wb", buffering=0) as null, open_ring(1) as ring:
        assert ring.write(1, null.fileno(), unused, 0).len == 0x7FFFF000
        assert run_one(ring) == (1, 0x7FFFF000, 0)


def test_readv_and_writev_take_the_flags_of_preadv2(tmp_path: Path) -> None:
    """A31, A32: with RWF_APPEND set on the returned entry, a write at offset 0 goes to the end."""
    with a_file(tmp_path, b"abc") as fd, open_ring(1) as ring:
        sqe = ring.writev(1, fd, [b"d", b"ef"], 0)
        assert (sqe.opcode, sqe.len) == (Op.WRITEV, 2)
        sqe.op_flags = os.RWF_APPEND
        assert run_one(ring) == (1, 3, 0)
        first, second = bytearray(4), bytearray(4)
        assert ring.readv(2, fd, [first, second], 0).opcode == Op.READV
        assert run_one(ring) == (2, 6, 0)
        assert first + second == b"abcdef\0\0"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_takes_user_data_first_and_returns_its_entry(name: str) -> None:
    """A32: the caller may still change what it returns."""
    signature = inspect.signature(getattr(Ring, name))
    assert list(signature.parameters)[:2] == ["self", "user_data"]
    assert signature.return_annotation in ("Sqe", Sqe)


def test_an_entry_may_be_changed_until_it_is_submitted() -> None:
    """A32: the completion has the user_data that was put in last."""
    with open_ring(1) as ring:
        sqe = ring.nop(1)
        sqe.user_data = 2
        assert run_one(ring) == (2, 0, 0)


def test_linked_entries_start_one_after_another_and_chains_run_in_parallel() -> None:
    """A33: the first entry without the flag ends a chain; the next chain does not wait for it."""
    with a_pipe() as (reader, writer), open_ring(4) as ring:
        ring.read(1, reader, bytearray(1), 0).link_with_next()
        ring.nop(2)
        assert ring.nop(3).link_with_next().flags == SqeFlag.IO_LINK
        ring.nop(4)
        assert ring.submit() == 4
        assert wait_cqes(ring, 2) == [(3, 0, 0), (4, 0, 0)]
        assert ring.copy_cqes(8) == []
        os.write(writer, b"x")
        assert wait_cqes(ring, 2) == [(1, 1, 0), (2, 0, 0)]


def test_a_short_read_breaks_a_chain(tmp_path: Path) -> None:
    """A33: any result but the expected one cancels what is linked."""
    with a_file(tmp_path, b"short") as fd, open_ring(2) as ring:
        ring.read(1, fd, bytearray(128), 0).link_with_next()
        ring.nop(2)
        assert run_all(ring, 2) == {1: 5, 2: -errno.ECANCELED}


def test_a_hard_link_survives_a_short_read(tmp_path: Path) -> None:
    """A34: what follows starts whatever the result was."""
    with a_file(tmp_path, b"short") as fd, open_ring(2) as ring:
        sqe = ring.read(1, fd, bytearray(128), 0).hardlink_with_next()
        assert sqe.flags == SqeFlag.IO_HARDLINK
        ring.nop(2)
        assert run_all(ring, 2) == {1: 5, 2: 0}


def test_a_hard_link_does_not_survive_an_entry_that_the_kernel_refuses() -> None:
    """A34: after an unknown opcode the linked entry is cancelled, or not even taken (5.10)."""
    with open_ring(2) as ring:
        ring.nop(1).hardlink_with_next().opcode = 255
        ring.nop(2)
        submitted = ring.submit()
        results = {cqe.user_data: cqe.res for cqe in wait_cqes(ring, submitted)}
        assert results.pop(1) == -errno.EINVAL
        assert results == ({2: -errno.ECANCELED} if submitted == 2 else {})
        assert ring.sq_ready() == 2 - submitted


# -- registered files ------------------------------------------------------------------------------


def test_use_registered_fd_makes_the_descriptor_a_slot() -> None:
    """A37: FIXED_FILE is set, and slot 0 is read rather than descriptor 0."""
    with a_pipe() as (reader, writer), open_ring(1) as ring:
        os.write(writer, b"x")
        ring.register_files([reader])
        sqe = ring.read(1, 0, bytearray(1), 0).use_registered_fd()
        assert sqe.flags == SqeFlag.FIXED_FILE
        assert run_one(ring) == (1, 1, 0)


# -- the other three test scenarios of that commit; the first is in test_zig_io_uring.py -----------


def test_scenario_readv() -> None:
    """A43: /dev/zero in slot 9 of a sparse table of 10, read by a ring of one entry."""
    with open("/dev/zero", "rb", buffering=0) as zero, open_ring(1) as ring:
        try:
            ring.register_files([-1] * 9 + [zero.fileno()])
        except OSError as exc:
            if exc.errno != errno.EBADF:
                raise
            pytest.skip("no sparse file tables here (before 5.5)")
        buffer = bytearray(b"*" * 128)
        sqe = ring.readv(0xCCCCCCCC, 9, [buffer], 0)
        assert sqe.opcode == Op.READV
        sqe.use_registered_fd()
        with pytest.raises(SubmissionQueueFull):
            ring.nop(0)
        assert ring.submit() == 1
        assert ring.copy_cqe() == Cqe(0xCCCCCCCC, 128, 0)
        assert buffer == bytes(128)
        ring.unregister_files()


def test_scenario_writev_and_fsync(tmp_path: Path) -> None:
    """A44: two linked entries complete in their order, and the counts go down with each copy."""
    with a_file(tmp_path) as fd, open_ring(2) as ring:
        sqe = ring.writev(0xDDDDDDDD, fd, [b"*" * 128], 17)
        assert (sqe.opcode, sqe.off) == (Op.WRITEV, 17)
        sqe.link_with_next()
        sqe = ring.fsync(0xEEEEEEEE, fd, 0)
        assert (sqe.opcode, sqe.fd) == (Op.FSYNC, fd)
        assert ring.sq_ready() == 2
        assert ring.submit_and_wait(2) == 2
        assert (ring.sq_ready(), ring.cq_ready()) == (0, 2)
        assert ring.copy_cqe() == Cqe(0xDDDDDDDD, 128, 0)
        assert ring.cq_ready() == 1
        assert ring.copy_cqe() == Cqe(0xEEEEEEEE, 0, 0)
        assert ring.cq_ready() == 0


def test_scenario_write_and_read(tmp_path: Path) -> None:
    """A45: a read linked to a write at offset 10 reads what was written."""
    with a_file(tmp_path) as fd, open_ring(2) as ring:
        written, read = b"a" * 20, bytearray(b"b" * 20)
        sqe = ring.write(0x11111111, fd, written, 10)
        assert (sqe.opcode, sqe.off) == (Op.WRITE, 10)
        sqe.link_with_next()
        sqe = ring.read(0x22222222, fd, read, 10)
        assert (sqe.opcode, sqe.off) == (Op.READ, 10)
        assert ring.submit() == 2
        first, second = ring.copy_cqe(), ring.copy_cqe()
        if -errno.EINVAL in (first.res, second.res):
            pytest.skip("no READ and WRITE here (before 5.6)")
        assert first == Cqe(0x11111111, 20, 0)
        assert second == Cqe(0x22222222, 20, 0)
        assert read == written
