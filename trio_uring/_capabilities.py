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

    @property
    def install(self) -> bool:
        """A slot can become an ordinary descriptor (6.8).

        Without it every handle has a companion: an ordinary descriptor of the same file, for what
        cannot be done on a slot.
        """
        return Op.FIXED_FD_INSTALL in self.ops


@functools.cache
def capabilities() -> Capabilities:
    """The capabilities of this kernel.

    Raises:
        RingUnavailableError: io_uring cannot be used.
    """
    with Ring(2) as ring:
        direct = _knows_direct_descriptors(ring)
        return Capabilities(ops=frozenset(ring.get_probe().supported), direct=direct)


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
