# SPDX-License-Identifier: MIT OR Apache-2.0
"""The only import of the C core, and its types. What each function does is written in core.h."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

from . import _native, _uring

if TYPE_CHECKING:
    from typing import TypeAlias

    from _cffi_backend import _CDataBase

    CData: TypeAlias = _CDataBase
else:
    CData = Any


class _Lib(Protocol):
    """The functions of core.h; each lets go of the GIL for its duration."""

    TU_SQ_HEAD: int
    TU_SQ_TAIL: int
    TU_SQ_FLAGS: int
    TU_SQ_DROPPED: int
    TU_CQ_HEAD: int
    TU_CQ_TAIL: int
    TU_CQ_FLAGS: int
    TU_CQ_OVERFLOWED: int
    TU_RES_MIN: int
    TU_PENDING: int

    def tu_setup(self, ring: CData, entries: int, params: CData, with_ledger: int, /) -> int: ...
    def tu_claim(self, ring: CData, /) -> None: ...
    def tu_enter_by_index(self, ring: CData, index: int, /) -> None: ...
    def tu_begin_exclusive(self, ring: CData, /) -> int: ...
    def tu_end_exclusive(self, ring: CData, /) -> None: ...
    def tu_close(self, ring: CData, /) -> None: ...
    def tu_abandon(self, ring: CData, /) -> None: ...
    def tu_remap(self, ring: CData, params: CData, /) -> int: ...
    def tu_counter(self, ring: CData, which: int, /) -> int: ...
    def tu_flush(self, ring: CData, tail: int, /) -> int: ...
    def tu_enter(
        self, ring: CData, to_submit: int, min_complete: int, flags: int, timeout_ns: int, /
    ) -> int: ...
    def tu_submit(self, ring: CData, tail: int, wait_nr: int, /) -> int: ...
    def tu_copy_cqes(
        self, ring: CData, out: CData, count_max: int, wait_nr: int, timeout_ns: int, /
    ) -> int: ...
    def tu_submit_and_copy(
        self,
        ring: CData,
        tail: int,
        wait_nr: int,
        timeout_ns: int,
        out: CData,
        count_max: int,
        /,
    ) -> int: ...
    def tu_batch_begin(self, ring: CData, batch: CData, /) -> int: ...
    def tu_batch_transfers(
        self,
        ring: CData,
        tail: int,
        batch: CData,
        opcode: int,
        flags: int,
        fd: int,
        memory: int,
        nbytes: int,
        place: int,
        offsets: CData,
        /,
    ) -> int: ...
    def tu_batch_files(
        self,
        ring: CData,
        tail: int,
        batch: CData,
        dir_fd: int,
        paths: CData,
        slots: CData,
        flags: int,
        memory: int,
        nbytes: int,
        rest: int,
        rest_nbytes: int,
        /,
    ) -> int: ...
    def tu_batch_abandon(self, ring: CData, batch: CData, /) -> None: ...
    def tu_try_one(self, ring: CData, tail: int, user_data: int, /) -> int: ...
    def tu_run_one(self, ring: CData, position: int, /) -> int: ...
    def tu_run_on(self, ring: CData, /) -> int: ...
    def tu_peek_cqes(self, ring: CData, out: CData, count_max: int, /) -> int: ...
    def tu_advance(self, ring: CData, count: int, /) -> int: ...
    def tu_register(self, ring: CData, opcode: int, arg: CData, nr_args: int, /) -> int: ...
    def tu_register_fd(self, fd: int, opcode: int, arg: CData, nr_args: int, /) -> int: ...
    def tu_set_eventfd_muted(self, ring: CData, muted: int, /) -> int: ...
    def tu_expect(self, ring: CData, user_data: int, /) -> int: ...
    def tu_buf_ring_advance(self, buf_ring: CData, count: int, /) -> None: ...
    def tu_buf_ring_give_in_order(
        self, buf_ring: CData, mask: int, returned: CData, base: int, nbytes: int, /
    ) -> int: ...
    def tu_map_buf_ring(self, ring: CData, nbytes: int, group_id: int, /) -> CData: ...
    def tu_map_anonymous(self, nbytes: int, /) -> CData: ...
    def tu_unmap(self, memory: CData, nbytes: int, /) -> None: ...


lib = cast("_Lib", _uring.lib)
ffi = _uring.ffi
NULL: CData = ffi.NULL
_uintptr = ffi.typeof("uintptr_t")


def address_of(pointer: CData) -> int:
    """The address in a cdata pointer, as a number for an SQE."""
    return int(ffi.cast(_uintptr, pointer))


# What _native calls of the core, in the order of its `bind`.
CORE_CALLS = (
    *("tu_try_one", "tu_submit_and_copy", "tu_buf_ring_give_in_order"),
    *("tu_batch_transfers", "tu_batch_abandon"),
)
_addressof: Any = ffi.addressof
_native.bind(*(address_of(_addressof(lib, name)) for name in CORE_CALLS))
