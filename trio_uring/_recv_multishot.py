# SPDX-License-Identifier: MIT OR Apache-2.0
"""One receive operation for many chunks of data: `FixedSocket.recv_multishot`.

The only sign that a multishot has ended is a CQE without F_MORE. It ends for many reasons: the end
of the stream, an error, no buffer left, a cancel, or because the kernel chose to. Data that came
before are always delivered first. The chunks taken ahead are bounded: at the bound the multishot is
cancelled, and armed again when the loop has caught up.

Where the kernel has bundles (6.10), a chunk may be several shared buffers in one piece. The bound
is then one of bytes, too. From 6.17 on the kernel keeps it: it ends the multishot when so many have
come. (It can also limit each completion, but then may not tell the end of a stream.)
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._abi import Op, RecvSendFlag
from ._capabilities import capabilities
from ._operation import BUFFER_SELECT, CANCELLED, F_BUFFER, F_MORE, Record
from ._prep import prep_recv_multishot
from ._waiter import Waiter

if TYPE_CHECKING:
    from ._socket_receive import SocketReceive

CHUNKS_MAX = 16
# What the kernel counts with fits in an int.
_BUNDLE_BYTES_MAX = 1 << 30


class ReceivedData(Record):
    """``async with`` and ``async for`` over what a socket receives, chunk by chunk."""

    def __init__(self, socket: SocketReceive) -> None:
        self.file: Any = socket
        self.closing = False
        super().__init__()
        self._engine = socket._engine
        self._chunks: deque[bytes] = deque()
        self._armed = False
        self._cancelling = False
        self._end: int | None = None
        # The task in __anext__, and the one that leaves the block.
        self._reader = Waiter(self._engine)
        self._leaver: Waiter | None = None
        self._entered = False
        self._ended = False
        self._busy = False
        self._once = trio.CancelScope()
        # No shared buffer was left: the next chunk comes in memory of its own.
        self._starved = False
        known = capabilities()
        # SEND_ZC came with 6.0, and so did multishot receive.
        self._supported = Op.SEND_ZC in known.ops and not known.loses_ends
        self._buffer_bytes = 0

    async def __aenter__(self) -> ReceivedData:
        if self._entered:
            raise RuntimeError("recv_multishot() is used once")
        self._engine.check_run()
        self.file._start_receiving()
        self._entered = True
        self._chunks.extend(map(bytes, self.file._received))
        self.file._received.clear()
        return self

    @enable_ki_protection
    async def __aexit__(self, *exc_info: object) -> None:
        self._ended = True
        self._once.cancel()
        self._reader.wake()
        if self._armed:
            self._engine.cancel(self)
        if self._armed or self._busy:
            self._leaver = Waiter(self._engine)
            with trio.CancelScope(shield=True):
                while self._armed or self._busy:
                    await self._leaver.wait()
        socket = self.file
        socket._received.extend(self._chunks)
        socket._receiving = False
        if self._end is not None and self._end < 0:
            self._remember(self._end)

    def __aiter__(self) -> ReceivedData:
        return self

    @enable_ki_protection
    async def __anext__(self) -> bytes:
        if not self._entered or self._ended:
            raise RuntimeError("use it inside its async with block")
        if self._busy:
            raise trio.BusyResourceError("another task is waiting for data")
        self._engine.check_run()
        chunks = self._chunks
        self._busy = True
        try:
            if chunks:
                await trio.lowlevel.checkpoint()
                return chunks.popleft()
            while not chunks:
                if not self._armed:
                    await trio.lowlevel.checkpoint_if_cancelled()
                    if not self._begin_again():
                        return await self._receive_once()
                # The only checkpoint: to wait is one.
                await self._reader.wait()
                if self._ended:
                    raise trio.ClosedResourceError("the async with block has ended")
            return chunks.popleft()
        finally:
            self._busy = False
            if self._leaver is not None:
                self._leaver.wake()

    @enable_ki_protection
    async def drain(self) -> list[bytes]:
        """All chunks that have come, for the price of one: in order, at least one, waiting for it.

        ``[]`` at the end of the stream, and only there. Else it is as ``async for`` is: it may not
        be called while another task waits for data, what came before an error is delivered before
        it, and what was not returned because of a cancellation the next call returns.
        """
        try:
            first = await self.__anext__()
        except StopAsyncIteration:
            # If the end was known, so far only a cancellation would have been noticed.
            await trio.lowlevel.cancel_shielded_checkpoint()
            return []
        chunks = [first, *self._chunks]
        self._chunks.clear()
        return chunks

    def _begin_again(self) -> bool:
        """Raises what has ended it, or arms it again, or says that it cannot be."""
        if self._end is not None:
            self._raise_end(self._end)
        self.file._checked_slot()
        if self._starved or not self._supported or self._engine.shared_buffers() is None:
            self._starved = False
            return False
        self._arm()
        return True

    async def _receive_once(self) -> bytes:
        """Where there is no multishot receive, or no buffer for it."""
        self.file._receiving = False
        data = b""
        try:
            with trio.CancelScope() as self._once:
                data = await self.file.recv(65536)
        finally:
            self.file._receiving = True
        if self._once.cancelled_caught:
            raise trio.ClosedResourceError("the async with block has ended")
        if not data:
            self._end = 0
            raise StopAsyncIteration
        return data

    def _raise_end(self, end: int) -> None:
        if end == 0:
            self.file._at_end()
            raise StopAsyncIteration
        if end == -errno.ECANCELED:
            raise trio.ClosedResourceError("another task closed this handle")
        self.file._receive_failed(OSError(-end, os.strerror(-end)))

    def _remember(self, end: int) -> None:
        try:
            self._raise_end(end)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    def _arm(self) -> None:
        engine, socket = self._engine, self.file
        number = socket._checked_number()
        sqe = engine.own_sqe()
        engine.add_record(self)
        known = capabilities()
        self._buffer_bytes = engine.buffers.nbytes
        prep_recv_multishot(sqe, number, 0, 0, 0, self.user_data, BUFFER_SELECT | socket._fixed)
        if known.bundles:
            sqe.ioprio |= RecvSendFlag.BUNDLE
        if known.limits_receives:
            sqe.optlen = self._bytes_ahead_max()
        socket._in_flight += 1
        self._armed = True
        self._cancelling = False

    def _bytes_ahead_max(self) -> int:
        return min(CHUNKS_MAX * self._buffer_bytes, _BUNDLE_BYTES_MAX)

    def _is_far_ahead(self) -> bool:
        chunks = self._chunks
        # One chunk, as large as it may be, is not ahead of a loop that waits for it.
        return len(chunks) >= CHUNKS_MAX or (
            len(chunks) > 1 and sum(map(len, chunks)) >= self._bytes_ahead_max()
        )

    def complete(self, res: int, flags: int) -> None:
        """A CQE of the multishot."""
        engine = self._engine
        chunks = self._chunks
        if 0 < res <= self._buffer_bytes and flags & F_MORE and len(chunks) < CHUNKS_MAX - 1:
            # Nearly all are of this kind; its buffer is a shared one.
            chunks.append(engine.buffers.take_bundle(flags, res))
            self._reader.wake()
            return
        if flags & F_BUFFER and engine.buffers is not None:
            if res > 0:
                chunks.append(engine.buffers.take_bundle(flags, res))
            else:
                engine.return_buffer(flags)
        if not flags & F_MORE:
            self._armed = False
            engine.remove_record(self)
            if res == 0:
                self._end = 0
            elif res in CANCELLED:
                # Our own bound or the end of the block, unless the handle is being closed.
                self._end = -errno.ECANCELED if self.closing else None
            elif res == -errno.ENOBUFS:
                self._starved = True
            elif res < 0:
                self._end = res
            self.file._operation_ended()
        elif self._is_far_ahead() and not self._cancelling:
            self._cancelling = True
            engine.cancel(self)
        if chunks or not self._armed:
            self._wake()

    def _wake(self) -> None:
        self._reader.wake()
        if self._leaver is not None:
            self._leaver.wake()

    def driver_broke(self, failure: BaseException) -> None:
        """As `Record.driver_broke`."""
        self._wake()
