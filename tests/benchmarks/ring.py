# SPDX-License-Identifier: MIT OR Apache-2.0
"""NOPs and cached 4 KiB reads from plain Python: `Ring` beside the PyPI package ``liburing``.

    python tests/benchmarks/ring.py [--rounds N] [--operations N]

Depth is the number of operations in flight. Both sides have rings with the same flags, a registered
file and registered buffers, read the same offsets, and check every result. Rounds alternate between
them; what is printed is the median of a round, and the ratio (above 1: `Ring` is faster).

Each side does it in its own best way. ``liburing``: an entry or a batch that was made once and is
put into the queue by one call, where nothing in it changes; completions are looked at one by one.
`Ring`: entries made together from arrays, completions as an array; at depth 1 entries submitted in
turn. "Call by call" is the obvious way of both: prepare one, submit it, look at it.
"""

from __future__ import annotations

import argparse
import errno
import gc
import mmap
import os
import random
import statistics
import tempfile
import time
from array import array
from typing import TYPE_CHECKING, Any

from trio_uring.lowlevel import PinnedBuffer, Ring, SetupFlag, Sqe, SqeFlag, prep_nop

if TYPE_CHECKING:
    from collections.abc import Callable

# The best of these that the kernel knows (6.1).
FLAGS = (SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN, SetupFlag(0))
BLOCK = 4096
FILE_BLOCKS = 256
DEPTHS = (1, 32, 128)
# At depth 1 so many entries are prepared together.
IN_TURN = 128


class WrongResult(Exception):
    """A completion was not what it had to be."""


def check(good: bool) -> None:
    if not good:
        raise WrongResult


def best_flags() -> SetupFlag:
    for flags in FLAGS:
        try:
            Ring(1, flags).close()
            return flags
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
    raise AssertionError("a ring without flags is always to be had")


class Workload:
    """The file, and the offsets that both sides read, a row for each batch."""

    def __init__(self, directory: str, operations: int) -> None:
        self.flags = best_flags()
        path = os.path.join(directory, "blocks")
        with open(path, "wb") as file:
            for number in range(FILE_BLOCKS):
                file.write(number.to_bytes(8, "little") * (BLOCK // 8))
        self.fd = os.open(path, os.O_RDONLY)
        self.operations = operations
        rng = random.Random(1)
        self.offsets = array("Q", (BLOCK * rng.randrange(FILE_BLOCKS) for _ in range(operations)))
        for number in range(FILE_BLOCKS):
            os.pread(self.fd, BLOCK, BLOCK * number)

    def batches(self, size: int) -> list[array[int]]:
        return [
            self.offsets[start : start + size]
            for start in range(0, self.operations - size + 1, size)
        ]


def nop(user_data: int) -> Sqe:
    sqe = Sqe()
    prep_nop(sqe, user_data)
    return sqe


# -- ours ------------------------------------------------------------------------------------------


class Ours:
    name = "trio_uring"

    def __init__(self, work: Workload, depth: int) -> None:
        self.depth = depth
        entries = IN_TURN if depth == 1 else depth
        self.ring = Ring(entries, work.flags)
        self.ring.register_files([work.fd])
        self.memory = mmap.mmap(-1, BLOCK * entries)
        self.blocks = memoryview(self.memory).cast("Q")
        self.ring.register_buffers([self.memory])
        self.ids = array("Q", range(entries))
        self.nop_entries = b"".join(bytes(nop(number)) for number in self.ids)
        self.batches = work.batches(entries)
        self.cqes = array("i", bytes(16 * entries))
        self.numbers = array("i", range(entries))
        self.zeroes = array("i", [0] * entries)
        self.full = array("i", [BLOCK] * entries)

    def close(self) -> None:
        self.ring.close()
        self.blocks.release()
        self.memory.close()

    def _take(self, results: array[int]) -> None:
        """Submits a batch; its CQEs are four numbers each, user_data in two, then the result."""
        cqes = self.cqes
        count = self.ring.submit_and_copy_into(cqes, self.depth)
        if count != self.depth or cqes[2::4] != results or cqes[::4] != self.numbers:
            raise WrongResult

    def nops(self) -> int:
        for _ in self.batches:
            self.ring.put_sqes(self.nop_entries)
            self._take(self.zeroes)
        return len(self.batches) * self.depth

    def reads(self) -> int:
        ring, blocks, fixed = self.ring, self.blocks, SqeFlag.FIXED_FILE
        for offsets in self.batches:
            ring.read_fixed_many(self.ids, 0, self.memory, BLOCK, offsets, 0, fixed)
            self._take(self.full)
            check(blocks[0] * BLOCK == offsets[0])
        return len(self.batches) * self.depth

    def nops_in_turn(self) -> int:
        for _ in self.batches:
            self.ring.put_sqes(self.nop_entries)
            for res in self.ring.submit_in_turn():
                if res != 0:
                    raise WrongResult
        return len(self.batches) * IN_TURN

    def reads_in_turn(self) -> int:
        ring, blocks, fixed = self.ring, self.blocks, SqeFlag.FIXED_FILE
        for offsets in self.batches:
            ring.read_fixed_many(self.ids, 0, self.memory, BLOCK, offsets, 0, fixed)
            for res in ring.submit_in_turn():
                if res != BLOCK:
                    raise WrongResult
            check(blocks[0] * BLOCK == offsets[0])
        return len(self.batches) * IN_TURN

    def nops_call_by_call(self) -> int:
        nop, run_one = self.ring.nop, self.ring.run_one
        count = len(self.batches) * IN_TURN
        for number in range(count):
            nop(number)
            if run_one() != 0:
                raise WrongResult
        return count

    def reads_call_by_call(self) -> int:
        ring, part = self.ring, PinnedBuffer(self.memory)[:BLOCK]
        for offsets in self.batches:
            for offset in offsets:
                ring.read_fixed(offset, 0, part, offset, 0).use_registered_fd()
                if ring.run_one() != BLOCK:
                    raise WrongResult
            check(self.blocks[0] * BLOCK == offset)
        del part
        return len(self.batches) * IN_TURN


# -- the PyPI package liburing ---------------------------------------------------------------------


class Theirs:
    name = "liburing"

    def __init__(self, work: Workload, depth: int) -> None:
        import liburing

        self.lib: Any = liburing
        self.depth = depth
        self.ring = liburing.Ring()
        liburing.io_uring_queue_init(depth, self.ring, int(work.flags))
        self.files = liburing.FileIndex([work.fd])
        liburing.io_uring_register_files(self.ring, self.files)
        # It reads into whole bytearrays only.
        self.blocks = [bytearray(BLOCK) for _ in range(depth)]
        self.iovec = liburing.Iovec(self.blocks)
        liburing.io_uring_register_buffers(self.ring, self.iovec)
        self.cqe = liburing.Cqe()
        self.batches = work.batches(IN_TURN if depth == 1 else depth)
        self.prepared = liburing.Sqe(depth)
        for number in range(depth):
            sqe = self.prepared[number]
            liburing.io_uring_prep_nop(sqe)
            sqe.user_data = number

    def close(self) -> None:
        self.lib.io_uring_queue_exit(self.ring)

    def _take(self, expected: int) -> None:
        """Submits a batch and looks at its CQEs."""
        lib, ring, cqe, depth = self.lib, self.ring, self.cqe, self.depth
        lib.io_uring_submit_and_wait(ring, depth)
        check(lib.io_uring_cq_ready(ring) == depth)
        lib.io_uring_peek_cqe(ring, cqe)
        for number in range(depth):
            entry = cqe[number]
            if entry.res != expected or entry.user_data != number:
                raise WrongResult
        lib.io_uring_cq_advance(ring, depth)

    def nops(self) -> int:
        put, ring, prepared = self.lib.put_sqe, self.ring, self.prepared
        for _ in self.batches:
            check(put(ring, prepared))
            self._take(0)
        return len(self.batches) * self.depth

    def reads(self) -> int:
        lib, ring, blocks = self.lib, self.ring, self.blocks
        get, prep, fixed = lib.io_uring_get_sqe, lib.io_uring_prep_read_fixed, lib.IOSQE_FIXED_FILE
        for offsets in self.batches:
            for number, offset in enumerate(offsets):
                sqe = get(ring)
                prep(sqe, 0, blocks[number], number, offset)
                sqe.flags = fixed
                sqe.user_data = number
            self._take(BLOCK)
            check(int.from_bytes(blocks[0][:8], "little") * BLOCK == offsets[0])
        return len(self.batches) * self.depth

    def nops_in_turn(self) -> int:
        lib, ring, cqe, prepared = self.lib, self.ring, self.cqe, self.prepared
        put, submit, peek = lib.put_sqe, lib.io_uring_submit_and_wait, lib.io_uring_peek_cqe
        advance = lib.io_uring_cq_advance
        count = len(self.batches) * IN_TURN
        for _ in range(count):
            put(ring, prepared)
            submit(ring, 1)
            peek(ring, cqe)
            if cqe[0].res != 0:
                raise WrongResult
            advance(ring, 1)
        return count

    def reads_in_turn(self) -> int:
        lib, ring, cqe, block = self.lib, self.ring, self.cqe, self.blocks[0]
        get, prep, fixed = lib.io_uring_get_sqe, lib.io_uring_prep_read_fixed, lib.IOSQE_FIXED_FILE
        submit, peek = lib.io_uring_submit_and_wait, lib.io_uring_peek_cqe
        advance = lib.io_uring_cq_advance
        for offsets in self.batches:
            for offset in offsets:
                sqe = get(ring)
                prep(sqe, 0, block, 0, offset)
                sqe.flags = fixed
                submit(ring, 1)
                peek(ring, cqe)
                if cqe[0].res != BLOCK:
                    raise WrongResult
                advance(ring, 1)
            check(int.from_bytes(block[:8], "little") * BLOCK == offsets[-1])
        return len(self.batches) * IN_TURN

    def nops_call_by_call(self) -> int:
        lib, ring, cqe = self.lib, self.ring, self.cqe
        get, prep, submit = (
            lib.io_uring_get_sqe,
            lib.io_uring_prep_nop,
            lib.io_uring_submit_and_wait,
        )
        peek, advance = lib.io_uring_peek_cqe, lib.io_uring_cq_advance
        count = len(self.batches) * IN_TURN
        for number in range(count):
            sqe = get(ring)
            prep(sqe)
            sqe.user_data = number
            submit(ring, 1)
            peek(ring, cqe)
            entry = cqe[0]
            if entry.user_data != number or entry.res != 0:
                raise WrongResult
            advance(ring, 1)
        return count

    def reads_call_by_call(self) -> int:
        lib, ring, cqe, block = self.lib, self.ring, self.cqe, self.blocks[0]
        get, prep, fixed = lib.io_uring_get_sqe, lib.io_uring_prep_read_fixed, lib.IOSQE_FIXED_FILE
        submit, peek = lib.io_uring_submit_and_wait, lib.io_uring_peek_cqe
        advance = lib.io_uring_cq_advance
        for offsets in self.batches:
            for offset in offsets:
                sqe = get(ring)
                prep(sqe, 0, block, 0, offset)
                sqe.flags = fixed
                sqe.user_data = offset
                submit(ring, 1)
                peek(ring, cqe)
                entry = cqe[0]
                if entry.user_data != offset or entry.res != BLOCK:
                    raise WrongResult
                advance(ring, 1)
            check(int.from_bytes(block[:8], "little") * BLOCK == offset)
        return len(self.batches) * IN_TURN


# -- side by side ----------------------------------------------------------------------------------

Contest = tuple[str, str, int]
CONTESTS: list[Contest] = [
    *(
        (f"{kind}, depth {depth}", kind if depth > 1 else f"{kind}_in_turn", depth)
        for kind in ("nops", "reads")
        for depth in DEPTHS
    ),
    ("nops, depth 1, call by call", "nops_call_by_call", 1),
    ("reads, depth 1, call by call", "reads_call_by_call", 1),
]


def seconds_per_operation(run: Callable[[], int]) -> float:
    start = time.perf_counter()
    count = run()
    return (time.perf_counter() - start) / count


def contest(work: Workload, method: str, depth: int, rounds: int) -> tuple[float, float]:
    """Median nanoseconds per operation of both sides, whose rounds alternate."""
    sides: list[Ours | Theirs] = [Ours(work, depth), Theirs(work, depth)]
    times: list[list[float]] = [[], []]
    gc.disable()
    try:
        for number in range(rounds + 1):
            for side, measured in zip(sides, times, strict=True):
                taken = seconds_per_operation(getattr(side, method))
                if number:  # the first round warms up
                    measured.append(taken)
    finally:
        gc.enable()
        for side in sides:
            side.close()
    ours, theirs = (1e9 * statistics.median(measured) for measured in times)
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    help_text = f"in each round, at least {IN_TURN}"
    parser.add_argument("--operations", type=int, default=50 * IN_TURN, help=help_text)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        work = Workload(directory, args.operations)
        print(f"{'nanoseconds per operation':30} {Ours.name:>12} {Theirs.name:>12} {'ratio':>7}")
        for label, method, depth in CONTESTS:
            ours, theirs = contest(work, method, depth, args.rounds)
            print(f"{label:30} {ours:12.0f} {theirs:12.0f} {theirs / ours:7.2f}")
        os.close(work.fd)


if __name__ == "__main__":
    main()
