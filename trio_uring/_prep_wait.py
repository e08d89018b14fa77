# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prep functions that wait: poll, timeouts, epoll, child processes, futexes."""

from __future__ import annotations

import sys
from struct import error as StructError
from typing import TYPE_CHECKING

from ._abi import Op, PollFlag, TimeoutFlag
from ._prep_entry import fill, pack_transfer, refused

if TYPE_CHECKING:
    from ._sqe import Sqe

__all__ = [
    "prep_epoll_ctl",
    "prep_epoll_wait",
    "prep_futex_wait",
    "prep_futex_waitv",
    "prep_futex_wake",
    "prep_link_timeout",
    "prep_poll_add",
    "prep_poll_multishot",
    "prep_poll_remove",
    "prep_poll_update",
    "prep_timeout",
    "prep_timeout_remove",
    "prep_timeout_update",
    "prep_waitid",
]

_EPOLL_CTL = int(Op.EPOLL_CTL)
_EPOLL_WAIT = int(Op.EPOLL_WAIT)
_FUTEX_WAIT = int(Op.FUTEX_WAIT)
_FUTEX_WAITV = int(Op.FUTEX_WAITV)
_FUTEX_WAKE = int(Op.FUTEX_WAKE)
_LINK_TIMEOUT = int(Op.LINK_TIMEOUT)
_POLL_ADD = int(Op.POLL_ADD)
_POLL_REMOVE = int(Op.POLL_REMOVE)
_TIMEOUT = int(Op.TIMEOUT)
_TIMEOUT_REMOVE = int(Op.TIMEOUT_REMOVE)
_WAITID = int(Op.WAITID)
_POLL_ADD_MULTI = int(PollFlag.ADD_MULTI)
_TIMEOUT_UPDATE = int(TimeoutFlag.UPDATE)
_BIG_ENDIAN = sys.byteorder == "big"

# One line for an operation's own arguments, one for those that all have.
# fmt: off


def poll32_events(poll_mask: int, big_endian: bool = _BIG_ENDIAN) -> int:
    """The field for a mask: its first half is an older 16-bit field, whatever the byte order."""
    return (poll_mask & 0xFFFF) << 16 | poll_mask >> 16 if big_endian else poll_mask


def prep_poll_add(
    sqe: Sqe, fd: int, poll_mask: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Completes once with the events of ``poll_mask`` that happened; poll(2); 5.1."""
    if _BIG_ENDIAN:
        poll_mask = poll32_events(poll_mask)
    try:
        pack_transfer(sqe.memory, sqe.at, _POLL_ADD, sqe_flags, fd, 0, 0, poll_mask, user_data)
    except StructError as error:
        raise refused(sqe, error) from None


def prep_poll_multishot(
    sqe: Sqe, fd: int, poll_mask: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """`prep_poll_add` that completes again and again; 5.13. One completion may tell many events."""
    fill(
        sqe, _POLL_ADD, sqe_flags, user_data, fd=fd, length=_POLL_ADD_MULTI,
        op_flags=poll32_events(poll_mask),
    )


def prep_poll_remove(
    sqe: Sqe, target_user_data: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Ends the poll with ``target_user_data``; 5.1."""
    fill(sqe, _POLL_REMOVE, sqe_flags, user_data, fd=-1, addr=target_user_data)


def prep_poll_update(
    sqe: Sqe, old_user_data: int, new_user_data: int, poll_mask: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Changes what the `PollFlag` bits ``flags`` say of the poll with ``old_user_data``; 5.13."""
    fill(
        sqe, _POLL_REMOVE, sqe_flags, user_data, fd=-1, off=new_user_data, addr=old_user_data,
        length=flags, op_flags=poll32_events(poll_mask),
    )


def prep_timeout(
    sqe: Sqe, timespec_address: int, count: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """ETIME after the time at ``timespec_address``, or 0 after ``count`` completions; 5.4.

    The time is a struct __kernel_timespec: seconds and nanoseconds, 8 bytes each. ``flags`` are
    `TimeoutFlag`.
    """
    fill(
        sqe, _TIMEOUT, sqe_flags, user_data, fd=-1, off=count, addr=timespec_address, length=1,
        op_flags=flags,
    )


def prep_timeout_remove(
    sqe: Sqe, target_user_data: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Ends the timeout with ``target_user_data``; 5.5."""
    fill(sqe, _TIMEOUT_REMOVE, sqe_flags, user_data, fd=-1, addr=target_user_data, op_flags=flags)


def prep_timeout_update(
    sqe: Sqe, timespec_address: int, target_user_data: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """A new time for the timeout with ``target_user_data``; 5.11."""
    fill(
        sqe, _TIMEOUT_REMOVE, sqe_flags, user_data, fd=-1, off=timespec_address,
        addr=target_user_data, op_flags=flags | _TIMEOUT_UPDATE,
    )


def prep_link_timeout(
    sqe: Sqe, timespec_address: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Cancels the entry before it, which is linked to it, when the time is over; 5.5."""
    fill(
        sqe, _LINK_TIMEOUT, sqe_flags, user_data, fd=-1, addr=timespec_address, length=1,
        op_flags=flags,
    )


def prep_epoll_ctl(
    sqe: Sqe, epfd: int, fd: int, op: int, event_address: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """epoll_ctl(2) with the struct epoll_event at ``event_address``; 5.6."""
    fill(sqe, _EPOLL_CTL, sqe_flags, user_data, fd=epfd, off=fd, addr=event_address, length=op)


def prep_epoll_wait(
    sqe: Sqe, fd: int, events_address: int, events_max: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """epoll_wait(2) to ``events_max`` struct epoll_event; 6.15."""
    fill(
        sqe, _EPOLL_WAIT, sqe_flags, user_data, fd=fd, addr=events_address, length=events_max,
        op_flags=flags,
    )


def prep_waitid(
    sqe: Sqe, id_type: int, id: int, infop_address: int, options: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """waitid(2) to the siginfo_t (128 bytes) at ``infop_address``; 6.7. ``flags`` is 0."""
    fill(
        sqe, _WAITID, sqe_flags, user_data, fd=id, off=infop_address, length=id_type,
        op_flags=flags, file_index=options,
    )


def prep_futex_wait(
    sqe: Sqe, futex_address: int, value: int, mask: int, futex_flags: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Waits for a wake of the futex as long as it holds ``value``; futex(2); 6.7.

    ``futex_flags`` are FUTEX2_ ones, `FUTEX2_SIZE_U32` at least; ``flags`` is 0.
    """
    fill(
        sqe, _FUTEX_WAIT, sqe_flags, user_data, fd=futex_flags, off=value, addr=futex_address,
        op_flags=flags, addr3=mask,
    )


def prep_futex_wake(
    sqe: Sqe, futex_address: int, value: int, mask: int, futex_flags: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Wakes up to ``value`` waiters whose mask has a bit of ``mask``; futex(2); 6.7."""
    fill(
        sqe, _FUTEX_WAKE, sqe_flags, user_data, fd=futex_flags, off=value, addr=futex_address,
        op_flags=flags, addr3=mask,
    )


def prep_futex_waitv(
    sqe: Sqe, futexes_address: int, count: int, flags: int,
    user_data: int = 0, sqe_flags: int = 0,
) -> None:
    """Waits for one of ``count`` struct futex_waitv: the result is which; futex_waitv(2); 6.7."""
    fill(
        sqe, _FUTEX_WAITV, sqe_flags, user_data, addr=futexes_address, length=count, op_flags=flags,
    )
