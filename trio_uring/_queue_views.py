# SPDX-License-Identifier: MIT OR Apache-2.0
"""The two queues of a ring as a caller sees them: `Ring.sq` and `Ring.cq`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._abi import SqFlag
from ._lib import ffi, lib

if TYPE_CHECKING:
    from ._queue_base import Cqe, RingBase


class SubmissionQueue:
    """A view of the submission queue's state; counters are free-running and wrap at 2**32."""

    __slots__ = ("_owner",)

    def __init__(self, owner: RingBase) -> None:
        self._owner = owner

    @property
    def head(self) -> int:
        """What the kernel has consumed."""
        return self._owner._counter(lib.TU_SQ_HEAD)

    @property
    def tail(self) -> int:
        """What the kernel may consume."""
        return self._owner._counter(lib.TU_SQ_TAIL)

    @property
    def flags(self) -> SqFlag:
        """`SqFlag` bits that the kernel sets."""
        return SqFlag(self._owner._counter(lib.TU_SQ_FLAGS))

    @property
    def dropped(self) -> int:
        """Invalid indices that the kernel skipped; 0 unless the mapped memory was damaged."""
        return self._owner._counter(lib.TU_SQ_DROPPED)

    @property
    def entries(self) -> int:
        """Size of the queue, in entries."""
        return int(self._owner._ring.sq_entries)

    @property
    def mask(self) -> int:
        """A counter modulo the size."""
        return self.entries - 1

    @property
    def sqe_head(self) -> int:
        """Entries up to here were flushed."""
        return int(self._owner._ring.flushed)

    @property
    def sqe_tail(self) -> int:
        """Entries up to here were handed out by `Ring.get_sqe`."""
        return self._owner._tail


class CompletionQueue:
    """A view of the completion queue's state; counters are free-running and wrap at 2**32."""

    __slots__ = ("_owner",)

    def __init__(self, owner: RingBase) -> None:
        self._owner = owner

    @property
    def head(self) -> int:
        """What was copied or consumed."""
        return self._owner._counter(lib.TU_CQ_HEAD)

    @property
    def tail(self) -> int:
        """What the kernel has posted."""
        return self._owner._counter(lib.TU_CQ_TAIL)

    @property
    def flags(self) -> int:
        """`CqFlag` bits that we set."""
        return self._owner._counter(lib.TU_CQ_FLAGS)

    @property
    def overflow(self) -> int:
        """Completions that were lost; stays 0 on kernels with ``Feature.NODROP``."""
        return self._owner._counter(lib.TU_CQ_OVERFLOWED)

    @property
    def entries(self) -> int:
        """Size of the queue, in entries."""
        return int(self._owner._ring.cq_entries)

    @property
    def mask(self) -> int:
        """A counter modulo the size."""
        return self.entries - 1

    @property
    def cqes(self) -> list[Cqe]:
        """The completions that are there, not consumed: see `Ring.cq_advance`."""
        owner = self._owner
        out = ffi.new("char[]", owner._copy_max * owner._cqe_struct.size)
        count = owner._check(lib.tu_peek_cqes(owner._ring, out, owner._copy_max), "cqes")
        records = owner._cqe_struct.iter_unpack(ffi.buffer(out, count * owner._cqe_struct.size))
        return list(map(owner._new_cqe, records))
