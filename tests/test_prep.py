# SPDX-License-Identifier: MIT OR Apache-2.0
"""The bytes that prep functions write."""

from __future__ import annotations

import itertools
from array import array
from struct import unpack_from
from typing import TYPE_CHECKING, Any

import liburing_entries
import pytest
from prep_cases import ALLOC_WRAPS, CASES, DIFFERENCES, NOT_OURS, VALUES, Case, entry_of

from trio_uring import _prep
from trio_uring._abi import FILE_INDEX_ALLOC, FsyncFlag, Op, SqeFlag
from trio_uring._prep import prep_close_direct, prep_many, prep_nop, prep_read, prep_recv
from trio_uring._prep_wait import poll32_events
from trio_uring._sqe import SQE_BYTES, Sqe

if TYPE_CHECKING:
    from collections.abc import Callable

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
TARGETS = [
    case
    for case in CASES
    if "SLOT" in case.arguments and case.id not in ("fixed_fd_install", "files_update")
]
NOP = bytes(SQE_BYTES)
FIELDS = {"fd": range(4, 8), "file_index": range(44, 48)}


# -- beside liburing ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def entries_of_liburing(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    if reason := liburing_entries.missing():
        pytest.skip(reason)
    return liburing_entries.compiled_entries(tmp_path_factory.mktemp("liburing"))


def differences(case: Case) -> set[str]:
    """The fields in which our entry and that of this liburing are meant to differ."""
    if "ALLOC" in case.arguments and case.c_function is not None:
        source = liburing_entries.body_of(case.c_function)
        if "set_target_fixed_file" in source and "IORING_FILE_INDEX_ALLOC" not in source:
            return ALLOC_WRAPS[0]
    return DIFFERENCES.get(case.id, (set(), ""))[0]


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.c_function is not None], ids=lambda case: case.id
)
def test_an_entry_has_the_64_bytes_that_liburing_writes(
    case: Case, entries_of_liburing: dict[str, bytes]
) -> None:
    """For the same arguments, in all fields that are not a listed difference (issue: point 2)."""
    if case.id not in entries_of_liburing:
        pytest.skip(f"this liburing has no {case.c_function}")
    ours, theirs = entry_of(case), entries_of_liburing[case.id]
    different = {i for i in range(SQE_BYTES) if ours[i] != theirs[i]}
    meant = differences(case)

    assert different <= {i for field in meant for i in FIELDS[field]}, (ours.hex(), theirs.hex())
    assert bool(different) == bool(meant)


def test_no_prep_function_of_liburing_is_forgotten(entries_of_liburing: dict[str, bytes]) -> None:
    """Each one in the header has a case here, or a reason why not."""
    covered = {case.c_function for case in CASES} | {f"io_uring_prep_{name}" for name in NOT_OURS}

    assert {f"io_uring_prep_{name}" for name in liburing_entries.functions()} <= covered


def test_k3_the_slot_that_liburing_turns_into_fd_0_is_refused(
    entries_of_liburing: dict[str, bytes],
) -> None:
    """Its close_direct of 0xffffffff wraps to a close of descriptor 0; ours raises."""
    theirs = Sqe(bytearray(entries_of_liburing["close_direct-overflow"]))

    assert (theirs.opcode, theirs.fd, theirs.file_index) == (Op.CLOSE, 0, 0)
    with pytest.raises(ValueError, match="4294967295 is not a slot"):
        prep_close_direct(theirs, 0xFFFF_FFFF)
    assert theirs.opcode == Op.NOP


# -- by themselves -----------------------------------------------------------------------------


def test_every_prep_function_has_a_case() -> None:
    """The tests over all cases are tests over all functions."""
    prepped = {case.prep.__name__ for case in CASES}

    assert prepped == set(_prep.__all__) - {"prep_many"}


def test_every_opcode_has_a_prep_function() -> None:
    """From NOP to URING_CMD128."""
    assert {entry_of(case)[0] for case in CASES} == set(Op)


@each_case
def test_an_entry_keeps_nothing_of_an_earlier_operation(case: Case) -> None:
    """All 64 bytes are written, whatever was there."""
    assert entry_of(case, stale=0xFF) == entry_of(case, stale=0)


@each_case
def test_an_entry_is_written_in_its_own_place_only(case: Case) -> None:
    """The entries before and after it stay as they were."""
    queue = bytearray(b"\xee") * (3 * SQE_BYTES)
    case.prep(Sqe(queue, SQE_BYTES), *case.numbers)

    assert set(queue[:SQE_BYTES]) == set(queue[2 * SQE_BYTES :]) == {0xEE}


@each_case
def test_user_data_and_flags_are_zero_unless_given(case: Case) -> None:
    """Flags that belong to the operation are there without being asked for."""
    sqe = Sqe()
    case.prep(sqe, *case.numbers)
    own = {Op.READ_MULTISHOT: SqeFlag.BUFFER_SELECT, Op.FIXED_FD_INSTALL: SqeFlag.FIXED_FILE}

    assert (sqe.user_data, sqe.flags) == (0, own.get(Op(sqe.opcode), 0))


@each_case
@pytest.mark.parametrize("wrong", [1 << 64, -(1 << 64), None], ids=["large", "small", "none"])
def test_a_wrong_argument_never_leaves_half_an_operation(case: Case, wrong: int | None) -> None:
    """It raises; a number out of range leaves a NOP, and another type that or what was there."""
    stale = b"\xee" * SQE_BYTES
    errors = (ValueError,) if wrong is not None else (ValueError, TypeError)
    for place in range(len(case.arguments) + 2):
        sqe = Sqe(bytearray(stale))
        arguments: list[int | None] = [*case.numbers, VALUES["USER_DATA"], VALUES["SQE_FLAGS"]]
        arguments[place] = wrong

        with pytest.raises(errors):
            case.prep(sqe, *arguments)
        assert bytes(sqe) in ((NOP,) if wrong is not None else (NOP, stale))


def test_a42_a_nop_is_zeros_and_its_user_data() -> None:
    """Byte for byte as in Zig's test "nop"."""
    sqe = Sqe(bytearray(b"\xff" * SQE_BYTES))
    prep_nop(sqe, 0xAAAA_AAAA)

    assert bytes(sqe) == bytes(32) + b"\xaa\xaa\xaa\xaa" + bytes(28)


def test_a28_fsync_may_carry_datasync() -> None:
    """The flag is in the field that the operations share."""
    sqe = Sqe()
    _prep.prep_fsync(sqe, 3, FsyncFlag.DATASYNC)

    assert (sqe.opcode, sqe.fd, sqe.op_flags) == (Op.FSYNC, 3, 1)


@pytest.mark.parametrize("offset", [-1, 0xFFFF_FFFF_FFFF_FFFF], ids=["signed", "unsigned"])
@pytest.mark.parametrize("name", ["read", "write", "readv", "writev", "read_fixed", "splice"])
def test_a30_the_file_position_may_be_written_signed_or_unsigned(name: str, offset: int) -> None:
    """An offset is Zig's u64 as well as Python's -1."""
    arguments = {"read_fixed": [3, 4096, 8, offset, 2], "splice": [3, 0, 4, offset, 8]}
    sqe = Sqe()
    getattr(_prep, f"prep_{name}")(sqe, *arguments.get(name, [3, 4096, 8, offset]))

    assert (sqe.off, sqe.len) == (0xFFFF_FFFF_FFFF_FFFF, 8)


def test_b4_k1_k2_close_direct_names_the_slot_in_file_index_alone() -> None:
    """fd is 0, and the slot is there as slot + 1."""
    sqe = Sqe(bytearray(b"\xff" * SQE_BYTES))
    prep_close_direct(sqe, 5, 0xBB)

    assert (sqe.opcode, sqe.fd, sqe.file_index, sqe.user_data) == (19, 0, 6, 0xBB)
    assert (sqe.off, sqe.addr, sqe.len, sqe.op_flags, sqe.addr3) == (0, 0, 0, 0, 0)


def test_c24_close_direct_does_not_set_fixed_file() -> None:
    """With that flag the kernel answers EBADF, whatever the manual page says."""
    sqe = Sqe(bytearray(b"\xff" * SQE_BYTES))
    prep_close_direct(sqe, 0)

    assert sqe.flags == 0


@pytest.mark.parametrize("slot", [-1, 0xFFFF_FFFE, FILE_INDEX_ALLOC, 1 << 32, -(1 << 32)])
def test_k3_close_direct_refuses_what_would_wrap_to_fd_0(slot: int) -> None:
    """Neither a number that wraps nor `FILE_INDEX_ALLOC` becomes an entry that closes something."""
    sqe = Sqe(bytearray(b"\xff" * SQE_BYTES))

    with pytest.raises(ValueError, match="is not a slot"):
        prep_close_direct(sqe, slot)
    assert bytes(sqe) == NOP


@pytest.mark.parametrize("case", TARGETS, ids=lambda case: case.id)
@pytest.mark.parametrize("slot", [-1, 0xFFFF_FFFE, 1 << 32])
def test_b9_a_target_that_is_no_slot_is_refused(case: Case, slot: int) -> None:
    """A field of 0 would make a normal descriptor without a word."""
    arguments = [slot if name == "SLOT" else VALUES[name] for name in case.arguments]

    with pytest.raises(ValueError, match="is not a slot"):
        case.prep(Sqe(), *arguments)


@pytest.mark.parametrize(("slot", "field"), [(0, 1), (0xFFFF_FFFD, 0xFFFF_FFFE), (-1, None)])
def test_b9_file_index_is_slot_plus_one_and_alloc_stays_as_it_is(
    slot: int, field: int | None
) -> None:
    """`FILE_INDEX_ALLOC` is the largest value of the field, no slot reaches it."""
    sqe = Sqe()
    _prep.prep_openat_direct(sqe, -100, 4096, 0, 0, FILE_INDEX_ALLOC if field is None else slot)

    assert sqe.file_index == (FILE_INDEX_ALLOC if field is None else field)


def test_a_poll_mask_is_two_halves_whose_low_one_comes_first() -> None:
    """On a big-endian machine that means swapping them."""
    assert poll32_events(0x8000_0019, big_endian=False) == 0x8000_0019
    assert poll32_events(0x8000_0019, big_endian=True) == 0x0019_8000


# -- batches -----------------------------------------------------------------------------------

Columns = dict[str, Any]


def columns_of(count: int) -> Columns:
    return {
        "user_data": array("Q", [(7 << 60) + i for i in range(count)]),
        "addr": array("Q", [0x7F00_0000_0000 + 4096 * i for i in range(count)]),
        "len": array("I", [1 + i for i in range(count)]),
        "fd": array("i", [10 + i for i in range(count)]),
    }


def as_lists(columns: Columns) -> Columns:
    return {name: list(values) for name, values in columns.items()}


def as_views(columns: Columns) -> Columns:
    return {name: memoryview(values) for name, values in columns.items()}


def as_unsigned_long(columns: Columns) -> Columns:
    """The type that NumPy's uint64 has."""
    longs = {name: columns[name] for name in ("user_data", "addr")}
    return {**columns, **{name: array("L", values) for name, values in longs.items()}}


@pytest.mark.parametrize("form", [dict, as_lists, as_views, as_unsigned_long])
@pytest.mark.parametrize("count", [0, 1, 5])
def test_a_batch_is_what_single_preps_write(count: int, form: Callable[[Columns], Columns]) -> None:
    """Template and columns give the same bytes as a loop, and nothing around them."""
    columns = columns_of(count)
    template = Sqe()
    prep_recv(template, 0, 0, 0, 0x40, sqe_flags=SqeFlag.FIXED_FILE)
    batch, single = bytearray(b"\xee" * 64 * 8), bytearray(b"\xee" * 64 * 8)
    prep_many(batch, 128, count, bytes(template), form(columns))
    for i in range(count):
        sqe = Sqe(single, 128 + 64 * i)
        fd, address, nbytes = (columns[name][i] for name in ("fd", "addr", "len"))
        prep_recv(sqe, fd, address, nbytes, 0x40, columns["user_data"][i], SqeFlag.FIXED_FILE)

    assert batch == single


def test_a_batch_of_big_entries_has_their_stride() -> None:
    """A template of 128 bytes is one entry of a ring with SQE128."""
    template = Sqe(bytearray(b"\xcc" * 128))
    prep_nop(template)
    queue = bytearray(128 * 3)
    prep_many(queue, 0, 3, bytes(template.memory), {"user_data": [1, 2, 3]})

    assert [unpack_from("=Q", queue, at + 32)[0] for at in (0, 128, 256)] == [1, 2, 3]
    assert queue[64:128] == queue[192:256] == queue[320:] == b"\xcc" * 64


def test_offsets_are_a_column_too() -> None:
    """So one file is read in pieces."""
    template = Sqe()
    prep_read(template, 3, 4096, 512, 0)
    queue = bytearray(64 * 4)
    prep_many(queue, 0, 4, bytes(template), {"off": range(0, 2048, 512)})

    assert [Sqe(queue, at).off for at in range(0, 256, 64)] == [0, 512, 1024, 1536]


@pytest.mark.parametrize(
    ("at", "count", "template", "columns", "error"),
    [
        (0, 5, bytes(64), {}, ValueError),
        (64, 4, bytes(64), {}, ValueError),
        (-64, 1, bytes(64), {}, ValueError),
        (0, -1, bytes(64), {}, ValueError),
        (0, 4, bytes(63), {}, ValueError),
        (0, 4, bytes(64), {"user_data": [1, 2, 3]}, ValueError),
        (0, 4, bytes(64), {"user_data": [1, 2, 3, -4]}, OverflowError),
        (0, 4, bytes(64), {"user_data": [1, 2, 3, 1 << 64]}, OverflowError),
        (0, 4, bytes(64), {"user_data": [1, 2, 3, "4"]}, TypeError),
        (0, 4, bytes(64), {"user_data": array("q", [1, 2, 3, -4])}, TypeError),
        (0, 4, bytes(64), {"user_data": bytes(4)}, TypeError),
        (0, 4, bytes(64), {"user_data": 7}, TypeError),
        (0, 4, bytes(64), {"opcode": [1, 2, 3, 4]}, KeyError),
    ],
)
def test_a_batch_that_cannot_be_writes_nothing(
    at: int, count: int, template: bytes, columns: Columns, error: type[Exception]
) -> None:
    """Entries outside the queue, columns of another length or type, numbers that do not fit."""
    queue = bytearray(b"\xee" * 64 * 4)
    good = {"addr": array("Q", itertools.repeat(1, max(count, 0)))}

    with pytest.raises(error):
        prep_many(queue, at, count, template, good | columns)
    assert set(queue) == {0xEE}
