# SPDX-License-Identifier: MIT OR Apache-2.0
"""The ring as the engine uses it: one C call per pass of the loop, completions as plain tuples."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from ._abi import EnterFlag, SetupFlag, SqFlag
from ._lib import NULL, address_of, lib
from ._native import OfQueue, Queue
from ._queue import U32
from ._ring import Ring
from ._unavailable import unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from typing_extensions import Self

    from ._sqe import Sqe

# Tried in this order; EINVAL means that the kernel knows fewer. DEFER_TASKRUN: completions are
# worked off when we enter, not whenever they come. TASKRUN_FLAG: the kernel says when there are
# some. SUBMIT_ALL: one bad SQE does not hold up those behind it.
_BASE = SetupFlag.TASKRUN_FLAG | SetupFlag.SUBMIT_ALL
SETUP_LADDER = (
    _BASE | SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN | SetupFlag.NO_SQARRAY,
    _BASE | SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN,
    _BASE | SetupFlag.COOP_TASKRUN,
    SetupFlag(0),
)


# Of io_uring_register(2): answered with EINVAL, unless something refuses the call itself.
_NO_OPCODE = 0x7FFF


class EngineRing(Ring):
    """A ring whose operations are accounted for by an engine, not by pins."""

    # What the engine's C code moves, too.
    _tail = OfQueue("tail")
    _limit = OfQueue("limit")
    _mask = OfQueue("mask")

    # Called in a forked child: descriptors of handles must not live on there.
    on_fork: Callable[[], None] | None = None
    # Called when an entry is asked for and there seems to be no room.
    on_use: Callable[[], None] | None = None

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        self._queue = Queue()
        super().__init__(entries, flags, **params)

    @classmethod
    def make(cls, sq_entries: int, cq_entries: int) -> EngineRing:
        """A ring with the best flags that the kernel knows."""
        for flags in SETUP_LADDER:
            try:
                ring = cls(sq_entries, flags, cq_entries=cq_entries)
            except OSError as exc:
                if exc.errno != errno.EINVAL or not flags:
                    raise
            else:
                return ring._checked()
        raise AssertionError("unreachable")

    def _checked(self) -> Self:
        """Itself, if it may be entered: a filter may permit io_uring_setup(2) and nothing else."""
        codes = (
            lib.tu_enter(self._ring, 0, 0, 0, -1),
            lib.tu_register(self._ring, _NO_OPCODE, NULL, 0),
        )
        for code in codes:
            if code in (-errno.EPERM, -errno.EACCES, -errno.ENOSYS):
                self.close(timeout=0)
                raise unavailable(code)
        return self

    def _abandon_in_child(self) -> None:
        super()._abandon_in_child()
        if self.on_fork is not None:
            self.on_fork()

    def _adopt_memory(self) -> None:
        super()._adopt_memory()
        ring = self._ring
        self._queue.attach(address_of(ring), address_of(ring.sqes), self._entries)

    def _kill_entries(self) -> None:
        self._queue.detach()
        super()._kill_entries()

    def _keep_until_idle(self, pins: object) -> None:
        """Nothing: the records of the engine hold what their operations use."""

    def _make_room(self) -> None:
        if self.on_use is not None:
            self.on_use()
        super()._make_room()

    def hold(self, name: str, obj: object) -> None:
        """KERNEL OWNS memory of ``obj`` while anything is in flight; kept past close if need be."""
        self._held[name] = obj

    @property
    def tail(self) -> int:
        """Position of the next SQE; a free-running u32."""
        return self._tail

    def entry(self, position: int) -> Sqe:
        """The SQE at a position that was not submitted yet."""
        return self._entries[position & self._mask]

    def turn(self, wait_nr: int, timeout_ns: int) -> int:
        """Submits, waits and copies completions, with one system call at the most.

        Returns how many completions `turned` has, or a negative errno.
        """
        return lib.tu_submit_and_copy(
            self._ring, self._tail, wait_nr, timeout_ns, self._copied, self._copy_max
        )

    def submit_now(self) -> int:
        """Submits without waiting or taking completions; the number, or a negative errno."""
        return lib.tu_submit(self._ring, self._tail, 0)

    def work_off(self) -> int:
        """Submits, and enters so that the kernel works off what it has deferred; else as `turn`."""
        pending = lib.tu_flush(self._ring, self._tail)
        if pending < 0:
            return pending
        rc = lib.tu_enter(self._ring, pending, 0, EnterFlag.GETEVENTS, -1)
        # Also after an error: EBUSY goes away when completions are taken.
        count = lib.tu_copy_cqes(self._ring, self._copied, self._copy_max, 0, -1)
        return count or min(rc, 0)

    def turned(self, count: int) -> list[tuple[int, int, int]]:
        """The completions of the last turn: user_data, res, flags."""
        if count <= 0:
            return []
        if count == 1:
            return [self._cqe_struct.unpack_from(self._copied_view)]
        return list(self._cqe_struct.iter_unpack(self._copied_view[: count * 16]))

    def has_completions(self) -> bool:
        """The next `turn` will find completions, or at least deferred work."""
        flags = lib.tu_counter(self._ring, lib.TU_SQ_FLAGS)
        return bool(flags & (SqFlag.CQ_OVERFLOW | SqFlag.TASKRUN)) or self.cq_ready() > 0

    def is_full(self) -> bool:
        """No SQE is free."""
        return (self._tail - lib.tu_counter(self._ring, lib.TU_SQ_HEAD)) & U32 >= self._mask + 1

    @property
    def enters(self) -> int:
        """``io_uring_enter`` calls so far, modulo 2**32."""
        return int(self._ring.entered)

    def check(self, code: int, what: str) -> int:
        """Raises what a negative errno means."""
        return self._check(code, what)
