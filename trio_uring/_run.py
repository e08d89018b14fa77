# SPDX-License-Identifier: MIT OR Apache-2.0
"""`trio.run` and `trio.lowlevel.start_guest_run` with the ring in the loop from the first pass."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, TypeVar

import trio

from ._current import adopt
from ._engine_ring import EngineRing
from ._errors import RingUnavailableError
from ._options import RingOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from outcome import Outcome
    from typing_extensions import TypeVarTuple, Unpack

    PosArgT = TypeVarTuple("PosArgT")

RetT = TypeVar("RetT")


class RingInstrument(trio.abc.Instrument):
    """Puts a ring into the loop of the run that it is given to, before its first pass.

    For those who call `trio.run` themselves: ``trio.run(main, instruments=[RingInstrument()])``.
    Made in the thread of the run, and used once.

    Raises:
        RingUnavailableError: io_uring cannot be used here.
    """

    def __init__(self, ring: RingOptions | None = None) -> None:
        if ring is not None and not isinstance(ring, RingOptions):
            raise TypeError(f"ring must be RingOptions, not {ring!r}")
        self._options = ring or RingOptions()
        # Made here, where an error reaches the caller: Trio only logs what an instrument raises.
        self._ring: EngineRing | None = EngineRing.make(
            self._options.sq_entries, self._options.cq_entries
        )

    def before_run(self) -> None:
        """Trio's word that the run begins."""
        ring, self._ring = self._ring, None
        if ring is None:
            raise RuntimeError("a RingInstrument is for one run")
        try:
            adopt(self._options, ring)
        except BaseException:
            ring.close(timeout=0)
            raise

    def __del__(self) -> None:
        ring = getattr(self, "_ring", None)
        if ring is not None:
            ring.close(timeout=0)


def run(
    async_fn: Callable[[Unpack[PosArgT]], Awaitable[RetT]],
    *args: Unpack[PosArgT],
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
    restrict_keyboard_interrupt_to_checkpoints: bool = False,
    strict_exception_groups: bool = True,
    ring: RingOptions | None = None,
    fallback: bool = False,
) -> RetT:
    """`trio.run` on io_uring: the same arguments, results, errors and signals.

    ``ring`` says how large the ring is. Without usable io_uring this raises, or with ``fallback``
    runs the program on plain Trio and warns once; handles then raise the same error when first
    used. A process that was forked off in a run can execute a program, end, or start a run in a
    new thread, but not go on in this one.

    Raises:
        RingUnavailableError: io_uring cannot be used here, and why.
    """
    return trio.run(
        async_fn,
        *args,
        clock=clock,
        instruments=[*_ring_instrument(ring, fallback), *instruments],
        restrict_keyboard_interrupt_to_checkpoints=restrict_keyboard_interrupt_to_checkpoints,
        strict_exception_groups=strict_exception_groups,
    )


def start_guest_run(
    async_fn: Callable[[Unpack[PosArgT]], Awaitable[RetT]],
    *args: Unpack[PosArgT],
    run_sync_soon_threadsafe: Callable[[Callable[[], object]], object],
    done_callback: Callable[[Outcome[RetT]], object],
    run_sync_soon_not_threadsafe: Callable[[Callable[[], object]], object] | None = None,
    host_uses_signal_set_wakeup_fd: bool = False,
    clock: trio.abc.Clock | None = None,
    instruments: Sequence[trio.abc.Instrument] = (),
    restrict_keyboard_interrupt_to_checkpoints: bool = False,
    strict_exception_groups: bool = True,
    ring: RingOptions | None = None,
    fallback: bool = False,
) -> None:
    """`trio.lowlevel.start_guest_run` on io_uring; see `run`."""
    trio.lowlevel.start_guest_run(
        async_fn,
        *args,
        run_sync_soon_threadsafe=run_sync_soon_threadsafe,
        done_callback=done_callback,
        run_sync_soon_not_threadsafe=run_sync_soon_not_threadsafe,
        host_uses_signal_set_wakeup_fd=host_uses_signal_set_wakeup_fd,
        clock=clock,
        instruments=[*_ring_instrument(ring, fallback), *instruments],
        restrict_keyboard_interrupt_to_checkpoints=restrict_keyboard_interrupt_to_checkpoints,
        strict_exception_groups=strict_exception_groups,
    )


def _ring_instrument(ring: RingOptions | None, fallback: bool) -> list[trio.abc.Instrument]:
    try:
        return [RingInstrument(ring)]
    except RingUnavailableError as exc:
        if not fallback:
            raise
        warnings.warn(f"running on plain Trio: {exc}", RuntimeWarning, stacklevel=3)
        return []
