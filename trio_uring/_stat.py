# SPDX-License-Identifier: MIT OR Apache-2.0
"""`os.stat_result` out of a struct statx, statx(2)."""

from __future__ import annotations

import os
from struct import Struct
from typing import Any

from ._lib import ffi

STATX_BYTES = 256
STATX_BASIC_STATS = 0x7FF
# blksize nlink uid gid mode ino size blocks; seconds and nanoseconds of atime, ctime, mtime; major
# and minor of rdev and dev. Between atime and ctime is btime.
_STATX = Struct("=4xI8xIIIH2xQQQ8xqI4x16xqI4xqI4xIIII")
_unpack = _STATX.unpack_from
_SECOND_NS = 1_000_000_000


def stat_result(memory: Any, at: int = 0) -> os.stat_result:
    """The status of a file; ``memory`` holds a struct statx at byte ``at``."""
    (
        blksize, nlink, uid, gid, mode, ino, size, blocks,
        atime, atime_ns, ctime, ctime_ns, mtime, mtime_ns,
        rdev_major, rdev_minor, dev_major, dev_minor,
    ) = _unpack(ffi.buffer(memory), at)  # fmt: skip
    # In this order: the ten of the tuple, then those that only have names.
    return os.stat_result(
        (
            *(mode, ino, os.makedev(dev_major, dev_minor), nlink, uid, gid, size),
            *(atime, mtime, ctime),
            *(atime + 1e-9 * atime_ns, mtime + 1e-9 * mtime_ns, ctime + 1e-9 * ctime_ns),
            atime * _SECOND_NS + atime_ns,
            mtime * _SECOND_NS + mtime_ns,
            ctime * _SECOND_NS + ctime_ns,
            *(blksize, blocks, os.makedev(rdev_major, rdev_minor)),
        )
    )
