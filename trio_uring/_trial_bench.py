# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a trial of the kernel works with: rings, descriptors closed after it, waits that end."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import attrs

from ._abi import CqeFlag, Op
from ._ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import TypeAlias

    from ._queue import BigCqe, Cqe

    Run: TypeAlias = "Callable[[Bench], bool]"

WAIT_S = 5.0
SLOTS = 4


@attrs.frozen
class Trial:
    """One behaviour: since which kernel, what it is good for, and how to find out."""

    name: str
    kernel: str
    meaning: str
    run: Run
    needs: tuple[str, ...] = ()
    ops: tuple[Op, ...] = ()


TRIALS: dict[str, Trial] = {}


def trial(kernel: str, meaning: str, *ops: Op, needs: tuple[str, ...] = ()) -> Callable[[Run], Run]:
    """Adds a function to `TRIALS`; it runs if all ``ops`` are known and all ``needs`` hold."""

    def add(run: Run) -> Run:
        name = run.__name__.removeprefix("try_")
        TRIALS[name] = Trial(name, kernel, meaning, run, needs, ops)
        return run

    return add


class Bench:
    """The rings that trials share, and what one trial has to give back at its end."""

    def __init__(self) -> None:
        self._rings = ExitStack()
        self._after_trial = ExitStack()
        self.renew()

    def renew(self) -> None:
        """New rings: an operation of the last trial may still be in flight on the old ones."""
        self.plain = self._rings.enter_context(Ring(8))
        self.idle = self._rings.enter_context(Ring(1))
        self._table: Ring | None = None

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._rings:
            self.tidy_up()

    def table(self) -> Ring:
        """A ring with a file table of empty slots; only where ``direct_descriptors`` holds."""
        if self._table is None:
            self._table = self._rings.enter_context(Ring(8))
            self._table.register_files([-1] * SLOTS)
        return self._table

    def ring_with_table(self) -> Ring:
        """A ring of this trial's own with a file table of empty slots."""
        ring = self.ring(2)
        ring.register_files([-1] * SLOTS)
        return ring

    def owned(self, fd: int) -> int:
        """``fd``, closed after this trial if it is one."""
        if fd >= 0:
            self._after_trial.callback(os.close, fd)
        return fd

    def ring(self, entries: int, flags: int = 0) -> Ring:
        """A ring of this trial's own."""
        return self._after_trial.enter_context(Ring(entries, flags))

    def new_socket(self, family: int, kind: int) -> socket.socket:
        """A new socket of this trial."""
        return self._after_trial.enter_context(socket.socket(family, kind))

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Two connected sockets; a byte waits in the first."""
        pair = socket.socketpair()
        for one in pair:
            self._after_trial.enter_context(one)
        pair[1].send(b"x")
        return pair

    def listener(self, *, clients: int) -> int:
        """A listening socket with that many connections to be accepted."""
        listener = self.new_socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind("")
        listener.listen()
        for _ in range(clients):
            self.new_socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(listener.getsockname())
        return listener.fileno()

    def tidy_up(self) -> None:
        """Closes what this trial used and empties the table."""
        self._after_trial.close()
        if self._table is not None:
            self._table.register_files_update(0, [-1] * SLOTS)


def wait(ring: Ring) -> Cqe | BigCqe:
    """The next completion.

    Raises:
        TimeoutError: there was none in `WAIT_S`.
    """
    cqes = ring.copy_cqes(1, 1, WAIT_S)
    if not cqes:
        raise TimeoutError(f"no completion in {WAIT_S:.0f} s")
    return cqes[0]


def first(ring: Ring) -> Cqe | BigCqe:
    """The first completion of what was prepared."""
    ring.submit()
    return wait(ring)


def result(ring: Ring) -> int:
    """The result of the one operation that was prepared."""
    return first(ring).res


def is_multishot(ring: Ring, user_data: int) -> tuple[bool, int]:
    """Whether the operation that was prepared is multishot, and its first result; ends it."""
    cqe = first(ring)
    more = bool(cqe.flags & CqeFlag.MORE)
    if more:
        ring.cancel(user_data + 1, user_data, 0)
        ring.submit()
        ended = 0
        while ended < 2:
            ended += not wait(ring).flags & CqeFlag.MORE
    return more, cqe.res


def knows(code: int) -> bool:
    """Whether a result is that of a kernel that knows what it was asked."""
    return code not in (-errno.EINVAL, -errno.EOPNOTSUPP)


def can(call: Callable[[], object], *refusals: int) -> bool:
    """Whether the kernel does what ``call`` asks by io_uring_setup(2) or io_uring_register(2).

    Errors in ``refusals`` come from kernels that know the command.
    """
    try:
        call()
    except OSError as error:
        if error.errno in refusals:
            return True
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF):
            return False
        raise
    return True
