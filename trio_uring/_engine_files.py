# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a run keeps in its ring: the file table, the handles in it, shared receive buffers."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING, Any

from . import _native
from ._capabilities import capabilities, require_direct_descriptors
from ._file_table import FileTable
from ._shared_buffers import SharedBuffers

if TYPE_CHECKING:
    from ._engine_ring import EngineRing
    from ._options import RingOptions


class EngineFiles(_native.Engine):
    """The part of `Engine` that no operation is awaited in."""

    # CPython keeps 30 attributes inline at the most; an engine has more.
    __slots__ = (
        "__weakref__",
        "_buffers_tried",
        "_table",
        "buffer_places",
        "closed",
        "has_buffer_table",
        "options",
        "pid",
        "ring",
        "spare_memory",
    )

    def __init__(self, options: RingOptions, ring: EngineRing) -> None:
        self.options = options
        self.ring = ring
        self._attach(ring._queue, ring._copy_max)
        self.pid = os.getpid()
        self.closed = False
        self._table: FileTable | None = None
        # (slot, companion) of handles that were dropped without being closed: appended by __del__,
        # which may run anywhere; emptied by the next pass.
        self.reclaim = []
        self.buffers = None
        self._buffers_tried = False
        # The record of the last batch, for the next one that is alike.
        self.spare_batch = None
        # Of the last `read_files`, for the next one.
        self.spare_memory: Any = None
        # Free places in the table of registered buffers, once there is one.
        self.buffer_places: list[int] = []
        self.has_buffer_table = False
        # The handles, by slot.
        self.files = {}

    def check_run(self) -> None:
        """Raises outside of the run of this engine."""
        raise NotImplementedError

    # -- slots ---------------------------------------------------------------------------------

    @property
    def table(self) -> FileTable:
        """The file table; registered when it is first needed."""
        if self._table is None:
            require_direct_descriptors()
            self._lets_go_late = capabilities().lets_go_late
            self._table = FileTable(self._register_table(), self.options.slots_manual)
        return self._table

    def _register_table(self) -> int:
        slots_max = self.options.slots_max
        if not capabilities().install:
            return slots_max  # counted, but the files are in ordinary descriptors
        try:
            self.ring.register_files_sparse(slots_max)
        except OSError as exc:
            # A table may not be larger than the soft RLIMIT_NOFILE; 5.15 has a limit of 32768 too.
            soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
            smaller = min(soft, 32768)
            if exc.errno != errno.EMFILE or smaller >= slots_max:
                raise
            self.ring.register_files_sparse(smaller)
            return smaller
        return slots_max

    def release_slot(self, slot: int) -> None:
        """A slot was reserved and nothing is in it; the operation that was to fill it has ended."""
        if not self.closed:
            self.table.release(slot)

    def empty_slot(self, slot: int) -> None:
        """Empties a slot at once, without an SQE; operations in flight keep the file."""
        self.ring.register_files_update(slot, [-1])

    def reclaim_dropped(self) -> None:
        """Empties the slots of handles that nobody closed."""
        while self.reclaim and not self.closed:
            slot, companion = self.reclaim.pop()
            self.files.pop(slot, None)
            if companion >= 0:
                os.close(companion)
            else:
                self.empty_slot(slot)
            self.table.release(slot)

    # -- shared receive buffers ----------------------------------------------------------------

    def shared_buffers(self) -> SharedBuffers | None:
        """The provided buffers of this run; None on kernels without buffer rings (5.19)."""
        if not self._buffers_tried:
            self.check_run()
            self._buffers_tried = True
            options = self.options
            try:
                self.buffers = SharedBuffers(
                    self.ring, options.recv_buffers, options.recv_buffer_bytes
                )
            except OSError as exc:
                if exc.errno != errno.EINVAL:
                    raise
        buffers: SharedBuffers | None = self.buffers
        return buffers

    def return_buffer(self, flags: int) -> None:
        """A completion took a buffer and has nothing in it."""
        if self.buffers is not None:
            self.buffers.take(flags, 0)

    # -- end -----------------------------------------------------------------------------------

    def _close_companions(self) -> None:
        for reference in self.files.values():
            if (file := reference()) is not None and file._companion >= 0:
                file._close_companion()

    def _close_files(self) -> None:
        """The ring takes the table with it; what remains are companions, and complaints."""
        while self.reclaim:
            _, companion = self.reclaim.pop()
            if companion >= 0:
                os.close(companion)
        for reference in list(self.files.values()):
            if (file := reference()) is not None:
                file._abandoned_by_run()
