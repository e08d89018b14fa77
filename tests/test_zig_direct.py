# SPDX-License-Identifier: MIT OR Apache-2.0
"""Parity with the direct operations of Zig's IO_Uring (2023): rows B1 to B35.

No test asks for the version of the kernel: what an old one answers is recognised and skipped.
"""

from __future__ import annotations

import ast
import errno
import os
import re
import socket
from array import array
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from ring_help import open_ring, run_all, run_one, wait_cqes

from trio_uring.lowlevel import (
    FILE_INDEX_ALLOC,
    AcceptFlag,
    Cqe,
    CqeFlag,
    Op,
    OpenHow,
    Ring,
    Sqe,
    SqeFlag,
    prep_accept_direct,
    prep_close_direct,
    prep_multishot_accept_direct,
    prep_openat_direct,
    prep_socket,
    prep_socket_direct,
    prep_socket_direct_alloc,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

ACCEPT, CONNECT, CLOSE, RECV = 0xAAAAAAAA, 0xBBBBBBBB, 0xCCCCCCCC, 0xDDDDDDDD
CREATE = os.O_RDWR | os.O_CREAT


@contextmanager
def a_listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def connect_to(listener: socket.socket) -> socket.socket:
    return socket.create_connection(listener.getsockname())


@contextmanager
def a_directory(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def register_table(ring: Ring, fds: list[int]) -> None:
    try:
        ring.register_files(fds)
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise
        pytest.skip("no sparse file tables here (before 5.5)")


def slot_of(cqe: Cqe, slots: int) -> int:
    """The slot in a completion of a direct operation.

    Skips where the kernel does not know it, or ignored file_index and gave a normal descriptor.
    """
    if cqe.res == -errno.EINVAL:
        pytest.skip("the kernel does not choose slots (before 5.19)")
    assert cqe.res >= 0, os.strerror(-cqe.res)
    if cqe.res >= slots:
        os.close(cqe.res)
        pytest.skip("the kernel ignores file_index (before 5.15)")
    return cqe.res


def need_direct_open(ring: Ring, slot: int) -> None:
    """Opens /dev/null into ``slot``; skips where CLOSE would ignore the slot and take fd 0."""
    ring.openat_direct(1, -1, "/dev/null", os.O_RDONLY, 0, slot)
    slot_of(run_one(ring), 1)


def need_socket_operation(ring: Ring) -> None:
    ring.socket(1, socket.AF_INET, socket.SOCK_STREAM)
    cqe = run_one(ring)
    if cqe.res == -errno.EINVAL:
        pytest.skip("no SOCKET operation here (before 5.19)")
    os.close(cqe.res)


# -- entries ---------------------------------------------------------------------------------------


def fields(sqe: Sqe) -> dict[str, int]:
    """The fields of an entry that are not 0."""
    names = (
        *("opcode", "flags", "ioprio", "fd", "off", "addr", "len", "op_flags", "user_data"),
        *("file_index", "addr3"),
    )
    return {name: getattr(sqe, name) for name in names if getattr(sqe, name)}


def test_each_prep_function_fills_an_entry_of_no_ring() -> None:
    """B8: the seven can be used alone, and write nothing but what the operation has."""
    sqe = Sqe()
    prep_accept_direct(sqe, 5, 0, 0, 0, 3)
    assert fields(sqe) == {"opcode": Op.ACCEPT, "fd": 5, "file_index": 4}
    prep_multishot_accept_direct(sqe, 5, 0, 0, 0)
    multishot = {"ioprio": AcceptFlag.MULTISHOT, "file_index": FILE_INDEX_ALLOC}
    assert fields(sqe) == {"opcode": Op.ACCEPT, "fd": 5} | multishot
    prep_openat_direct(sqe, 6, 0x1000, CREATE, 0o666, 0)
    opened = {"addr": 0x1000, "len": 0o666, "op_flags": CREATE, "file_index": 1}
    assert fields(sqe) == {"opcode": Op.OPENAT, "fd": 6} | opened
    prep_close_direct(sqe, 7)
    assert fields(sqe) == {"opcode": Op.CLOSE, "file_index": 8}
    inet_stream = {"opcode": Op.SOCKET, "fd": socket.AF_INET, "off": socket.SOCK_STREAM}
    prep_socket(sqe, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    assert fields(sqe) == inet_stream
    prep_socket_direct(sqe, socket.AF_INET, socket.SOCK_STREAM, 0, 0, 2)
    assert fields(sqe) == inet_stream | {"file_index": 3}
    prep_socket_direct_alloc(sqe, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    assert fields(sqe) == inet_stream | {"file_index": FILE_INDEX_ALLOC}


def test_each_method_encodes_its_slot_and_nothing_else_tells_of_one() -> None:
    """B1, B2, B3, B4, B6, B7, B9: slot + 1, or ALLOC as it is, and no FIXED_FILE."""
    with open_ring(8) as ring:
        inet_stream = socket.AF_INET, socket.SOCK_STREAM
        entries = [
            ring.accept_direct(9, 5),
            ring.accept_multishot_direct(9, 5),
            ring.openat_direct(9, 6, "file", CREATE, 0o666, 1),
            ring.openat_direct(9, 6, "file", CREATE, 0o666, FILE_INDEX_ALLOC),
            ring.close_direct(9, 0),
            ring.socket_direct(9, *inet_stream, 0, 0, 2),
            ring.socket_direct_alloc(9, *inet_stream),
        ]
        alloc = FILE_INDEX_ALLOC
        assert [sqe.file_index for sqe in entries] == [alloc, alloc, 2, alloc, 1, 3, alloc]
        assert {(sqe.user_data, sqe.flags) for sqe in entries} == {(9, 0)}
        assert entries[4].fd == 0


def test_the_slot_shares_its_field_with_splice_fd_in() -> None:
    """B9, C19: file_index alone names a slot; ALLOC there reads as -1, and 0 as not direct."""
    sqe = Sqe()
    prep_socket_direct_alloc(sqe, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    assert sqe.splice_fd_in == -1
    prep_socket(sqe, socket.AF_INET, socket.SOCK_STREAM, 0, 0)
    assert sqe.file_index == 0


@pytest.mark.parametrize("file_index", [-1, 0xFFFFFFFE, FILE_INDEX_ALLOC, 0x100000000])
def test_closing_no_slot_never_becomes_the_close_of_descriptor_0(file_index: int) -> None:
    """B4, B9: what would overflow to "no slot" is a ValueError, and leaves a NOP or no entry."""
    sqe = Sqe()
    with pytest.raises(ValueError, match="slot"):
        prep_close_direct(sqe, file_index)
    assert sqe.opcode == Op.NOP
    with open_ring(1) as ring:
        with pytest.raises(ValueError, match="slot"):
            ring.close_direct(1, file_index)
        assert ring.sq_ready() == 0


def test_socket_direct_takes_flags_before_the_slot() -> None:
    """B6: Zig's order; liburing has them the other way round."""
    with open_ring(1) as ring:
        sqe = ring.socket_direct(1, socket.AF_INET, socket.SOCK_STREAM, 6, 0x40, 2)
        assert (sqe.len, sqe.op_flags, sqe.file_index) == (6, 0x40, 3)


# -- what the kernel does --------------------------------------------------------------------------


def test_accept_direct_needs_a_table() -> None:
    """B1: without one the completion is an error, not a normal descriptor."""
    with a_listener() as listener, open_ring(1) as ring:
        ring.accept_direct(ACCEPT, listener.fileno())
        assert ring.submit() == 1
        with connect_to(listener):
            cqe = wait_cqes(ring, 1)[0]
        if cqe.res >= 0:
            slot_of(cqe, 0)
        assert cqe.res in (-errno.ENFILE, -errno.ENXIO, -errno.EINVAL)


def test_multishot_accept_into_one_slot_is_refused() -> None:
    """B2: an explicit slot is EINVAL at once; kernels before 5.19 say the same of all multishot."""
    with a_listener() as listener, open_ring(1) as ring:
        register_table(ring, [-1, -1])
        sqe = ring.accept_multishot_direct(ACCEPT, listener.fileno())
        sqe.file_index = 1
        assert run_one(ring) == Cqe(ACCEPT, -errno.EINVAL, 0)


def test_an_explicit_slot_is_answered_by_0_and_used_with_fixed_file(tmp_path: Path) -> None:
    """B3, B11: the slot goes into fd together with FIXED_FILE; what was written is in the file."""
    with a_directory(tmp_path) as dir_fd, open_ring(1) as ring:
        register_table(ring, [-1, -1])
        need_direct_open(ring, 0)
        ring.openat_direct(1, dir_fd, "file", CREATE, 0o666, 1)
        assert run_one(ring) == Cqe(1, 0, 0)
        assert ring.write(2, 1, b"data", 0).use_registered_fd().flags == SqeFlag.FIXED_FILE
        assert run_one(ring) == Cqe(2, 4, 0)
    assert (tmp_path / "file").read_bytes() == b"data"


def open_by(operation: str, ring: Ring, listener: int, slots: array[int]) -> Sqe:
    """Prepares ``operation`` into any free slot."""
    if operation == "pipe_direct":
        return ring.pipe_direct(1, slots, 0, FILE_INDEX_ALLOC)
    if operation == "openat_direct":
        return ring.openat_direct(1, -1, "/dev/null", os.O_RDONLY, 0, FILE_INDEX_ALLOC)
    if operation == "openat2_direct":
        return ring.openat2_direct(1, -1, "/dev/null", OpenHow(os.O_RDONLY), FILE_INDEX_ALLOC)
    if operation == "accept_direct":
        return ring.accept_direct(1, listener)
    return ring.socket_direct_alloc(1, socket.AF_INET, socket.SOCK_STREAM)


@pytest.mark.parametrize(
    ("operation", "count"),
    [
        *(("openat_direct", 1), ("openat2_direct", 1), ("accept_direct", 1)),
        *(("socket_direct_alloc", 1), ("pipe_direct", 2)),
    ],
)
def test_five_operations_open_into_the_table(operation: str, count: int) -> None:
    """C21: OPENAT, OPENAT2, ACCEPT, SOCKET and PIPE fill free slots: those and no others."""
    slots = array("i", [-1, -1])
    with a_listener() as listener, open_ring(1) as ring:
        register_table(ring, [-1, -1])
        open_by(operation, ring, listener.fileno(), slots)
        assert ring.submit() == 1
        with connect_to(listener):
            cqe = wait_cqes(ring, 1)[0]
        if cqe.res == -errno.EINVAL:
            pytest.skip(f"no {operation} into any slot here (5.19, PIPE 6.16)")
        filled = {slot_of(cqe, 2)} if count == 1 else set(slots)
        for slot in (0, 1):
            ring.close_direct(CLOSE, slot)
            assert run_one(ring).res == (0 if slot in filled else -errno.EBADF)


def test_close_direct_empties_the_slot() -> None:
    """B4: 0 for a slot with a file, EBADF for an empty one; descriptor 0 stays open."""
    with open_ring(1) as ring:
        register_table(ring, [-1, -1])
        need_direct_open(ring, 0)
        for result in (0, -errno.EBADF):
            ring.close_direct(CLOSE, 0)
            assert run_one(ring) == Cqe(CLOSE, result, 0)
        os.fstat(0)


def test_multishot_accept_says_more_until_its_last_completion() -> None:
    """B10: F_MORE is in each completion but the one which ends it."""
    with a_listener() as listener, open_ring(2) as ring:
        ring.accept_multishot(ACCEPT, listener.fileno())
        assert ring.submit() == 1
        for _ in range(2):
            with connect_to(listener):
                cqe = wait_cqes(ring, 1)[0]
            if cqe.res == -errno.EINVAL:
                pytest.skip("no multishot accept here (before 5.19)")
            os.close(cqe.res)
            assert cqe.flags & CqeFlag.MORE
        ring.cancel(CLOSE, ACCEPT, 0)
        assert ring.submit() == 1
        cqes = {cqe.user_data: cqe for cqe in wait_cqes(ring, 2)}
        assert cqes[ACCEPT].res == -errno.ECANCELED
        assert not cqes[ACCEPT].flags & CqeFlag.MORE


@pytest.mark.parametrize(
    "name",
    ["accept_direct", "accept_multishot_direct", "openat_direct", "socket_direct", "close_direct"],
)
def test_the_docstring_of_a_direct_operation_tells_of_slots(name: str) -> None:
    """B11: and Sqe.use_registered_fd tells how they are used."""
    assert "slot" in (getattr(Ring, name).__doc__ or "")
    assert "slot" in (Sqe.use_registered_fd.__doc__ or "")


def test_the_docstring_of_a_multishot_accept_tells_when_there_will_be_more() -> None:
    """B10, B35: as long as a completion has F_MORE, others follow."""
    assert "MORE" in (Ring.accept_multishot.__doc__ or "")
    assert "`accept_multishot`" in (Ring.accept_multishot_direct.__doc__ or "")


def test_a_directory_of_the_table_cannot_be_the_base_of_an_open(tmp_path: Path) -> None:
    """B31: openat with FIXED_FILE is EBADF, so the directory is a normal descriptor."""
    with a_directory(tmp_path) as dir_fd, open_ring(1) as ring:
        register_table(ring, [dir_fd, -1])
        ring.openat_direct(1, 0, "file", CREATE, 0o666, 1).use_registered_fd()
        assert run_one(ring) == Cqe(1, -errno.EBADF, 0)
    assert not (tmp_path / "file").exists()


def test_a_connection_that_finds_no_slot_is_dropped() -> None:
    """B18: ENFILE, and its peer reads the end of the stream."""
    with a_listener() as listener, open_ring(1) as ring:
        register_table(ring, [listener.fileno()])
        ring.accept_direct(ACCEPT, listener.fileno())
        assert ring.submit() == 1
        with connect_to(listener) as client:
            cqe = wait_cqes(ring, 1)[0]
            if cqe.res != -errno.ENFILE:
                slot_of(cqe, 0)
            assert cqe == Cqe(ACCEPT, -errno.ENFILE, 0)
            assert client.recv(1) == b""


def test_a_normal_descriptor_that_came_for_a_slot_is_closed_before_the_skip() -> None:
    """B16, B29: the number is past the table, as kernels before 5.15 answer."""
    fd = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(pytest.skip.Exception, match=r"before 5\.15"):
        slot_of(Cqe(1, fd, 0), 2)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_a_kernel_without_the_operation_is_skipped() -> None:
    """B15, B30: EINVAL in the completion is what old kernels answer to an unknown flag or ALLOC."""
    with pytest.raises(pytest.skip.Exception, match=r"before 5\.19"):
        slot_of(Cqe(1, -errno.EINVAL, 0), 2)


def conditions(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.If | ast.IfExp | ast.While):
            yield ast.unparse(node.test)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("skipif"):
            yield ast.unparse(node)


def test_no_test_decides_by_the_version_of_the_kernel() -> None:
    """B13: the release of the kernel is in no condition of any test."""
    release = re.compile(r"\b(uname|osrelease|platform\.\w+)\b")
    tests = Path(__file__).parent.glob("*.py")
    found = [(path.name, text) for path in tests for text in conditions(path)]
    assert [pair for pair in found if release.search(pair[1])] == []


def test_a_refused_set_up_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    """B33: ENOSYS and EPERM, which no test can do anything about; any other errno fails it."""
    refusals = [errno.ENOSYS, errno.EPERM, errno.ENOMEM]

    def refuse(*args: int, **params: int) -> Ring:
        code = refusals.pop(0)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("ring_help.Ring", refuse)
    for _ in range(2):
        with pytest.raises(pytest.skip.Exception, match="no such ring"):
            open_ring(1)
    with pytest.raises(OSError, match="memory"):
        open_ring(1)


def test_send_zc_is_followed_by_a_notification() -> None:
    """B34: a kernel that does not know it stops after it, and takes one entry of two: skipped."""
    with a_listener() as listener, connect_to(listener) as client, open_ring(2) as ring:
        server, _ = listener.accept()
        with server:
            buffer = bytearray(16)
            ring.send_zc(1, client.fileno(), b"data")
            ring.recv(RECV, server.fileno(), buffer)
            if ring.submit() != 2:
                pytest.skip("no SEND_ZC here (before 6.0)")
            cqes = wait_cqes(ring, 3)
            assert [cqe.res for cqe in cqes if cqe.user_data == RECV] == [4]
            assert buffer[:4] == b"data"
            sent, notified = (cqe for cqe in cqes if cqe.user_data == 1)
            assert (sent.res, sent.flags) == (4, CqeFlag.MORE)
            assert (notified.res, notified.flags) == (0, CqeFlag.NOTIF)


# -- the five test scenarios of that commit --------------------------------------------------------


def test_scenario_accept_direct() -> None:
    """B1, B14, B15, B16, B17, B18, B19, B20: fill a table of two, be refused, empty it, again."""
    with a_listener() as listener, open_ring(1) as ring:
        register_table(ring, [-1, -1])
        for length in (3, 11):
            for place in range(2):
                ring.accept_direct(ACCEPT, listener.fileno())
                assert ring.submit() == 1
                with connect_to(listener) as client:
                    cqe = wait_cqes(ring, 1)[0]
                    slot = slot_of(cqe, 2)
                    assert cqe.user_data == ACCEPT
                    sent, buffer = bytes(range(length + place)), bytearray(16)
                    client.sendall(sent)
                    ring.recv(RECV, slot, buffer).use_registered_fd()
                    cqe = run_one(ring)
                    assert (cqe.user_data, cqe.res) == (RECV, len(sent))
                    assert buffer[: cqe.res] == sent
            ring.accept_direct(ACCEPT, listener.fileno())
            assert ring.submit() == 1
            with connect_to(listener):
                assert wait_cqes(ring, 1) == [Cqe(ACCEPT, -errno.ENFILE, 0)]
            assert ring.register_files_update(0, [-1, -1]) == 2
        ring.unregister_files()


def test_scenario_accept_multishot_direct() -> None:
    """B2, B10, B21, B22, B23: one entry fills the table, ends without F_MORE when full; again."""
    with a_listener() as listener, open_ring(1) as ring:
        register_table(ring, [-1, -1])
        for _ in range(2):
            ring.accept_multishot_direct(ACCEPT, listener.fileno())
            assert ring.submit() == 1
            slots = set()
            for _ in range(2):
                with connect_to(listener):
                    cqe = wait_cqes(ring, 1)[0]
                    slots.add(slot_of(cqe, 2))
                    assert (cqe.user_data, cqe.flags & CqeFlag.MORE) == (ACCEPT, CqeFlag.MORE)
            assert slots == {0, 1}
            with connect_to(listener):
                cqe = wait_cqes(ring, 1)[0]
                assert (cqe.user_data, cqe.res) == (ACCEPT, -errno.ENFILE)
                assert not cqe.flags & CqeFlag.MORE
            assert ring.register_files_update(0, [-1, -1]) == 2
        ring.unregister_files()


def test_scenario_socket() -> None:
    """B5: a new normal descriptor, past those of standard input, output and error."""
    with open_ring(1) as ring:
        need_socket_operation(ring)
        ring.socket(1, socket.AF_INET, socket.SOCK_STREAM)
        cqe = run_one(ring)
        assert cqe.res > 2
        with socket.socket(fileno=cqe.res) as opened:
            assert (opened.family, opened.type) == (socket.AF_INET, socket.SOCK_STREAM)


def test_scenario_socket_direct_and_socket_direct_alloc_and_close_direct() -> None:
    """B5, B6, B7, B24, B25, B26, B27: four sockets of four origins in one table, used alike."""
    with socket.socket() as first, a_listener() as listener, open_ring(2) as ring:
        need_socket_operation(ring)
        ring.socket(1, socket.AF_INET, socket.SOCK_STREAM)
        with socket.socket(fileno=run_one(ring).res) as second:
            register_table(ring, [first.fileno(), second.fileno(), -1, -1])
            ring.socket_direct(1, socket.AF_INET, socket.SOCK_STREAM, 0, 0, 2)
            assert run_one(ring) == Cqe(1, 0, 0)
            ring.socket_direct_alloc(1, socket.AF_INET, socket.SOCK_STREAM)
            assert run_one(ring) == Cqe(1, 3, 0)
            for slot in range(4):
                ring.accept(ACCEPT, listener.fileno())
                ring.connect(CONNECT, slot, listener.getsockname()).use_registered_fd()
                results = run_all(ring, 2)
                os.close(results.pop(ACCEPT))
                assert results == {CONNECT: 0}
                ring.close_direct(CLOSE, slot)
                assert run_one(ring) == Cqe(CLOSE, 0, 0)
            ring.unregister_files()


def test_scenario_openat_direct_and_close_direct(tmp_path: Path) -> None:
    """B3, B28, B29, B30, B31, B32: one path in three slots, two named and one that is chosen."""
    with a_directory(tmp_path) as dir_fd, open_ring(2) as ring:
        register_table(ring, [-1, -1, -1])
        for slot in (0, 1):
            ring.openat_direct(slot, dir_fd, "file", CREATE, 0o666, slot)
            cqe = run_one(ring)
            assert (cqe.user_data, slot_of(cqe, 1)) == (slot, 0)
        ring.openat_direct(2, dir_fd, "file", CREATE, 0o666, FILE_INDEX_ALLOC)
        assert slot_of(run_one(ring), 3) == 2
        for slot in (0, 1, 2):
            ring.close_direct(CLOSE, slot)
            assert run_one(ring) == Cqe(CLOSE, 0, 0)
        ring.unregister_files()
    assert (tmp_path / "file").exists()
