# SPDX-License-Identifier: MIT OR Apache-2.0
"""Many operations that one task awaits together.

One C call writes their SQEs, and the C core counts their CQEs: Python sees one completion, that of
the last. So an operation of a batch costs next to no Python. Each of them still ends by itself, and
the memory that they use is kept until all have.
"""

from __future__ import annotations

import os
from array import array
from typing import TYPE_CHECKING, Any

import trio

from ._buffers import TRANSFER_BYTES_MAX
from ._lib import ffi, lib
from ._locked_buffer import fixed
from ._operation import BATCH_BIT, CANCELLED, Operation
from ._prep_entry import U32, pack_common

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._engine import Engine

_PENDING = lib.TU_PENDING


class Batch(Operation):
    """The record of a batch: as one `Operation` whose result is that all have ended."""

    __slots__ = ("_left", "batch", "chain", "count", "results")

    def __init__(self, engine: Engine, count: int, chain: int = 0) -> None:
        super().__init__(engine, 0)
        self.message = engine.message_for(self)
        self.count = count
        self._left = count
        # Of so many operations the last must run, come what may: a close. 0: of none.
        self.chain = chain
        self.results: Any = ffi.new("int32_t[]", count)
        self.batch: Any = ffi.new("struct tu_batch *", {"count": count, "results": self.results})

    @classmethod
    def take(cls, engine: Engine, count: int, chain: int = 0) -> Batch:
        """A batch with a number, so that its SQEs can be written: the last one, if it was alike."""
        batch: Batch | None = engine.spare_batch
        if batch is not None and batch.count == count and batch.chain == chain:
            engine.spare_batch = None
        else:
            batch = cls(engine, count, chain)
        engine.ring.check(lib.tu_batch_begin(engine.ring._ring, batch.batch), "a batch")
        return batch

    def abandon(self) -> None:
        """Its SQEs could not be written."""
        lib.tu_batch_abandon(self.engine.ring._ring, self.batch)

    def begin(self, file: Any, pins: Any) -> None:
        """Its SQEs are written from the tail on: from now on it is in flight.

        KERNEL OWNS ``pins``, and the results, until the last CQE.
        """
        engine, ring = self.engine, self.engine.ring
        engine.add_record(self)
        self.task = engine.current_task()
        self.pins = pins
        self.position = ring.tail
        self.batch.user_data = self.user_data
        if file is not None:
            self.file = file
            file._in_flight += 1
        ring._tail = (ring._tail + self.count) & U32

    @property
    def is_linked(self) -> bool:
        """As `Record.is_linked`."""
        return self.chain > 0

    def has_moved(self) -> bool:
        """Operations have ended since the last cancel, and those behind them have begun."""
        return bool(self._left != self.batch.left)

    def name(self, place: int) -> int:
        """user_data of one operation."""
        return BATCH_BIT | int(self.batch.number) << 32 | place

    def targets(self) -> Iterable[int]:
        """As `Record.targets`."""
        self._left = int(self.batch.left)
        if self.chain and self not in self.engine.cancelled_chains:
            self.engine.cancelled_chains.append(self)
        for place, result in enumerate(ffi.unpack(self.results, self.count)):
            must_run = self.chain and place % self.chain == self.chain - 1
            if result == _PENDING and not must_run:
                yield self.name(place)

    def unwrap(self) -> int:
        """In the task that awaited it: 0, or the cancellation if it kept one of them from running.

        What the single ones answered is in ``results``.
        """
        raise_cancel, closing = self.raise_cancel, self.closing
        self.recycle()
        stopped = raise_cancel is not None or closing
        if stopped and self.batch.failed and not CANCELLED.isdisjoint(self.answers()):
            if raise_cancel is not None:
                raise_cancel()
            raise trio.ClosedResourceError("another task closed this handle")
        return 0

    def answers(self) -> list[int]:
        """The results of the operations, in order."""
        return ffi.unpack(self.results, self.count)  # type: ignore[return-value]

    def recycle(self) -> None:
        """As `Operation.recycle`; ``results`` stay until it is used again."""
        self.task = self.file = self.pins = self.raise_cancel = None
        self.closing = self.bounded = False
        if self in self.engine.cancelled_chains:
            self.engine.cancelled_chains.remove(self)
        self.engine.remove_record(self)
        self.engine.spare_batch = self


def offsets_of(values: Any) -> tuple[Any, int]:
    """``uint64_t[]`` of the numbers, in place if they are an array of that type; how many.

    Raises:
        OverflowError: one is negative.
    """
    try:
        view = memoryview(values)
        in_place = view.format in ("Q", "L") and view.itemsize == 8 and view.contiguous
    except TypeError:
        in_place = False
    numbers = values if in_place else array("Q", list(values))
    pin: Any = ffi.from_buffer("uint64_t[]", numbers)
    return pin, len(pin)


async def transfer_many(
    engine: Engine,
    file: Any,
    opcode: int,
    lent: tuple[Any, int, int],
    offsets: Any,
    place: int,
) -> list[int]:
    """Reads or writes equal parts of the memory that is lent, each at its offset of the file.

    ``place``: of the memory among the registered buffers, or -1. The results, in order.

    Raises:
        ValueError: the parts are not equal, or an offset is negative.
        OSError: the first that failed; all others have ended too.
    """
    pin, address, nbytes = lent
    try:
        starts, count = offsets_of(offsets)
    except OverflowError:
        raise ValueError("an offset must not be negative") from None
    if not count:
        await trio.lowlevel.checkpoint()
        return []
    if nbytes % count:
        raise ValueError(f"{nbytes} bytes cannot be cut into {count} equal parts")
    await trio.lowlevel.checkpoint_if_cancelled()
    results: list[int] = []
    failed = 0
    part = nbytes // count
    if part > TRANSFER_BYTES_MAX:
        raise ValueError(f"a part must have at most {TRANSFER_BYTES_MAX} bytes, not {part}")
    if place >= 0:
        opcode = fixed(opcode)
    while len(results) < count:
        if results:
            await trio.lowlevel.checkpoint_if_cancelled()
        some = min(count - len(results), engine.ring._mask + 1)
        first = len(results)
        batch = _begin_transfers(
            engine, file, opcode, address + first * part, part, starts + first, some, place
        )
        batch.begin(file, (pin, starts))
        if engine.clock_jumps:
            engine.hold_clock(batch)
        await engine.wait(batch, True)
        failed += batch.batch.failed
        results += batch.answers()
    if failed:
        code = next(-result for result in results if result < 0)
        raise OSError(code, os.strerror(code))
    return results


def _begin_transfers(
    engine: Engine,
    file: Any,
    opcode: int,
    address: int,
    nbytes: int,
    offsets: Any,
    count: int,
    place: int,
) -> Batch:
    number = file._checked_number()
    engine.check_run()
    engine.make_room(count)
    common = pack_common(opcode, file._fixed, number, address, nbytes, max(place, 0))
    batch = Batch.take(engine, count)
    ring: Any = engine.ring
    if lib.tu_batch_transfers(ring._ring, ring._tail, batch.batch, common, offsets) < 0:
        raise ValueError("an offset must not be negative")
    return batch
