# SPDX-License-Identifier: MIT OR Apache-2.0
"""For tests of programs that use trio_uring: tiny rings, and a gate that nothing leaks through.

The functions need nothing but Trio. Where pytest is installed there are fixtures too; with
pytest-trio, ``pytest_plugins = ["trio_uring.testing"]`` in a ``conftest.py`` makes them known:

* ``uring_leak_gate``: after the test nothing may be left in the ring of its run.
* ``tiny_ring``: the run has a ring so small that whatever can be full is full; with the leak gate.

Markers skip what the kernel lacks: `requires_direct_descriptors`, `requires_op`,
`requires_kernel_feature`.

``pytest -p trio_uring.testing --every-run-on-the-ring`` runs tests that know nothing of trio_uring
on it.
"""

from __future__ import annotations

import functools
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

import trio

from ._capabilities import capabilities
from ._current import adopt, engine_if_any
from ._errors import RingUnavailableError
from ._handle import place_of
from ._options import RingOptions
from ._probe import BEHAVIOURS, probe
from ._statistics import statistics_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

    from ._abi import Op
    from ._engine import Engine
    from ._probe import Probe
    from ._ring import Ring

__all__ = [
    "TINY_RING",
    "adopt_ring",
    "assert_nothing_left",
    "requires_direct_descriptors",
    "requires_kernel_feature",
    "requires_op",
    "used_slots",
]

TINY_RING = RingOptions(
    sq_entries=2, cq_entries=4, slots_max=2, recv_buffers=2, recv_buffer_bytes=64
)
"""Queues, table and buffers that are full as soon as two operations meet."""

_SLOT = re.compile(r"^\s*(\d+): (.*)$")  # up to 6.12 the name of a pipe is empty
_EMPTY = "<none>"


def adopt_ring(options: RingOptions = TINY_RING) -> None:
    """Makes the ring of the current run, with these sizes; before anything else has made one.

    Raises:
        RuntimeError: not in a Trio run, or the run has a ring already.
        RingUnavailableError: io_uring cannot be used here.
    """
    adopt(options)


def used_slots(ring: Ring | None = None) -> dict[int, str]:
    """The files in the table of a ring, by slot, as the kernel tells them in proc(5).

    ``/proc/self/fdinfo`` is the only place where direct descriptors show. No operation is awaited.
    Without ``ring`` it is that of this run; none is made if the run has none.

    Raises:
        RuntimeError: no ``ring``, and not in a Trio run.
    """
    if ring is not None:
        return _files_in_table(ring)
    engine = engine_if_any()
    return {} if engine is None else _files_of(engine)


def _files_of(engine: Engine) -> dict[int, str]:
    return _files_in_table(engine.ring) if capabilities().install else _ordinary_files(engine)


def _files_in_table(ring: Ring) -> dict[int, str]:
    found: dict[int, str] = {}
    in_files = False
    with open(f"/proc/self/fdinfo/{ring.fd}") as lines:
        for line in lines:
            slot = _SLOT.match(line)
            if not slot:
                in_files = line.startswith("UserFiles:")
            elif in_files and slot[2] != _EMPTY:
                found[int(slot[1])] = slot[2]
    return found


def _ordinary_files(engine: Engine) -> dict[int, str]:
    """Before 6.8: the ordinary descriptors that files are in, by the slots counted for them."""
    handles = ((slot, ref()) for slot, ref in engine.files.items())
    return {slot: f"fd {handle._number}" for slot, handle in handles if handle is not None}


def assert_nothing_left() -> None:
    """Fails if the ring of this run has something in flight, in a slot, or lent.

    Raises:
        AssertionError: with everything that was found.
        RuntimeError: not in a Trio run.
    """
    engine = engine_if_any()
    if engine is None:
        return
    left = _left(engine)
    if left:
        raise AssertionError("left in the ring of this run: " + "; ".join(left))


def _left(engine: Engine) -> list[str]:
    statistics = statistics_of(engine)
    counted = {
        "operations in flight": statistics.operations_in_flight,
        "operations of batches": engine.ring._ring.batched,
        "slots used": statistics.slots_used,
        "slots in quarantine": statistics.slots_quarantined,
        "receive buffers lent": statistics.buffers_lent,
        "late completions": statistics.late_completions,
        "files in the kernel's table": _files_of(engine),
    }
    left = [f"{what}: {count}" for what, count in counted.items() if count]
    files = (ref() for ref in engine.files.values())
    left += [f"open: {file}, opened at {place_of(file)}" for file in files if file is not None]
    return left


@functools.cache
def _probed() -> Probe:
    return probe()


def _skip_unless(condition: bool, reason: str) -> pytest.MarkDecorator:
    import pytest

    return pytest.mark.skipif(not condition, reason=reason)


def requires_direct_descriptors() -> pytest.MarkDecorator:
    """Skips a test where there is no io_uring, or one without direct descriptors (before 5.15)."""
    return requires_kernel_feature("direct_descriptors")


def requires_op(*ops: Op) -> pytest.MarkDecorator:
    """Skips a test on a kernel that does not know all of these operations."""
    found = _probed()
    lacking = [op.name for op in ops if op not in found.ops]
    return _skip_unless(not lacking, f"Linux {found.kernel} lacks {', '.join(lacking)}")


def requires_kernel_feature(name: str) -> pytest.MarkDecorator:
    """Skips a test on a kernel without a behaviour of `trio_uring.BEHAVIOURS`.

    Raises:
        KeyError: there is no such name.
    """
    since, meaning = BEHAVIOURS[name]
    found = _probed()
    reason = found.reason or f"Linux {found.kernel} lacks what {since} brought: {meaning}"
    return _skip_unless(found.usable and found.can(name), reason)


def pytest_addoption(parser: pytest.Parser) -> None:
    """pytest's hook: ``--every-run-on-the-ring``."""
    parser.getgroup("trio_uring").addoption(
        "--every-run-on-the-ring",
        action="store_true",
        help="put a ring into every Trio run of this process; fail if there was none",
    )


def pytest_configure(config: pytest.Config) -> None:
    """pytest's hook: does what the option says.

    Raises:
        pytest.UsageError: io_uring cannot be used here.
    """
    if config.getoption("every_run_on_the_ring", default=False):
        import pytest

        from ._every_run import EveryRunOnTheRing

        try:
            every_run = EveryRunOnTheRing()
        except RingUnavailableError as exc:
            raise pytest.UsageError(str(exc)) from exc
        config.pluginmanager.register(every_run, "trio_uring every run")


if find_spec("pytest") is not None:
    import pytest

    @pytest.fixture
    async def uring_leak_gate() -> AsyncIterator[None]:
        """After the test nothing is in flight, no slot is used and no buffer is lent."""
        yield
        # What a dropped handle held is taken back by the next pass of the loop.
        await trio.lowlevel.checkpoint()
        assert_nothing_left()

    @pytest.fixture
    async def tiny_ring(uring_leak_gate: None) -> RingOptions:
        """The ring of this run is `TINY_RING`; the options it was made with."""
        adopt_ring(TINY_RING)
        return TINY_RING
