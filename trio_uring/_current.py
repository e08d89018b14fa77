# SPDX-License-Identifier: MIT OR Apache-2.0
"""The engine of the current Trio run, made when it is first asked for."""

from __future__ import annotations

import functools
import os
import warnings
from typing import TYPE_CHECKING

import trio

from . import _adopted, _hosted
from ._engine_ring import EngineRing
from ._options import RingOptions
from ._statistics import RingStatistics, statistics_of

if TYPE_CHECKING:
    from ._engine import Engine

_engine: trio.lowlevel.RunVar[Engine | None] = trio.lowlevel.RunVar("trio_uring engine")


def current_engine() -> Engine:
    """The engine of this run; the ring joins the run's loop at the first call.

    Raises:
        RuntimeError: not in a Trio run, or a Trio that no driver knows.
        RingUnavailableError: io_uring cannot be used here.
    """
    return _engine.get(None) or adopt(RingOptions())


def engine_if_any() -> Engine | None:
    """The engine of this run, if something has made one.

    Raises:
        RuntimeError: not in a Trio run.
    """
    return _engine.get(None)


def adopt(options: RingOptions, ring: EngineRing | None = None) -> Engine:
    """Puts a ring into the current run's loop; ``ring`` if it was made already.

    Raises:
        RuntimeError: the run has one already.
    """
    if _engine.get(None) is not None:
        raise RuntimeError("this run has a ring already")
    runner = _adopted.current_runner()
    adopted = _driver_wanted(runner) == "adopted"
    if ring is None:
        ring = EngineRing.make(options.sq_entries, options.cq_entries)
    engine = (
        _adopted.AdoptedDriver(runner, options, ring).engine
        if adopted
        else _hosted.HostedDriver(options, ring).engine
    )
    set_engine(engine)
    return engine


def set_engine(engine: Engine) -> None:
    """Makes it the engine of the current run."""
    _engine.set(engine)


def _driver_wanted(runner: object) -> str:
    """``adopted``, or ``hosted`` if the environment says so or Trio is not as we know it."""
    if os.environ.get("TRIO_URING_DRIVER") == "hosted":
        return "hosted"
    if _adopted.recognises(runner):
        return "adopted"
    _warn_unknown_trio()
    return "hosted"


@functools.cache
def _warn_unknown_trio() -> None:
    warnings.warn(
        f"trio_uring does not know the loop of Trio {trio.__version__}: each operation costs more",
        RuntimeWarning,
        stacklevel=2,
    )


def current_statistics() -> RingStatistics:
    """What the ring of the current run is doing; it is made if there is none.

    Raises:
        RuntimeError: not in a Trio run.
        RingUnavailableError: io_uring cannot be used here.
    """
    return statistics_of(current_engine())
