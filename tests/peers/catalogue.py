# SPDX-License-Identifier: MIT OR Apache-2.0
"""Whose tests are run, at which version, and how."""

from __future__ import annotations

from dataclasses import dataclass

TRIO_NEWEST = "trio==0.35.0"
TRIO_OLDEST = "trio==0.23.0"  # pyproject.toml
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


@dataclass(frozen=True)
class Suite:
    """A project's tests."""

    name: str
    peer: str
    """What is tested, pinned."""
    needs: tuple[str, ...]
    """What its tests need besides."""
    options: tuple[str, ...]
    """For pytest."""
    targets: tuple[str, ...]
    """Files or modules, as pytest takes them."""
    sdist: bool = False
    """The tests are only in the source distribution, where pytest then runs."""
    trio: str = TRIO_NEWEST
    pythons: tuple[str, ...] = ()
    """On which; if none are named, on the newest of `PYTHONS` that is there."""
    once: bool = True
    """Part of what is run without being named."""

    @property
    def requirements(self) -> list[str]:
        """What pip installs."""
        return sorted({self.peer, self.trio, *self.needs})


_TRIO_NEEDS = (
    *("pytest", "trustme", "pyOpenSSL", "async_generator", "astor", "pyyaml"),
    *("jedi", "pylint", "mypy", "pyright", "ruff", "black", "isort", "coverage"),
)
_TRIO_PLUGIN = ("-p", "trio._tests.pytest_plugin")
# Where a manager of another kind shows first.
_TRIO_CORE = (
    *("_core._tests.test_guest_mode", "_core._tests.test_io", "_core._tests.test_ki"),
    *("_tests.test_signals", "_tests.test_threads", "_tests.test_socket"),
    "_tests.test_subprocess",
)

SUITES = (
    Suite(
        "trio",
        TRIO_NEWEST,
        _TRIO_NEEDS,
        (*_TRIO_PLUGIN, "--run-slow"),
        ("--pyargs", "trio"),
        pythons=PYTHONS,
    ),
    Suite(
        "trio-quick",
        TRIO_NEWEST,
        ("pytest", "trustme", "pyOpenSSL"),
        (*_TRIO_PLUGIN, "--skip-optional-imports"),
        ("--pyargs", "trio"),
        once=False,
    ),
    Suite(
        "trio-oldest",
        TRIO_OLDEST,
        _TRIO_NEEDS,
        (*_TRIO_PLUGIN, "--run-slow"),
        ("--pyargs", "trio"),
        trio=TRIO_OLDEST,
        pythons=("3.11",),
    ),
    Suite(
        "trio-core",
        TRIO_NEWEST,
        _TRIO_NEEDS,
        (*_TRIO_PLUGIN, "--run-slow"),
        ("--pyargs", *(f"trio.{module}" for module in _TRIO_CORE)),
    ),
    Suite(
        "pytest-trio",
        "pytest-trio==0.8.0",
        ("pytest", "hypothesis"),
        (),
        ("--pyargs", "pytest_trio"),
    ),
    Suite(
        "anyio",
        "anyio==4.16.0",
        (
            *("pytest>=9", "pytest-mock", "pytest-timeout", "hypothesis", "blockbuster"),
            *("psutil", "trustme", "truststore", "uvloop", "coverage[toml]", "exceptiongroup"),
        ),
        ("-k", "trio", "--collect-garbage"),
        ("tests",),
        sdist=True,
    ),
    Suite(
        "httpcore",
        "httpcore[asyncio,http2,socks]==1.0.9",
        ("pytest", "pytest-httpbin", "pytest-trio", "anyio"),
        (),
        ("tests",),
        sdist=True,
    ),
    Suite(
        "trio-websocket",
        "trio-websocket==0.12.2",
        ("pytest", "pytest-trio", "trustme"),
        ("-o", "trio_mode=true"),
        ("tests",),
        sdist=True,
    ),
    Suite(
        "hypercorn",
        "hypercorn[trio]==0.18.0",
        ("pytest", "pytest-trio", "pytest-asyncio", "httpx", "hypothesis", "mock"),
        ("-o", "addopts=--strict-markers"),
        ("tests",),
        sdist=True,
    ),
)
BY_NAME = {suite.name: suite for suite in SUITES}
QUICK = ("trio-quick", "pytest-trio")
