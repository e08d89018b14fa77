# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tests that know nothing of trio_uring run on it: by an option, or by pytest-trio's marker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio
from engine_help import WAIT_S, run_python
from refusing import NO_SECCOMP
from run_modes import MODE
from trio._core import _run

import trio_uring
from trio_uring._current import engine_if_any
from trio_uring._every_run import EveryRunManager, EveryRunOnTheRing

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent

# What a suite of somebody else's may do. It asks the kernel whether there is a ring.
SUITE = """
import os
import queue
import socket
import trio


def rings():
    links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
    return sum("io_uring" in os.readlink(link) for link in links if os.path.lexists(link))


async def count():
    await trio.sleep(0.001)
    return rings()


def test_nothing_before():
    assert rings() == 0


def test_run():
    assert trio.run(count) == 1


def test_run_in_a_thread_of_a_run():
    async def main():
        return await trio.to_thread.run_sync(trio.run, count)

    assert trio.run(main) == 2


def run_as_guest(async_fn):
    todo = queue.SimpleQueue()
    results = []

    def done(outcome):
        results.append(outcome.unwrap())

    trio.lowlevel.start_guest_run(
        async_fn, todo.put, run_sync_soon_threadsafe=todo.put, done_callback=done
    )
    while not results:
        todo.get()()
    return results[0]


def test_guest_run():
    async def main(put):
        event = trio.Event()
        put(event.set)
        await event.wait()
        return rings()

    assert run_as_guest(main) == 1


def test_sockets():
    async def main():
        a, b = trio.socket.socketpair()
        with a, b:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(b.send, b"x")
                assert await a.recv(1) == b"x"

    trio.run(main)


def test_nothing_left():
    assert rings() == 0
"""


def _pytest(
    suite: str, where: Path, *args: str, before: tuple[str, ...] = (), **environment: str
) -> tuple[int, str]:
    (where / "test_suite.py").write_text(suite)
    options = ["-q", "-p", "trio_uring.testing", "-p", "no:cacheprovider", *args]
    done = subprocess.run(
        [*before, sys.executable, "-m", "pytest", *options],
        cwd=where,
        env=dict(os.environ, **environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_S,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module", autouse=True)
def _needs_io_uring(probed: trio_uring.Probe) -> None:
    if not probed.usable:
        pytest.skip(probed.reason or "io_uring is unusable")


def test_an_unchanged_suite_runs_on_the_ring(tmp_path: Path) -> None:
    """Each kind of run of a suite without trio_uring has a ring, and only while it runs."""
    status, output = _pytest(
        SUITE, tmp_path, "--every-run-on-the-ring", TRIO_URING_DRIVER="adopted"
    )

    assert status == 0, output
    counted = re.search(r"adopted: (\d+) of (\d+) Trio runs had a ring.* (\d+) times", output)
    assert counted, output
    runs = 5  # two of them nested
    assert (int(counted[1]), int(counted[2])) == (runs, runs)
    assert int(counted[3]) > runs


def test_the_hosted_driver_too_can_be_in_every_run(tmp_path: Path) -> None:
    """TRIO_URING_DRIVER=hosted holds for every run, and the report says it."""
    status, output = _pytest(SUITE, tmp_path, "--every-run-on-the-ring", TRIO_URING_DRIVER="hosted")

    assert status == 0, output
    assert "hosted: 5 of 5 Trio runs had a ring" in output


def test_without_the_option_a_suite_runs_as_ever(tmp_path: Path) -> None:
    """The plugin alone makes no ring."""
    status, output = _pytest(SUITE, tmp_path, "-k", "test_run")

    assert status == 1
    assert "assert 0 == 1" in output
    assert "had a ring" not in output


def test_a_session_in_which_no_run_had_a_ring_has_failed(tmp_path: Path) -> None:
    """Its tests pass, but they said nothing about the ring."""
    suite = "def test_no_trio():\n    pass\n"
    status, output = _pytest(suite, tmp_path, "--every-run-on-the-ring")

    assert status == 1
    assert "1 passed" in output
    assert "0 of 0 Trio runs had a ring" in output


def test_listing_tests_is_no_failure(tmp_path: Path) -> None:
    """With --collect-only no run is expected."""
    status, output = _pytest(SUITE, tmp_path, "--every-run-on-the-ring", "--collect-only")

    assert status == 0, output


def test_where_io_uring_is_refused_no_test_is_run(tmp_path: Path) -> None:
    """The session ends at once, with the cause and the remedy."""
    refusing = (sys.executable, str(HERE / "refusing.py"), "EPERM", "io_uring_setup")
    status, output = _pytest(SUITE, tmp_path, "--every-run-on-the-ring", before=refusing)
    if status == NO_SECCOMP:
        pytest.skip("seccomp cannot be used here")

    assert status == pytest.ExitCode.USAGE_ERROR, output
    assert "seccomp" in output
    assert "passed" not in output


def test_the_end_of_the_session_gives_trio_its_manager_back() -> None:
    """What comes after in the same process runs as before."""
    stock = getattr(_run, "TheIOManager")  # noqa: B009  # not among Trio's typed names
    every_run = EveryRunOnTheRing()
    during = getattr(_run, "TheIOManager")  # noqa: B009
    every_run.pytest_unconfigure()

    assert during is EveryRunManager
    assert getattr(_run, "TheIOManager") is stock  # noqa: B009


def test_the_module_can_be_imported_without_pytest() -> None:
    """Its functions need nothing but Trio."""
    run_python(
        "import sys\n"
        "sys.modules['pytest'] = sys.modules['_pytest'] = None\n"
        "import trio, trio_uring.testing\n"
        "trio.run(trio.sleep, 0)\n"
        "assert trio_uring.testing.adopt_ring and trio_uring.testing.pytest_addoption"
    )


def _rings() -> Iterator[str]:
    for fd in os.listdir("/proc/self/fd"):
        link = f"/proc/self/fd/{fd}"
        if os.path.lexists(link) and "io_uring" in os.readlink(link):
            yield link


@pytest.mark.trio(run=partial(trio_uring.run, ring=trio_uring.RingOptions(slots_max=3)))
async def test_a_marker_of_pytest_trio_chooses_the_runner() -> None:
    """The ring is there before anything asks for it, with the sizes that the runner gave."""
    await trio.lowlevel.checkpoint()

    assert len(list(_rings())) == 1
    engine = engine_if_any()
    assert engine is not None
    assert engine.options.slots_max == 3


@pytest.mark.trio(run=trio_uring.run)
async def test_fixtures_of_pytest_trio_work_with_the_runner(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock, uring_leak_gate: None
) -> None:
    """Nursery, clock and the leak gate are the same as under `trio.run`."""
    assert engine_if_any() is not None
    nursery.start_soon(trio.sleep, 1000)
    await trio.sleep(1000)

    assert trio.current_time() >= 1000


@pytest.mark.skipif(MODE == "uring", reason="this is what TRIO_URING_TEST_RUN=uring changes")
async def test_without_the_marker_a_test_has_no_ring_until_it_uses_one() -> None:
    """pytest-trio's own runner is `trio.run`."""
    assert engine_if_any() is None
    assert not list(_rings())
