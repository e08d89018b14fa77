# SPDX-License-Identifier: MIT OR Apache-2.0
"""What this kernel can do, as far as the handles need to know; asked once per process.

By effect, not by version: distributions back-port. A kernel that does not know direct descriptors
does not refuse them. It opens an ordinary descriptor, and a close of "slot 0" closes descriptor 0.
"""

from __future__ import annotations

import errno
import functools
import os
import socket
from struct import pack

import attrs

from ._abi import CqeFlag, Feature, Op, RecvSendFlag, SetupFlag
from ._errors import RingUnavailableError
from ._ring import Ring
from ._structs import BufferSelection


@attrs.frozen(kw_only=True)
class Capabilities:
    """Answers of the running kernel."""

    ops: frozenset[int]
    """Opcodes that it knows."""
    direct: bool
    """Direct descriptors at all (5.15)."""
    lets_go_late: bool
    """A closed slot's file lives on while an operation on another slot is in flight (to 6.12)."""
    bundles: bool
    """One completion of a receive can bring several provided buffers (6.10)."""
    limits_receives: bool
    """A multishot receive can be told after how many bytes it ends (6.17)."""
    loses_ends: bool
    """A multishot receive may not see the end or the reset behind data (some from 6.16 to 6.18)."""
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
        bundles, limits, loses = _of_receives(ring)
        return Capabilities(
            ops=ops,
            direct=direct,
            lets_go_late=late,
            bundles=bundles,
            limits_receives=limits,
            loses_ends=loses,
        )


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


def _of_receives(ring: Ring) -> tuple[bool, bool, bool]:
    """``bundles``, ``limits_receives``, ``loses_ends``; where sockets are forbidden, none."""
    try:
        if not ring.features & Feature.RECVSEND_BUNDLE or not _receives_bundles(ring, 0):
            return False, False, False
        return True, _receives_bundles(ring, 1), _loses_ends() or _loses_resets()
    except OSError as exc:
        if exc.errno not in (errno.EACCES, errno.EAFNOSUPPORT, errno.EPERM):
            raise
        return False, False, False


def _receives_bundles(ring: Ring, limit: int) -> bool:
    """Whether a multishot receive may take several buffers; what it does not know is EINVAL."""
    ours, theirs = socket.socketpair()
    with ours, theirs, ring.setup_buf_ring(2, 0) as buffers:
        buffers.fill(bytearray(2), 1)
        theirs.send(b"xy")
        sqe = ring.recv_multishot(1, ours.fileno(), BufferSelection(0))
        sqe.ioprio |= RecvSendFlag.BUNDLE
        sqe.optlen = limit
        ring.submit()
        cqe = last = ring.copy_cqe()
        while last.flags & CqeFlag.MORE:  # no buffer is left: that ends it
            last = ring.copy_cqe()
        return cqe.res > 0


def _loses_ends() -> bool:
    """Whether of a byte and an end that were there at the first look only the byte is received."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return _sees_no_end(ours, theirs)


def _loses_resets() -> bool:
    """The same of a byte and a reset, which Linux 6.16 to 6.18 lose on TCP."""
    try:
        ours, theirs = _tcp_pair()
    except OSError:  # no loopback interface here, or one behind a filter
        return False
    with ours, theirs:
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, pack("ii", 1, 0))
        return _sees_no_end(ours, theirs)


def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(1)
        theirs = socket.create_connection(listener.getsockname(), timeout=1)
        try:
            return listener.accept()[0], theirs
        except BaseException:
            theirs.close()
            raise


def _sees_no_end(ours: socket.socket, theirs: socket.socket) -> bool:
    flags = SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN
    with Ring(2, flags) as ring, ring.setup_buf_ring(2, 0) as buffers:
        buffers.fill(bytearray(2), 1)
        ring.recv_multishot(1, ours.fileno(), BufferSelection(0))
        ring.submit()
        theirs.send(b"x")
        theirs.close()
        cqes = [ring.copy_cqe(), *ring.copy_cqes(2)]
        lost = bool(cqes[-1].flags & CqeFlag.MORE)
        if lost:
            ring.cancel(2, 1)
            while ring.in_flight:
                ring.copy_cqe()
        return lost
