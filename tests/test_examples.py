# SPDX-License-Identifier: MIT OR Apache-2.0
"""The echo server and the file copier in docs/examples do what they say."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import trio
from example_help import EXAMPLES, LIMIT_S, command, reset, started

from trio_uring.testing import requires_direct_descriptors

pytestmark = requires_direct_descriptors()


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports an example by its name."""
    monkeypatch.syspath_prepend(EXAMPLES)
    return import_module


# -- The echo server ---------------------------------------------------------------------------


async def test_the_echo_server_sends_back_every_byte_and_outlives_rude_clients() -> None:
    """A megabyte comes back as it went; a client that resets the connection disturbs nobody."""
    data = os.urandom(1 << 20)
    with started("echo_server.py", "--port", 0) as example:
        rude = await trio.open_tcp_stream("127.0.0.1", example.port)
        polite = await trio.open_tcp_stream("127.0.0.1", example.port)

        async def send() -> None:
            await polite.send_all(data)
            await polite.send_eof()

        async with rude, polite:
            await rude.send_all(b"hello")
            reset(rude)
            with trio.fail_after(LIMIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    echoed = b"".join([chunk async for chunk in polite])
        await example.only_the_listener_is_left()

        assert echoed == data
        assert example.interrupt() == 0
        assert example.errors() == ""


# -- The file copier ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 256 * 1024 - 1, 256 * 1024 + 1, 3 * (1 << 20) + 7])
async def test_a_copy_has_the_data_and_permissions_of_its_source(
    example: Any, tmp_path: Path, size: int
) -> None:
    """Files around the size of a chunk, copied over a longer one."""
    copy_file = example("copy_file")
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(size))
    source.chmod(0o641)
    target.write_bytes(b"x" * (4 << 20))

    await copy_file.copy(str(source), str(target), copy_file.Progress(3600))

    assert target.read_bytes() == source.read_bytes()
    assert stat.S_IMODE(target.stat().st_mode) == 0o641


async def test_a_copy_has_the_holes_of_its_source(example: Any, tmp_path: Path) -> None:
    """A file of 64 MiB with data at three places takes no more room when it is copied."""
    copy_file = example("copy_file")
    source, target = tmp_path / "source", tmp_path / "target"
    with source.open("wb") as file:
        for offset in (0, 10 << 20, 50 << 20):
            file.seek(offset)
            file.write(b"data")
        file.truncate(64 << 20)
    source_blocks = source.stat().st_blocks
    if source_blocks * 512 > 32 << 20:
        pytest.skip("this file system has no holes")

    await copy_file.copy(str(source), str(target), copy_file.Progress(3600))

    assert target.stat().st_size == 64 << 20
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks <= source_blocks


def test_progress_is_drawn_when_it_is_asked_for(
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """With --progress there is a bar on stderr that ends at 100 %; without, there is none."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(1 << 20))

    shown = subprocess.run(
        command("copy_file.py", source, target, "--progress"), capture_output=True, text=True
    )
    monkeypatch.setattr(sys, "argv", ["copy_file.py", str(source), str(target)])
    example("copy_file").main()

    assert (shown.returncode, shown.stdout) == (0, "")
    assert shown.stderr.endswith(f"[{'#' * 40}] 100%\n")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("source", "target", "why"),
    [
        ("nothing", "target", "No such file"),
        ("itself", "itself", "is the source itself"),
        ("/sys/kernel/uevent_seqnum", "target", "shorter than its size says"),
        ("/dev/null", "target", "not a regular file"),
    ],
)
def test_a_copy_that_fails_says_why_in_one_line(
    example: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: str,
    target: str,
    why: str,
) -> None:
    """No traceback, wherever it fails; a file that is copied to itself is as it was."""
    monkeypatch.chdir(tmp_path)
    Path("itself").write_text("data")
    monkeypatch.setattr(sys, "argv", ["copy_file.py", source, target])

    with pytest.raises(SystemExit, match=f"^copy_file: .*{why}.*$"):
        example("copy_file").main()

    assert Path("itself").read_text() == "data"
