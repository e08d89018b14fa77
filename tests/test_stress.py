# SPDX-License-Identifier: MIT OR Apache-2.0
"""Many operations through rings of every size, with more completions than the queue holds."""

from __future__ import annotations

import errno
import os
import socket
from array import array
from typing import TYPE_CHECKING, Protocol

import pytest
from ring_help import WAIT_S, open_ring

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio_uring.lowlevel import Ring

# An emulated machine is 5 to 20 times slower.
OPERATIONS = 10_000 if "KMATRIX_KERNEL" in os.environ else 100_000
RECORD = 8
FILE_RECORDS = 4096
# So many full queues are submitted before anything is reaped: all but the first overflow.
UNREAPED = 3


class Work(Protocol):
    """A kind of operation: how to prepare some, and whether their results are right."""

    def prepare(self, ring: Ring, numbers: array[int]) -> None: ...

    def check(self, ring: Ring, results: list[tuple[int, int]]) -> None: ...


class Nops:
    """Complete while they are submitted: in order."""

    def __init__(self) -> None:
        self.next = 0

    def prepare(self, ring: Ring, numbers: array[int]) -> None:
        ring.nop_many(numbers)

    def check(self, ring: Ring, results: list[tuple[int, int]]) -> None:
        expected = range(self.next, self.next + len(results))
        assert results == [(number, 0) for number in expected]
        self.next += len(results)


class Reads:
    """Of the record ``number`` in a file, each into a place of its own."""

    def __init__(self, path: Path) -> None:
        self.records = array("Q", (n * 0x0101_0101_0101 for n in range(FILE_RECORDS)))
        path.write_bytes(self.records.tobytes())
        self.fd = os.open(path, os.O_RDONLY)
        # Where each number's record is read to.
        self.lent: dict[int, tuple[memoryview, int]] = {}

    def prepare(self, ring: Ring, numbers: array[int]) -> None:
        buffer = bytearray(RECORD * len(numbers))
        offsets = array("Q", (RECORD * (number % FILE_RECORDS) for number in numbers))
        ring.read_many(numbers, self.fd, buffer, RECORD, offsets)
        places = memoryview(buffer).cast("Q")
        self.lent.update((number, (places, at)) for at, number in enumerate(numbers))

    def check(self, ring: Ring, results: list[tuple[int, int]]) -> None:
        assert {res for _, res in results} == {RECORD}
        for number, _ in results:
            places, at = self.lent.pop(number)
            assert places[at] == self.records[number % FILE_RECORDS]


class Sends:
    """Of their number, to a peer that receives each of them once, in order."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.sender = socket.create_connection(listener.getsockname())
            self.receiver, _ = listener.accept()
        self.receiver.settimeout(WAIT_S)
        self.pending = b""
        self.next = 0

    def prepare(self, ring: Ring, numbers: array[int]) -> None:
        # Small segments are put together until all are to be received.
        self.sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        for number in numbers:
            ring.send(number, self.sender.fileno(), number.to_bytes(RECORD, "little"))

    def check(self, ring: Ring, results: list[tuple[int, int]]) -> None:
        assert {res for _, res in results} == {RECORD}
        self.sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data = self.pending
        while len(data) < RECORD * len(results):
            data += self.receiver.recv(1 << 20)
        numbers = array("Q", data[: len(data) // RECORD * RECORD])
        assert numbers.tolist() == [*range(self.next, self.next + len(numbers))]
        self.next += len(numbers)
        self.pending = data[len(numbers) * RECORD :]


@pytest.fixture(params=["nops", "reads", "sends"])
def work(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Work]:
    if request.param == "nops":
        yield Nops()
    elif request.param == "reads":
        reads = Reads(tmp_path / "records")
        yield reads
        os.close(reads.fd)
    else:
        sends = Sends()
        yield sends
        sends.sender.close()
        sends.receiver.close()


@pytest.mark.slow
@pytest.mark.parametrize("entries", [2, 8, 4096])
def test_of_a_hundred_thousand_operations_none_is_lost(work: Work, entries: int) -> None:
    """Each completes once and well while most completions overflow, and every counter is right."""
    prepared = done = 0
    overflowed = False
    with open_ring(entries, cq_entries=entries) as ring:
        while done < OPERATIONS:
            for _ in range(UNREAPED):
                numbers = array("Q", range(prepared, min(prepared + entries, OPERATIONS)))
                if not numbers:
                    break
                work.prepare(ring, numbers)
                prepared += len(numbers)
                if not submitted(ring):
                    break
            overflowed |= ring.cq_ring_needs_flush()
            results: list[tuple[int, int]] = []
            while ring.in_flight:
                cqes = ring.submit_and_copy_cqes(entries, 1, WAIT_S)
                assert cqes, f"{ring.in_flight} operations never end"
                results += [(cqe.user_data, cqe.res) for cqe in cqes]
            work.check(ring, results)
            done += len(results)
        assert overflowed
        assert {ring.sq.head, ring.sq.tail, ring.sq.sqe_tail} == {OPERATIONS}
        assert {ring.cq.head, ring.cq.tail} == {OPERATIONS}
        assert (ring.cq.overflow, ring.sq.dropped, ring.sq_ready()) == (0, 0, 0)
        assert not ring._pins


def submitted(ring: Ring) -> bool:
    """Whether the kernel takes entries; before 5.19 it does not while completions overflow."""
    try:
        while ring.sq_ready():
            ring.submit()
    except OSError as exc:
        if exc.errno != errno.EBUSY:
            raise
        return False
    return True
