# SPDX-License-Identifier: MIT OR Apache-2.0
"""Many operations that one task awaits together.

One C call writes their SQEs, and the C core counts their CQEs: Python sees one completion, that of
the last. So an operation of a batch costs next to no Python. Each of them still ends by itself, and
the memory that they use is kept until all have.
"""

from __future__ import annotations

import errno
import os
from array import array
from typing import TYPE_CHECKING, Any

import trio

from ._buffers import TRANSFER_BYTES_MAX
from ._lib import ffi, lib
from ._locked_buffer import fixed, place_of
from ._operation import BATCH_BIT, CANCELLED, Operation
from ._prep_entry import U32

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from ._engine import Engine

_PENDING = lib.TU_PENDING
OFFSET_MAX = (1 << 63) - 1


class Batch(Operation):
    """The record of a batch: as one `Operation` whose result is that all have ended."""

    __slots__ = ("_left", "batch", "count")

    def __init__(self, engine: Engine, count: int, chain: int = 0) -> None:
        super().__init__(engine, 0)
        self.count = count
        self._left = count
        # Of so many operations the last must run, come what may: a close. 0: of none.
        self.chain = chain
        self.batch: Any = ffi.cast("struct tu_batch *", self._hold_results(count))

    @classmethod
    def take(cls, engine: Engine, count: int, chain: int = 0) -> Batch:
        """A record for so many, with room for their SQEs: the last one, if it was alike."""
        engine.check_run()
        ring = engine.ring
        if (ring._limit - ring._tail) & U32 < count:
            engine.make_room(count)
        batch: Batch | None = engine.spare_batch
        if batch is not None and batch.count == count and batch.chain == chain:
            engine.spare_batch = None
            return batch
        return cls(engine, count, chain)

    def take_number(self) -> None:
        """Gives it a number, so that its SQEs can be written."""
        self.engine.ring.check(lib.tu_batch_begin(self.engine.ring._ring, self.batch), "a batch")

    def abandon(self) -> None:
        """Its SQEs could not be written."""
        lib.tu_batch_abandon(self.engine.ring._ring, self.batch)

    def begin(self, file: Any, pins: Any) -> None:
        """Its SQEs are written from the tail on: from now on it is in flight.

        KERNEL OWNS ``pins``, and the results, until the last CQE.
        """
        self._start(file, pins)
        if self.engine.clock_jumps:
            self.engine.hold_clock(self)

    def entries(self) -> Iterable[tuple[int, int]]:
        """As `Operation.entries`."""
        for place in range(self.count):
            yield (self.position + place) & U32, self.name(place)

    def taken_back(self) -> None:
        """As `Operation.taken_back`."""
        self.abandon()
        self.batch.failed = self.count
        for place in range(self.count):
            self.batch.results[place] = -errno.ECANCELED

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
            self.engine.ring._ring.stepwise += 1
        for place, result in enumerate(self.answers()):
            must_run = self.chain and place % self.chain == self.chain - 1
            if result == _PENDING and not must_run:
                yield self.name(place)

    def wait(self) -> Awaitable[list[int]]:
        """As `Engine.wait`: the answers, in order."""
        answers: Any = self.engine.wait(self, True)
        return answers  # type: ignore[no-any-return]

    def _raise(self) -> list[int]:
        """In the task that awaited it, if one has failed: the answers, or why it gets none.

        If a cancellation kept one of them from running, that. If it is ``strict``, the first error.
        """
        raise_cancel, closing, strict = self.raise_cancel, self.closing, self.strict
        self.recycle()
        answers = self.answers()
        if (raise_cancel is not None or closing) and not CANCELLED.isdisjoint(answers):
            if raise_cancel is not None:
                raise_cancel()
            raise trio.ClosedResourceError("another task closed this handle")
        if strict:
            raise_first(answers)
        return answers

    def _uncancel(self) -> None:
        """All have ended, and nothing is left to be cancelled."""
        if self in self.engine.cancelled_chains:
            self.engine.cancelled_chains.remove(self)
            self.engine.ring._ring.stepwise -= 1


def raise_first(answers: Iterable[int]) -> None:
    """Raises the first error, if there is one."""
    code = next((-answer for answer in answers if answer < 0), 0)
    if code:
        raise OSError(code, os.strerror(code))


def offsets_of(values: Any) -> Any:
    """``uint64_t[]`` of the numbers: their own memory, if they are an array of that type.

    Raises:
        OverflowError: one does not fit.
    """
    if type(values) is not array or values.typecode not in ("Q", "L") or values.itemsize != 8:
        try:
            view = memoryview(values)
            in_place = view.format in ("Q", "L") and view.itemsize == 8 and view.contiguous
        except TypeError:
            in_place = False
        if not in_place:
            values = array("Q", list(values))
    return ffi.from_buffer("uint64_t[]", values)


async def transfer_many(
    engine: Engine,
    file: Any,
    opcode: int,
    buffer: Any,
    lent: tuple[Any, int, int],
    offsets: Any,
) -> list[int]:
    """Reads or writes equal parts of ``buffer``, which is lent, each at its offset of the file.

    The results, in order. What C has not begun: `FixedFile.read_many`.

    Raises:
        ValueError: the parts are not equal, or an offset is out of range.
        OSError: the first that failed; all others have ended too.
    """
    pin, address, nbytes = lent
    try:
        starts = offsets_of(offsets)
    except OverflowError:
        raise ValueError(f"an offset must be from 0 to {OFFSET_MAX}") from None
    count = len(starts)
    if not count:
        engine.check_run()
        file._checked_number()
        await trio.lowlevel.checkpoint()
        return []
    part, rest = divmod(nbytes, count)
    if rest:
        raise ValueError(f"{nbytes} bytes cannot be cut into {count} equal parts")
    if part > TRANSFER_BYTES_MAX:
        raise ValueError(f"a part must have at most {TRANSFER_BYTES_MAX} bytes, not {part}")
    results: list[int] = []
    done = 0
    ring: Any = engine.ring
    while done < count:
        number = file._checked_number()
        batch = Batch.take(engine, min(count - done, ring._mask + 1))
        place = place_of(engine, buffer)  # until it is closed, by another task
        code = lib.tu_batch_transfers(
            ring._ring, ring._tail, batch.batch, opcode if place < 0 else fixed(opcode),
            file._fixed, number, address + done * part, part, max(place, 0),
            starts + done if done else starts,
        )  # fmt: skip
        if code < 0:
            if code == -errno.EINVAL:
                raise ValueError(f"an offset must be from 0 to {OFFSET_MAX}")
            ring.check(code, "a batch")
        batch.begin(file, pin)
        results += await batch.wait()
        done += batch.count
    raise_first(results)
    return results
