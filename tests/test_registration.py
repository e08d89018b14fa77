# SPDX-License-Identifier: MIT OR Apache-2.0
"""io_uring_register(2) without files and buffers: eventfd, restrictions, workers, size."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from kernel_help import needs, raises_errno
from ring_help import WAIT_S, open_ring, run_one, wait_cqes

from trio_uring._register_ringless import OpcodesAnswer, query, send_msg_ring
from trio_uring.lowlevel import (
    CancelFlag,
    Cqe,
    CqFlag,
    NapiSettings,
    NapiTracking,
    Op,
    QueryOp,
    RegisterOp,
    Restriction,
    Ring,
    RingClosedError,
    SetupFlag,
    SqeFlag,
    WrongThreadError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from struct import Struct

AT_FDCWD = -100
DEFER = SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN
RESIZABLE = DEFER | SetupFlag.NO_SQARRAY
NOBODY = 65534


@pytest.fixture
def ring() -> Iterator[Ring]:
    with open_ring(8) as ring:
        yield ring


@contextmanager
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@contextmanager
def an_eventfd() -> Iterator[int]:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        yield fd
    finally:
        os.close(fd)


def signals(eventfd: int) -> int:
    try:
        return os.eventfd_read(eventfd)
    except BlockingIOError:
        return 0


def in_thread(function: Callable[[], Any]) -> Any:
    """What ``function`` returns, or raises, in a thread of its own."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as exc:
            errors.append(exc)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(WAIT_S)
    if errors:
        raise errors[0]
    return results[0]


# -- eventfd ---------------------------------------------------------------------------------------


def test_completions_wake_a_registered_eventfd(ring: Ring) -> None:
    """epoll on the eventfd wakes when another socket's data complete a receive."""
    with an_eventfd() as eventfd, pair() as (mine, peer):
        ring.register_eventfd(eventfd)
        ring.recv(1, mine.fileno(), bytearray(1))
        ring.submit()
        assert signals(eventfd) == 0
        peer.send(b"x")
        with select.epoll() as epoll:
            epoll.register(eventfd, select.EPOLLIN)
            assert epoll.poll(WAIT_S) == [(eventfd, select.EPOLLIN)]
        assert wait_cqes(ring, 1)[0].res == 1


def test_a_muted_eventfd_is_not_signalled(ring: Ring) -> None:
    """set_eventfd_muted switches the signals off and on again, in the completion queue's flags."""
    with an_eventfd() as eventfd:
        ring.register_eventfd(eventfd)
        ring.set_eventfd_muted(True)
        assert ring.cq.flags == CqFlag.EVENTFD_DISABLED
        ring.nop(1)
        run_one(ring)
        assert signals(eventfd) == 0
        ring.set_eventfd_muted(False)
        assert ring.cq.flags == 0
        ring.nop(2)
        run_one(ring)
        assert signals(eventfd) == 1


def test_one_eventfd_is_registered_until_it_is_unregistered(ring: Ring) -> None:
    """A second one is EBUSY, unregistering none ENXIO, and afterwards nothing is signalled."""
    with an_eventfd() as eventfd:
        with raises_errno(errno.ENXIO):
            ring.unregister_eventfd()
        ring.register_eventfd(eventfd)
        with raises_errno(errno.EBUSY):
            ring.register_eventfd_async(eventfd)
        ring.unregister_eventfd()
        ring.nop(1)
        run_one(ring)
        assert signals(eventfd) == 0


def test_an_async_eventfd_ignores_what_completes_while_it_is_submitted(ring: Ring) -> None:
    """A NOP gives no signal; a forced worker does."""
    with an_eventfd() as eventfd, open("/dev/zero", "rb") as zero:
        ring.register_eventfd_async(eventfd)
        ring.nop(1)
        run_one(ring)
        assert signals(eventfd) == 0
        ring.read(2, zero.fileno(), bytearray(1), 0).flags |= SqeFlag.ASYNC
        run_one(ring)
        with select.epoll() as epoll:
            epoll.register(eventfd, select.EPOLLIN)
            assert epoll.poll(WAIT_S)


def test_only_an_eventfd_is_registered_as_one(ring: Ring) -> None:
    """A closed descriptor is EBADF, a pipe EINVAL."""
    with raises_errno(errno.EBADF):
        ring.register_eventfd(1 << 20)
    with pair() as (left, _), raises_errno(errno.EINVAL):
        ring.register_eventfd(left.fileno())


# -- what the kernel can ---------------------------------------------------------------------------


def test_the_probe_lists_the_opcodes_of_the_kernel(ring: Ring) -> None:
    """Everything up to the last opcode that works; and an opcode beyond it is EINVAL."""
    found = ring.get_probe()
    assert {Op.NOP, Op.READV, Op.READ, Op.OPENAT} <= found.supported
    assert max(found.supported) <= found.last_op

    ring.nop(1).opcode = found.last_op + 1
    assert run_one(ring).res == -errno.EINVAL


def test_a_query_tells_what_the_kernel_knows(ring: Ring) -> None:
    """Without a ring: as many opcodes as the probe has, and this ring's flags and features."""
    with needs("QUERY", errno.EINVAL, errno.EBADF):
        answer = query(QueryOp.OPCODES)

    assert isinstance(answer, OpcodesAnswer)
    assert answer.nr_request_opcodes == ring.get_probe().last_op + 1
    assert answer.nr_register_opcodes > RegisterOp.QUERY
    assert answer.feature_flags == ring.features
    assert answer.ring_setup_flags & DEFER == DEFER
    assert answer.sqe_flags & SqeFlag.CQE_SKIP_SUCCESS


def test_a_query_that_the_kernel_lacks_is_eopnotsupp() -> None:
    """Only the known ones are asked; of these a kernel answers as many as it says."""
    with needs("QUERY", errno.EINVAL, errno.EBADF):
        answer = query(QueryOp.OPCODES)
    assert isinstance(answer, OpcodesAnswer)
    for op in QueryOp:
        if op < answer.nr_query_opcodes:
            assert query(op)
        else:
            with raises_errno(errno.EOPNOTSUPP):
                query(op)
    with pytest.raises(ValueError, match="QueryOp"):
        query(99)  # type: ignore[arg-type]


# -- personality -----------------------------------------------------------------------------------


def test_a_personality_is_known_until_it_is_unregistered(ring: Ring) -> None:
    """An entry names it; an unknown one is EINVAL."""
    personality = ring.register_personality()
    assert personality > 0
    ring.nop(1).personality = personality
    assert run_one(ring).res == 0
    ring.unregister_personality(personality)
    with raises_errno(errno.EINVAL):
        ring.unregister_personality(personality)
    ring.nop(2).personality = personality

    assert run_one(ring).res == -errno.EINVAL


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_an_operation_runs_with_the_credentials_of_its_personality(
    ring: Ring, tmp_path: Path
) -> None:
    """Nobody cannot open root's file, but the personality that root registered can."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"")
    secret.chmod(0o600)
    tmp_path.chmod(0o700)
    personality = ring.register_personality()
    os.seteuid(NOBODY)
    try:
        ring.openat(1, AT_FDCWD, secret, os.O_RDONLY | os.O_CLOEXEC)
        refused = run_one(ring)
        ring.openat(2, AT_FDCWD, secret, os.O_RDONLY | os.O_CLOEXEC).personality = personality
        allowed = run_one(ring)
    finally:
        os.seteuid(0)
    assert refused.res == -errno.EACCES
    assert allowed.res > 2
    os.close(allowed.res)


# -- restrictions ----------------------------------------------------------------------------------


def test_a_disabled_ring_starts_when_it_is_enabled() -> None:
    """EBADFD before; registering works; enabling it twice is EBADFD."""
    with open_ring(4, SetupFlag.R_DISABLED) as ring:
        ring.register_files([-1])
        ring.nop(1)
        with raises_errno(errno.EBADFD):
            ring.submit()
        ring.enable_rings()
        with raises_errno(errno.EBADFD):
            ring.enable_rings()
        assert run_one(ring) == Cqe(1, 0, 0)


def test_the_thread_that_enables_a_ring_owns_it() -> None:
    """A SINGLE_ISSUER ring made disabled belongs to no thread until then."""
    with needs("SINGLE_ISSUER"):
        ring = open_ring(4, SetupFlag.R_DISABLED | SetupFlag.SINGLE_ISSUER)

    def enable_and_close() -> Cqe:
        with ring:
            ring.enable_rings()
            ring.nop(1)
            cqe = run_one(ring)
            enabled.set()
            assert refused.wait(WAIT_S)
            return cqe

    def use_elsewhere() -> None:
        assert enabled.wait(WAIT_S)
        with pytest.raises(WrongThreadError):
            ring.nop(2)
        with pytest.raises(WrongThreadError):
            ring.register_files([-1])
        refused.set()

    enabled, refused = threading.Event(), threading.Event()
    thread = threading.Thread(target=use_elsewhere)
    thread.start()
    try:
        assert enable_and_close() == Cqe(1, 0, 0)
    finally:
        thread.join(WAIT_S)


def test_a_restricted_ring_does_only_what_is_allowed(tmp_path: Path) -> None:
    """K92: FIXED_FILE required: a normal descriptor, an unlisted op, an update are EACCES."""
    path = tmp_path / "file"
    path.write_bytes(b"text")
    with open_ring(4, SetupFlag.R_DISABLED) as ring, path.open("rb") as file:
        ring.register_files([file.fileno()])
        ring.register_restrictions(
            [
                Restriction.allow_op(Op.READ),
                Restriction.allow_register(RegisterOp.PROBE),
                Restriction.require_flags(SqeFlag.FIXED_FILE),
                Restriction.allow_flags(SqeFlag.FIXED_FILE | SqeFlag.IO_LINK),
            ]
        )
        ring.enable_rings()
        buffer = bytearray(4)
        ring.read(1, 0, buffer, 0).use_registered_fd()
        assert run_one(ring) == Cqe(1, 4, 0)
        assert buffer == b"text"
        ring.read(2, file.fileno(), buffer, 0)
        assert run_one(ring).res == -errno.EACCES
        ring.nop(3).use_registered_fd()
        assert run_one(ring).res == -errno.EACCES
        ring.read(4, 0, buffer, 0).use_registered_fd().drain_previous()
        assert run_one(ring).res == -errno.EACCES
        ring.get_probe()
        with raises_errno(errno.EACCES):
            ring.register_files_update(0, [-1])


def test_restrictions_are_registered_once_and_before_the_ring_is_enabled(ring: Ring) -> None:
    """A second list is EBUSY, an enabled ring EBADFD."""
    allowed = [Restriction.allow_op(Op.NOP)]
    with raises_errno(errno.EBADFD):
        ring.register_restrictions(allowed)
    with open_ring(2, SetupFlag.R_DISABLED) as disabled:
        disabled.register_restrictions(allowed)
        with raises_errno(errno.EBUSY):
            disabled.register_restrictions(allowed)


# -- workers ---------------------------------------------------------------------------------------


def worker_cpus() -> list[set[int]]:
    """The CPUs of each worker that the kernel made for the calling thread."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # workers end when they are idle
            if (task / "comm").read_text() == f"iou-wrk-{threading.get_native_id()}\n":
                found.append(os.sched_getaffinity(int(task.name)))
    return found


def test_worker_limits_are_set_and_the_old_ones_returned(ring: Ring) -> None:
    """0 leaves a limit as it is."""
    with needs("IOWQ_MAX_WORKERS"):
        before = ring.register_iowq_max_workers(0, 0)
    assert ring.register_iowq_max_workers(3, 0) == before
    assert ring.register_iowq_max_workers(0, 5) == (3, before[1])
    assert ring.register_iowq_max_workers(*before) == (3, 5)


def test_workers_run_on_the_cpus_that_were_chosen() -> None:
    """A worker that is started afterwards has the chosen mask; unregistering ends the choice."""
    cpus = os.sched_getaffinity(0)

    def chosen() -> list[set[int]]:
        with open_ring(2) as ring, open("/dev/zero", "rb") as zero:
            with needs("IOWQ_AFF"):
                ring.register_iowq_aff({max(cpus)})
            ring.read(1, zero.fileno(), bytearray(1), 0).flags |= SqeFlag.ASYNC
            assert run_one(ring).res == 1
            found = worker_cpus()
            ring.unregister_iowq_aff()
            return found

    # Workers belong to a thread: those of this one may be there already.
    assert in_thread(chosen) == [{max(cpus)}]


# -- the ring's own descriptor ---------------------------------------------------------------------


def test_a_registered_ring_is_entered_by_its_index_until_it_is_unregistered(ring: Ring) -> None:
    """Twice is EEXIST, unregistering none EINVAL; operations go on throughout."""
    with raises_errno(errno.EINVAL):
        ring.unregister_ring_fd()
    with needs("RING_FDS"):
        index = ring.register_ring_fd()
    assert index in range(16)
    with raises_errno(errno.EEXIST):
        ring.register_ring_fd()
    ring.nop(1)
    assert run_one(ring) == Cqe(1, 0, 0)
    ring.unregister_ring_fd()
    ring.nop(2)
    assert run_one(ring) == Cqe(2, 0, 0)


def test_closing_a_ring_gives_its_index_back() -> None:
    """A thread has 16; twice as many rings, one after the other, get one each."""
    for _ in range(32):
        with open_ring(1) as ring, needs("RING_FDS"):
            ring.register_ring_fd()


def test_the_index_is_not_used_in_another_thread(ring: Ring) -> None:
    """There the same index is another ring's; that one is neither entered nor unregistered."""
    with needs("RING_FDS"):
        index = ring.register_ring_fd()

    def use_both() -> tuple[Cqe, int, Cqe]:
        with open_ring(1) as own:
            assert own.register_ring_fd() == index
            own.nop(7)
            ring.nop(1)
            mine = run_one(ring)
            with pytest.raises(WrongThreadError):
                ring.unregister_ring_fd()
            return mine, own.sq_ready(), run_one(own)

    assert in_thread(use_both) == (Cqe(1, 0, 0), 1, Cqe(7, 0, 0))
    ring.nop(2)
    assert run_one(ring) == Cqe(2, 0, 0)


# -- cancel ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["user_data", "fd", "slot", "any", "opcode", "fd and user_data"])
def test_sync_cancel_ends_what_matches(ring: Ring, by: str) -> None:
    """When it returns, the receive has its ECANCELED, and the other one goes on."""
    with pair() as (mine, _), pair() as (other, peer):
        ring.register_files([mine.fileno()])
        ring.recv(1, 0, bytearray(1)).use_registered_fd()
        keys: dict[str, dict[str, int]] = {
            "user_data": {"user_data": 1},
            "fd": {"fd": mine.fileno()},
            "slot": {"fd": 0, "flags": CancelFlag.FD_FIXED},
            "any": {"flags": CancelFlag.ANY | CancelFlag.ALL},
            "opcode": {"opcode": Op.RECV},
            "fd and user_data": {"fd": mine.fileno(), "user_data": 1},
        }
        others = [] if by in ("any", "opcode") else [2]
        for user_data in others:
            ring.recv(user_data, other.fileno(), bytearray(1))
        ring.submit()
        with needs(f"SYNC_CANCEL by {by}"):
            assert ring.sync_cancel(**keys[by]) in (0, 1)  # type: ignore[arg-type]
        assert wait_cqes(ring, 1) == [Cqe(1, -errno.ECANCELED, 0)]
        peer.send(b"x")
        assert ring.in_flight == len(others)
        assert [cqe.user_data for cqe in wait_cqes(ring, len(others))] == others


def test_sync_cancel_of_nothing_is_enoent(ring: Ring) -> None:
    """No operation with this user_data; and without any key it is a ValueError."""
    with pytest.raises(ValueError, match="nothing to match"):
        ring.sync_cancel()
    try:
        with raises_errno(errno.ENOENT):
            ring.sync_cancel(user_data=99, timeout=0.5)
    except AssertionError:
        with needs("SYNC_CANCEL"):
            ring.sync_cancel(user_data=99)
        raise


# -- waits -----------------------------------------------------------------------------------------


def test_waits_measure_their_timeout_by_the_registered_clock(ring: Ring) -> None:
    """CLOCK_BOOTTIME and CLOCK_MONOTONIC are taken and waits end; the wall clock is EINVAL."""
    with needs("CLOCK"):
        ring.register_clock(time.CLOCK_BOOTTIME)
    assert ring.copy_cqes(1, 1, timeout=0.001) == []
    ring.register_clock(time.CLOCK_MONOTONIC)
    with raises_errno(errno.EINVAL):
        ring.register_clock(time.CLOCK_REALTIME)


def test_napi_settings_are_returned_when_they_are_replaced(ring: Ring) -> None:
    """Registering returns the settings before, unregistering those that were registered."""
    with needs("NAPI busy polling", errno.EINVAL, errno.EOPNOTSUPP):
        before = ring.register_napi(50, prefer_busy_poll=True)
    assert before.busy_poll_usec == 0
    assert ring.unregister_napi() == NapiSettings(50, True, NapiTracking.DYNAMIC)


# -- size ------------------------------------------------------------------------------------------


@pytest.fixture
def resizable() -> Iterator[Ring]:
    with needs("DEFER_TASKRUN or NO_SQARRAY"):
        ring = open_ring(4, RESIZABLE, cq_entries=8)
    with ring:
        yield ring


def fill(ring: Ring, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        ring.nop(number)
    assert ring.submit() == count


@pytest.mark.parametrize("size", [(16, 64), (2, 4), (0, 32), (8, 0), (4, 8)])
def test_resized_queues_keep_their_completions_and_go_on(
    resizable: Ring, size: tuple[int, int]
) -> None:
    """Completions from before are there after; the counters go on; 0 leaves a size as it was."""
    ring = resizable
    for number in range(7):  # so that head and tail are not 0
        ring.nop(number)
        run_one(ring)
    fill(ring, 3, first=10)
    with needs("RESIZE_RINGS"):
        ring.resize_rings(*size)
    assert (ring.sq.entries, ring.cq.entries) == (size[0] or 4, size[1] or max(8, size[0]))
    assert ring.cq_ready() == 3
    assert (ring.sq.tail, ring.sq.head) == (10, 10)
    assert [cqe.user_data for cqe in wait_cqes(ring, 3)] == [10, 11, 12]
    for round_ in range(3):
        fill(ring, ring.sq.entries, first=100 * round_)
        want = [100 * round_ + number for number in range(ring.sq.entries)]
        assert [cqe.user_data for cqe in wait_cqes(ring, len(want))] == want
    assert ring.in_flight == 0


def test_an_entry_from_before_a_resize_is_dead(resizable: Ring) -> None:
    """Its memory is unmapped: writing a field raises instead."""
    sqe = resizable.nop(1)
    run_one(resizable)
    with needs("RESIZE_RINGS"):
        resizable.resize_rings(8, 16)
    with pytest.raises(Exception, match="buffer"):
        sqe.user_data = 2


def test_what_does_not_fit_into_smaller_queues_is_not_lost(resizable: Ring) -> None:
    """EOVERFLOW, and the ring stays as it was."""
    fill(resizable, 4)
    fill(resizable, 3, first=4)
    with needs("RESIZE_RINGS"), raises_errno_or_einval(errno.EOVERFLOW):
        resizable.resize_rings(2, 4)

    assert [cqe.user_data for cqe in wait_cqes(resizable, 7)] == list(range(7))


@contextmanager
def raises_errno_or_einval(code: int) -> Iterator[None]:
    """Lets EINVAL through, for `needs`."""
    with pytest.raises(OSError, match=f"{os.strerror(code)}|{os.strerror(errno.EINVAL)}") as found:
        yield
    if found.value.errno == errno.EINVAL:
        raise found.value


def test_prepared_entries_are_not_moved(resizable: Ring) -> None:
    """A resize with unsubmitted entries is a ValueError, and they are submitted afterwards."""
    resizable.nop(1)
    with pytest.raises(ValueError, match="submit the prepared entries"):
        resizable.resize_rings(8, 16)
    assert run_one(resizable) == Cqe(1, 0, 0)


def test_only_a_ring_made_for_it_is_resized(ring: Ring) -> None:
    """It needs DEFER_TASKRUN and NO_SQARRAY; the raw command is refused, for it moves memory."""
    with pytest.raises(ValueError, match="NO_SQARRAY"):
        ring.resize_rings(16)
    with needs("NO_SQARRAY or NO_MMAP"):
        plain = open_ring(2, SetupFlag.NO_SQARRAY)
        own = open_ring(2, SetupFlag.NO_SQARRAY | SetupFlag.NO_MMAP)
    with plain, raises_errno(errno.EINVAL):
        plain.resize_rings(16)
    with own, pytest.raises(ValueError, match="NO_MMAP"):
        own.resize_rings(16)
    with pytest.raises(ValueError, match="resize_rings"):
        ring.register(RegisterOp.RESIZE_RINGS, bytearray(120), 1)
    ring.nop(1)
    assert run_one(ring) == Cqe(1, 0, 0)


# -- without a ring, and raw -----------------------------------------------------------------------


@pytest.mark.parametrize("flags", [0, DEFER])
def test_a_message_is_sent_to_a_ring_without_having_one(flags: int) -> None:
    """Its completion has the given user_data and result, also under DEFER_TASKRUN."""
    with needs("DEFER_TASKRUN"):
        ring = open_ring(2, flags)
    with ring:
        with needs("SEND_MSG_RING", errno.EINVAL, errno.EBADF):
            send_msg_ring(ring.fd, 77, 0xDEAD_BEEF_0000_0001)
        assert wait_cqes(ring, 1) == [Cqe(0xDEAD_BEEF_0000_0001, 77, 0)]
        with pair() as (left, _), raises_errno(errno.EBADFD):
            send_msg_ring(left.fileno(), 1, 2)


def test_a_raw_command_reaches_the_kernel(ring: Ring) -> None:
    """PROBE by hand has the answer of get_probe; errors are OSError with the command's number."""
    answer = bytearray(16 + 256 * 8)
    assert ring.register(RegisterOp.PROBE, answer, 256) == 0
    assert answer[0] == ring.get_probe().last_op
    with pytest.raises(OSError, match=r"io_uring_register\(3\)"):
        ring.register(RegisterOp.UNREGISTER_FILES, None, 0)


def test_a_command_newer_than_the_kernel_is_refused_without_asking_it(
    ring: Ring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels before 5.13 would wait for all operations to end first: for ever, with a receive."""
    with pair() as (mine, _):
        ring.recv(1, mine.fileno(), bytearray(1))
        ring.submit()
        monkeypatch.setattr(ring, "features", 0x7F)
        with raises_errno(errno.EINVAL):
            ring.sync_cancel(user_data=1)
        with raises_errno(errno.EINVAL):
            ring.register_ring_fd()
        assert ring.in_flight == 1


CALLS: dict[str, Callable[[Ring], object]] = {
    "register_files": lambda ring: ring.register_files([-1]),
    "register_files_sparse": lambda ring: ring.register_files_sparse(1),
    "register_files_tags": lambda ring: ring.register_files_tags([-1], [0]),
    "register_files_update": lambda ring: ring.register_files_update(0, [-1]),
    "unregister_files": lambda ring: ring.unregister_files(),
    "register_file_alloc_range": lambda ring: ring.register_file_alloc_range(0, 1),
    "register_buffers": lambda ring: ring.register_buffers([bytearray(1)]),
    "register_buffers_sparse": lambda ring: ring.register_buffers_sparse(1),
    "unregister_buffers": lambda ring: ring.unregister_buffers(),
    "setup_buf_ring": lambda ring: ring.setup_buf_ring(1, 0),
    "register_eventfd": lambda ring: ring.register_eventfd(0),
    "set_eventfd_muted": lambda ring: ring.set_eventfd_muted(True),
    "get_probe": lambda ring: ring.get_probe(),
    "register_personality": lambda ring: ring.register_personality(),
    "enable_rings": lambda ring: ring.enable_rings(),
    "register_iowq_aff": lambda ring: ring.register_iowq_aff([0]),
    "register_iowq_max_workers": lambda ring: ring.register_iowq_max_workers(0, 0),
    "register_ring_fd": lambda ring: ring.register_ring_fd(),
    "sync_cancel": lambda ring: ring.sync_cancel(user_data=1),
    "register_napi": lambda ring: ring.register_napi(1),
    "register_clock": lambda ring: ring.register_clock(time.CLOCK_MONOTONIC),
    "resize_rings": lambda ring: ring.resize_rings(8),
    "register": lambda ring: ring.register(RegisterOp.UNREGISTER_FILES, None, 0),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_closed_ring_registers_nothing(name: str) -> None:
    """Every command raises RingClosedError: the number may be another file's by now."""
    ring = open_ring(2)
    features = ring.features
    ring.close()
    if not features & (1 << 10):
        pytest.skip("this kernel's missing commands are refused first")
    with pytest.raises(RingClosedError):
        CALLS[name](ring)


def test_a_size_of_struct_is_the_kernels() -> None:
    """The arguments have the sizes of linux/io_uring.h."""
    from trio_uring import (
        _buf_ring,
        _register_buffers,
        _register_files,
        _register_ringless,
        _registration,
    )
    from trio_uring import _register_settings as settings

    sizes: dict[Struct, int] = {
        _register_files.RSRC_REGISTER: 32,
        _register_files.RSRC_UPDATE2: 32,
        _register_files.FILES_UPDATE: 16,
        _register_files.INDEX_RANGE: 16,
        _register_buffers.CLONE_BUFFERS: 32,
        _buf_ring.BUF_REG: 40,
        _buf_ring.BUF_STATUS: 40,
        settings.RESTRICTION: 16,
        settings.PROBE: 16,
        settings.PROBE_OP: 8,
        settings.NAPI: 16,
        settings.CLOCK: 16,
        _registration.SYNC_CANCEL: 64,
        _register_ringless.QUERY_HEADER: 40,
    }
    assert {layout.format: layout.size for layout in sizes} == {
        layout.format: size for layout, size in sizes.items()
    }
