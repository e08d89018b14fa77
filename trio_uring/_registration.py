# SPDX-License-Identifier: MIT OR Apache-2.0
"""io_uring_register(2), all of it: here the commands that change the ring itself, and its close."""

from __future__ import annotations

import errno
import threading
from struct import Struct
from typing import TYPE_CHECKING, Any

from ._abi import CancelFlag, RegisterOp, SetupFlag
from ._buffers import writable
from ._errors import WrongThreadError
from ._lib import NULL, ffi, lib
from ._queue import Cqe, _keep_for_ever
from ._queue_base import someone_is_inside
from ._register_files import FILES_UPDATE, argument
from ._register_settings import Settings

if TYPE_CHECKING:
    from ._abi import Op
    from ._buffers import WritableBuffer
    from ._lib import CData

ANY_INDEX = 0xFFFFFFFF
# Set in a command, the descriptor is an index.
USE_REGISTERED_RING = 1 << 31
# struct io_uring_sync_cancel_reg: addr, fd, flags, timeout seconds and nanoseconds, opcode
SYNC_CANCEL = Struct("=QiIqqB31x")

# Of struct io_uring_params, what a resize leaves as it was made.
LAYOUT_FLAGS = (
    SetupFlag.SQE128
    | SetupFlag.CQE32
    | SetupFlag.NO_SQARRAY
    | SetupFlag.CQE_MIXED
    | SetupFlag.SQE_MIXED
)


class _ThreadMark(threading.local):
    """One object for each thread, never that of an earlier thread as an id may be."""

    def __init__(self) -> None:
        self.mark = object()


_this_thread = _ThreadMark()


class Registration(Settings):
    """The methods of `Ring` for io_uring_register(2)."""

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        self._index = -1
        self._index_thread: object = None
        super().__init__(entries, flags, **params)

    # -- entering by an index ------------------------------------------------------------------

    def register_ring_fd(self) -> int:
        """The calling thread enters this ring by an index, which spares a look-up. (5.18)

        Returns the index. A thread has 16; others enter by the descriptor as before. Closing the
        ring gives the index back if this thread does it; else the index, and so the ring, stays
        until the thread ends. io_uring_register_ring_fd(3).

        Raises:
            OSError: EEXIST, it has one already; EBUSY, the thread's 16 are taken.
        """
        what = "io_uring_register(RING_FDS)"
        if self._index >= 0 or self.flags & SetupFlag.REGISTERED_FD_ONLY:
            self._check(-errno.EEXIST, what)
        arg = argument(FILES_UPDATE, ANY_INDEX, 0, self.fd & 0xFFFFFFFF)
        self._register(RegisterOp.RING_FDS, arg, 1, what)
        self._index_thread = _this_thread.mark
        self._enter_by(FILES_UPDATE.unpack_from(ffi.buffer(arg))[0])
        return self._index

    def unregister_ring_fd(self) -> None:
        """Gives the index back and enters by the descriptor. (5.18)

        Raises:
            OSError: EINVAL, there is no index.
            WrongThreadError: the index belongs to another thread.
        """
        what = "io_uring_register(UNREGISTER_RING_FDS)"
        if self._index < 0:
            self._check(-errno.EINVAL, what)
        if self._index_thread is not _this_thread.mark:
            raise WrongThreadError("another thread registered the ring's descriptor")
        self._register(RegisterOp.UNREGISTER_RING_FDS, self._index_argument(), 1, what)
        self._enter_by(-1)

    def _index_argument(self) -> CData:
        return argument(FILES_UPDATE, self._index, 0, 0)

    def _enter_by(self, index: int) -> None:
        lib.tu_enter_by_index(self._ring, index)
        self._index = index

    # -- cancel --------------------------------------------------------------------------------

    def sync_cancel(
        self,
        user_data: int | None = None,
        fd: int | None = None,
        flags: int = 0,
        timeout: float | None = None,
        opcode: Op | None = None,
    ) -> int:
        """Cancels what matches all that is given, and waits until it has ended. (6.0)

        ``flags`` are `CancelFlag` bits: ``ALL``, ``ANY``, ``FD_FIXED`` for a slot in ``fd``; the
        others follow from the arguments. ``timeout`` in seconds; None waits for ever. ``opcode``,
        or two keys at once, need 6.6. io_uring_register_sync_cancel(3).

        Returns how many were cancelled, if that is known; their completions are to be copied.

        Raises:
            OSError: ENOENT, nothing matches; ETIME, it has not ended in time.
            ValueError: nothing is given.
        """
        keys = [key for key in (user_data, fd, opcode) if key is not None]
        if not keys and not flags & CancelFlag.ANY:
            raise ValueError("nothing to match; CancelFlag.ANY matches everything")
        if fd is not None:
            flags |= CancelFlag.FD
        if opcode is not None:
            flags |= CancelFlag.OP
        if user_data is not None and len(keys) > 1:
            flags |= CancelFlag.USERDATA
        ns = -1 if timeout is None else int(timeout * 1e9)
        seconds, rest = (-1, -1) if ns < 0 else divmod(ns, 1_000_000_000)
        arg = argument(
            SYNC_CANCEL, user_data or 0, -1 if fd is None else fd, flags, seconds, rest, opcode or 0
        )
        return self._register(RegisterOp.SYNC_CANCEL, arg, 1, "io_uring_register(SYNC_CANCEL)")

    # -- size ----------------------------------------------------------------------------------

    def resize_rings(self, sq_entries: int = 0, cq_entries: int = 0) -> None:
        """Changes the number of entries; 0 leaves it. Completions in the queue are kept. (6.13)

        Powers of two; the completion queue is never smaller than the submission queue. `Sqe`
        objects from before are dead. io_uring_resize_rings(3).

        Raises:
            OSError: EOVERFLOW, what waits in a queue does not fit; EINVAL, the ring is not
                ``DEFER_TASKRUN``, or a bad size.
            ValueError: entries are prepared and not submitted, or the ring was made with
                ``NO_MMAP`` or without ``NO_SQARRAY``.
        """
        if self.sq_ready():
            raise ValueError("submit the prepared entries first")
        if self.flags & SetupFlag.NO_MMAP:
            raise ValueError("a ring with NO_MMAP has its size for ever")
        if not self.flags & SetupFlag.NO_SQARRAY:
            # The kernel does not say where the index array of the new queue is: sq_off.array is 0.
            raise ValueError("only a ring with NO_SQARRAY can be resized")
        sq_entries = sq_entries or int(self._ring.sq_entries)
        cq_entries = cq_entries or max(int(self._ring.cq_entries), sq_entries)
        fields = {
            "sq_entries": sq_entries,
            "cq_entries": cq_entries,
            "flags": int(SetupFlag.CQSIZE),
        }
        params = ffi.new("struct tu_params *", fields)
        if self._inside:
            raise someone_is_inside()
        # A signal handler must not copy from the old queue what is in the new one too.
        self._inside = True
        try:
            self._move_queues(params)
        finally:
            self._inside = False

    def _move_queues(self, params: Any) -> None:
        what = "io_uring_register(RESIZE_RINGS)"
        self._register(RegisterOp.RESIZE_RINGS, params, 1, what)
        params.flags |= int(self.flags & LAYOUT_FLAGS)
        self._kill_entries()
        rc = lib.tu_remap(self._ring, params)
        if rc < 0:  # the old queues are gone as well
            self._invalidate()
            _keep_for_ever((self._pins, self._held))
            self._check(rc, what)
        self._adopt_memory()

    # -- anything else -------------------------------------------------------------------------

    def register(self, opcode: int, arg: WritableBuffer | None, nr_args: int) -> int:
        """io_uring_register(2) as it is, for commands without a method here. Returns its result.

        ``arg`` is borrowed for the call only: what it points to is the caller's to keep.

        Raises:
            ValueError: for RESIZE_RINGS, which moves the queues: see `resize_rings`.
        """
        if opcode & ~USE_REGISTERED_RING == RegisterOp.RESIZE_RINGS:
            raise ValueError("use resize_rings")
        memory = NULL
        if arg is not None:
            _export, address, _ = writable(arg)
            memory = ffi.cast("void *", address)
        return self._register(opcode, memory, nr_args, f"io_uring_register({opcode})")

    # -- close ---------------------------------------------------------------------------------

    def _drain(self, timeout: float) -> list[Cqe]:
        # An index is a reference: the ring would outlive its descriptor.
        if self._index >= 0 and self._index_thread is _this_thread.mark:
            lib.tu_register(self._ring, RegisterOp.UNREGISTER_RING_FDS, self._index_argument(), 1)
            self._enter_by(-1)
        return super()._drain(timeout)

    def _cancel_all(self) -> None:
        # What is tagged and registered would be in flight for ever.
        self._release_file_tags()
        self._release_buffer_tags()
        super()._cancel_all()
