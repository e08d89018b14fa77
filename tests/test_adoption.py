# SPDX-License-Identifier: MIT OR Apache-2.0
"""Which driver a run gets: the adopted one only where Trio's loop is known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from engine_help import run_python
from trio._core import _run
from trio._core._io_epoll import EpollIOManager

import trio_uring
from trio_uring import _current

if TYPE_CHECKING:
    from collections.abc import Iterator

_Epoll: Any = EpollIOManager


def _manager(module: str, **added: object) -> Any:
    """An epoll manager with the eight methods of its own, and what is added."""
    methods = {name: thing for name, thing in vars(_Epoll).items() if name[0] != "_"}
    return type("EpollIOManager", (_Epoll,), {**methods, "__module__": module, **added})


def _get_events(self: Any, timeout: float, most: int = 0) -> Any:
    return _Epoll.get_events(self, timeout)


async def _driver() -> str:
    return trio_uring.current_statistics().driver


@pytest.fixture(autouse=True)
def _without_wishes(monkeypatch: pytest.MonkeyPatch, probed: trio_uring.Probe) -> Iterator[None]:
    if not probed.usable:
        pytest.skip(probed.reason or "io_uring is unusable")
    monkeypatch.delenv("TRIO_URING_DRIVER", raising=False)
    _current._warn_unknown_trio.cache_clear()
    yield
    _current._warn_unknown_trio.cache_clear()


def test_trios_own_manager_is_adopted() -> None:
    """Without a warning."""
    assert trio.run(_driver) == "adopted"


def test_a_manager_as_trios_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next tests change one thing of this one each."""
    monkeypatch.setattr(_run, "TheIOManager", _manager("trio._core._io_epoll"))

    assert trio.run(_driver) == "adopted"


@pytest.mark.parametrize(
    ("module", "added"),
    [
        ("trio._core._io_epoll", {"wait_for_anything": _get_events}),
        ("trio._core._io_epoll", {"get_events": _get_events}),
        ("trio._core._io_other", {}),
    ],
    ids=["another method", "another parameter", "another module"],
)
def test_a_loop_that_is_not_known_gets_the_hosted_driver(
    module: str, added: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a warning: what a new Trio changed is not guessed at."""
    monkeypatch.setattr(_run, "TheIOManager", _manager(module, **added))

    with pytest.warns(RuntimeWarning, match="does not know the loop of Trio"):
        assert trio.run(_driver) == "hosted"


@pytest.mark.parametrize("driver", ["adopted", "hosted"])
def test_a_main_function_that_cannot_be_called_ends_the_run_at_once(driver: str) -> None:
    """Such a run has no main task, and Trio then cancels no system task of the driver's."""
    program = """
import trio_uring

async def main(argument): pass

try:
    trio_uring.run(main)
except TypeError:
    print("ended")
"""
    done = run_python(f"import os; os.environ['TRIO_URING_DRIVER'] = {driver!r}\n{program}")

    assert done.stdout == "ended\n"
