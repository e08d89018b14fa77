# SPDX-License-Identifier: MIT OR Apache-2.0
"""Which slots of a ring's file table are whose.

We hand out the slots ourselves and name them in the SQE. The kernel's own allocation
(``IORING_FILE_INDEX_ALLOC``) notices a full table too late: after the file was created or
truncated, after the connection was taken from the backlog (and then closed). A slot that was
reserved here before the SQE exists cannot fail that way. An explicit slot that holds a file would
be replaced without a word; nothing else hands out slots of this table, so that cannot happen
either.

``[0, manual)`` is for callers who name their slot; the rest is handed out here, the one that has
been free the longest first.
"""

from __future__ import annotations

import errno
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class SlotsExhausted(OSError):
    """Every slot of the file table is taken, and the caller did not want to wait (``ENFILE``)."""

    def __init__(self, slots_max: int) -> None:
        super().__init__(errno.ENFILE, f"all {slots_max} slots of the file table are taken")


class SlotWaiter:
    """A place in the queue for ``count`` slots; ``grant(slots)`` is called once they are there."""

    __slots__ = ("count", "grant")

    def __init__(self, count: int, grant: Callable[[list[int]], None]) -> None:
        self.count = count
        self.grant = grant


class FileTable:
    """The free slots, and who waits for one. Knows nothing of the ring or of Trio."""

    def __init__(self, slots_max: int, slots_manual: int = 0) -> None:
        self.slots_max = slots_max
        self.slots_manual = slots_manual
        self._free = deque(range(slots_manual, slots_max))
        # Of the manual part, those that are taken; of all, those in quarantine.
        self._named: set[int] = set()
        self._quarantined: set[int] = set()
        self._waiters: deque[SlotWaiter] = deque()
        # Called when somebody must wait: for those who hold slots that they can do without.
        self.when_scarce: set[Callable[[], None]] = set()

    @property
    def free_count(self) -> int:
        """Slots that the next caller could have at once."""
        return 0 if self._waiters else len(self._free)

    @property
    def used_count(self) -> int:
        """Slots that are reserved or hold a file; those in quarantine are not counted."""
        outside = sum(slot >= self.slots_manual for slot in self._quarantined)
        handed_out = max(self.slots_max - self.slots_manual, 0) - len(self._free) - outside
        return handed_out + len(self._named)

    @property
    def quarantined_count(self) -> int:
        """Slots that are empty, but still named by an operation in flight."""
        return len(self._quarantined)

    def take(self, count: int) -> list[int] | None:
        """``count`` slots, or None if they are not free or others came first."""
        if count > self.slots_max - self.slots_manual:
            raise SlotsExhausted(self.slots_max)
        if self._waiters or len(self._free) < count:
            return None
        return self._take(count)

    def take_one(self) -> int:
        """One slot, or -1: it is not free or others came first."""
        if self._waiters or not self._free:
            return -1
        return self._free.popleft()

    def _take(self, count: int) -> list[int]:
        return [self._free.popleft() for _ in range(count)]

    def take_manual(self, slot: int) -> None:
        """Reserves the very ``slot``, one of the manual part.

        Raises:
            ValueError: it is not in the manual part.
            OSError: it is taken (``EBUSY``).
        """
        if not 0 <= slot < min(self.slots_manual, self.slots_max):
            raise ValueError(
                f"slot {slot} is handed out by trio_uring; slots_manual={self.slots_manual} "
                "says which can be named"
            )
        if slot in self._named or slot in self._quarantined:
            raise OSError(errno.EBUSY, f"slot {slot} is taken")
        self._named.add(slot)

    def wait(self, count: int, grant: Callable[[list[int]], None]) -> SlotWaiter:
        """Queues for ``count`` slots, behind those who wait already."""
        waiter = SlotWaiter(count, grant)
        self._waiters.append(waiter)
        for yield_slots in self.when_scarce:
            yield_slots()
        return waiter

    def withdraw(self, waiter: SlotWaiter) -> None:
        """Gives up a place in the queue; those behind it may now be served."""
        self._waiters.remove(waiter)
        self._serve()

    def release(self, slot: int) -> None:
        """The slot is empty and no SQE names it any more."""
        if self._quarantined:
            self._quarantined.discard(slot)
        if slot < self.slots_manual:
            self._named.discard(slot)
            return
        self._free.append(slot)
        if self._waiters:
            self._serve()

    def release_all(self, slots: list[int]) -> None:
        """`release` of slots that were taken together; none of the manual part."""
        self._free.extend(slots)
        self._serve()

    def quarantine(self, slot: int) -> None:
        """The slot is empty, but operations in flight name it: `release` comes later."""
        self._named.discard(slot)
        self._quarantined.add(slot)

    def _serve(self) -> None:
        while self._waiters and len(self._free) >= self._waiters[0].count:
            waiter = self._waiters.popleft()
            waiter.grant(self._take(waiter.count))
