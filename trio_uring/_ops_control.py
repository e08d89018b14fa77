# SPDX-License-Identifier: MIT OR Apache-2.0
"""Operations about other operations, rings, tables and waits.

The result of every operation is a negative errno if it failed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from . import _prep as prep
from ._abi import FILE_INDEX_ALLOC, FUTEX2_SIZE_U32, PollFlag, SetupFlag, TimeoutFlag
from ._buffers import writable
from ._ops_common import Operations
from ._prep import prep_nop
from ._queue import expect_message
from ._sqe import Sqe
from ._structs import NS_PER_S, Timespec, futex_waiters, futex_word, int_array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from typing_extensions import Buffer

    from ._buffers import Pin, PinnedBuffer, ReadableBuffer, WritableBuffer
    from ._ops_common import Integers
    from ._structs import EpollEvent, EpollEvents, FutexWaiter, Seconds, Siginfo

# The command's own bytes are at the end of an entry.
_COMMAND_AT = 48

# An entry of zeroes.
_NOP = Sqe()


class ControlOperations(Operations):
    """The part of `Ring` that works on operations, rings, tables and waits."""

    def nop(self, user_data: int) -> Sqe:
        """Completes at once (5.1). Result: 0."""
        tail = self._tail
        try:
            sqe = self.get_sqe()
            prep_nop(sqe, user_data)
            return sqe
        except BaseException:
            self._tail = tail
            raise

    def nop_many(self, user_data: Integers) -> None:
        """A `nop` for each of ``user_data``; fastest with an ``array.array('Q')``.

        Raises:
            SubmissionQueueFull: not all fit; none was prepared.
        """
        self._fill_many(_NOP, user_data, {}, None)

    def nop128(self, user_data: int) -> Sqe:
        """A NOP in an entry of 128 bytes (6.19): see `get_sqe128`."""
        return self._fill128((), prep.prep_nop128, user_data)

    # -- poll ----------------------------------------------------------------------------------

    def poll_add(self, user_data: int, fd: int, poll_mask: int) -> Sqe:
        """Waits once for events of ``poll_mask``, as ``poll(2)`` (5.1). Result: what happened."""
        return self._fill((), prep.prep_poll_add, fd, poll_mask, user_data)

    def poll_multishot(self, user_data: int, fd: int, poll_mask: int) -> Sqe:
        """`poll_add` that completes again and again, with ``CqeFlag.MORE`` (5.13).

        One completion may stand for several events: do all there is to do each time.
        """
        return self._fill((), prep.prep_poll_multishot, fd, poll_mask, user_data)

    def poll_remove(self, user_data: int, target_user_data: int) -> Sqe:
        """Ends the poll ``target_user_data`` (5.1), which completes with ECANCELED."""
        return self._fill((), prep.prep_poll_remove, target_user_data, user_data)

    def poll_update(
        self, user_data: int, old_user_data: int, new_user_data: int, poll_mask: int, flags: int
    ) -> Sqe:
        """Changes the poll ``old_user_data`` as the `PollFlag` bits in ``flags`` say (5.13)."""
        if flags & PollFlag.UPDATE_USER_DATA:
            # The final CQE comes with the new number, which no operation was submitted with, and
            # none comes with the old one.
            self._foreign.add(new_user_data)
            self._ring.ledger.silent += 1
        return self._fill(
            (),
            prep.prep_poll_update,
            old_user_data,
            new_user_data,
            poll_mask,
            flags,
            user_data,
        )

    # -- time ----------------------------------------------------------------------------------

    def timeout(self, user_data: int, ts: Seconds, count: int = 0, flags: int = 0) -> Sqe:
        """ETIME after ``ts``, or 0 after ``count`` other completions if that is sooner (5.4).

        ``ts`` is in seconds or a `Timespec`; ``flags`` are `TimeoutFlag` bits.
        """
        pins, address = _time(ts, flags)
        return self._fill(pins, prep.prep_timeout, address, count, flags, user_data)

    def timeout_remove(self, user_data: int, timeout_user_data: int, flags: int = 0) -> Sqe:
        """Ends a timeout (5.5), which completes with ECANCELED. Result: 0, ENOENT or EBUSY."""
        return self._fill((), prep.prep_timeout_remove, timeout_user_data, flags, user_data)

    def timeout_update(
        self, user_data: int, ts: Seconds, timeout_user_data: int, flags: int = 0
    ) -> Sqe:
        """A new time for a timeout (5.11); with ``TimeoutFlag.LINK_UPDATE`` for a linked one."""
        pins, address = _time(ts, flags)
        return self._fill(
            pins, prep.prep_timeout_update, address, timeout_user_data, flags, user_data
        )

    def link_timeout(self, user_data: int, ts: Seconds, flags: int = 0) -> Sqe:
        """Cancels the entry before it, which is linked to it, after ``ts`` (5.5).

        Result: ETIME, or ECANCELED if the operation was faster. The order of both is not fixed.
        """
        pins, address = _time(ts, flags)
        return self._fill(pins, prep.prep_link_timeout, address, flags, user_data)

    # -- cancel --------------------------------------------------------------------------------

    def cancel(self, user_data: int, cancel_user_data: int, flags: int = 0) -> Sqe:
        """Asks the operation ``cancel_user_data`` to end (5.5); `CancelFlag` for others (5.19).

        Result: 0, ENOENT, or EALREADY; with ``CancelFlag.ALL`` how many. Whether an operation was
        cancelled only its own final completion tells.
        """
        return self._fill((), prep.prep_cancel, cancel_user_data, flags, user_data)

    def cancel_fd(self, user_data: int, fd: int, flags: int = 0) -> Sqe:
        """Asks an operation on a file to end (5.19); a slot with ``CancelFlag.FD_FIXED`` (6.0)."""
        return self._fill((), prep.prep_cancel_fd, fd, flags, user_data)

    # -- provided buffers, files ---------------------------------------------------------------

    def provide_buffers(
        self,
        user_data: int,
        buffers: WritableBuffer,
        buffer_size: int,
        buffers_count: int,
        group_id: int,
        buffer_id: int = 0,
    ) -> Sqe:
        """Gives ``buffers``, ``buffers_count`` of ``buffer_size`` bytes, to a group (5.7).

        They are numbered from ``buffer_id``. The memory stays lent until the ring closes.

        Raises:
            ValueError: ``buffers`` is too short.
        """
        pin, address, nbytes = writable(buffers)
        if buffer_size < 0 or buffers_count < 0 or buffer_size * buffers_count > nbytes:
            raise ValueError(
                f"{buffers_count} buffers of {buffer_size} bytes do not fit in {nbytes} bytes"
            )
        # KERNEL OWNS the memory until an operation has used each buffer or a REMOVE_BUFFERS has
        # taken it back, long after this operation has completed: the ring holds it to its end.
        self._held[f"buffers of group {group_id} at {address:#x}"] = pin
        return self._fill(
            (pin,),
            prep.prep_provide_buffers,
            address,
            buffer_size,
            buffers_count,
            group_id,
            buffer_id,
            user_data,
        )

    def remove_buffers(self, user_data: int, buffers_count: int, group_id: int) -> Sqe:
        """Takes buffers back that a group still has (5.7). Result: how many."""
        return self._fill((), prep.prep_remove_buffers, buffers_count, group_id, user_data)

    def files_update(self, user_data: int, fds: Buffer | Iterable[int], offset: int) -> Sqe:
        """Puts files into slots from ``offset`` (5.6): -1 empties a slot, `FILES_SKIP` leaves it.

        With `FILE_INDEX_ALLOC` into free slots, whose numbers replace the descriptors in ``fds``,
        an ``array.array("i")`` (6.0). Result: how many were done.
        """
        pin, address, count = int_array(fds, in_place=offset == FILE_INDEX_ALLOC)
        return self._fill((pin,), prep.prep_files_update, address, count, offset, user_data)

    # -- other rings ---------------------------------------------------------------------------

    def msg_ring(self, user_data: int, fd: int, length: int, data: int, flags: int = 0) -> Sqe:
        """A completion for the ring ``fd``: user_data ``data``, result ``length`` (5.18)."""
        expect_message(fd, data)
        return self._fill((), prep.prep_msg_ring, fd, length, data, flags, user_data)

    def msg_ring_cqe_flags(
        self, user_data: int, fd: int, length: int, data: int, flags: int, cqe_flags: int
    ) -> Sqe:
        """`msg_ring` with the flags of that completion (6.3)."""
        expect_message(fd, data)
        return self._fill(
            (), prep.prep_msg_ring_cqe_flags, fd, length, data, flags, cqe_flags, user_data
        )

    def msg_ring_fd(
        self, user_data: int, fd: int, source_fd: int, target_fd: int, data: int, flags: int = 0
    ) -> Sqe:
        """Copies the file in slot ``source_fd`` to slot ``target_fd`` of the ring ``fd`` (6.0).

        That ring gets a completion with user_data ``data``. A file in the slot is replaced.
        """
        expect_message(fd, data)
        return self._fill(
            (), prep.prep_msg_ring_fd, fd, source_fd, target_fd, data, flags, user_data
        )

    def msg_ring_fd_alloc(
        self, user_data: int, fd: int, source_fd: int, data: int, flags: int = 0
    ) -> Sqe:
        """`msg_ring_fd` into a slot that the kernel chooses, the result over there."""
        expect_message(fd, data)
        return self._fill((), prep.prep_msg_ring_fd_alloc, fd, source_fd, data, flags, user_data)

    # -- other waits ---------------------------------------------------------------------------

    def epoll_ctl(
        self, user_data: int, epfd: int, fd: int, op: int, ev: EpollEvent | None = None
    ) -> Sqe:
        """``epoll_ctl(2)`` (5.6) of normal descriptors only; ``op`` is an `EpollOp`."""
        if ev is None:
            return self._fill((), prep.prep_epoll_ctl, epfd, fd, op, 0, user_data)
        pin, address = ev.memory()
        return self._fill((pin,), prep.prep_epoll_ctl, epfd, fd, op, address, user_data)

    def epoll_wait(self, user_data: int, epfd: int, events: EpollEvents, flags: int = 0) -> Sqe:
        """``epoll_wait(2)`` into ``events`` (6.15). Result: how many came."""
        return self._fill(
            (events.memory,),
            prep.prep_epoll_wait,
            epfd,
            events.pointer,
            events.max_events,
            flags,
            user_data,
        )

    def waitid(
        self,
        user_data: int,
        id_type: int,
        id: int,
        infop: Siginfo | None,
        options: int,
        flags: int = 0,
    ) -> Sqe:
        """``waitid(2)`` (6.7): waits for a child, and tells of it in ``infop``."""
        pins, address = ((), 0) if infop is None else ((infop.memory,), infop.pointer)
        return self._fill(pins, prep.prep_waitid, id_type, id, address, options, flags, user_data)

    def futex_wait(
        self,
        user_data: int,
        futex: ReadableBuffer,
        val: int,
        mask: int,
        futex_flags: int = FUTEX2_SIZE_U32,
        flags: int = 0,
    ) -> Sqe:
        """Waits for a wake of ``futex``, 4 bytes, while it has the value ``val`` (6.7); futex(2).

        Result: 0, or EAGAIN if it has another value. ``mask`` is not 0.
        """
        pin, address = futex_word(futex)
        return self._fill(
            (pin,), prep.prep_futex_wait, address, val, mask, futex_flags, flags, user_data
        )

    def futex_wake(
        self,
        user_data: int,
        futex: ReadableBuffer,
        val: int,
        mask: int,
        futex_flags: int = FUTEX2_SIZE_U32,
        flags: int = 0,
    ) -> Sqe:
        """Wakes up to ``val`` waiters with a bit of ``mask`` (6.7); futex(2). Result: how many."""
        pin, address = futex_word(futex)
        return self._fill(
            (pin,), prep.prep_futex_wake, address, val, mask, futex_flags, flags, user_data
        )

    def futex_waitv(self, user_data: int, futexes: Sequence[FutexWaiter], flags: int = 0) -> Sqe:
        """Waits for a wake of any of them (6.7); futex(2). Result: the index of the woken one."""
        pins, address = futex_waiters(futexes)
        return self._fill(pins, prep.prep_futex_waitv, address, len(futexes), flags, user_data)

    # -- commands ------------------------------------------------------------------------------

    def uring_cmd(
        self,
        user_data: int,
        cmd_op: int,
        fd: int,
        command: bytes = b"",
        buffers: Iterable[PinnedBuffer] = (),
    ) -> Sqe:
        """A command that the driver of ``fd`` knows (5.19).

        ``command`` is up to 16 bytes, or 80 on a ring with ``SQE128``. ``buffers`` are those whose
        addresses are in it: they are kept until the final completion.

        Raises:
            ValueError: ``command`` is too long.
        """
        room = 80 if self.flags & SetupFlag.SQE128 else 16
        pins = tuple(buffer.export for buffer in buffers)
        return self._fill(
            pins, _prep_command, prep.prep_uring_cmd, room, cmd_op, fd, command, user_data
        )

    def uring_cmd128(
        self,
        user_data: int,
        cmd_op: int,
        fd: int,
        command: bytes = b"",
        buffers: Iterable[PinnedBuffer] = (),
    ) -> Sqe:
        """`uring_cmd` with up to 80 bytes, in an entry of 128 bytes (6.19): see `get_sqe128`."""
        pins = tuple(buffer.export for buffer in buffers)
        return self._fill128(
            pins, _prep_command, prep.prep_uring_cmd128, 80, cmd_op, fd, command, user_data
        )


def _prep_command(
    sqe: Sqe,
    prep_command: Callable[[Sqe, int, int, int], None],
    room: int,
    cmd_op: int,
    fd: int,
    command: bytes,
    user_data: int,
) -> None:
    if len(command) > room:
        raise ValueError(f"a command has at most {room} bytes here, not {len(command)}")
    prep_command(sqe, cmd_op, fd, user_data)
    at = sqe.at + _COMMAND_AT
    sqe.memory[at : at + room] = command.ljust(room, b"\0")


def _time(ts: Seconds, flags: int) -> tuple[tuple[Pin, ...], int]:
    """A time as an operation has it: what it borrows, and the field."""
    time = Timespec.of(ts)
    if flags & TimeoutFlag.IMMEDIATE_ARG:
        return (), time.sec * NS_PER_S + time.nsec
    pin, address = time.memory()
    return (pin,), address
