# SPDX-License-Identifier: MIT OR Apache-2.0
"""Memory that the kernel has looked up once: for many large or unbuffered transfers."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

from ._abi import Op
from ._buffers import PinnedBuffer
from ._current import current_engine

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Buffer, Self

    from ._engine import Engine
    from ._operation import Operation

# Places in the table of a run. The kernel allows 16384; each costs it some memory.
PLACES = 64
_FIXED = {int(Op.READ): int(Op.READ_FIXED), int(Op.WRITE): int(Op.WRITE_FIXED)}


class RegisteredBuffer(PinnedBuffer):
    """A buffer that is registered with the ring of a run; made by `register_buffer`.

    Takes the place of a buffer in the positional methods of `FixedFile`. ``memory`` is a view of
    it; a slice is a part of the same registered memory.
    """

    __slots__ = ("memory",)

    def __init__(self, engine: Engine, obj: Buffer) -> None:
        super().__init__(obj)
        if not self.writable:
            raise BufferError("a registered buffer must be writable")
        self._engine = engine
        self.memory = memoryview(obj).cast("B")
        # Shared with all slices: after `close` its number is somebody else's.
        self._place = [_register(engine, obj)]

    @property
    def index(self) -> int:
        """Its place in the ring's table of registered buffers; -1: it is in none."""
        place: int = self._place[0]
        return place

    @property
    def registered(self) -> bool:
        """The kernel has taken it. If not (``RLIMIT_MEMLOCK``, before 5.19, more than `PLACES` of
        them) it is an ordinary buffer, and everything works as well.
        """
        return self.index >= 0

    def __getitem__(self, part: slice) -> RegisteredBuffer:
        start, stop, step = part.indices(self.nbytes)
        if step != 1:
            raise ValueError("a registered buffer has contiguous parts only")
        view: RegisteredBuffer = RegisteredBuffer.__new__(RegisteredBuffer)
        view.export, view.writable, view._engine = self.export, self.writable, self._engine
        view.address, view.nbytes = self.address + start, max(0, stop - start)
        view.memory, view._place = self.memory[start:stop], self._place
        return view

    def close(self) -> None:
        """Unregisters it. Operations that use it go on, and keep the memory."""
        index, engine = self._place[0], self._engine
        if index >= 0 and not engine.closed:
            # The kernel looks the place up when it takes the entry, and keeps the buffer then.
            engine.flush_now()
            engine.ring.register_buffers_update_tag(index, [None])
            engine.buffer_places.append(index)
        self._place[0] = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _register(engine: Engine, obj: Any) -> int:
    """Its place in the table, or -1 if the kernel does not take it."""
    try:
        if not engine.has_buffer_table:
            engine.ring.register_buffers_sparse(PLACES)
            engine.has_buffer_table = True
            engine.buffer_places.extend(range(PLACES - 1, -1, -1))
        if not engine.buffer_places:
            return -1
        place = engine.buffer_places[-1]
        engine.ring.register_buffers_update_tag(place, [obj])
    except OSError as exc:
        # EFAULT: memory that cannot be locked, as that of a device or a file.
        if exc.errno not in (errno.EINVAL, errno.ENOMEM, errno.EPERM, errno.EFAULT):
            raise
        return -1
    return engine.buffer_places.pop()


def register_buffer(buffer: Buffer | int) -> RegisteredBuffer:
    """``with``: registers a writable buffer, or as much new memory, with the ring of this run.

    The kernel locks its pages once, and not for each operation: it pays for ``O_DIRECT`` and for
    large transfers. Up to 1 GiB, and 64 at once; what does not fit is used as an ordinary buffer.
    io_uring_register_buffers(3), 5.19.

    ``O_DIRECT`` wants memory, offsets and lengths that are multiples of the block size, or answers
    ``EINVAL``. New memory is aligned to pages; ``memory`` is a view of it, for `numpy.frombuffer`
    too.

    Raises:
        RuntimeError: not in a Trio run.
        BufferError: the buffer is read-only or not contiguous.
    """
    engine = current_engine()
    if isinstance(buffer, int):
        import mmap

        # Aligned as O_DIRECT wants it.
        buffer = mmap.mmap(-1, buffer)
    return RegisteredBuffer(engine, buffer)


def place_of(engine: Engine, buffer: Any) -> int:
    """Where ``buffer`` is in the table of this engine; -1: nowhere."""
    if isinstance(buffer, RegisteredBuffer) and buffer._engine is engine:
        return buffer.index
    return -1


def use_place(engine: Engine, operation: Operation, place: int) -> None:
    """Makes a read or a write that was just begun one with a registered buffer."""
    sqe = engine.ring.entry(operation.position)
    sqe.opcode = _FIXED[sqe.opcode]
    sqe.buf_index = place


def fixed(opcode: int) -> int:
    """The operation with a registered buffer that does the same."""
    return _FIXED[opcode]
