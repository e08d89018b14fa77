# SPDX-License-Identifier: MIT OR Apache-2.0
"""Connections taken ahead: `FixedSocket.accept_direct_multishot`.

Not one multishot accept of the kernel, but several single ones, each with a slot of its own that
was reserved before. A multishot accept lets the kernel choose the slot, and finds the table full
only after it has taken the connection: that client is reset. How many it takes in one go is not
ours to say, so that no number of slots kept free is enough. Single accepts cost one more SQE per
connection and no more system calls, and they lose nobody. They also work on 5.15.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from ._capabilities import capabilities
from ._engine_slots import write_accept
from ._handle import _caller
from ._operation import CANCELLED, Record
from ._prep import prep_accept
from ._slots import reserve
from ._waiter import Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._fixed_socket import FixedSocket

# Accepts in flight at the most, and of the free slots one in four.
AHEAD_MAX = 16
_FREE_PER_ACCEPT = 4
_SOCK_CLOEXEC = os.O_CLOEXEC

# The connection failed before it was accepted; the listener is well. accept(2), "Error handling".
_OTHERS_FAULT = frozenset(
    {
        errno.ECONNABORTED,
        errno.EPERM,
        errno.EPROTO,
        errno.ENETDOWN,
        errno.ENOPROTOOPT,
        errno.EHOSTDOWN,
        errno.ENONET,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EINTR,
    }
)


class _Accept(Record):
    """One accept in flight, with the slot that it fills; used again for the next one."""

    __slots__ = ("brings_fd", "closing", "connections", "file", "slot")

    def __init__(self, connections: AcceptedConnections) -> None:
        self.connections = connections
        self.file: Any = connections.listener
        self.slot = -1
        self.brings_fd = not connections._direct
        self.closing = False
        super().__init__()

    def complete(self, res: int, flags: int) -> None:
        connections, listener = self.connections, self.file
        connections._engine.remove_record(self)
        connections._accepts.remove(self)
        connections._spare.append(self)
        if res >= 0:
            connections._arrived(self.slot, res)
        else:
            connections._failed(self.slot, res)
        listener._operation_ended()
        connections._wake()

    def driver_broke(self, failure: BaseException) -> None:
        """As `Record.driver_broke`."""
        self.connections._wake()


class AcceptedConnections:
    """``async with`` and ``async for`` over the connections of a listener."""

    def __init__(self, listener: FixedSocket) -> None:
        self.listener = listener
        self._opened_at = _caller()
        self._engine = listener._engine
        self._direct = capabilities().install
        self._accepts: set[_Accept] = set()
        self._spare: list[_Accept] = []
        self._ready: deque[FixedSocket] = deque()
        self._error: OSError | None = None
        # The task in __anext__, and the one that leaves the block.
        self._taker = Waiter(self._engine)
        self._leaver = Waiter(self._engine)
        # What a task that waits for a slot here wants to be told: the end of this, or of the
        # listener.
        self._waiting_for_slot: set[Callable[[], None]] = set()
        self._until_closed = (self._waiting_for_slot, listener._slot_waits())
        self._busy = False
        self._entered = False
        self._ended = False

    async def __aenter__(self) -> AcceptedConnections:
        self.listener._checked_slot()
        if self._entered:
            raise RuntimeError("accept_direct_multishot() is used once")
        self._engine.check_run()
        self._entered = True
        self._engine.table.when_scarce.add(self._yield_slots)
        return self

    @enable_ki_protection
    async def __aexit__(self, *exc_info: object) -> None:
        self._ended = True
        self._engine.table.when_scarce.discard(self._yield_slots)
        self._taker.wake()
        for end in list(self._waiting_for_slot):
            end()
        for accept in self._accepts:
            self._engine.cancel(accept)
        # Cancelled accepts end at once; what they still bring is closed with the rest.
        with trio.CancelScope(shield=True):
            while self._accepts:
                await self._leaver.wait()
            self._spare.clear()  # they refer to this, and to the listener
            while self._ready:
                await trio.aclose_forcefully(self._ready.pop())

    def __aiter__(self) -> AcceptedConnections:
        return self

    @enable_ki_protection
    async def __anext__(self) -> FixedSocket:
        if not self._entered or self._ended:
            raise RuntimeError("use it inside its async with block")
        if self._busy:
            raise trio.BusyResourceError("another task is waiting for a connection")
        self._engine.check_run()
        self._busy = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            # Those that are there are handed out without a pass of the loop for each, which costs
            # more than all that is done with a short connection. More than AHEAD_MAX only come in
            # a pass.
            while not self._ready:
                await self._wait()
            connection = self._ready.popleft()
            try:
                self._take_ahead()
            except BaseException:
                self._ready.appendleft(connection)
                raise
            return connection
        finally:
            self._busy = False

    async def _wait(self) -> None:
        """Until one is there, or an accept has ended."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        self.listener._checked_slot()
        if not self._accepts:
            [slot] = await reserve(self._engine, until_closed=self._until_closed)
            self._submit(slot)
        self._take_ahead()
        await self._taker.wait()
        if self._ended:
            raise self._over()

    def _wake(self) -> None:
        if self._taker.task is not None:
            self._taker.wake()
        if self._leaver.task is not None:
            self._leaver.wake()

    def _over(self) -> trio.ClosedResourceError:
        return trio.ClosedResourceError("the async with block has ended")

    def _yield_slots(self) -> None:
        """Somebody waits for a slot: all accepts give theirs back, but one that is waited for."""
        for accept in list(self._accepts)[1 if self._busy else 0 :]:
            self._engine.cancel(accept)

    def _take_ahead(self) -> None:
        if self._error is not None or self.listener._slot < 0:
            return
        table = self._engine.table
        ahead = len(self._accepts) + len(self._ready)
        while ahead < AHEAD_MAX and ahead < table.free_count // _FREE_PER_ACCEPT:
            self._submit(table.take_one())
            ahead += 1

    def _submit(self, slot: int) -> None:
        engine, listener = self._engine, self.listener
        try:
            if self._ended:
                raise self._over()
            accept = self._spare.pop() if self._spare else _Accept(self)
            accept.slot = slot
            if self._direct:
                write_accept(engine, accept, listener, slot)
            else:
                number, sqe = listener._checked_number(), engine.own_sqe()
                engine.add_record(accept)
                prep_accept(sqe, number, 0, 0, _SOCK_CLOEXEC, accept.user_data, listener._fixed)
        except BaseException:
            engine.release_slot(slot)
            raise
        listener._in_flight += 1
        self._accepts.add(accept)

    def _arrived(self, slot: int, res: int) -> None:
        try:
            fd = -1 if self._direct else res
            self._ready.append(self.listener._accepted(slot, fd, self._opened_at))
        except OSError as exc:
            self._engine.release_slot(slot)
            self._error = exc

    def _failed(self, slot: int, res: int) -> None:
        self._engine.release_slot(slot)
        if -res not in _OTHERS_FAULT and res not in CANCELLED:
            self._error = OSError(-res, os.strerror(-res))
