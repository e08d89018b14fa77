# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the prep functions share: shapes of entries, slot numbers, refusals, batches.

A shape names the fields that a group of operations has; one ``pack_into`` writes all 64 bytes, and
those between the named fields become zero. A short shape is the faster one.
"""

from __future__ import annotations

from array import array
from struct import Struct
from struct import error as StructError
from typing import TYPE_CHECKING, Any

from ._abi import FILE_INDEX_ALLOC
from ._sqe import SQE_BYTES, Sqe

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

# opcode flags user_data
pack_nop = Struct("=BB30xQ24x").pack_into
# opcode flags fd user_data
pack_fd = Struct("=BB2xi24xQ24x").pack_into
# opcode flags fd off addr len user_data; loff_t is signed: -1 is the file position
pack_rw = Struct("=BB2xiqQI4xQ24x").pack_into
# opcode flags fd off addr len user_data buf_index
pack_rw_fixed = Struct("=BB2xiqQI4xQH22x").pack_into
# opcode flags fd addr len op_flags user_data
pack_transfer = Struct("=BB2xi8xQIIQ24x").pack_into
# opcode flags fd off addr op_flags user_data
pack_accept = Struct("=BB2xiQQ4xIQ24x").pack_into
# opcode flags fd addr op_flags user_data
pack_cancel = Struct("=BB2xi8xQ4xIQ24x").pack_into
# opcode flags fd off addr len op_flags user_data: reads, writes, sends and receives alike
pack_any = Struct("=BB2xiQQIIQ24x").pack_into
# opcode flags user_data file_index
pack_close_direct = Struct("=BB30xQ4xI16x").pack_into
# opcode flags ioprio fd off addr len op_flags user_data buf_index file_index addr3
_pack_full = Struct("=BBHiQQIIQH2xIQ8x").pack_into
# Where fields are narrower than in the others; each is at its own bytes on any byte order.
# opcode flags fd off addr len op_flags user_data addr_len
pack_sendto = Struct("=BB2xiQQIIQ4xH18x").pack_into
# opcode flags fd cmd_op addr user_data optlen addr3
pack_command = Struct("=BB2xiI4xQ8xQ4xIQ8x").pack_into
# opcode flags fd cmd_op level optname user_data optlen optval
pack_sock_command = Struct("=BB2xiI4xII8xQ4xIQ8x").pack_into

U32 = 0xFFFF_FFFF
U64 = 0xFFFF_FFFF_FFFF_FFFF
# The field holds the slot + 1, and its largest value is FILE_INDEX_ALLOC.
SLOTS_END = FILE_INDEX_ALLOC - 1


def refused(sqe: Sqe, error: Exception) -> ValueError:
    """Makes ``sqe`` a NOP and returns the exception to raise.

    The entry is in the queue already. Half of the operation, or the one that used the entry before,
    must not be submitted: a CLOSE with a bad number would be the close of descriptor 0.
    """
    pack_nop(sqe.memory, sqe.at, 0, 0, 0)
    return ValueError(f"an argument does not fit its field of the entry: {error}")


def not_a_slot(sqe: Sqe, file_index: int) -> ValueError:
    """`refused` for a slot number."""
    pack_nop(sqe.memory, sqe.at, 0, 0, 0)
    return ValueError(f"file_index {file_index!r} is not a slot")


def put(pack: Callable[..., None], sqe: Sqe, *values: int) -> None:
    """One of the shapes above, for operations that need not be among the fastest."""
    try:
        pack(sqe.memory, sqe.at, *values)
    except StructError as error:
        raise refused(sqe, error) from None


def fill(
    sqe: Sqe,
    opcode: int,
    sqe_flags: int,
    user_data: int,
    *,
    fd: int = 0,
    off: int = 0,
    addr: int = 0,
    length: int = 0,
    op_flags: int = 0,
    ioprio: int = 0,
    buf_index: int = 0,
    file_index: int = 0,
    addr3: int = 0,
) -> None:
    """The whole entry, by field, for operations that need not be among the fastest."""
    try:
        _pack_full(
            sqe.memory,
            sqe.at,
            opcode,
            sqe_flags,
            ioprio,
            fd,
            off,
            addr,
            length,
            op_flags,
            user_data,
            buf_index,
            file_index,
            addr3,
        )
    except StructError as error:
        raise refused(sqe, error) from None


def target(sqe: Sqe, file_index: int) -> int:
    """The file_index field for the slot that an operation fills; 0 in it would mean "no slot".

    Raises:
        ValueError: neither `FILE_INDEX_ALLOC` nor a number that the field can hold.
    """
    if file_index == FILE_INDEX_ALLOC:
        return FILE_INDEX_ALLOC
    if not 0 <= file_index < SLOTS_END:
        raise not_a_slot(sqe, file_index)
    return file_index + 1


# What is not an int at all comes back from these as it is, for the pack to refuse.


def u32(number: Any) -> Any:
    """A signed 32-bit number as an unsigned field holds it; one that does not fit stays so."""
    negative = isinstance(number, int) and -(1 << 31) <= number < 0
    return number + (U32 + 1) if negative else number


def u64(number: Any) -> Any:
    """A signed 64-bit number as an unsigned field holds it; one that does not fit stays so."""
    negative = isinstance(number, int) and -(1 << 63) <= number < 0
    return number + (U64 + 1) if negative else number


# Field -> type code, place of it in an entry that is an array of that type.
COLUMNS = {
    "fd": ("i", 1),
    "off": ("Q", 1),
    "addr": ("Q", 2),
    "len": ("I", 6),
    "user_data": ("Q", 4),
}


def column(name: str, values: Any, count: int) -> tuple[memoryview, str, int]:
    """The values of one field as strided assignment wants them: one dimension, of its type."""
    code, place = COLUMNS[name]
    try:
        view = memoryview(values)
    except TypeError:
        view = memoryview(array(code, values))
    if view.format == "L" and code == "Q" and view.itemsize == 8:
        view = view.cast("B").cast("Q")
    if view.format != code or view.ndim != 1:
        raise TypeError(f"column {name!r} is not an array of type {code!r} but {view.format!r}")
    if len(view) != count:
        raise ValueError(f"column {name!r} has {len(view)} values for {count} entries")
    return view, code, place


def prep_many(
    memory: Any, at: int, count: int, template: bytes, columns: Mapping[str, object]
) -> None:
    """Writes ``count`` entries that follow each other in ``memory`` from byte ``at``.

    ``template`` is one prepared entry (``bytes(sqe)``), 128 bytes on a ring with ``SQE128``. Each
    of ``columns`` sets one field of every entry: ``user_data``, ``off``, ``addr``, ``fd`` or
    ``len``, as an ``array.array``, memoryview or NumPy array of the field's type (``Q``, but ``i``
    for ``fd`` and ``I`` for ``len``), or any sequence of integers, which is slower.

    Raises:
        KeyError, TypeError, ValueError, OverflowError: nothing was written.
    """
    if len(template) not in (SQE_BYTES, 2 * SQE_BYTES):
        raise ValueError(f"a template has 64 or 128 bytes, not {len(template)}")
    nbytes = count * len(template)
    entries = memoryview(memory)
    if count < 0 or at < 0 or at + nbytes > entries.nbytes:
        raise ValueError(f"{count} entries from byte {at} are not inside the queue")
    ready = [column(name, values, count) for name, values in columns.items()]
    entries = entries[at : at + nbytes]
    entries[:] = template * count
    for view, code, place in ready:
        fields = entries.cast(code)  # type: ignore[call-overload]
        fields[place :: len(template) // fields.itemsize] = view
