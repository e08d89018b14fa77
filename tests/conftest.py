# SPDX-License-Identifier: MIT OR Apache-2.0
"""What every test gets: the leak gate, and the kernel's name in the report."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio._core._run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trio_uring

# A shell without job control starts what runs in the background with SIGINT ignored.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["trio_uring.testing"]


def pytest_configure() -> None:
    """Before the test modules ask for what this exchanges; trio_uring.testing is a plugin first."""
    import run_modes

    run_modes.install()
    # pytest-trio has Hypothesis order the tasks of a pass, if that is there: no step is ours then.
    vars(trio._core._run)["_ALLOW_DETERMINISTIC_SCHEDULING"] = False


def open_fds() -> dict[int, str]:
    """What each file descriptor of this process is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor that listdir itself used
            continue
    return found


def open_rings() -> list[object]:
    queue = sys.modules.get("trio_uring._queue")
    return [] if queue is None else list(queue._open_rings)


@pytest.fixture(autouse=True)
def _leak_gate() -> Iterator[None]:
    """A test that leaves a file descriptor or a ring open has failed."""
    before = open_fds()
    rings_before = open_rings()
    yield
    if open_rings() != rings_before or open_fds().items() - before.items():
        gc.collect()  # what only a cycle kept open now also warns: ResourceWarning is an error
    rings = [ring for ring in open_rings() if ring not in rings_before]
    assert not rings, f"rings left open: {rings}"
    left = dict(open_fds().items() - before.items())
    assert not left, f"file descriptors left open: {left}"


@pytest.hookimpl(trylast=True)  # pytest-trio has marked what is async by then
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs of tests end at the gate below; and pytest-trio has remembered the `trio.run` of before
    `run_modes.install`.

    It also does not run async fixtures with autouse.
    """
    import trio
    from run_modes import trio_run

    for item in items:
        runs = [marker.kwargs.get("run") for marker in item.iter_markers("trio")]
        if runs:
            usual = all(run in (None, trio_run) for run in runs)
            run = trio.run if usual else next(run for run in runs if run)
            item.add_marker(pytest.mark.trio(run=_gated(run)), append=False)


def _gated(run: Callable[..., Any]) -> Callable[..., Any]:
    """``run``, but a test that leaves something in the ring of its run has failed."""
    import trio

    from trio_uring.testing import assert_nothing_left

    def gated(async_fn: Callable[..., Any], *args: Any, **options: Any) -> Any:
        async def main() -> Any:
            result = await async_fn(*args)
            await trio.lowlevel.checkpoint()
            assert_nothing_left()
            return result

        return run(main, **options)

    return gated


@pytest.fixture(scope="session")
def probed() -> trio_uring.Probe:
    """What this kernel can do."""
    import trio_uring

    return trio_uring.probe()


def pytest_report_header() -> str:
    from run_modes import MODE

    release = os.uname().release
    return f"kernel: {release} ({os.uname().machine}), soft RLIMIT_NOFILE {_nofile()}, runs: {MODE}"


def _nofile() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
