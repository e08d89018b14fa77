# SPDX-License-Identifier: MIT OR Apache-2.0
"""The README's commands and its example are what they claim to be."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from trio_uring import Probe

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_readme_has_two_set_up_commands_of_one_line_each() -> None:
    """One installs and shows it, the other runs the tests; both make an environment first."""
    commands = _blocks("sh")

    assert [command.count("\n") for command in commands] == [1, 1]
    assert all(command.startswith("python3 -m venv .venv && ") for command in commands)
    assert "trio_uring probe" in commands[0]
    assert commands[0].endswith("docs/examples/static_server.py docs\n")
    assert commands[1].endswith("pytest -q\n")


def test_the_example_of_the_readme_opens_reads_and_closes(probed: Probe, tmp_path: Path) -> None:
    """Its three linked operations succeed: 0, the number of bytes, 0."""
    if not probed.can("linked_file"):
        pytest.skip("this kernel looks a linked operation's file up too early")
    (tmp_path / "README.md").write_text("hello")
    _, example = _blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert re.findall(r"res=(-?\d+)", done.stdout) == ["0", "5", "0"]


def test_the_first_example_of_the_readme_reads_a_file(probed: Probe, tmp_path: Path) -> None:
    """It prints the beginning of the file."""
    if not probed.can("direct_descriptors"):
        pytest.skip("this kernel has no direct descriptors")
    (tmp_path / "README.md").write_text("hello, slot!")
    example, _ = _blocks("python")
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=True
    )

    assert done.stdout == "b'hello, slot!'\n"
