# SPDX-License-Identifier: MIT OR Apache-2.0
"""Registered buffers: io_uring_registered_buffers(7)."""

from __future__ import annotations

import errno
import gc
import os
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from kernel_help import needs, raises_errno
from ring_help import is_locked, open_ring, run_one, wait_cqes

from trio_uring._prep import prep_read_fixed
from trio_uring.lowlevel import CloneFlag, Cqe, Feature, PinnedBuffer, SetupFlag

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_uring.lowlevel import Ring

TAG = 0x7A67_0000_0000_0002


class Memory(bytearray):
    """A bytearray whose end can be seen."""


@pytest.fixture
def ring() -> Iterator[Ring]:
    with open_ring(8) as ring:
        yield ring


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """A file of 26 bytes."""
    path = tmp_path / "letters"
    path.write_bytes(b"abcdefghijklmnopqrstuvwxyz")
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@contextmanager
def a_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


def needs_updates(ring: Ring) -> None:
    if not ring.features & Feature.RSRC_TAGS:
        pytest.skip("this kernel lacks updates of buffers: Feature.RSRC_TAGS is not set")


def read_fixed(ring: Ring, fd: int, buffer: bytearray | PinnedBuffer, index: int) -> int:
    ring.read_fixed(1, fd, buffer, 0, index)
    return run_one(ring).res


def test_registered_buffers_are_read_into_and_written_from(ring: Ring, fd: int) -> None:
    """READ_FIXED and WRITE_FIXED name a buffer by its place, and use any part of it."""
    first, second = bytearray(16), bytearray(b"0123456789")
    ring.register_buffers([first, second])
    part = PinnedBuffer(first)[4:8]

    assert read_fixed(ring, fd, part, 0) == 4
    assert first[4:8] == b"abcd"
    ring.write_fixed(2, fd, second, 20, 1)
    assert run_one(ring).res == 10
    assert os.pread(fd, 10, 20) == b"0123456789"


def test_memory_outside_the_registered_buffer_is_efault(ring: Ring, fd: int) -> None:
    """A buffer that is not the one at that place is refused, whatever it is."""
    mine, other = bytearray(16), bytearray(16)
    ring.register_buffers([mine])

    assert read_fixed(ring, fd, other, 0) == -errno.EFAULT
    assert read_fixed(ring, fd, mine, 1) == -errno.EFAULT


def test_buffers_are_registered_once_until_they_are_unregistered(ring: Ring, fd: int) -> None:
    """A second table is EBUSY and changes nothing; unregistering none is ENXIO."""
    first, second = bytearray(16), bytearray(16)
    ring.register_buffers([first])
    with raises_errno(errno.EBUSY):
        ring.register_buffers([second])
    assert not is_locked(second)
    assert read_fixed(ring, fd, first, 0) == 16
    ring.unregister_buffers()
    with raises_errno(errno.ENXIO):
        ring.unregister_buffers()
    ring.register_buffers([second])

    assert read_fixed(ring, fd, second, 0) == 16


def test_a_registered_buffer_cannot_be_resized_until_it_is_unregistered(ring: Ring) -> None:
    """The object stays exported as long as the kernel has its pages."""
    buffer = bytearray(16)
    ring.register_buffers([buffer])
    assert is_locked(buffer)
    ring.unregister_buffers()

    assert not is_locked(buffer)


def test_closing_the_ring_lets_registered_buffers_go() -> None:
    """With nothing in flight nothing is kept."""
    with open_ring(2) as ring:
        buffer = Memory(16)
        gone = weakref.ref(buffer)
        ring.register_buffers([buffer])
        del buffer
        assert gone() is not None
        ring.close()
        assert gone() is None


def test_a_read_only_buffer_is_not_registered(ring: Ring) -> None:
    """bytes and read-only views raise before the kernel is asked, and nothing is registered."""
    for buffer in (b"bytes", memoryview(b"view"), memoryview(bytearray(8))[::2]):
        with pytest.raises((BufferError, ValueError)):
            ring.register_buffers([bytearray(8), buffer])
    with raises_errno(errno.ENXIO):
        ring.unregister_buffers()


def test_a_place_can_be_empty_and_is_filled_by_an_update(ring: Ring, fd: int) -> None:
    """None is an empty place: EFAULT until an update puts a buffer there."""
    needs_updates(ring)
    first, late = bytearray(16), bytearray(16)
    ring.register_buffers([first, None])
    assert read_fixed(ring, fd, first, 1) == -errno.EFAULT
    assert ring.register_buffers_update_tag(1, [late]) == 1

    assert read_fixed(ring, fd, late, 1) == 16
    assert late == b"abcdefghijklmnop"


def test_a_sparse_table_starts_empty(ring: Ring, fd: int) -> None:
    """register_buffers_sparse makes places; updates fill and empty them."""
    buffer = bytearray(16)
    with needs("RSRC_REGISTER_SPARSE for buffers"):
        ring.register_buffers_sparse(4)
    assert ring.register_buffers_update_tag(2, [buffer, None]) == 2
    assert read_fixed(ring, fd, buffer, 2) == 16
    assert is_locked(buffer)
    assert ring.register_buffers_update_tag(2, [None]) == 1

    assert not is_locked(buffer)
    assert read_fixed(ring, fd, buffer, 2) == -errno.EFAULT


def test_an_update_of_buffers_stays_in_the_table(ring: Ring) -> None:
    """Past the end is EINVAL, no table ENXIO; then the buffer is not kept."""
    needs_updates(ring)
    buffer = bytearray(16)
    with raises_errno(errno.ENXIO):
        ring.register_buffers_update_tag(0, [buffer])
    ring.register_buffers([None, None])
    with raises_errno(errno.EINVAL):
        ring.register_buffers_update_tag(1, [buffer, buffer])

    assert not is_locked(buffer)


def test_an_update_of_buffers_that_stops_says_how_far_it_came(ring: Ring) -> None:
    """{good, tag without a buffer} is 1: the good one is registered and its tag comes later."""
    needs_updates(ring)
    buffer = bytearray(16)
    ring.register_buffers([None, None])
    assert ring.register_buffers_update_tag(0, [buffer, None], [TAG, TAG + 1]) == 1
    assert is_locked(buffer)
    assert ring.in_flight == 1
    ring.unregister_buffers()

    assert wait_cqes(ring, 1) == [Cqe(TAG, 0, 0)]


def test_a_buffer_that_left_the_table_is_kept_for_the_operation_that_uses_it(ring: Ring) -> None:
    """The kernel still writes into it: the object lives until that operation's final CQE."""
    needs_updates(ring)
    buffer = Memory(16)
    gone = weakref.ref(buffer)
    address = PinnedBuffer(buffer).address
    ring.register_buffers([buffer])
    with a_pipe() as (reader, writer):
        # A prep function alone lends nothing: only the registration keeps the buffer.
        prep_read_fixed(ring.get_sqe(), reader, address, 16, 0, 0, 10)
        ring.submit()
        assert ring.register_buffers_update_tag(0, [None]) == 1
        del buffer
        gc.collect()
        kept = gone()
        assert kept is not None
        os.write(writer, b"the kernel's own")
        assert wait_cqes(ring, 1) == [Cqe(10, 16, 0)]
    assert kept == b"the kernel's own"
    del kept

    assert gone() is None


@pytest.mark.parametrize("updated", [False, True])
def test_a_buffer_is_kept_for_ever_if_its_operation_was_not_seen_to_end(updated: bool) -> None:
    """Another thread closes the ring and cannot wait: what the kernel may write is not freed."""
    with needs("SINGLE_ISSUER"):
        ring = open_ring(2, SetupFlag.SINGLE_ISSUER)
    buffer = Memory(16)
    gone = weakref.ref(buffer)
    ring.register_buffers([buffer])
    with a_pipe() as (reader, _):
        prep_read_fixed(ring.get_sqe(), reader, PinnedBuffer(buffer).address, 16, 0, 0, 10)
        ring.submit()
        if updated:
            ring.register_buffers_update_tag(0, [None])
        del buffer
        thread = threading.Thread(target=ring.close)
        thread.start()
        thread.join()
    assert ring.fd == -1
    del ring, thread
    gc.collect()

    assert gone() is not None


# -- tags ------------------------------------------------------------------------------------------


def test_the_tag_of_a_buffer_comes_after_the_last_operation_on_it(ring: Ring) -> None:
    """The place is emptied first, yet the read completes before the tag does."""
    needs_updates(ring)
    buffer = bytearray(4)
    ring.register_buffers_tags([buffer, None], [TAG, 0])
    with a_pipe() as (reader, writer):
        ring.read_fixed(10, reader, buffer, 0, 0)
        ring.submit()
        assert ring.register_buffers_update_tag(0, [None]) == 1
        assert ring.cq_ready() == 0
        os.write(writer, b"data")
        assert wait_cqes(ring, 2) == [Cqe(10, 4, 0), Cqe(TAG, 0, 0)]

    assert ring.in_flight == 0


def test_closing_a_ring_brings_the_tags_of_its_buffers() -> None:
    """close() unregisters what is tagged, and returns the tags with what else was left."""
    with open_ring(4) as ring:
        needs_updates(ring)
        ring.register_buffers_tags([bytearray(4), bytearray(4)], [TAG, 0])
        with a_pipe() as (reader, _):
            ring.read(10, reader, bytearray(4), 0)
            ring.submit()
            left = ring.close()

    assert sorted(cqe.user_data for cqe in left) == [10, TAG]


def test_there_is_one_tag_for_each_buffer(ring: Ring) -> None:
    """Fewer or more tags are a ValueError, not memory that the kernel reads past its end."""
    for tags in ([], [1, 2]):
        with pytest.raises(ValueError, match="as many tags"):
            ring.register_buffers_tags([bytearray(1)], tags)
        with pytest.raises(ValueError, match="as many tags"):
            ring.register_buffers_update_tag(0, [bytearray(1)], tags)


# -- clones ----------------------------------------------------------------------------------------


def test_cloned_buffers_belong_to_both_rings(ring: Ring, fd: int) -> None:
    """The other ring reads into them, and keeps them when the first unregisters them."""
    buffer = bytearray(16)
    ring.register_buffers([buffer])
    with open_ring(2) as other:
        with needs("CLONE_BUFFERS"):
            other.clone_buffers(ring)
        ring.unregister_buffers()
        assert is_locked(buffer)
        assert read_fixed(other, fd, buffer, 0) == 16
        assert buffer == b"abcdefghijklmnop"

    assert not is_locked(buffer)


def test_a_clone_can_take_a_part_to_another_place(ring: Ring, fd: int) -> None:
    """Offsets choose what is taken and where it goes; with DST_REPLACE also over others."""
    needs_updates(ring)
    buffers = [bytearray(16) for _ in range(3)]
    old = bytearray(16)
    ring.register_buffers(buffers)
    with open_ring(2) as other:
        other.register_buffers([None, old, None])
        with needs("CloneFlag.DST_REPLACE", errno.EINVAL, errno.EBUSY):
            other.clone_buffers(ring, 1, 1, 2, CloneFlag.DST_REPLACE)
        assert not is_locked(old)
        ring.unregister_buffers()
        assert [is_locked(buffer) for buffer in buffers] == [False, True, True]
        assert read_fixed(other, fd, buffers[1], 1) == 16
        assert read_fixed(other, fd, buffers[2], 2) == 16


def test_a_clone_of_nothing_is_enxio_and_over_something_ebusy(ring: Ring) -> None:
    """A ring without buffers gives none; one that has some takes none."""
    with open_ring(2) as other:
        ring.register_buffers([bytearray(1)])
        with needs("CLONE_BUFFERS"):
            other.clone_buffers(ring)
        with raises_errno(errno.EBUSY):
            other.clone_buffers(ring)
        other.unregister_buffers()
        ring.unregister_buffers()
        with raises_errno(errno.ENXIO):
            other.clone_buffers(ring)


def test_buffers_are_cloned_from_a_ring_without_a_descriptor(fd: int) -> None:
    """With REGISTERED_FD_ONLY the source is named by its index."""
    buffer = bytearray(16)
    flags = SetupFlag.REGISTERED_FD_ONLY | SetupFlag.NO_MMAP
    with needs("REGISTERED_FD_ONLY"):
        source = open_ring(2, flags)
    with source, open_ring(2) as other:
        source.register_buffers([buffer])
        with needs("CLONE_BUFFERS"):
            other.clone_buffers(source)
        assert read_fixed(other, fd, buffer, 0) == 16
