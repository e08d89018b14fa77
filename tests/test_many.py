# SPDX-License-Identifier: MIT OR Apache-2.0
"""Batches: read_many, write_many, read_files, stat_many."""

from __future__ import annotations

import errno
import gc
import os
import random
import sys
import threading
from array import array
from typing import TYPE_CHECKING, Any

import pytest
import trio
from engine_help import WAIT_S, engine, passes, socket_pair

import trio_uring
from trio_uring._many import PART_BYTES
from trio_uring.lowlevel import Op, PinnedBuffer
from trio_uring.testing import (
    TINY_RING,
    adopt_ring,
    requires_direct_descriptors,
    requires_op,
    used_slots,
)

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = requires_direct_descriptors()

PAGE = 4096
NAMES = [name for name in dir(os.stat("/")) if name.startswith("st_") and "atime" not in name]


@pytest.fixture(params=["adopted", "hosted"], autouse=True)
def _driver(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIO_URING_DRIVER", request.param)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "data"
    path.write_bytes(random.Random(1).randbytes(64 * PAGE))
    return path


def content_of(path: Path) -> bytes:
    return path.read_bytes()


# -- read_many and write_many ----------------------------------------------------------------------


@pytest.mark.parametrize("tiny", [False, True], ids=["usual ring", "ring of two"])
async def test_every_part_is_what_is_at_its_offset(path: Path, tiny: bool) -> None:
    """More parts than the queue has entries; in any order, and the same offset twice."""
    if tiny:
        adopt_ring(TINY_RING)
    content = content_of(path)
    offsets = [random.randrange(60 * PAGE) for _ in range(300)] + [0, 0]
    buffer = bytearray(len(offsets) * PAGE)
    async with await trio_uring.open_direct(path) as file:
        assert await file.read_many(buffer, offsets) == [PAGE] * len(offsets)
        for number, offset in enumerate(offsets):
            assert buffer[number * PAGE : (number + 1) * PAGE] == content[offset : offset + PAGE]


async def test_parts_past_the_end_are_short(path: Path) -> None:
    """Also one that begins there."""
    buffer = bytearray(3 * PAGE)
    async with await trio_uring.open_direct(path) as file:
        assert await file.read_many(buffer, [0, 64 * PAGE - 5, 100 * PAGE]) == [PAGE, 5, 0]


async def test_offsets_may_be_an_array_of_any_kind(path: Path) -> None:
    """One of 64-bit numbers is used as it is."""
    content = content_of(path)
    bytes_of = array("Q", [1, 2]).tobytes()
    arrays = [array(code, [1, 2]) for code in "QqLlIH"]
    views = [memoryview(bytes_of).cast("Q"), memoryview(array("Q", [1, 0, 2, 0]))[::2]]
    async with await trio_uring.open_direct(path) as file:
        for offsets in (*arrays, *views, [1, 2], (1, 2), range(1, 3), [True, 2]):
            buffer = bytearray(6)
            assert await file.read_many(buffer, offsets) == [3, 3]
            assert buffer == content[1:4] + content[2:5]
        with pytest.raises(TypeError):
            await file.read_many(bytearray(6), [1.0, 2.0])  # type: ignore[list-item]


async def test_what_cannot_be_meant_is_refused_before_anything_is_read(path: Path) -> None:
    """Negative offsets, unequal parts."""
    async with await trio_uring.open_direct(path) as file:
        buffer = bytearray(10)
        for offsets in ([-1, 0], [1 << 63, 0], array("q", [0, -1]), array("Q", [1 << 63, 0])):
            with pytest.raises(ValueError, match="offset must be"):
                await file.read_many(buffer, offsets)
        with pytest.raises(ValueError, match="3 equal parts"):
            await file.read_many(buffer, [0, 1, 2])
        assert await file.read_many(buffer, []) == []
        assert buffer == bytes(10)


async def test_what_it_was_lent_is_given_back(path: Path) -> None:
    """Of batches that end, fail, are refused, or are cancelled: nothing stays locked or in use."""
    buffer, offsets = bytearray(20), array("Q", range(20))
    async with await trio_uring.open_direct(path, os.O_RDONLY) as file:
        await file.read_many(buffer, offsets)
        gc.collect()
        before = sys.getrefcount(file), sys.getrefcount(buffer), sys.getrefcount(offsets)
        for _ in range(50):
            await file.read_many(buffer, offsets)
            await file.read_many(buffer[:5], offsets[:5])
            with pytest.raises(OSError, match="Bad file descriptor"):
                await file.write_many(buffer, offsets)
            with pytest.raises(ValueError, match="equal parts"):
                await file.read_many(buffer, offsets[:3])
            with trio.CancelScope() as scope:
                scope.cancel()
                await file.read_many(buffer, offsets)
            assert scope.cancelled_caught
        gc.collect()
        after = sys.getrefcount(file), sys.getrefcount(buffer), sys.getrefcount(offsets)
        assert after == before
        assert len(engine().records) < 20
        buffer.append(0)
        offsets.append(0)


async def test_what_is_pinned_is_lent_as_it_is(path: Path) -> None:
    """To reads, writes and batches; and it is locked for as long as it lives."""
    content = content_of(path)
    memory = bytearray(10)
    pinned = PinnedBuffer(memory)
    constant = PinnedBuffer(b"constant")
    async with await trio_uring.open_direct(path, os.O_RDWR) as file:
        assert await file.readinto_at(pinned, 1) == 10
        assert memory == content[1:11]
        assert await file.read_many(pinned[:4], [7, 8]) == [2, 2]
        assert memory[:4] == content[7:9] + content[8:10]
        for refused in (file.readinto_at(constant, 0), file.read_many(constant, [0])):
            with pytest.raises(BufferError):
                await refused
        assert await file.write_at(constant[:5], 0) == 5
        assert await file.write_many(constant, [10, 20]) == [4, 4]
    changed = content_of(path)
    assert (changed[:5], changed[10:14], changed[20:24]) == (b"const", b"cons", b"tant")
    with pytest.raises(BufferError):
        memory.append(0)
    del pinned
    memory.append(0)


async def test_written_parts_are_read_back(tmp_path: Path) -> None:
    """Each at its offset."""
    data = random.Random(2).randbytes(8 * 100)
    offsets = random.Random(3).sample(range(0, 8000, 8), 100)
    async with await trio_uring.open_direct(tmp_path / "new", os.O_RDWR | os.O_CREAT) as file:
        assert await file.write_many(data, offsets) == [8] * 100
        back = bytearray(len(data))
        await file.read_many(back, offsets)
        assert back == data


async def test_the_first_error_is_raised_when_all_have_ended(path: Path) -> None:
    """A file that was not opened for reading."""
    async with await trio_uring.open_direct(path, os.O_WRONLY) as file:
        for offsets in (range(20), [*range(20)]):
            with pytest.raises(OSError, match="Bad file descriptor") as failure:
                await file.read_many(bytearray(40), offsets)
            assert failure.value.errno == errno.EBADF
            assert engine().in_flight == 0


async def test_cancelled_before_it_began_it_writes_nothing(path: Path) -> None:
    """No part of it reaches the kernel."""
    before = content_of(path)
    async with await trio_uring.open_direct(path, os.O_WRONLY) as file:
        with trio.CancelScope() as scope:
            scope.cancel()
            await file.write_many(bytes(40), [*range(20)])
    assert scope.cancelled_caught
    assert content_of(path) == before


@pytest.mark.parametrize("how", ["cancelled", "closed"])
async def test_a_batch_that_ends_before_it_is_submitted_writes_nothing(
    path: Path, how: str
) -> None:
    """By another task in the same pass, whichever of the two comes first."""
    before = content_of(path)
    order: set[bool] = set()
    while order != {True, False}:  # Trio shuffles the tasks of a pass
        order.add(await write_was_begun_when_it_ended(path, how))
        assert content_of(path) == before


async def write_was_begun_when_it_ended(path: Path, how: str) -> bool:
    """``write_many`` of one task, ended by another; it must raise what that means."""
    file = await trio_uring.open_direct(path, os.O_RDWR)
    scope = trio.CancelScope()
    raised: list[str] = []
    was_begun = False

    async def write() -> None:
        with scope:
            try:
                await file.write_many(bytes(40), [*range(20)])
            except trio.ClosedResourceError:
                raised.append("closed")
        if scope.cancelled_caught:
            raised.append("cancelled")

    async def end() -> None:
        nonlocal was_begun
        was_begun = engine().ring._ring.batched == 20
        if how == "cancelled":
            scope.cancel()
        else:
            await file.aclose()

    async with file, trio.open_nursery() as nursery:
        nursery.start_soon(write)
        nursery.start_soon(end)
    assert raised == [how]
    return was_begun


async def test_others_are_served_while_a_lone_batch_waits() -> None:
    """A thread wakes a task although nothing of the batch has ended, and a timer fires."""
    reader, writer = os.pipe()
    os.set_blocking(reader, True)
    token = trio.lowlevel.current_trio_token()
    try:
        async with await trio_uring.register(reader) as file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stalled, file)
                with trio.fail_after(WAIT_S):
                    await passes(3)
                    for _ in range(3):
                        called = trio.Event()
                        thread = threading.Thread(target=token.run_sync_soon, args=(called.set,))
                        thread.start()
                        await called.wait()
                        thread.join()
                        await trio.sleep(0.001)
                    os.write(writer, bytes(16))
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_batch_that_waits_can_be_cancelled_and_closed() -> None:
    """On a pipe, where parts wait for data: each of them is cancelled."""
    reader, writer = os.pipe()
    os.set_blocking(reader, True)
    try:
        async with await trio_uring.register(reader) as file:
            with trio.fail_after(WAIT_S), trio.move_on_after(0.01) as scope:
                await stalled(file)
            assert scope.cancelled_caught
            async with trio.open_nursery() as nursery:

                async def closed() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await stalled(file)

                nursery.start_soon(closed)
                await passes(3)
                with trio.fail_after(WAIT_S):
                    await file.aclose()
    finally:
        os.close(reader)
        os.close(writer)


async def stalled(file: trio_uring.FixedFile) -> None:
    """Sixteen reads that wait, as one batch."""
    from trio_uring._batch import Batch
    from trio_uring._lib import address_of, ffi
    from trio_uring._prep import prep_read

    ring = engine().ring
    memory = ffi.new("char[]", 16)
    batch = Batch.take(engine(), 16)
    batch.take_number()
    for place in range(16):
        sqe = ring.entry(ring.tail + place)
        number = file._checked_number()
        prep_read(sqe, number, address_of(memory), 1, -1, batch.name(place), file._fixed)
    batch.begin(file, memory)
    await engine().wait(batch)


async def test_many_batches_share_a_ring(path: Path) -> None:
    """Each gets its own completions, and numbers are used again."""
    content = content_of(path)

    async def read(start: int) -> None:
        async with await trio_uring.open_direct(path) as file:
            for _ in range(5):
                buffer = bytearray(70)
                assert await file.read_many(buffer, [*range(start, start + 7)]) == [10] * 7
                assert buffer[:10] == content[start : start + 10]
                assert buffer[60:] == content[start + 6 : start + 16]

    async with trio.open_nursery() as nursery:
        for start in range(50):
            nursery.start_soon(read, start)


async def test_single_operations_and_batches_do_not_mix(path: Path) -> None:
    """A socket's receive beside it ends with its own data."""
    async with socket_pair() as (ours, theirs), await trio_uring.open_direct(path) as file:
        got: list[bytes] = []

        async def receive() -> None:
            got.append(await ours.recv(10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await passes(2)
            theirs.send(b"hello")
            await file.read_many(bytearray(1000), range(1000))
        assert got == [b"hello"]


# -- read_files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tiny", [False, True], ids=["usual ring", "ring of two"])
async def test_files_are_read_whole(tmp_path: Path, tiny: bool) -> None:
    """Empty, short, just as long as a chain reads, and longer; more than there are slots."""
    if tiny:
        adopt_ring(TINY_RING)
    sizes = [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 3 * PART_BYTES] * 15
    contents = [random.Random(size).randbytes(size) for size in sizes]
    paths = [tmp_path / str(number) for number in range(len(sizes))]
    for path, content in zip(paths, contents, strict=True):
        path.write_bytes(content)
    assert await trio_uring.read_files(paths) == contents
    assert used_slots() == {}


async def test_a_file_that_cannot_be_read_has_its_error_in_its_place(tmp_path: Path) -> None:
    """The others are read; no slot is left by a chain that broke."""
    good = tmp_path / "good"
    good.write_bytes(b"good")
    found = await trio_uring.read_files([good, tmp_path / "missing", tmp_path, str(good).encode()])
    assert found[0] == found[3] == b"good"
    assert isinstance(found[1], FileNotFoundError)
    assert found[1].filename == str(tmp_path / "missing")
    assert isinstance(found[2], IsADirectoryError)
    assert used_slots() == {}


async def test_files_are_found_in_a_directory(tmp_path: Path) -> None:
    """``dir_fd`` as for os.open()."""
    (tmp_path / "name").write_bytes(b"content")
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        assert await trio_uring.read_files(["name"], dir_fd=directory) == [b"content"]
        [status] = await trio_uring.stat_many(["name"], dir_fd=directory)
    finally:
        os.close(directory)
    assert isinstance(status, os.stat_result)


async def test_no_path_with_a_null_byte_is_taken() -> None:
    """It would name another file."""
    for function in (trio_uring.read_files, trio_uring.stat_many):
        with pytest.raises(ValueError, match="null byte"):
            await function(["/dev/null", "a\0b"])


async def test_a_chain_that_waits_for_a_fifo_can_be_cancelled(tmp_path: Path) -> None:
    """Nobody opens the other end; the slots are free afterwards."""
    fifo, good = tmp_path / "fifo", tmp_path / "good"
    os.mkfifo(fifo)
    good.write_bytes(b"good")
    with trio.fail_after(WAIT_S), trio.move_on_after(0.05) as scope:
        await trio_uring.read_files([good, fifo, good])
    assert scope.cancelled_caught
    assert used_slots() == {}
    assert await trio_uring.read_files([good]) == [b"good"]


async def test_nothing_to_do_is_a_checkpoint_all_the_same() -> None:
    """An empty list of paths."""
    for function in (trio_uring.read_files, trio_uring.stat_many):
        with trio.testing.assert_checkpoints():
            assert await function([]) == []


# -- stat_many -------------------------------------------------------------------------------------


@requires_op(Op.STATX)
async def test_status_is_that_of_os_stat(tmp_path: Path) -> None:
    """Of files, directories and devices, field by field."""
    link = tmp_path / "link"
    link.symlink_to("/dev/null")
    paths: list[Any] = [tmp_path, "/dev/null", b"/", link, __file__] * 40
    for follow in (True, False):
        found = await trio_uring.stat_many(paths, follow_symlinks=follow)
        for path, status in zip(paths, found, strict=True):
            wanted = os.stat(path, follow_symlinks=follow)
            assert isinstance(status, os.stat_result)
            assert {name: getattr(status, name) for name in NAMES} == {
                name: getattr(wanted, name) for name in NAMES
            }


@requires_op(Op.STATX)
async def test_the_status_of_what_is_missing_is_its_error(tmp_path: Path) -> None:
    """The others have theirs."""
    [found, missing] = await trio_uring.stat_many([tmp_path, tmp_path / "missing"])
    assert isinstance(found, os.stat_result)
    assert isinstance(missing, FileNotFoundError)


# -- registered buffers ----------------------------------------------------------------------------


@pytest.mark.parametrize("registered", [True, False], ids=["registered", "no room for it"])
async def test_a_registered_buffer_is_read_into_and_written_from(
    path: Path, registered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole and in part, singly and in a batch; also when the kernel does not take it."""
    monkeypatch.setattr("trio_uring._locked_buffer.PLACES", 64 if registered else 0)
    content = content_of(path)
    with trio_uring.register_buffer(4 * PAGE) as buffer:
        if registered and not buffer.registered:
            pytest.skip("this kernel does not register buffers so, or not as many")
        assert buffer.registered == registered
        async with await trio_uring.open_direct(path, os.O_RDWR) as file:
            assert await file.readinto_at(buffer, 7) == 4 * PAGE
            assert bytes(buffer) == content[7 : 7 + 4 * PAGE]
            assert await file.readinto_at(buffer[PAGE : PAGE + 5], 0) == 5
            assert bytes(buffer.memory[PAGE : PAGE + 6]) == content[:5] + content[PAGE + 12 :][:1]
            assert await file.read_many(buffer, [3, 2, 1, 0]) == [PAGE] * 4
            assert bytes(buffer[PAGE : 2 * PAGE]) == content[2 : PAGE + 2]
            buffer.memory[:3] = b"new"
            assert await file.write_at(buffer[:3], 0) == 3
            assert await file.write_many(buffer[:2], [10, 20]) == [1, 1]
    changed = content_of(path)
    assert (changed[:3], changed[10:11], changed[20:21]) == (b"new", b"n", b"e")


async def test_places_of_registered_buffers_are_used_again(path: Path) -> None:
    """More of them one after the other than the table has places; more at once are ordinary."""
    async with await trio_uring.open_direct(path) as file:
        for _ in range(100):
            with trio_uring.register_buffer(PAGE) as buffer:
                first = buffer.registered
                assert await file.readinto_at(buffer, 0) == PAGE
        several = [trio_uring.register_buffer(bytearray(10)) for _ in range(70)]
        assert sum(buffer.registered for buffer in several) == (64 if first else 0)
        for buffer in several:
            assert await file.readinto_at(buffer, 0) == 10
            buffer.close()
            assert not buffer.registered
            assert await file.readinto_at(buffer, 5) == 10


@pytest.mark.parametrize("one", [False, True], ids=["read_many", "readinto_at"])
async def test_a_registered_buffer_is_closed_before_what_uses_it_is_submitted(
    path: Path, one: bool
) -> None:
    """By another task, in the same pass, or between two parts of a long batch."""
    adopt_ring(trio_uring.RingOptions(sq_entries=4, cq_entries=8))
    content = content_of(path)
    async with await trio_uring.open_direct(path) as file:
        for _ in range(20):  # Trio shuffles the tasks of a pass
            with trio_uring.register_buffer(len(content)) as buffer:

                async def read() -> None:
                    if one:
                        await file.readinto_at(buffer, 0)
                    else:
                        await file.read_many(buffer, range(0, len(content), PAGE))

                async def close(after: int) -> None:
                    await passes(after)
                    buffer.close()

                for after in (0, 1):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(read)
                        nursery.start_soon(close, after)
                    assert bytes(buffer.memory) == content
                    buffer.memory[:] = bytes(len(content))


async def test_no_memory_for_the_answers_leaves_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the next one is as ever."""

    def nothing_left(*args: Any) -> Any:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("trio_uring._many.struct_memory", nothing_left)
        with pytest.raises(MemoryError):
            await trio_uring.stat_many(["/"] * 5)
    assert engine().ring._ring.batched == 0
    assert len(await trio_uring.stat_many(["/"] * 5)) == 5


async def test_a_slice_of_a_registered_buffer_is_closed_with_it(path: Path) -> None:
    """Its place is another buffer's afterwards: it is ordinary memory then."""
    content = content_of(path)
    async with await trio_uring.open_direct(path) as file:
        with trio_uring.register_buffer(2 * PAGE) as first:
            part = first[PAGE:]
            assert part.registered == first.registered
        with trio_uring.register_buffer(2 * PAGE):
            assert not part.registered
            assert await file.readinto_at(part, 5) == PAGE
            assert bytes(part) == content[5 : 5 + PAGE]


async def test_a_buffer_that_is_closed_too_early_stays_until_its_operations_end() -> None:
    """The kernel keeps its pages, and the record of the operation keeps the memory."""
    reader, writer = os.pipe()
    os.set_blocking(reader, True)
    try:
        async with await trio_uring.register(reader) as file:
            memory = bytearray(10)
            got: list[int] = []

            async def read() -> None:
                with trio_uring.register_buffer(memory) as buffer:
                    nursery.start_soon(stop, buffer)
                    got.append(await file.readinto_at(buffer, 0))

            async def stop(buffer: trio_uring.RegisteredBuffer) -> None:
                await passes(2)
                buffer.close()
                with pytest.raises(BufferError):
                    memory.append(1)
                os.write(writer, b"late")

            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(read)
            assert got == [4]
            assert memory[:4] == b"late"
    finally:
        os.close(reader)
        os.close(writer)


async def test_a_read_only_buffer_is_not_registered() -> None:
    """The kernel would write to it."""
    with pytest.raises(BufferError):
        trio_uring.register_buffer(b"constant")
