# SPDX-License-Identifier: MIT OR Apache-2.0
"""Rings, pipes and files for tests; no ring to be had is a skip, and every wait ends."""

from __future__ import annotations

import errno
import gc
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from trio_uring.lowlevel import Ring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_uring.lowlevel import Cqe

# Longer than any operation of a test takes on an emulated machine: only a hang gets there.
WAIT_S = 30.0


def open_ring(entries: int, flags: int = 0, **params: int) -> Ring:
    """A ring; the test is skipped if this process may not have one (ENOSYS, EPERM)."""
    try:
        return Ring(entries, flags, **params)
    except OSError as exc:
        if exc.errno in (errno.ENOSYS, errno.EPERM):
            pytest.skip(f"no such ring here: {exc}")
        raise


def wait_cqes(ring: Ring, count: int) -> list[Cqe]:
    """The next ``count`` completions, in the order in which they were posted."""
    cqes: list[Cqe] = []
    while len(cqes) < count:
        more = ring.copy_cqes(count - len(cqes), 1, timeout=WAIT_S)
        assert more, f"{count} completions were due, {cqes} came"
        cqes += more
    return cqes


def run_one(ring: Ring) -> Cqe:
    """Submits the one entry that was prepared, and its completion."""
    assert ring.submit() == 1
    return wait_cqes(ring, 1)[0]


def run_all(ring: Ring, count: int) -> dict[int, int]:
    """Submits ``count`` entries; their results by user_data."""
    assert ring.submit() == count
    return {cqe.user_data: cqe.res for cqe in wait_cqes(ring, count)}


@contextmanager
def a_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    try:
        yield reader, writer
    finally:
        os.close(reader)
        os.close(writer)


@contextmanager
def a_file(directory: Path, content: bytes = b"") -> Iterator[int]:
    path = directory / "file"
    path.write_bytes(content)
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def a_socketpair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def is_locked(buffer: bytearray) -> bool:
    """The buffer is exported: it cannot change its size."""
    for _ in range(2):
        try:
            buffer.append(0)
        except BufferError:
            gc.collect()  # tracebacks of errors that a test expected hold exports too
        else:
            del buffer[-1]
            return False
    return True
