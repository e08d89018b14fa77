# SPDX-License-Identifier: MIT OR Apache-2.0
"""What this kernel can do, as far as the handles need to know; asked once per process.

By effect, not by version: distributions back-port. A kernel that does not know direct descriptors
does not refuse them. It opens an ordinary descriptor, and a close of "slot 0" closes descriptor 0.
"""

from __future__ import annotations

import errno
import functools
import os

import attrs

from ._abi import Op
from ._errors import RingUnavailableError
from ._ring import Ring


@attrs.frozen(kw_only=True)
class Capabilities:
    """Answers of the running kernel."""

    ops: frozenset[int]
    """Opcodes that it knows."""
    direct: bool
    """Direct descriptors at all (5.15)."""
    lets_go_late: bool
    """A closed slot's file lives on while an operation on another slot is in flight (to 6.12)."""
    install: bool = attrs.field(
        init=False,
        default=attrs.Factory(lambda self: Op.FIXED_FD_INSTALL in self.ops, takes_self=True),
    )
    """A slot can become an ordinary descriptor (6.8): whatever a slot cannot do, that can.

    Without it the files of handles are in ordinary descriptors, and slots are only counted.
    """


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of this kernel.

    Raises:
        RingUnavailableError: io_uring cannot be used.
    """
    with Ring(2) as ring:
        direct = _knows_direct_descriptors(ring)
        ops = frozenset(ring.get_probe().supported)
        late = direct and _lets_go_late(ring)
        return Capabilities(ops=ops, direct=direct, lets_go_late=late)


def _knows_direct_descriptors(ring: Ring) -> bool:
    """There is no table: who reads file_index answers ENXIO, who ignores it opens a file."""
    ring.openat_direct(1, -100, "/dev/null", os.O_RDONLY, 0, 0)
    ring.submit_and_wait(1)
    result = ring.copy_cqe().res
    if result >= 0:
        os.close(result)
    return result == -errno.ENXIO


def require_direct_descriptors() -> None:
    """Raises `RingUnavailableError` on a kernel without direct descriptors."""
    if not capabilities().direct:
        raise RingUnavailableError(
            errno.EOPNOTSUPP,
            f"Linux {os.uname().release} has no direct descriptors",
            "They need Linux 5.15 or newer.",
        )


def _lets_go_late(ring: Ring) -> bool:
    """Whether emptying a slot with an end of a pipe goes unnoticed while another slot is read."""
    ends = [*os.pipe2(os.O_CLOEXEC), *os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)]
    try:
        ring.register_files([ends[0], ends[3]])
        os.close(ends.pop())
        ring.read(1, 0, bytearray(1), 0).use_registered_fd()
        ring.submit()
        ring.register_files_update(1, [-1])
        try:
            late = os.read(ends[2], 1) != b""
        except BlockingIOError:
            late = True
        os.write(ends[1], b"x")  # ends the read
        ring.copy_cqe()
        return late
    finally:
        for end in ends:
            os.close(end)
