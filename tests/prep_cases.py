# SPDX-License-Identifier: MIT OR Apache-2.0
"""One call of each prep function, and the same call in C for liburing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from trio_uring import _prep
from trio_uring._abi import FILE_INDEX_ALLOC
from trio_uring._sqe import SQE_BYTES, Sqe

if TYPE_CHECKING:
    from collections.abc import Callable

# No two are alike, so that an argument in a wrong place shows. The order of bytes shows too.
POINTERS = {"PTR": 0x7F11_2233_4455, "PTR2": 0x7F66_7788_99AA, "PTR3": 0x7FBB_CCDD_EEFF}
NUMBERS = {
    "FD": 1001,
    "FD2": 1002,
    "DIR": 1003,
    "CWD": -100,
    "NBYTES": 0xFEDC_BA98,
    "NBYTES64": 0x0FED_CBA9_8765_4321,
    "OFFSET": 0x0123_4567_89AB_CDEF,
    "HERE": -1,
    "FLAGS": 0x4030_2010,
    "MODE": 0o640,
    "MASK": 0x8000_07FF,
    "VALUE": 0xA5A5_0123_4567_89AB,
    "COUNT": 9,
    "SLOT": 7,
    "ALLOC": FILE_INDEX_ALLOC,
    "TARGET": 0xA1B2_C3D4_E5F6_0718,
    "TARGET2": 0xB1C2_D3E4_F506_1728,
    "BUFFER": 0x1234,
    "GROUP": 0xBEEF,
    "ADVICE": 3,
    "ADDRLEN": 110,
    "ZC_FLAGS": 9,
    "KIND": 11,
    "OPTION": 13,
    "USER_DATA": 0xC0FF_EE01_2345_6789,
    "SQE_FLAGS": 0x14,
}
VALUES = POINTERS | NUMBERS


@dataclass(frozen=True)
class Case:
    """``name`` after "prep_", its arguments, and what liburing calls them."""

    id: str
    prep: Callable[..., None]
    arguments: tuple[str, ...]
    c_function: str | None
    c_call: str

    @property
    def numbers(self) -> list[int]:
        return [VALUES[name] for name in self.arguments]


def case(
    name: str, arguments: str = "", *, c: str | None = None, c_name: str | None = "", tag: str = ""
) -> Case:
    """``c``: the arguments in C, if not the same. ``c_name``: None if liburing has no such one."""
    c_function = None if c_name is None else f"io_uring_prep_{c_name or name}"
    c_arguments = ["&sqe", *(arguments if c is None else c).split()]
    return Case(
        id=name + tag,
        prep=getattr(_prep, f"prep_{name}"),
        arguments=tuple(arguments.split()),
        c_function=c_function,
        c_call=f"{c_function}({', '.join(c_arguments)})",
    )


CASES = [
    case("nop"),
    case("nop128"),
    case("read", "FD PTR NBYTES OFFSET"),
    case("read", "FD PTR NBYTES HERE", tag="-at-position"),
    case("write", "FD PTR NBYTES OFFSET"),
    case("write", "FD PTR NBYTES HERE", tag="-at-position"),
    case("readv", "FD PTR COUNT OFFSET"),
    case("writev", "FD PTR COUNT OFFSET"),
    case("read_fixed", "FD PTR NBYTES OFFSET BUFFER"),
    case("write_fixed", "FD PTR NBYTES OFFSET BUFFER"),
    case("readv_fixed", "FD PTR COUNT OFFSET BUFFER", c="FD PTR COUNT OFFSET 0 BUFFER"),
    case("writev_fixed", "FD PTR COUNT OFFSET BUFFER", c="FD PTR COUNT OFFSET 0 BUFFER"),
    case("read_multishot", "FD NBYTES OFFSET GROUP"),
    case("fsync", "FD FLAGS"),
    case("sync_file_range", "FD NBYTES OFFSET FLAGS"),
    case("fallocate", "FD MODE OFFSET NBYTES64"),
    case("ftruncate", "FD NBYTES64"),
    case("fadvise", "FD OFFSET NBYTES ADVICE"),
    case("fadvise", "FD OFFSET NBYTES64 ADVICE", c_name="fadvise64", tag="-64"),
    case("madvise", "PTR NBYTES ADVICE"),
    case("madvise", "PTR NBYTES64 ADVICE", c_name="madvise64", tag="-64"),
    case("splice", "FD OFFSET FD2 NBYTES64 NBYTES FLAGS"),
    case("splice", "FD HERE FD2 HERE NBYTES FLAGS", tag="-pipes"),
    case("tee", "FD FD2 NBYTES FLAGS"),
    case("pipe", "PTR FLAGS"),
    case("pipe_direct", "PTR FLAGS SLOT"),
    case("pipe_direct", "PTR FLAGS ALLOC", tag="-alloc"),
    case("close", "FD"),
    case("close_direct", "SLOT"),
    case("fixed_fd_install", "SLOT FLAGS"),
    case("cmd_discard", "FD OFFSET NBYTES64"),
    case("openat", "CWD PTR FLAGS MODE"),
    case("openat_direct", "DIR PTR FLAGS MODE SLOT"),
    case("openat_direct", "DIR PTR FLAGS MODE ALLOC", tag="-alloc"),
    case("openat2", "CWD PTR PTR2"),
    case("openat2_direct", "DIR PTR PTR2 SLOT"),
    case("openat2_direct", "DIR PTR PTR2 ALLOC", tag="-alloc"),
    case("statx", "CWD PTR FLAGS MASK PTR2"),
    case("renameat", "DIR PTR FD2 PTR2 FLAGS"),
    case("renameat", "CWD PTR CWD PTR2 FLAGS", tag="-cwd"),
    case("linkat", "DIR PTR FD2 PTR2 FLAGS"),
    case("linkat", "CWD PTR CWD PTR2 FLAGS", tag="-cwd"),
    case("unlinkat", "CWD PTR FLAGS"),
    case("mkdirat", "CWD PTR MODE"),
    case("symlinkat", "PTR CWD PTR2"),
    case("getxattr", "PTR PTR2 PTR3 NBYTES"),
    case("setxattr", "PTR PTR2 PTR3 FLAGS NBYTES"),
    case("fgetxattr", "FD PTR PTR2 NBYTES"),
    case("fsetxattr", "FD PTR PTR2 FLAGS NBYTES"),
    case("accept", "FD PTR PTR2 FLAGS"),
    case("accept_direct", "FD PTR PTR2 FLAGS SLOT"),
    case("accept_direct", "FD PTR PTR2 FLAGS ALLOC", tag="-alloc"),
    case("multishot_accept", "FD PTR PTR2 FLAGS"),
    case("multishot_accept_direct", "FD PTR PTR2 FLAGS"),
    case("connect", "FD PTR ADDRLEN"),
    case("bind", "FD PTR ADDRLEN"),
    case("listen", "FD COUNT"),
    case("listen", "FD HERE", tag="-largest"),
    case("shutdown", "FD COUNT"),
    case("socket", "KIND COUNT OPTION FLAGS"),
    case("socket_direct", "KIND COUNT OPTION FLAGS SLOT", c="KIND COUNT OPTION SLOT FLAGS"),
    case(
        "socket_direct",
        "KIND COUNT OPTION FLAGS ALLOC",
        c="KIND COUNT OPTION ALLOC FLAGS",
        tag="-alloc",
    ),
    case("socket_direct_alloc", "KIND COUNT OPTION FLAGS"),
    case("send", "FD PTR NBYTES FLAGS"),
    case("send_bundle", "FD NBYTES FLAGS"),
    case("sendto", "FD PTR NBYTES FLAGS PTR2 ADDRLEN"),
    case("send_zc", "FD PTR NBYTES FLAGS ZC_FLAGS"),
    case("send_zc_fixed", "FD PTR NBYTES FLAGS ZC_FLAGS BUFFER"),
    case("sendmsg", "FD PTR FLAGS"),
    case("sendmsg_zc", "FD PTR FLAGS"),
    case("sendmsg_zc_fixed", "FD PTR FLAGS BUFFER"),
    case("recv", "FD PTR NBYTES FLAGS"),
    case("recv_multishot", "FD PTR NBYTES FLAGS"),
    case("recvmsg", "FD PTR FLAGS"),
    case("recvmsg_multishot", "FD PTR FLAGS"),
    case("recv_zc", "FD NBYTES COUNT", c_name=None),
    case("cmd_sock", "KIND FD OPTION COUNT PTR ADDRLEN"),
    case("cmd_getsockname", "FD PTR PTR2 COUNT"),
    case("poll_add", "FD MASK"),
    case("poll_multishot", "FD MASK"),
    case("poll_remove", "TARGET"),
    case("poll_update", "TARGET TARGET2 MASK COUNT"),
    case("timeout", "PTR COUNT FLAGS"),
    case("timeout_remove", "TARGET FLAGS"),
    case("timeout_update", "PTR TARGET FLAGS"),
    case("link_timeout", "PTR FLAGS"),
    case("epoll_ctl", "FD FD2 COUNT PTR"),
    case("epoll_wait", "FD PTR COUNT FLAGS"),
    case("waitid", "KIND FD PTR OPTION FLAGS"),
    case("futex_wait", "PTR VALUE TARGET KIND FLAGS"),
    case("futex_wake", "PTR VALUE TARGET KIND FLAGS"),
    case("futex_waitv", "PTR COUNT FLAGS"),
    case("cancel", "TARGET FLAGS", c_name="cancel64"),
    case("cancel_fd", "FD FLAGS"),
    case("files_update", "PTR COUNT SLOT"),
    case("files_update", "PTR COUNT ALLOC", tag="-alloc"),
    case("provide_buffers", "PTR NBYTES COUNT GROUP BUFFER"),
    case("remove_buffers", "COUNT GROUP"),
    case("msg_ring", "FD NBYTES TARGET FLAGS"),
    case("msg_ring_cqe_flags", "FD NBYTES TARGET FLAGS MASK"),
    case("msg_ring_fd", "FD COUNT SLOT TARGET FLAGS"),
    case("msg_ring_fd", "FD COUNT ALLOC TARGET FLAGS", tag="-alloc"),
    case("msg_ring_fd_alloc", "FD COUNT TARGET FLAGS"),
    case("uring_cmd", "NBYTES FD"),
    case("uring_cmd128", "NBYTES FD"),
]

# Where an entry is not the one of liburing: the fields, and why.
DIFFERENCES = {
    "nop": ({"fd"}, "Zig's NOP is all zeros; liburing has -1, and the kernel looks at neither"),
    "nop128": ({"fd"}, "as for NOP"),
}
# Some releases of liburing add 1 to FILE_INDEX_ALLOC too: then the field is 0, "no slot".
ALLOC_WRAPS = ({"file_index"}, "this liburing turns FILE_INDEX_ALLOC into a normal descriptor")

# liburing's prep functions that are not ours.
NOT_OURS = {
    "rw": "what the others are made of",
    "poll_mask": "what the others are made of",
    "cancel": "cancel64 with a pointer",
    "readv2": "readv, then sqe.rw_flags",
    "writev2": "writev, then sqe.rw_flags",
    "send_set_addr": "sendto",
    "open": "openat with AT_FDCWD",
    "open_direct": "openat_direct with AT_FDCWD",
    "unlink": "unlinkat with AT_FDCWD",
    "rename": "renameat with AT_FDCWD",
    "mkdir": "mkdirat with AT_FDCWD",
    "symlink": "symlinkat with AT_FDCWD",
    "link": "linkat with AT_FDCWD",
}


def entry_of(case: Case, stale: int = 0) -> bytes:
    """The entry that ``case`` writes over one whose bytes were all ``stale``."""
    sqe = Sqe(bytearray([stale]) * SQE_BYTES)
    case.prep(sqe, *case.numbers, VALUES["USER_DATA"], VALUES["SQE_FLAGS"])
    return bytes(sqe)
