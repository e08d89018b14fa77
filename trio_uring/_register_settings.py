# SPDX-License-Identifier: MIT OR Apache-2.0
"""Settings of a ring: what it may do, whom it tells, who works for it, how it waits."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from ._abi import PROBE_OP_SUPPORTED, NapiTracking, RegisterOp, RestrictionOp
from ._lib import NULL, ffi, lib
from ._register_buffers import RegisteredBuffers
from ._register_files import argument

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._abi import Op, SqeFlag

CPU_MASK_BYTES = 8

# struct io_uring_restriction: opcode, register_op or sqe_op or sqe_flags
RESTRICTION = Struct("=HB13x")
# struct io_uring_probe: last_op, ops_len; then struct io_uring_probe_op: op, flags
PROBE = Struct("=BB14x")
PROBE_OP = Struct("=BxH4x")
PROBE_OPS_MAX = 256
# struct io_uring_napi: busy_poll_to, prefer_busy_poll, opcode, op_param
NAPI = Struct("=IBB2xI4x")
NAPI_REGISTER, NAPI_ADD_ID, NAPI_DEL_ID = 0, 1, 2
# struct io_uring_clock_register: clockid
CLOCK = Struct("=I12x")


class Restriction(NamedTuple):
    """One line of what a ring may do; made by the four methods below."""

    what: RestrictionOp
    value: int

    @classmethod
    def allow_op(cls, op: Op) -> Restriction:
        """Entries with this opcode are accepted; all others fail with EACCES."""
        return cls(RestrictionOp.SQE_OP, op)

    @classmethod
    def allow_register(cls, op: RegisterOp) -> Restriction:
        """This command of io_uring_register(2) is accepted; all others fail with EACCES."""
        return cls(RestrictionOp.REGISTER_OP, op)

    @classmethod
    def allow_flags(cls, flags: SqeFlag) -> Restriction:
        """Entries may have these flags, and no others but the required ones."""
        return cls(RestrictionOp.SQE_FLAGS_ALLOWED, flags)

    @classmethod
    def require_flags(cls, flags: SqeFlag) -> Restriction:
        """Every entry must have these flags."""
        return cls(RestrictionOp.SQE_FLAGS_REQUIRED, flags)


class Probe(NamedTuple):
    """The opcodes that a kernel says it knows. Some fail all the same: try, to be sure."""

    last_op: int
    supported: frozenset[int]


class NapiSettings(NamedTuple):
    """How the waits of a ring poll network devices; ``busy_poll_usec`` 0 is not at all."""

    busy_poll_usec: int
    prefer_busy_poll: bool
    tracking: int


class Settings(RegisteredBuffers):
    """The methods of `Ring` for its settings."""

    # -- eventfd -------------------------------------------------------------------------------

    def register_eventfd(self, fd: int) -> None:
        """Every completion is signalled on this eventfd(2). (5.2)

        A hint only: several completions may give one signal. io_uring_register_eventfd(3).

        Raises:
            OSError: EBUSY, there is one already; EBADF or EINVAL, not an eventfd.
        """
        self._register_fd(RegisterOp.EVENTFD, fd, "io_uring_register(EVENTFD)")

    def register_eventfd_async(self, fd: int) -> None:
        """As `register_eventfd`, but not for what completes while it is submitted. (5.6)

        Completions of sockets may go without a signal.
        """
        self._register_fd(RegisterOp.EVENTFD_ASYNC, fd, "io_uring_register(EVENTFD_ASYNC)")

    def _register_fd(self, opcode: RegisterOp, fd: int, what: str) -> None:
        self._register(opcode, ffi.new("int32_t *", fd), 1, what)

    def unregister_eventfd(self) -> None:
        """No signals any more. (5.2)

        Raises:
            OSError: ENXIO, there is none.
        """
        what = "io_uring_register(UNREGISTER_EVENTFD)"
        self._register(RegisterOp.UNREGISTER_EVENTFD, NULL, 0, what)

    def set_eventfd_muted(self, muted: bool) -> None:
        """Switches the signals off and on without a system call. (CqFlag.EVENTFD_DISABLED, 5.8)"""
        self._check(lib.tu_set_eventfd_muted(self._ring, muted), "set_eventfd_muted")

    # -- what the kernel can, and what the ring may ---------------------------------------------

    def get_probe(self) -> Probe:
        """Which opcodes the kernel knows. (5.6) io_uring_register_probe(3)."""
        arg = ffi.new("char[]", PROBE.size + PROBE_OPS_MAX * PROBE_OP.size)
        self._register(RegisterOp.PROBE, arg, PROBE_OPS_MAX, "io_uring_register(PROBE)")
        answer = bytes(ffi.buffer(arg))
        last_op, count = PROBE.unpack_from(answer)
        ops = PROBE_OP.iter_unpack(answer[PROBE.size : PROBE.size + count * PROBE_OP.size])
        return Probe(last_op, frozenset(op for op, flags in ops if flags & PROBE_OP_SUPPORTED))

    def register_personality(self) -> int:
        """Keeps the caller's credentials; the result goes into ``Sqe.personality``. (5.6)"""
        what = "io_uring_register(PERSONALITY)"
        return self._register(RegisterOp.PERSONALITY, NULL, 0, what)

    def unregister_personality(self, personality: int) -> None:
        """Drops credentials. (5.6)

        Raises:
            OSError: EINVAL, there are none under this number.
        """
        what = "io_uring_register(UNREGISTER_PERSONALITY)"
        self._register(RegisterOp.UNREGISTER_PERSONALITY, NULL, personality, what)

    def register_restrictions(self, restrictions: Iterable[Restriction]) -> None:
        """What this ring may do from `enable_rings` on, for ever. (5.10)

        Only once, on a ring made with ``SetupFlag.R_DISABLED``. Once one `Restriction` is there,
        what none allows is refused. io_uring_register_restrictions(3).

        Raises:
            OSError: EBADFD, the ring is enabled; EBUSY, it has restrictions; EINVAL, a bad one.
        """
        packed = [RESTRICTION.pack(what, value) for what, value in restrictions]
        arg = ffi.new("char[]", b"".join(packed))
        what = "io_uring_register(RESTRICTIONS)"
        self._register(RegisterOp.RESTRICTIONS, arg, len(packed), what)

    def enable_rings(self) -> None:
        """Starts a ring made with ``SetupFlag.R_DISABLED``. (5.10)

        With ``SINGLE_ISSUER`` the calling thread becomes its owner.

        Raises:
            OSError: EBADFD, it is enabled already.
        """
        what = "io_uring_register(ENABLE_RINGS)"
        self._register(RegisterOp.ENABLE_RINGS, NULL, 0, what)
        self._owner = self._issuer()

    # -- workers -------------------------------------------------------------------------------

    def register_iowq_aff(self, cpus: Iterable[int]) -> None:
        """The ring's workers run on these CPUs only. (5.14)"""
        mask = 0
        for cpu in cpus:
            mask |= 1 << cpu
        words = mask.bit_length() // (8 * CPU_MASK_BYTES) + 1
        arg = ffi.new("char[]", mask.to_bytes(words * CPU_MASK_BYTES, "little"))
        what = "io_uring_register(IOWQ_AFF)"
        self._register(RegisterOp.IOWQ_AFF, arg, words * CPU_MASK_BYTES, what)

    def unregister_iowq_aff(self) -> None:
        """The ring's workers run on any CPU. (5.14)"""
        what = "io_uring_register(UNREGISTER_IOWQ_AFF)"
        self._register(RegisterOp.UNREGISTER_IOWQ_AFF, NULL, 0, what)

    def register_iowq_max_workers(self, bounded: int, unbounded: int) -> tuple[int, int]:
        """Limits the workers for files (``bounded``) and for everything else. (5.15)

        0 leaves a limit as it is. They count per NUMA node, and for all rings of a thread. Returns
        both limits as they were.
        """
        limits = ffi.new("uint32_t[2]", [bounded, unbounded])
        what = "io_uring_register(IOWQ_MAX_WORKERS)"
        self._register(RegisterOp.IOWQ_MAX_WORKERS, limits, 2, what)
        return int(limits[0]), int(limits[1])

    # -- waiting -------------------------------------------------------------------------------

    def register_napi(
        self,
        busy_poll_usec: int,
        prefer_busy_poll: bool = False,
        tracking: NapiTracking = NapiTracking.DYNAMIC,
    ) -> NapiSettings:
        """Waits poll the network devices of the ring's sockets first. (6.9; ``tracking`` 6.13)

        Returns the settings as they were. io_uring_register_napi(3).

        Raises:
            OSError: EINVAL, also for a ring with ``IOPOLL`` or a kernel built without it.
        """
        return self._napi(busy_poll_usec, prefer_busy_poll, NAPI_REGISTER, tracking)

    def napi_add_id(self, napi_id: int) -> None:
        """Polls this device queue too, with ``NapiTracking.STATIC``. (6.13)"""
        self._napi(0, False, NAPI_ADD_ID, napi_id)

    def napi_del_id(self, napi_id: int) -> None:
        """Polls this device queue no more. (6.13)"""
        self._napi(0, False, NAPI_DEL_ID, napi_id)

    def _napi(self, usec: int, prefer: bool, what: int, param: int) -> NapiSettings:
        arg = argument(NAPI, usec, prefer, what, param)
        self._register(RegisterOp.NAPI, arg, 1, "io_uring_register(NAPI)")
        before, preferred, _, tracking = NAPI.unpack_from(ffi.buffer(arg))
        return NapiSettings(before, bool(preferred), tracking)

    def unregister_napi(self) -> NapiSettings:
        """Waits poll no devices. Returns the settings as they were. (6.9)"""
        arg = argument(NAPI, 0, 0, 0, 0)
        self._register(RegisterOp.UNREGISTER_NAPI, arg, 1, "io_uring_register(UNREGISTER_NAPI)")
        before, preferred, _, tracking = NAPI.unpack_from(ffi.buffer(arg))
        return NapiSettings(before, bool(preferred), tracking)

    def register_clock(self, clockid: int) -> None:
        """Waits measure their timeout by ``time.CLOCK_MONOTONIC`` or ``CLOCK_BOOTTIME``. (6.12)

        Raises:
            OSError: EINVAL, another clock.
        """
        arg = argument(CLOCK, clockid)
        self._register(RegisterOp.CLOCK, arg, 0, "io_uring_register(CLOCK)")
