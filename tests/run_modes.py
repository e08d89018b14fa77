# SPDX-License-Identifier: MIT OR Apache-2.0
"""The kinds of Trio run that the tests can be run in: ``TRIO_URING_TEST_RUN``.

* ``adopted``, what there is without the variable: `trio.run`, and the ring joins at its first use.
* ``uring``: `trio_uring.run`, with a ring from the first pass. A test that wants a ring of its own
  gets it in place of that one.
* ``hosted``: `trio.run` with the driver that uses public names only.
* ``guest``: `trio.lowlevel.start_guest_run` on a host that does nothing else.

`install` exchanges `trio.run`, for pytest-trio, for tests that call it, and for their programs.
"""

from __future__ import annotations

import os
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import trio
from trio.lowlevel import enable_ki_protection

from trio_uring import RingInstrument, RingOptions, _current, testing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from outcome import Outcome

MODES = ("adopted", "uring", "hosted", "guest")
MODE = os.environ.get("TRIO_URING_TEST_RUN", "adopted")

trio_run: Callable[..., Any] = trio.run
_adopt_ring = testing.adopt_ring


def uring_run(
    async_fn: Callable[..., Any],
    *args: Any,
    instruments: Sequence[trio.abc.Instrument] = (),
    **options: Any,
) -> Any:
    """What `trio_uring.run` does; that itself calls what is exchanged here.

    A test that asks for the hosted driver has `trio.run`: such a ring cannot be replaced.
    """
    hosted = os.environ.get("TRIO_URING_DRIVER") == "hosted"
    has_ring = any(isinstance(instrument, RingInstrument) for instrument in instruments)
    if not hosted and not has_ring:
        instruments = [RingInstrument(), *instruments]
    return trio_run(async_fn, *args, instruments=instruments, **options)


def guest_run(async_fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """A guest run with the arguments, the result and the signals of `trio.run`."""
    callbacks: SimpleQueue[Callable[[], object]] = SimpleQueue()
    done: list[Outcome[Any]] = []
    _host(
        callbacks,
        done,
        lambda: trio.lowlevel.start_guest_run(
            async_fn,
            *args,
            run_sync_soon_threadsafe=callbacks.put,
            done_callback=done.append,
            **options,
        ),
    )
    return done[0].unwrap()


@enable_ki_protection  # so that Ctrl-C goes to a task of the guest
def _host(
    callbacks: SimpleQueue[Callable[[], object]],
    done: list[Outcome[Any]],
    start: Callable[[], None],
) -> None:
    start()
    while not done:
        callbacks.get()()


def replace_ring(options: RingOptions = testing.TINY_RING) -> None:
    """`trio_uring.testing.adopt_ring` where the run has a ring already, but did not use it yet."""
    engine = _current.engine_if_any()
    if engine is not None and engine.options == RingOptions() and not engine.in_flight:
        driver: Any = engine.driver
        driver._runner.io_manager = driver._inner
        engine.close()
        _current._engine.set(None)
    _adopt_ring(options)


def install() -> None:
    """From now on `trio.run` is a run of the kind that is asked for."""
    if MODE not in MODES:
        raise ValueError(f"TRIO_URING_TEST_RUN is one of {', '.join(MODES)}, not {MODE}")
    module: Any = trio
    if MODE == "uring":
        module.run = uring_run
        testing.adopt_ring = replace_ring
    elif MODE == "guest":
        module.run = guest_run
    elif MODE == "hosted":
        # Not if a test has chosen for its program.
        os.environ.setdefault("TRIO_URING_DRIVER", "hosted")
