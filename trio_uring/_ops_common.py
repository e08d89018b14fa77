# SPDX-License-Identifier: MIT OR Apache-2.0
"""How every operation method takes an entry, and gives it back when it cannot be filled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Concatenate, ParamSpec

from ._abi import SqeFlag
from ._prep_entry import U32, column
from ._queue import RingQueues

if TYPE_CHECKING:
    from array import array
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

        def prep_selecting(sqe: Sqe) -> None:
            prep(sqe, *args, **kwargs)
            sqe.flags |= SqeFlag.BUFFER_SELECT
            sqe.buf_group = selection.group_id

        return self._fill(pins, prep_selecting)

    def _fill_many(
        self,
        template: Sqe,
        user_data: Integers,
        columns: dict[str, Integers],
        pin: Pin | None,
    ) -> None:
        """Entries like ``template``, one for each of ``user_data``, all or none of them."""
        count = len(user_data)
        self._need_room(count)
        columns["user_data"] = user_data
        start = self._tail & self._mask
        until_end = self._mask + 1 - start
        if count <= until_end:
            self._fill_rows(start, count, template, columns)
        else:
            views = {name: column(name, values, count)[0] for name, values in columns.items()}
            first = {name: view[:until_end] for name, view in views.items()}
            self._fill_rows(start, until_end, template, first)
            rest = {name: view[until_end:] for name, view in views.items()}
            self._fill_rows(0, count - until_end, template, rest)
        if pin is not None:
            self._lend_to_all([*user_data], pin)
        self._tail = (self._tail + count) & U32

    def _fill_rows(
        self, start: int, count: int, template: Sqe, columns: Mapping[str, Integers]
    ) -> None:
        size, row = self._sqe_bytes, template.memory
        if size != len(row):
            row = row.ljust(size, b"\0")
        self._rows[start * size : (start + count) * size] = row * count
        for name, values in columns.items():
            try:
                self._columns[name][start : start + count] = values  # type: ignore[assignment]
            except (TypeError, ValueError):  # it is not an array of the field's type, or too short
                self._columns[name][start : start + count] = column(name, values, count)[0]

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
