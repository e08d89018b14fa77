# SPDX-License-Identifier: MIT OR Apache-2.0
"""What once was wrong with the ring itself: attacks on its memory that must stay harmless."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from kernel_help import needs
from ring_help import a_pipe, a_socketpair, is_locked, open_ring, run_one, wait_cqes

from trio_uring.lowlevel import (
    Cqe,
    Feature,
    Op,
    PinnedBuffer,
    SqeFlag,
    prep_recv,
    send_msg_ring,
)

if TYPE_CHECKING:
    from trio_uring.lowlevel import Ring

GROUP = 3


# -- 1: memory of a ring that is closed ------------------------------------------------------------


KEPT_VIEW = """
from trio_uring.lowlevel import Ring
ring = Ring(4)
sqe = ring.nop(7)
memory = sqe.memory
ring.close()
try:
    bytes(memory)
    memory[0] = 1
except Exception:
    pass
print("alive")
"""

CLOSING_INDEX = """
from trio_uring.lowlevel import Ring
class Closes:
    def __index__(self):
        self.ring.close()
        return 0
def attempt(use):
    number = Closes()
    number.ring = Ring(64)
    try:
        use(number.ring, number)
    except Exception:
        pass
    assert number.ring.fd < 0
attempt(lambda ring, number: ring.nop(number))
attempt(lambda ring, number: setattr(ring.get_sqe(), "user_data", number))
attempt(lambda ring, number: ring.read(number, 0, bytearray(8), 0))
attempt(lambda ring, number: ring.read(1, number, bytearray(8), number))
attempt(lambda ring, number: ring.read_many([1, number], 0, bytearray(8), 4, [0, 4]))
print("alive")
"""


@pytest.mark.parametrize("program", [KEPT_VIEW, CLOSING_INDEX], ids=["kept view", "__index__"])
def test_memory_of_a_closed_ring_is_never_touched(program: str) -> None:
    """A view kept past close(), or a close() in the middle of a call: an exception, no crash."""
    with open_ring(2):  # else there is no ring to be had here
        pass
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


# -- 2: buffer rings -------------------------------------------------------------------------------


def test_a_buffer_that_was_added_twice_under_one_id_is_kept_by_its_place() -> None:
    """The first memory is still in the kernel's ring: it stays locked until the place is reused."""
    first, second, other = bytearray(64), bytearray(64), bytearray(64)
    with open_ring(4) as ring:
        with needs("provided buffer rings"):
            buffers = ring.setup_buf_ring(2, GROUP)
        for buffer in (first, second):
            buffers.add(buffer, 0)
            buffers.advance(1)
        assert is_locked(first)
        assert is_locked(second)
        with a_socketpair() as (left, right):
            right.send(b"hello")
            sqe = ring.get_sqe()
            prep_recv(sqe, left.fileno(), 0, 64, 0, 7, SqeFlag.BUFFER_SELECT)
            sqe.buf_group = GROUP
            assert run_one(ring).res == 5
        assert first[:5] == b"hello", "the kernel took the place that was written first"
        buffers.add(other, 1)
        assert not is_locked(first), "its place names other memory now"
        assert is_locked(second)
        buffers.free()
        assert not is_locked(second)


# -- 3, 6: messages from other rings ---------------------------------------------------------------


@pytest.mark.parametrize("message_first", [True, False])
def test_a_message_does_not_unlock_a_locked_buffer(message_first: bool) -> None:
    """A registered buffer that left its table is kept for READ_FIXED, whatever message comes."""
    buffer = bytearray(64)
    address = PinnedBuffer(buffer)
    with open_ring(4) as ring, open_ring(4) as other, a_pipe() as (reader, _):
        ring.register_buffers([buffer])
        if not ring.features & Feature.RSRC_TAGS:
            pytest.skip("this kernel lacks updates of buffers: Feature.RSRC_TAGS is not set")
        ring.read_fixed(7, reader, address, 0, 0)
        ring.submit()
        del address
        if not message_first:
            unregister(ring)
        other.msg_ring(1, ring.fd, 99, 7)
        if run_one(other).res < 0:
            pytest.skip("this kernel has no MSG_RING (before 5.18)")
        assert wait_cqes(ring, 1) == [Cqe(7, 99, 0)]
        if message_first:
            unregister(ring)
        assert is_locked(buffer), "READ_FIXED is in flight"


def unregister(ring: Ring) -> None:
    """Takes the one registered buffer out; kernels up to 6.12 wait in the direct way."""
    if ring.features & Feature.RW_ATTR:
        ring.unregister_buffers()
    else:
        ring.register_buffers_update_tag(0, [None])


def test_a_message_without_a_ring_does_not_unlock_a_buffer() -> None:
    """send_msg_ring() with the user_data of a receive: the completion comes, the buffer stays."""
    buffer = bytearray(8)
    with open_ring(4) as ring, a_socketpair() as (left, _):
        ring.recv(7, left.fileno(), buffer)
        ring.submit()
        with needs("messages without a ring (6.13)"):
            send_msg_ring(ring.fd, 99, 7)
        assert wait_cqes(ring, 1) == [Cqe(7, 99, 0)]
        assert is_locked(buffer)


# -- 4: operations without a completion ------------------------------------------------------------


def test_a_silent_operation_that_fails_does_not_hide_another_from_close() -> None:
    """close() waits for what is in flight; a failed CQE_SKIP_SUCCESS counts once."""
    buffer = bytearray(8)
    ring = open_ring(4)
    with a_socketpair() as (left, _):
        ring.read(1, 1 << 20, bytearray(1), 0).flags |= SqeFlag.CQE_SKIP_SUCCESS
        ring.recv(2, left.fileno(), buffer)
        ring.submit()
        assert wait_cqes(ring, 1)[0].user_data == 1
        assert ring.in_flight == 1
        assert [cqe.user_data for cqe in ring.close()] == [2]
    assert not is_locked(buffer)


# -- 5: entries that are used again ----------------------------------------------------------------


def test_an_entry_that_is_not_filled_is_a_nop_and_not_the_operation_before() -> None:
    """get_sqe() hands out a place that was used: what is not written there does nothing."""
    with open_ring(1) as ring, a_pipe() as (reader, writer):
        ring.write(7, writer, b"x", 0)
        assert run_one(ring) == Cqe(7, 1, 0)
        sqe = ring.get_sqe()
        assert sqe.opcode == Op.NOP
        assert run_one(ring) == Cqe(0, 0, 0)
        os.set_blocking(reader, False)
        assert os.read(reader, 8) == b"x"
