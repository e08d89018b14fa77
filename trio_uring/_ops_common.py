# SPDX-License-Identifier: MIT OR Apache-2.0
"""How every operation method takes an entry, and gives it back when it cannot be filled."""

from __future__ import annotations

from array import array
from threading import get_ident
from typing import TYPE_CHECKING, Concatenate, ParamSpec

from ._abi import SqeFlag
from ._errors import SubmissionQueueFull
from ._prep import prep_many
from ._prep_entry import COLUMNS, U32
from ._queue import RingQueues

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import TypeAlias

    from ._buffers import Pin
    from ._sqe import Sqe
    from ._structs import BufferSelection

    Integers: TypeAlias = "array[int] | memoryview | Sequence[int]"

_P = ParamSpec("_P")


class Operations(RingQueues):
    """Base of the classes with operation methods.

    A method takes its pins first: what the kernel may not be lent is refused before an entry is
    taken. An entry that could not be filled goes back, also when a signal handler raised meanwhile:
    what is in it is half of the operation, or all of an earlier one, and must not be submitted.
    """

    def _fill(
        self,
        pins: tuple[Pin, ...],
        prep: Callable[Concatenate[Sqe, _P], None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Sqe:
        """The next entry, filled by ``prep``; it borrows ``pins`` until its final CQE."""
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep(sqe, *args, **kwargs)
            return self._lend(sqe, *pins) if pins else sqe
        except BaseException:
            self._tail = tail
            raise

    def _fill128(
        self,
        pins: tuple[Pin, ...],
        prep: Callable[Concatenate[Sqe, _P], None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Sqe:
        """`_fill` of an entry of 128 bytes."""
        tail = self._tail
        try:
            sqe = self.get_sqe128()
            prep(sqe, *args, **kwargs)
            return self._lend(sqe, *pins) if pins else sqe
        except BaseException:
            self._tail = tail
            raise

    def _select(
        self,
        selection: BufferSelection,
        pins: tuple[Pin, ...],
        prep: Callable[Concatenate[Sqe, _P], None],
        *args: _P.args,
        **kwargs: _P.kwargs,
    ) -> Sqe:
        """`_fill`, and the kernel takes a buffer of the group."""
        sqe = self._fill(pins, prep, *args, **kwargs)
        sqe.flags |= SqeFlag.BUFFER_SELECT
        sqe.buf_group = selection.group_id
        return sqe

    def _fill_many(
        self,
        template: Sqe,
        user_data: Integers,
        columns: Mapping[str, Integers],
        pin: Pin | None,
    ) -> None:
        """Entries like ``template``, one for each of ``user_data``, all or none of them."""
        values = {name: _view(name, column) for name, column in columns.items()}
        ids = values["user_data"] = _view("user_data", user_data)
        count = len(ids)
        for name, view in values.items():
            if len(view) != count:
                raise ValueError(f"{len(view)} values of {name} for {count} operations")
        self._need_room(count)
        whole = bytes(template).ljust(self._ring.sqe_bytes, b"\0")
        first = self._entries[self._tail & self._mask]
        until_wrap = min(count, self._mask + 1 - (self._tail & self._mask))
        for sqe, start, stop in ((first, 0, until_wrap), (self._entries[0], until_wrap, count)):
            part = {name: view[start:stop] for name, view in values.items()}
            prep_many(sqe.memory, sqe.at, stop - start, whole, part)
        if pin is not None:
            self._lend_to_all(ids.tolist(), pin)
        self._tail = (self._tail + count) & U32

    def _need_room(self, count: int) -> None:
        """Raises unless ``count`` entries are free, and this thread may have them."""
        not_mine = self._owner is not None and get_ident() != self._owner
        if not_mine or count > (self._limit - self._tail) & U32:
            self._make_room()
            if count > (self._limit - self._tail) & U32:
                raise SubmissionQueueFull(f"no {count} entries are free; submit first")

    def _lend_to_all(self, user_data: list[int], pin: Pin) -> None:
        """Like `_lend`, with one pin for many: straight to where submitting would move it."""
        # An earlier operation with the same user_data may end before these are submitted.
        self._lending.update(user_data)
        if self._pins.keys().isdisjoint(user_data):
            lent: list[tuple[Pin, ...]] = [(pin,)]
            self._pins.update(dict.fromkeys(user_data, lent))
        else:
            for number in user_data:
                self._pins[number] = [*self._pins.get(number, ()), (pin,)]


def _view(name: str, values: Integers) -> memoryview:
    try:
        return memoryview(values)  # type: ignore[arg-type]
    except TypeError:
        return memoryview(array(COLUMNS[name][0], values))
