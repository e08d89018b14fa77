# SPDX-License-Identifier: MIT OR Apache-2.0
"""The commands of io_uring_register(2) that need no ring."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ._abi import Op, QueryOp, RegisterOp
from ._errors import check
from ._lib import address_of, ffi, lib
from ._queue import expect_message
from ._sqe import SQE_BYTES, WHOLE

if TYPE_CHECKING:
    from ._lib import CData

# struct io_uring_query_hdr: next_entry, query_data, query_op, size, result
QUERY_HEADER = Struct("=QQIIi12x")


class OpcodesAnswer(NamedTuple):
    """``QueryOp.OPCODES``: how many of each the kernel knows, and which flags, as bits."""

    nr_request_opcodes: int
    nr_register_opcodes: int
    feature_flags: int
    ring_setup_flags: int
    enter_flags: int
    sqe_flags: int
    nr_query_opcodes: int


class ZcrxAnswer(NamedTuple):
    """``QueryOp.ZCRX``: flags as bits, sizes in bytes."""

    register_flags: int
    area_flags: int
    nr_ctrl_opcodes: int
    features: int
    rq_hdr_size: int
    rq_hdr_alignment: int


class ScqAnswer(NamedTuple):
    """``QueryOp.SCQ``: the header of the mapped rings, in bytes."""

    hdr_size: int
    hdr_alignment: int


class ZcrxEventAnswer(NamedTuple):
    """``QueryOp.ZCRX_EVENT``: flags as bits, sizes in bytes."""

    event_flags: int
    stats_size: int
    stats_off_alignment: int


QueryAnswer = OpcodesAnswer | ZcrxAnswer | ScqAnswer | ZcrxEventAnswer

_LAYOUTS: dict[QueryOp, tuple[Struct, type[QueryAnswer]]] = {
    QueryOp.OPCODES: (Struct("=IIQQQQI4x"), OpcodesAnswer),
    QueryOp.ZCRX: (Struct("=QQIIII8x"), ZcrxAnswer),
    QueryOp.SCQ: (Struct("=QQ"), ScqAnswer),
    QueryOp.ZCRX_EVENT: (Struct("=III36x"), ZcrxEventAnswer),
}


def _register_without_ring(opcode: RegisterOp, arg: CData, count: int) -> int:
    what = f"io_uring_register({opcode.name})"
    return check(lib.tu_register_fd(-1, opcode, arg, count), what)


def query(op: QueryOp) -> QueryAnswer:
    """Asks the kernel about io_uring, without a ring. (6.18) io_uring_register_query(3).

    Raises:
        OSError: EINVAL, the kernel has no queries; EOPNOTSUPP, not this one. Kernels of before 5.13
            say EBADF.
    """
    layout, answer = _LAYOUTS[QueryOp(op)]
    data = ffi.new("char[]", layout.size)
    header = QUERY_HEADER.pack(0, address_of(data), op, layout.size, 0)
    arg = ffi.new("char[]", header)
    _register_without_ring(RegisterOp.QUERY, arg, 0)
    check(QUERY_HEADER.unpack_from(ffi.buffer(arg))[4], f"io_uring_register(QUERY {op.name})")
    return answer._make(layout.unpack_from(ffi.buffer(data)))


def send_msg_ring(target_fd: int, length: int, data: int) -> None:
    """Posts a completion to another ring, without one of one's own. (6.13)

    There ``data`` is its user_data and ``length`` its result, as from ``Ring.msg_ring``.

    Raises:
        OSError: EBADFD, not a ring, or one that is not enabled; EINVAL, the kernel lacks it.
    """
    expect_message(target_fd, data)
    sqe = WHOLE.pack(Op.MSG_RING, 0, 0, target_fd, data, 0, length, 0, 0, 0, 0, 0, 0, 0)
    arg = ffi.new(f"char[{SQE_BYTES}]", sqe)
    _register_without_ring(RegisterOp.SEND_MSG_RING, arg, 1)
