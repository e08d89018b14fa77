# SPDX-License-Identifier: MIT OR Apache-2.0
"""The file table: io_uring_registered_files(7), rows C1 to C32, and A36 to A38, B14, B19, B20."""

from __future__ import annotations

import errno
import os
import resource
import socket
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import pytest
from kernel_help import needs, raises_errno, skip_if_lacking
from ring_help import open_ring, run_one, wait_cqes

from trio_uring.lowlevel import FILE_INDEX_ALLOC, FILES_SKIP, Cqe, Feature
from trio_uring.testing import used_slots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_uring.lowlevel import Ring

TAG = 0x7A67_0000_0000_0001
AT_FDCWD = -100


@pytest.fixture
def ring() -> Iterator[Ring]:
    with open_ring(8) as ring:
        yield ring


@contextmanager
def files(directory: Path, *contents: bytes) -> Iterator[list[int]]:
    """Descriptors of files with these contents."""
    with ExitStack() as stack:
        fds = []
        for number, content in enumerate(contents):
            path = directory / f"file{number}"
            path.write_bytes(content)
            fds.append(os.open(path, os.O_RDWR | os.O_CLOEXEC))
            stack.callback(os.close, fds[-1])
        yield fds


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def read_slot(ring: Ring, slot: int, nbytes: int = 16) -> bytes | int:
    """What is at the start of the file in ``slot``, or the negative errno."""
    buffer = bytearray(nbytes)
    ring.read(1, slot, buffer, 0).use_registered_fd()
    res = run_one(ring).res
    return res if res < 0 else bytes(buffer[:res])


def needs_tags(ring: Ring) -> None:
    if not ring.features & Feature.RSRC_TAGS:
        pytest.skip("this kernel lacks tags: Feature.RSRC_TAGS is not set")


def open_direct(ring: Ring, path: str, slot: int) -> int:
    ring.openat_direct(2, AT_FDCWD, path, os.O_RDONLY, 0, slot)
    return run_one(ring).res


# -- registering -----------------------------------------------------------------------------------


def test_a_registered_file_is_used_after_its_descriptor_was_closed(
    ring: Ring, tmp_path: Path
) -> None:
    """C1, C6: The table holds its own reference: closing the descriptor changes nothing."""
    with files(tmp_path, b"still here") as fds:
        ring.register_files(fds)

    assert read_slot(ring, 0) == b"still here"


def test_files_are_registered_in_order_and_used_by_slot(ring: Ring, tmp_path: Path) -> None:
    """C4, C5, C7: Slot 0 has the first descriptor, and an entry with FIXED_FILE names the slot."""
    new = os.open(tmp_path / "new", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with files(tmp_path, b"first", b"second") as fds:
        ring.register_files([*fds, new])
    os.close(new)

    assert [read_slot(ring, 0), read_slot(ring, 1)] == [b"first", b"second"]
    ring.write(1, 2, b"third", 0).use_registered_fd()
    assert run_one(ring).res == 5
    assert (tmp_path / "new").read_bytes() == b"third"


def test_a_table_is_registered_once_until_it_is_unregistered(ring: Ring, tmp_path: Path) -> None:
    """A36, A38: A second table is EBUSY until unregister_files; without one that is ENXIO."""
    with files(tmp_path, b"1", b"2") as fds:
        ring.register_files(fds[:1])
        with raises_errno(errno.EBUSY):
            ring.register_files(fds)
        assert read_slot(ring, 0) == b"1"
        ring.unregister_files()
        with raises_errno(errno.ENXIO):
            ring.unregister_files()
        ring.register_files(fds[1:])

    assert read_slot(ring, 0) == b"2"


def test_the_table_is_unregistered_when_the_ring_closes() -> None:
    """A36: A pipe whose only writer is in a slot ends when the ring is closed."""
    reader, writer = os.pipe()
    with open_ring(2) as ring:
        ring.register_files([writer])
        os.close(writer)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_an_empty_slot_and_one_outside_the_table_are_ebadf(ring: Ring) -> None:
    """C8, C31: -1 leaves a slot empty; an operation on it fails, and so does one past the end."""
    ring.register_files([-1, -1])

    assert [read_slot(ring, slot) for slot in (0, 1, 2, 1 << 20)] == [-errno.EBADF] * 4


def test_a_sparse_table_is_empty_and_an_update_fills_a_slot(ring: Ring, tmp_path: Path) -> None:
    """C9, C10: register_files_sparse works on every kernel, by an array of -1 before 5.19."""
    ring.register_files_sparse(100)
    assert used_slots(ring) == {}
    with files(tmp_path, b"five") as fds:
        assert ring.register_files_update(5, fds) == 1

    assert list(used_slots(ring)) == [5]
    assert read_slot(ring, 5) == b"five"


def test_a_table_of_two_empty_slots_takes_an_accepted_connection(ring: Ring) -> None:
    """B14: The table of the Zig test, {-1, -1}: accept_direct puts the connection into it."""
    ring.register_files([-1, -1])
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ring.accept_direct(3, listener.fileno())
        with socket.create_connection(listener.getsockname()) as client:
            slot = skip_if_lacking(run_one(ring), "FILE_INDEX_ALLOC").res
            assert slot in (0, 1)
            client.sendall(b"hello")
            buffer = bytearray(5)
            ring.recv(4, slot, buffer).use_registered_fd()
            assert run_one(ring).res == 5
            assert buffer == b"hello"


@pytest.mark.parametrize("bad", [FILES_SKIP, 1 << 20, "the ring"])
def test_what_is_no_file_cannot_be_registered(ring: Ring, bad: int | str, tmp_path: Path) -> None:
    """C13, B14: FILES_SKIP, a closed descriptor and a ring are EBADF, and no table is there."""
    with files(tmp_path, b"good") as fds, raises_errno(errno.EBADF):
        ring.register_files([*fds, ring.fd if isinstance(bad, str) else bad])

    with raises_errno(errno.ENXIO):
        ring.register_files_update(0, [-1])


def test_a_table_larger_than_rlimit_nofile_is_emfile_and_leaves_the_limit(
    ring: Ring,
) -> None:
    """C9: The soft limit is never raised to make room for a table."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, before[1]))
    try:
        if not ring.features & Feature.NATIVE_WORKERS:
            pytest.skip("this kernel does not limit a file table: it is older than 5.12")
        with raises_errno(errno.EMFILE):
            ring.register_files_sparse(65)
        ring.register_files_sparse(64)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# -- updating --------------------------------------------------------------------------------------


def test_an_update_stops_at_a_bad_descriptor_and_says_how_far_it_came(
    ring: Ring, tmp_path: Path
) -> None:
    """C11: {good, bad, good} is 1, {bad, good} EBADF; the slot of the bad one is emptied."""
    with files(tmp_path, b"old", b"new") as (old, new):
        ring.register_files([old, old, old])
        assert ring.register_files_update(0, [new, 1 << 20, new]) == 1
        found = [read_slot(ring, slot) for slot in range(3)]
        assert found == [b"new", -errno.EBADF, b"old"]
        with raises_errno(errno.EBADF):
            ring.register_files_update(0, [1 << 20, new])

    found = [read_slot(ring, slot) for slot in range(3)]
    assert found == [-errno.EBADF, -errno.EBADF, b"old"]


def test_an_update_past_the_end_or_without_a_table_is_refused(ring: Ring) -> None:
    """C11: Past the end is EINVAL, no table ENXIO."""
    with raises_errno(errno.ENXIO):
        ring.register_files_update(0, [-1])
    ring.register_files([-1, -1])
    with raises_errno(errno.EINVAL):
        ring.register_files_update(1, [-1, -1])


def test_one_update_replaces_skips_and_removes(ring: Ring, tmp_path: Path) -> None:
    """C12, C13, C14: {new, FILES_SKIP, -1} does all three; what is skipped counts as done."""
    with files(tmp_path, b"old", b"new") as (old, new), needs("FILES_SKIP", errno.EBADF):
        ring.register_files([old, old, old, -1])
        done = ring.register_files_update(0, [new, FILES_SKIP, -1, new])
        if done == 1:
            pytest.skip("this kernel lacks FILES_SKIP: the update stopped there")
        assert done == 4
        assert ring.register_files_update(1, [FILES_SKIP, -1]) == 2

    found = [read_slot(ring, slot) for slot in range(4)]
    assert found == [b"new", b"old", -errno.EBADF, b"new"]


def test_an_operation_in_flight_keeps_the_file_that_was_in_the_slot(ring: Ring) -> None:
    """C15: An update does not wait; the pending receive gets its data, the next is elsewhere."""
    buffer, other = bytearray(8), bytearray(8)
    with pair() as (mine, peer), pair() as (mine2, peer2):
        ring.register_files([mine.fileno()])
        ring.recv(10, 0, buffer).use_registered_fd()
        ring.submit()
        assert ring.register_files_update(0, [mine2.fileno()]) == 1
        peer.send(b"old file")
        assert wait_cqes(ring, 1)[0] == Cqe(10, 8, 0)
        peer2.send(b"new file")
        ring.recv(11, 0, other).use_registered_fd()
        assert run_one(ring).res == 8

    assert bytes(buffer + other) == b"old filenew file"


@pytest.mark.parametrize("times", [1, 2])
def test_an_update_returns_all_slots_to_the_kernel(ring: Ring, times: int) -> None:
    """B19, B20: register_files_update(0, {-1, -1}) is 2, then the table works; so does its end."""
    ring.register_files([-1, -1])
    for _ in range(times):
        for slot in (0, 1):
            assert skip_if_old(open_direct(ring, "/dev/null", slot)) == 0
        assert len(used_slots(ring)) == 2
        assert ring.register_files_update(0, [-1, -1]) == 2
        assert used_slots(ring) == {}
    ring.unregister_files()


def skip_if_old(res: int) -> int:
    """A kernel without direct descriptors ignores the slot and returns a descriptor."""
    if res > 2:
        os.close(res)
        pytest.skip("this kernel lacks direct descriptors: it returned a normal one")
    return res


# -- tags ------------------------------------------------------------------------------------------


def test_the_tag_comes_after_the_last_operation_on_the_file(ring: Ring) -> None:
    """C17: The slot is emptied first, yet the receive completes before the tag does."""
    needs_tags(ring)
    buffer = bytearray(4)
    with pair() as (mine, peer):
        ring.register_files_tags([mine.fileno(), -1], [TAG, 0])
        ring.recv(10, 0, buffer).use_registered_fd()
        ring.submit()
        assert ring.register_files_update(0, [-1]) == 1
        assert ring.cq_ready() == 0
        assert ring.in_flight == 2
        peer.send(b"data")
        assert wait_cqes(ring, 2) == [Cqe(10, 4, 0), Cqe(TAG, 0, 0)]

    assert ring.in_flight == 0


def _replace(ring: Ring, fd: int) -> None:
    assert ring.register_files_update(0, [fd]) == 1


def _remove(ring: Ring, fd: int) -> None:
    assert ring.register_files_update_tag(0, [-1], [0]) == 1


def _close_direct(ring: Ring, fd: int) -> None:
    ring.close_direct(20, 0)
    ring.submit()


def _open_over_it(ring: Ring, fd: int) -> None:
    ring.openat_direct(20, AT_FDCWD, "/dev/null", os.O_RDONLY, 0, 0)
    ring.submit()


def _unregister(ring: Ring, fd: int) -> None:
    ring.unregister_files()


@pytest.mark.parametrize(
    "end", [_replace, _remove, _close_direct, _open_over_it, _unregister], ids=lambda f: f.__name__
)
def test_whatever_empties_the_slot_posts_the_tag(ring: Ring, end: object, tmp_path: Path) -> None:
    """C18: Replace, remove, close_direct, a direct open over it, unregister: one tag each."""
    needs_tags(ring)
    assert callable(end)
    with files(tmp_path, b"a", b"b") as (fd, other):
        ring.register_files_tags([fd], [TAG])
        end(ring, other)

    cqes = wait_cqes(ring, ring.in_flight)
    assert [cqe for cqe in cqes if cqe.user_data == TAG] == [Cqe(TAG, 0, 0)]
    assert all(cqe.res == 0 for cqe in cqes)


def test_a_file_without_a_tag_leaves_without_a_completion(ring: Ring, tmp_path: Path) -> None:
    """C16: Tag 0 is none."""
    needs_tags(ring)
    with files(tmp_path, b"a") as fds:
        ring.register_files_tags(fds, [0])
    ring.unregister_files()
    ring.nop(30)

    assert run_one(ring).user_data == 30
    assert ring.cq_ready() == 0


@pytest.mark.parametrize("fd", [-1, FILES_SKIP])
def test_a_tag_without_a_file_is_einval(ring: Ring, fd: int, tmp_path: Path) -> None:
    """C16: A tag on -1 or FILES_SKIP ends an update; on -1 it refuses a registration."""
    needs_tags(ring)
    with files(tmp_path, b"a") as fds:
        if fd == -1:
            with raises_errno(errno.EINVAL):
                ring.register_files_tags([*fds, fd], [0, TAG])
        ring.register_files([-1, -1])
        with raises_errno(errno.EINVAL):
            ring.register_files_update_tag(0, [fd], [TAG])
        assert ring.register_files_update_tag(0, [*fds, fd], [TAG, TAG + 1]) == 1
    assert ring.in_flight == 1
    ring.unregister_files()

    assert wait_cqes(ring, 1) == [Cqe(TAG, 0, 0)]


def test_there_is_one_tag_for_each_file(ring: Ring) -> None:
    """C16: Fewer or more tags are a ValueError, not memory that the kernel reads past its end."""
    for tags in ([], [1, 2]):
        with pytest.raises(ValueError, match="as many tags"):
            ring.register_files_tags([0], tags)
        with pytest.raises(ValueError, match="as many tags"):
            ring.register_files_update_tag(0, [0], tags)


def test_closing_a_ring_brings_the_tags_of_its_files(tmp_path: Path) -> None:
    """C17, C18: close() unregisters what is tagged, and returns the tags with all else."""
    with files(tmp_path, b"a", b"b") as fds, open_ring(8) as ring:
        needs_tags(ring)
        ring.register_files_tags(fds, [TAG, TAG + 1])
        left = ring.close()

    assert sorted(left) == [Cqe(TAG, 0, 0), Cqe(TAG + 1, 0, 0)]


# -- direct descriptors ----------------------------------------------------------------------------


def test_a_slot_that_was_freed_is_handed_out_again(ring: Ring) -> None:
    """C20: FILE_INDEX_ALLOC finds the only free slot of a table."""
    ring.register_files_sparse(3)
    ring.openat_direct(1, AT_FDCWD, "/dev/null", os.O_RDONLY, 0, FILE_INDEX_ALLOC)
    slots = {skip_if_old(skip_if_lacking(run_one(ring), "FILE_INDEX_ALLOC").res)}
    slots |= {open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) for _ in range(2)}
    assert slots == {0, 1, 2}
    assert open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) == -errno.ENFILE
    ring.close_direct(2, 1)
    assert run_one(ring).res == 0

    assert open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) == 1


def test_the_kernel_allocates_in_the_registered_range_only(ring: Ring) -> None:
    """C22, C23: Two slots from 98, then ENFILE, while explicit slots are free anywhere."""
    ring.register_files_sparse(100)
    with needs("FILE_ALLOC_RANGE"):
        ring.register_file_alloc_range(98, 2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ring.accept_direct(3, listener.fileno())
        with socket.create_connection(listener.getsockname()):
            assert run_one(ring).res in (98, 99)
    assert open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) in (98, 99)
    assert open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) == -errno.ENFILE
    assert open_direct(ring, "/dev/null", 7) == 0

    assert sorted(used_slots(ring)) == [7, 98, 99]


def test_a_range_lies_in_the_table_and_ends_with_it(ring: Ring) -> None:
    """C22: Past the end or without a table it is EINVAL; a new table has none."""
    with raises_errno(errno.EINVAL):
        ring.register_file_alloc_range(0, 1)
    ring.register_files_sparse(4)
    with needs("FILE_ALLOC_RANGE"):
        ring.register_file_alloc_range(0, 0)
    for offset, length in ((3, 2), (5, 1), (0xFFFFFFFF, 2)):
        with pytest.raises(OSError, match="FILE_ALLOC_RANGE"):
            ring.register_file_alloc_range(offset, length)
    assert open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) == -errno.ENFILE
    ring.unregister_files()
    ring.register_files_sparse(4)

    assert open_direct(ring, "/dev/null", FILE_INDEX_ALLOC) in range(4)


def test_a_slot_is_closed_without_fixed_file(ring: Ring) -> None:
    """C24: The manual page says to set FIXED_FILE: that is EBADF, and the slot stays."""
    ring.register_files([-1])
    assert skip_if_old(open_direct(ring, "/dev/null", 0)) == 0
    ring.close_direct(1, 0).use_registered_fd()
    assert run_one(ring).res == -errno.EBADF
    assert list(used_slots(ring)) == [0]
    ring.close_direct(1, 0)

    assert run_one(ring).res == 0
    assert used_slots(ring) == {}


def test_an_update_to_minus_one_closes_the_file_at_once(ring: Ring) -> None:
    """C25: A pipe whose only writer was in the slot ends."""
    reader, writer = os.pipe()
    ring.register_files([writer])
    os.close(writer)
    assert ring.register_files_update(0, [-1]) == 1
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_unregistering_releases_all_files(ring: Ring) -> None:
    """C26: Two pipes whose only writers are in slots both end."""
    pipes = [os.pipe(), os.pipe()]
    ring.register_files([writer for _, writer in pipes])
    for _, writer in pipes:
        os.close(writer)
    ring.unregister_files()
    for reader, _ in pipes:
        assert os.read(reader, 1) == b""
        os.close(reader)


def test_a_port_is_free_when_the_ring_of_its_listener_has_closed() -> None:
    """C27, C28: Ring teardown alone releases files later; close() empties the table first."""
    with open_ring(2) as ring:
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
        ring.register_files([listener.fileno()])
        listener.close()
        ring.close()
        socket.create_server(address, reuse_port=False).close()


def test_a_direct_descriptor_is_no_descriptor_of_the_process(ring: Ring) -> None:
    """C29: It is in /proc/self/fdinfo of the ring, and not in /proc/self/fd."""
    ring.register_files([-1])
    before = set(os.listdir("/proc/self/fd"))
    assert skip_if_old(open_direct(ring, "/dev/null", 0)) == 0

    assert set(os.listdir("/proc/self/fd")) == before
    assert used_slots(ring).keys() == {0}


def test_without_the_flag_the_number_is_a_normal_descriptor(ring: Ring, tmp_path: Path) -> None:
    """C30: The same number reads the file of the slot or that of the process, and nothing tells."""
    with files(tmp_path, b"normal", b"fixed") as (normal, fixed):
        ring.register_files_sparse(normal + 1)
        ring.register_files_update(normal, [fixed])
        assert read_slot(ring, normal) == b"fixed"
        buffer = bytearray(6)
        ring.read(1, normal, buffer, 0)
        assert run_one(ring).res == 6

    assert buffer == b"normal"


def test_used_slots_do_not_count_against_rlimit_nofile(ring: Ring) -> None:
    """Where open(2) is EMFILE, a direct open succeeds."""
    ring.register_files([-1, -1])
    assert skip_if_old(open_direct(ring, "/dev/null", 0)) == 0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, before[1]))
    try:
        with raises_errno(errno.EMFILE):
            os.dup(0)
        assert open_direct(ring, "/dev/null", 1) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
