# SPDX-License-Identifier: MIT OR Apache-2.0
"""Provided buffer rings: io_uring_provided_buffers(7)."""

from __future__ import annotations

import errno
import gc
import os
import socket
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from kernel_help import needs, raises_errno, skip_if_lacking
from ring_help import is_locked, open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    CQE_BUFFER_SHIFT,
    BufferSelection,
    Cqe,
    CqeFlag,
    ForkedRingError,
    PbufRingFlag,
    PinnedBuffer,
    RecvSendFlag,
    RingClosedError,
    SetupFlag,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_uring.lowlevel import BufferRing, Ring

GROUP = 5


class Memory(bytearray):
    """A bytearray whose end can be seen."""


@pytest.fixture
def ring() -> Iterator[Ring]:
    with open_ring(8) as ring:
        yield ring


@pytest.fixture
def two(ring: Ring) -> BufferRing:
    """A buffer ring of two entries, empty."""
    return set_up(ring, 2)


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def set_up(ring: Ring, entries: int, flags: int = 0, min_left: int = 0) -> BufferRing:
    what = f"PBUF_RING with {PbufRingFlag(flags)!r}" if flags else "PBUF_RING"
    with needs(what):
        return ring.setup_buf_ring(entries, GROUP, flags, min_left)


def recv(ring: Ring, sock: socket.socket, nbytes: int = 0) -> Cqe:
    ring.recv(1, sock.fileno(), BufferSelection(GROUP, nbytes))
    return run_one(ring)


def buffer_id(cqe: Cqe) -> int:
    assert cqe.flags & CqeFlag.BUFFER
    return cqe.flags >> CQE_BUFFER_SHIFT


# -- taking and giving back ------------------------------------------------------------------------


def test_receives_take_buffers_in_the_order_in_which_they_were_added(
    ring: Ring, two: BufferRing
) -> None:
    """The completion names the buffer, its memory has the data, and get() finds them."""
    first, second = bytearray(8), bytearray(8)
    two.add(first, 70, 0)
    two.add(second, 3, 1)
    two.advance(2)
    with pair() as (mine, peer):
        peer.send(b"one")
        cqe = recv(ring, mine)
        assert (cqe.res, buffer_id(cqe)) == (3, 70)
        assert first[:3] == bytes(two.get(cqe)) == b"one"
        peer.send(b"four")
        cqe = recv(ring, mine)
        assert (cqe.res, buffer_id(cqe)) == (4, 3)
        assert second[:4] == bytes(two.get(cqe)) == b"four"


def test_what_was_added_is_the_kernels_after_advance_only(ring: Ring, two: BufferRing) -> None:
    """Without advance() a receive finds no buffer: ENOBUFS."""
    with pair() as (mine, peer):
        peer.send(b"x")
        two.add(bytearray(8), 1)
        assert recv(ring, mine).res == -errno.ENOBUFS
        two.advance(1)
        assert recv(ring, mine).res == 1


def test_a_buffer_that_was_put_back_is_taken_again(ring: Ring, two: BufferRing) -> None:
    """Two buffers serve any number of receives; without put() they run out."""
    assert two.fill(bytearray(16), 8) == 2
    with pair() as (mine, peer):
        for number in range(9):
            peer.send(b"%d" % number)
            cqe = recv(ring, mine)
            assert buffer_id(cqe) == number % 2
            assert two.get(cqe) == b"%d" % number
            two.put(cqe)
        for want in (1, 1, -errno.ENOBUFS):
            peer.send(b"x")
            assert recv(ring, mine).res == want


def test_put_gives_an_id_other_memory_and_the_old_one_back(ring: Ring, two: BufferRing) -> None:
    """The program keeps what was received without copying it."""
    old, new = bytearray(8), bytearray(8)
    two.add(old, 0)
    two.advance(1)
    with pair() as (mine, peer):
        peer.send(b"old")
        cqe = recv(ring, mine)
        with pytest.raises(BufferError):
            two.put(cqe, b"read-only")
        two.put(cqe, new)
        assert not is_locked(old)
        assert is_locked(new)
        peer.send(b"new")
        assert two.get(recv(ring, mine)) == new[:3] == b"new"
        assert old[:3] == b"old"


def test_a_completion_without_a_buffer_is_refused(ring: Ring, two: BufferRing) -> None:
    """Of another operation, or with an id that was never added."""
    two.add(bytearray(8), 1)
    two.advance(1)
    ring.nop(1)
    for cqe in (run_one(ring), Cqe(1, 4, CqeFlag.BUFFER | 9 << CQE_BUFFER_SHIFT)):
        for method in (two.get, two.get_bundle, two.put):
            with pytest.raises(ValueError, match="buffer"):
                method(cqe)


def test_multishot_receives_end_when_the_buffers_do(ring: Ring, two: BufferRing) -> None:
    """One completion per message with MORE, then ENOBUFS without it; put back, it can go on."""
    two.fill(bytearray(16), 8)
    with pair() as (mine, peer):
        for _ in range(2):
            ring.recv_multishot(1, mine.fileno(), BufferSelection(GROUP))
            ring.submit()
            peer.send(b"a")
            cqes = [skip_if_lacking(wait_cqes(ring, 1)[0], "multishot receives")]
            peer.send(b"b")
            cqes += wait_cqes(ring, 1)
            peer.send(b"c")
            assert wait_cqes(ring, 1) == [Cqe(1, -errno.ENOBUFS, 0)]
            assert all(cqe.flags & CqeFlag.MORE for cqe in cqes)
            assert [bytes(two.get(cqe)) for cqe in cqes] == [b"a", b"b"]
            for cqe in cqes:
                two.put(cqe)
            assert mine.recv(1) == b"c"


def test_a_bundle_has_its_data_in_several_buffers(ring: Ring) -> None:
    """get_bundle() has them in order across the end of the ring; put() gives all of them back."""
    four = set_up(ring, 4)
    four.fill(bytearray(16), 4)
    most = 0
    with pair() as (mine, peer):
        for text in (b"0123", b"abcdefghij", b"ABCDEFGHIJK", b"0123456789abcdef"):
            peer.send(text)
            found = b""
            while len(found) < len(text):
                ring.recv(1, mine.fileno(), BufferSelection(GROUP)).ioprio = RecvSendFlag.BUNDLE
                cqe = skip_if_lacking(run_one(ring), "RecvSendFlag.BUNDLE")
                views = four.get_bundle(cqe)
                found += b"".join(views)
                most = max(most, len(views))
                if len(views) > 1:
                    with pytest.raises(ValueError, match="get_bundle"):
                        four.get(cqe)
                    with pytest.raises(ValueError, match="replaced"):
                        four.put(cqe, bytearray(4))
                four.put(cqe)
            assert found == text
    if most == 1:
        pytest.skip("this kernel took one buffer at a time")


def test_an_incremental_buffer_is_used_up_bit_by_bit(ring: Ring) -> None:
    """BUF_MORE says that it is still the kernel's; get() goes on where the last one ended."""
    two = set_up(ring, 2, PbufRingFlag.INC)
    memory = bytearray(16)
    two.fill(memory, 8)
    with pair() as (mine, peer):
        for _ in range(2):
            for text, want_id, more in ((b"abc", 0, True), (b"defgh", 0, False), (b"12", 1, True)):
                peer.send(text)
                cqe = recv(ring, mine, len(text))
                assert buffer_id(cqe) == want_id
                assert bool(cqe.flags & CqeFlag.BUF_MORE) is more
                assert two.get(cqe) == text
                if more:
                    with pytest.raises(ValueError, match="replaced"):
                        two.put(cqe, bytearray(8))
                two.put(cqe)
            assert memory[:10] == b"abcdefgh12"
            peer.send(b"345678")
            cqe = recv(ring, mine, 6)
            assert (bytes(two.get(cqe)), cqe.flags & CqeFlag.BUF_MORE) == (b"345678", 0)
            two.put(cqe)
    assert memory == b"abcdefgh12345678"


def test_an_incremental_buffer_with_too_little_left_counts_as_used_up(ring: Ring) -> None:
    """With min_left 4, a buffer of 8 ends after 5 bytes."""
    two = set_up(ring, 2, PbufRingFlag.INC, min_left=4)
    two.fill(bytearray(16), 8)
    with pair() as (mine, peer):
        peer.send(b"12345")
        cqe = recv(ring, mine, 5)
        assert (buffer_id(cqe), cqe.flags & CqeFlag.BUF_MORE) == (0, 0)
        two.put(cqe)
        peer.send(b"6")
        assert buffer_id(recv(ring, mine, 1)) == 1


def test_the_kernel_can_bring_the_memory_of_the_ring(ring: Ring) -> None:
    """With PbufRingFlag.MMAP everything else is the same, and the memory goes with free()."""
    two = set_up(ring, 2, PbufRingFlag.MMAP)
    mappings = io_uring_mappings()
    two.fill(bytearray(16), 8)
    with pair() as (mine, peer):
        for number in range(5):
            peer.send(b"%d" % number)
            cqe = recv(ring, mine)
            assert two.get(cqe) == b"%d" % number
            two.put(cqe)
    two.free()
    assert io_uring_mappings() == mappings - 1


def io_uring_mappings() -> int:
    with open("/proc/self/maps") as maps:
        return sum("io_uring" in line for line in maps)


def test_head_and_available_follow_the_kernel(ring: Ring, two: BufferRing) -> None:
    """The kernel's head moves when a buffer is used up, ours when buffers are added."""
    two.fill(bytearray(16), 8)
    with needs("PBUF_STATUS"):
        assert two.head() == 0
    assert two.available() == 2
    with pair() as (mine, peer):
        peer.send(b"x")
        cqe = recv(ring, mine)
        assert (two.head(), two.tail, two.available()) == (1, 2, 1)
        two.put(cqe)
        assert (two.tail, two.available()) == (3, 2)


def test_the_tail_wraps_at_65536(ring: Ring, two: BufferRing) -> None:
    """It is a u16 in the shared memory, and counts on from 0."""
    memory = PinnedBuffer(bytearray(8))
    for _ in range(0x10000 // 2 + 1):
        two.add(memory, 0, 0)
        two.add(memory, 1, 1)
        two.advance(2)
    assert two.tail == 2
    with pair() as (mine, peer):
        peer.send(b"still")
        assert bytes(two.get(recv(ring, mine))) == b"still"


# -- whose memory ----------------------------------------------------------------------------------


def test_a_lent_buffer_cannot_be_resized(ring: Ring, two: BufferRing) -> None:
    """From add() to free() it is exported."""
    buffer = bytearray(8)
    two.add(buffer, 0)
    two.advance(1)
    assert is_locked(buffer)
    two.free()
    assert not is_locked(buffer)


def test_data_outlive_the_buffer_ring(ring: Ring, two: BufferRing) -> None:
    """A view from get() keeps its memory, whatever becomes of ring and buffer."""
    two.add(bytearray(b"........"), 0)
    two.advance(1)
    with pair() as (mine, peer):
        peer.send(b"data")
        view = two.get(recv(ring, mine))
    two.free()
    ring.close()
    gc.collect()
    assert bytes(view) == b"data"


def test_a_replaced_buffer_is_kept_while_an_operation_may_have_taken_it(
    ring: Ring, two: BufferRing
) -> None:
    """The same id with other memory, without a completion that says the old one is back."""
    old = Memory(8)
    gone = weakref.ref(old)
    two.add(old, 0)
    two.advance(1)
    del old
    with pair() as (mine, peer):
        ring.recv(1, mine.fileno(), BufferSelection(GROUP))
        ring.submit()
        two.add(bytearray(8), 0)
        two.advance(1)
        gc.collect()
        assert gone() is not None
        peer.send(b"x")
        wait_cqes(ring, 1)
    # Its id was added twice: nobody can tell which memory the completion was about.
    assert gone() is not None
    two.free()
    assert gone() is None


def test_freeing_a_ring_keeps_the_buffers_of_operations_in_flight(
    ring: Ring, two: BufferRing
) -> None:
    """A receive that waits loses its group: ENOBUFS; its buffer lives until then."""
    buffer = Memory(8)
    gone = weakref.ref(buffer)
    two.add(buffer, 0)
    two.advance(1)
    del buffer
    with pair() as (mine, peer):
        ring.recv(1, mine.fileno(), BufferSelection(GROUP))
        ring.submit()
        two.free()
        two.free()
        gc.collect()
        assert gone() is not None
        peer.send(b"x")
        assert wait_cqes(ring, 1) == [Cqe(1, -errno.ENOBUFS, 0)]
    assert gone() is None


def test_closing_the_ring_frees_its_buffer_rings(ring: Ring, two: BufferRing) -> None:
    """Afterwards every method raises, and the buffers are the program's."""
    buffer = bytearray(8)
    two.add(buffer, 0)
    ring.close()
    assert not is_locked(buffer)
    cqe = Cqe(1, 1, CqeFlag.BUFFER)
    with pytest.raises(RingClosedError):
        two.add(buffer, 0)
    with pytest.raises(RingClosedError):
        two.advance(1)
    with pytest.raises(RingClosedError):
        two.head()
    with pytest.raises(RingClosedError):
        two.get(cqe)
    with pytest.raises(RingClosedError):
        two.put(cqe)
    two.free()


def test_buffers_are_kept_for_ever_if_their_operation_was_not_seen_to_end() -> None:
    """Another thread closes the ring and cannot wait: what the kernel may write is not freed."""
    with needs("SINGLE_ISSUER"):
        ring = open_ring(2, SetupFlag.SINGLE_ISSUER)
    two = set_up(ring, 2)
    buffer = Memory(8)
    gone = weakref.ref(buffer)
    two.add(buffer, 0)
    two.advance(1)
    del buffer
    with pair() as (mine, _):
        ring.recv(1, mine.fileno(), BufferSelection(GROUP))
        ring.submit()
        thread = threading.Thread(target=ring.close)
        thread.start()
        thread.join()
    assert ring.fd == -1
    del ring, two, thread
    gc.collect()
    assert gone() is not None


@pytest.mark.parametrize("flags", [0, PbufRingFlag.MMAP])
def test_a_forked_child_has_no_part_in_a_buffer_ring(ring: Ring, flags: int) -> None:
    """There it raises ForkedRingError; the parent's goes on."""
    two = set_up(ring, 2, flags)
    memory = bytearray(16)
    pid = os.fork()
    if not pid:
        code = 1
        try:
            two.fill(memory, 8)
        except ForkedRingError:
            two.free()
            del two
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    two.fill(memory, 8)
    with pair() as (mine, peer):
        peer.send(b"parent")
        assert bytes(two.get(recv(ring, mine))) == b"parent"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "group_id"), [(0, 0), (3, 0), (1 << 16, 0), (2, -1), (2, 1 << 16)]
)
def test_a_size_or_group_out_of_range_is_refused(ring: Ring, entries: int, group_id: int) -> None:
    """ValueError, before the kernel is asked."""
    with pytest.raises(ValueError, match="must be"):
        ring.setup_buf_ring(entries, group_id)


def test_a_group_exists_once_until_it_is_freed(ring: Ring) -> None:
    """EEXIST, then it can be made anew; leaving the block frees it."""
    with set_up(ring, 2), raises_errno(errno.EEXIST):
        ring.setup_buf_ring(4, GROUP)
    with ring.setup_buf_ring(4, GROUP) as four:
        assert four.entries == 4
    with pytest.raises(RingClosedError):
        four.advance(0)


def test_what_is_no_buffer_is_not_added(two: BufferRing) -> None:
    """Read-only, strided and empty ones, and numbers out of range."""
    for bad in (b"read-only", memoryview(bytearray(8))[::2]):
        with pytest.raises((BufferError, ValueError)):
            two.add(bad, 0)
    good = bytearray(8)
    for buffer, number, offset in ((bytearray(), 0, 0), (good, -1, 0), (good, 1 << 16, 0)):
        with pytest.raises(ValueError, match=r"must be|has 1"):
            two.add(buffer, number, offset)
    for offset in (-1, 2):
        with pytest.raises(ValueError, match="offset"):
            two.add(good, 0, offset)
    for count in (-1, 3):
        with pytest.raises(ValueError, match="count"):
            two.advance(count)
    for nbytes in (9, 2):
        with pytest.raises(ValueError, match="buffers for a ring of 2"):
            two.fill(good, nbytes)
    assert two.tail == 0
