# SPDX-License-Identifier: MIT OR Apache-2.0
"""Behaviours of the kernel that decide fallbacks, each found by trying it once.

Neither the version nor the opcode list tells them: distributions back-port, flags and
sub-commands have no list, and URING_CMD is listed by kernels whose sockets refuse it. What a kernel
does not know it answers with EINVAL or EOPNOTSUPP, in the completion or from io_uring_register(2).

Facts about io_uring that the order of the trials depends on:

* Before 5.15 ``file_index`` is not refused but ignored: an open into a slot returns an ordinary
  descriptor, and a close of a slot closes descriptor 0. So nothing is done with slots before
  ``direct_descriptors`` has been found, by an open on a ring that has no table.
* Before 5.13 io_uring_register(2) of an unknown command waits until the ring is idle. So commands
  are tried on rings that have submitted nothing.
* An operation that a kernel half knows may never complete. So every wait ends.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from array import array
from typing import TYPE_CHECKING

from ._abi import (
    AT_FDCWD,
    FILE_INDEX_ALLOC,
    FUTEX2_SIZE_U32,
    RSRC_REGISTER_SPARSE,
    AcceptFlag,
    CancelFlag,
    CqeFlag,
    Feature,
    Op,
    PbufRingFlag,
    QueryOp,
    RecvSendFlag,
    RegisterOp,
    SetupFlag,
    TimeoutFlag,
)
from ._register_files import RSRC_REGISTER
from ._register_ringless import query, send_msg_ring
from ._sockaddr import SockAddr
from ._structs import BufferSelection, EpollEvents, Siginfo
from ._trial_bench import SLOTS, Bench, can, first, is_multishot, knows, result, trial, wait

if TYPE_CHECKING:
    from ._ring import Ring

DIRECT = ("direct_descriptors",)
BUFFERS = ("pbuf_ring",)
DEFER = SetupFlag.SINGLE_ISSUER | SetupFlag.DEFER_TASKRUN
BUFFER_BYTES = 16
# The root directory: it is there in every container. Reading it is EISDIR once it has been found.
PATH = "/"


# -- the ring --------------------------------------------------------------------------------------


@trial("5.11", "a wait in the kernel can have a timeout")
def try_ext_arg(bench: Bench) -> bool:
    return bool(bench.idle.features & Feature.EXT_ARG)


@trial("5.17", "an operation can complete without a CQE when it succeeds")
def try_cqe_skip(bench: Bench) -> bool:
    return bool(bench.idle.features & Feature.CQE_SKIP)


@trial("6.1", "completions are processed only in the thread that waits for them")
def try_defer_taskrun(bench: Bench) -> bool:
    return can(lambda: bench.ring(1, DEFER))


@trial("5.18", "a ring has an index that is cheaper to enter than its descriptor")
def try_registered_ring_fd(bench: Bench) -> bool:
    return can(bench.ring(1).register_ring_fd)


@trial("6.13", "the queues can be resized", needs=("defer_taskrun",))
def try_resize_rings(bench: Bench) -> bool:
    flags = DEFER | SetupFlag.NO_SQARRAY  # 6.6: before that the setup is what fails
    return can(lambda: bench.ring(2, flags).resize_rings(4, 8))


@trial("6.12", "waits can use another clock")
def try_clock(bench: Bench) -> bool:
    return can(lambda: bench.idle.register_clock(time.CLOCK_MONOTONIC))


@trial("5.15", "the number of worker threads can be limited")
def try_iowq_max_workers(bench: Bench) -> bool:
    return can(lambda: bench.idle.register_iowq_max_workers(0, 0))


@trial("6.18", "the kernel says which opcodes and flags it knows")
def try_query(bench: Bench) -> bool:
    return can(lambda: query(QueryOp.OPCODES))


@trial("5.18", "a ring posts completions to another", Op.MSG_RING)
def try_msg_ring(bench: Bench) -> bool:
    target = bench.ring(1)
    bench.plain.msg_ring(1, target.fd, 7, 42, 0)
    return result(bench.plain) == 0 and wait(target).user_data == 42


@trial(
    "6.13", "completions are posted without a ring of one's own", Op.MSG_RING, needs=("msg_ring",)
)
def try_send_msg_ring(bench: Bench) -> bool:
    target = bench.ring(1)
    return can(lambda: send_msg_ring(target.fd, 7, 42)) and wait(target).user_data == 42


# -- direct descriptors ----------------------------------------------------------------------------


@trial("5.15", "OPENAT, ACCEPT and CLOSE work on slots of the file table", Op.OPENAT)
def try_direct_descriptors(bench: Bench) -> bool:
    bench.plain.openat_direct(1, AT_FDCWD, PATH, os.O_RDONLY, 0, 0)
    return bench.owned(result(bench.plain)) == -errno.ENXIO


@trial("5.19", "a file table can be registered without an array of -1")
def try_files_sparse(bench: Bench) -> bool:
    # Not by register_files_sparse, which brings the array where it must.
    arg = bytearray(RSRC_REGISTER.pack(SLOTS, RSRC_REGISTER_SPARSE, 0, 0, 0))
    return can(lambda: bench.ring(1).register(RegisterOp.FILES2, arg, len(arg)))


@trial("5.19", "the kernel can choose the slot", needs=DIRECT)
def try_file_index_alloc(bench: Bench) -> bool:
    return _open(bench.table(), FILE_INDEX_ALLOC) >= 0


def _open(ring: Ring, file_index: int) -> int:
    ring.openat_direct(1, AT_FDCWD, PATH, os.O_RDONLY, 0, file_index)
    return result(ring)


@trial("6.0", "the kernel chooses slots in a given range", needs=("file_index_alloc",))
def try_alloc_range(bench: Bench) -> bool:
    ring = bench.ring_with_table()
    return can(lambda: ring.register_file_alloc_range(1, 1)) and _open(ring, FILE_INDEX_ALLOC) == 1


@trial("5.19", "FILES_UPDATE puts a file into a slot of the kernel's choice", needs=DIRECT)
def try_files_update_alloc(bench: Bench) -> bool:
    fds = array("i", [bench.pair()[0].fileno()])
    bench.table().files_update(1, fds, FILE_INDEX_ALLOC)
    return result(bench.table()) == 1


@trial("5.17", "a linked operation can use the slot that the one before it fills", needs=DIRECT)
def try_linked_file(bench: Bench) -> bool:
    ring = bench.table()
    ring.openat_direct(1, AT_FDCWD, PATH, os.O_RDONLY, 0, 0).link_with_next()
    ring.read(2, 0, bytearray(1), 0).use_registered_fd()
    results = {cqe.user_data: cqe.res for cqe in (first(ring), wait(ring))}
    return results == {1: 0, 2: -errno.EISDIR}


@trial("6.8", "a slot can become an ordinary descriptor", Op.FIXED_FD_INSTALL, needs=DIRECT)
def try_fixed_fd_install(bench: Bench) -> bool:
    ring = bench.table()
    ring.register_files_update(0, [bench.pair()[0].fileno()])
    ring.fixed_fd_install(1, 0)
    return bench.owned(result(ring)) >= 0


@trial("6.0", "a file is sent to a slot of another ring", Op.MSG_RING, needs=("file_index_alloc",))
def try_msg_ring_fd(bench: Bench) -> bool:
    ring, target = bench.table(), bench.ring_with_table()
    ring.register_files_update(0, [bench.pair()[0].fileno()])
    ring.msg_ring_fd_alloc(1, target.fd, 0, 42, 0)
    return result(ring) >= 0


@trial("6.16", "PIPE makes ordinary descriptors", Op.PIPE)
def try_pipe(bench: Bench) -> bool:
    ends = array("i", [-1, -1])
    bench.plain.pipe(1, ends, os.O_CLOEXEC)
    return result(bench.plain) == 0 and all(bench.owned(end) >= 0 for end in ends)


@trial("6.16", "PIPE fills slots of the kernel's choice", Op.PIPE, needs=DIRECT)
def try_pipe_direct(bench: Bench) -> bool:
    ends = array("i", [-1, -1])
    bench.table().pipe_direct(1, ends, 0, FILE_INDEX_ALLOC)
    return result(bench.table()) == 0


@trial("6.19", "PIPE tells the slots when the caller named them", Op.PIPE, needs=DIRECT)
def try_pipe_direct_slots_told(bench: Bench) -> bool:
    ends = array("i", [-1, -1])
    bench.table().pipe_direct(1, ends, 0, 2)
    return result(bench.table()) == 0 and list(ends) == [2, 3]


# -- sockets ---------------------------------------------------------------------------------------


@trial("5.19", "SOCKET makes an ordinary descriptor", Op.SOCKET)
def try_socket_op(bench: Bench) -> bool:
    bench.plain.socket(1, socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    return bench.owned(result(bench.plain)) >= 0


@trial("5.19", "SOCKET fills a slot", Op.SOCKET, needs=DIRECT)
def try_socket_direct(bench: Bench) -> bool:
    bench.table().socket_direct(1, socket.AF_UNIX, socket.SOCK_STREAM, 0, 0, 0)
    return result(bench.table()) == 0


@trial("6.11", "BIND and LISTEN", Op.BIND, Op.LISTEN)
def try_bind_listen(bench: Bench) -> bool:
    listener = bench.new_socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bench.plain.bind(1, listener.fileno(), "")
    bound = result(bench.plain)
    bench.plain.listen(1, listener.fileno(), 1)
    return bound == result(bench.plain) == 0


@trial("5.19", "ACCEPT goes on accepting", Op.ACCEPT)
def try_accept_multishot(bench: Bench) -> bool:
    bench.plain.accept_multishot(1, bench.listener(clients=1), None, socket.SOCK_CLOEXEC)
    more, fd = is_multishot(bench.plain, 1)
    return bench.owned(fd) >= 0 and more


@trial("5.19", "ACCEPT goes on accepting, into slots", Op.ACCEPT, needs=("file_index_alloc",))
def try_accept_multishot_direct(bench: Bench) -> bool:
    bench.table().accept_multishot_direct(1, bench.listener(clients=1))
    more, slot = is_multishot(bench.table(), 1)
    return slot >= 0 and more


@trial("6.10", "ACCEPT can be told not to wait", Op.ACCEPT)
def try_accept_dontwait(bench: Bench) -> bool:
    listener = bench.listener(clients=0)
    bench.plain.accept(1, listener).ioprio |= AcceptFlag.DONTWAIT
    return result(bench.plain) == -errno.EAGAIN


@trial("6.7", "URING_CMD works on sockets: getsockopt, setsockopt, queue sizes", Op.URING_CMD)
def try_socket_commands(bench: Bench) -> bool:
    bench.plain.siocinq(1, bench.new_socket(socket.AF_INET, socket.SOCK_DGRAM).fileno())
    return result(bench.plain) == 0


@trial("6.19", "URING_CMD tells the names of sockets", Op.URING_CMD)
def try_getsockname_command(bench: Bench) -> bool:
    fd = bench.new_socket(socket.AF_INET, socket.SOCK_DGRAM).fileno()
    bench.plain.getsockname(1, fd, SockAddr())
    return result(bench.plain) >= 0


@trial("6.0", "SEND_ZC sends without a copy", Op.SEND_ZC)
def try_send_zc(bench: Bench) -> bool:
    sender = bench.new_socket(socket.AF_INET, socket.SOCK_DGRAM)
    sender.bind(("127.0.0.1", 0))
    sender.connect(sender.getsockname())
    bench.plain.send_zc(1, sender.fileno(), b"x")
    cqe = first(bench.plain)
    # KERNEL OWNS the data until the second completion.
    return cqe.res == 1 and bool(cqe.flags & CqeFlag.MORE) and wait(bench.plain).res >= 0


# -- buffers ---------------------------------------------------------------------------------------


@trial("5.19", "provided buffer rings")
def try_pbuf_ring(bench: Bench) -> bool:
    return can(lambda: bench.ring(1).setup_buf_ring(1, 0))


@trial("6.4", "provided buffer rings in the kernel's memory", needs=BUFFERS)
def try_pbuf_ring_mmap(bench: Bench) -> bool:
    return can(lambda: bench.ring(1).setup_buf_ring(1, 0, PbufRingFlag.MMAP))


@trial("6.12", "provided buffers are used up bit by bit", needs=BUFFERS)
def try_pbuf_ring_inc(bench: Bench) -> bool:
    return can(lambda: bench.ring(1).setup_buf_ring(1, 0, PbufRingFlag.INC))


def _ring_with_buffers(bench: Bench) -> Ring:
    ring = bench.ring(4)
    ring.setup_buf_ring(2, 0).fill(bytearray(2 * BUFFER_BYTES), BUFFER_BYTES)
    return ring


@trial("6.0", "RECV goes on receiving", needs=BUFFERS)
def try_recv_multishot(bench: Bench) -> bool:
    ring = _ring_with_buffers(bench)
    ring.recv_multishot(1, bench.pair()[0].fileno(), BufferSelection(0))
    return is_multishot(ring, 1) == (True, 1)


def _recv_bundle(bench: Bench, limit: int) -> tuple[bool, int]:
    ring = _ring_with_buffers(bench)
    sqe = ring.recv_multishot(1, bench.pair()[0].fileno(), BufferSelection(0))
    sqe.ioprio |= RecvSendFlag.BUNDLE
    sqe.optlen = limit
    return is_multishot(ring, 1)


@trial("6.10", "RECV brings several buffers at once", needs=("recv_multishot",))
def try_recv_bundle(bench: Bench) -> bool:
    return _recv_bundle(bench, 0) == (True, 1)


@trial("6.17", "RECV ends after so many bytes as it was told", needs=("recv_bundle",))
def try_recv_multishot_limit(bench: Bench) -> bool:
    return _recv_bundle(bench, 1) == (False, 1)


@trial("6.7", "READ goes on reading", Op.READ_MULTISHOT, needs=BUFFERS)
def try_read_multishot(bench: Bench) -> bool:
    ring = _ring_with_buffers(bench)
    ring.read_multishot(1, bench.pair()[0].fileno(), BufferSelection(0))
    return is_multishot(ring, 1) == (True, 1)


@trial("5.19", "registered buffers without an array")
def try_buffers_sparse(bench: Bench) -> bool:
    return can(lambda: bench.ring(1).register_buffers_sparse(1))


@trial("6.12", "registered buffers of another ring", needs=("buffers_sparse",))
def try_clone_buffers(bench: Bench) -> bool:
    source, target = bench.ring(1), bench.ring(1)
    source.register_buffers([bytearray(1)])
    return can(lambda: target.clone_buffers(source))


# -- cancel, poll, timeouts, the rest --------------------------------------------------------------


@trial("5.19", "one request can cancel everything, or all that match", Op.ASYNC_CANCEL)
def try_cancel_flags(bench: Bench) -> bool:
    bench.plain.cancel(1, 0, CancelFlag.ALL | CancelFlag.ANY)
    return knows(result(bench.plain))


@trial("5.19", "operations can be cancelled by their file", Op.ASYNC_CANCEL)
def try_cancel_fd(bench: Bench) -> bool:
    bench.plain.cancel_fd(1, bench.pair()[0].fileno(), 0)
    return knows(result(bench.plain))


@trial("6.0", "a cancel can wait for its effect")
def try_sync_cancel(bench: Bench) -> bool:
    return can(lambda: bench.idle.sync_cancel(user_data=1, timeout=0), errno.ENOENT)


@trial("5.13", "POLL_ADD goes on polling", Op.POLL_ADD)
def try_poll_multishot(bench: Bench) -> bool:
    bench.plain.poll_multishot(1, bench.pair()[0].fileno(), select.POLLIN)
    return is_multishot(bench.plain, 1)[0]


@trial("6.4", "TIMEOUT goes on ticking", Op.TIMEOUT)
def try_timeout_multishot(bench: Bench) -> bool:
    bench.plain.timeout(1, 0.01, 0, TimeoutFlag.MULTISHOT)
    return is_multishot(bench.plain, 1) == (True, -errno.ETIME)


@trial("6.15", "EPOLL_WAIT", Op.EPOLL_WAIT)
def try_epoll_wait(bench: Bench) -> bool:
    with select.epoll(1) as epoll:
        epoll.register(bench.pair()[0], select.EPOLLIN)
        bench.plain.epoll_wait(1, epoll.fileno(), EpollEvents(1), 0)
        return result(bench.plain) == 1


@trial("6.7", "FUTEX_WAIT and FUTEX_WAKE", Op.FUTEX_WAKE)
def try_futex(bench: Bench) -> bool:
    bench.plain.futex_wake(1, array("I", [0]), 1, 0xFFFFFFFF, FUTEX2_SIZE_U32)
    return result(bench.plain) == 0


@trial("6.7", "WAITID", Op.WAITID)
def try_waitid(bench: Bench) -> bool:
    # This process is not a child of its own: nothing is waited for, nothing taken from anybody.
    bench.plain.waitid(1, os.P_PID, os.getpid(), Siginfo(), os.WEXITED | os.WNOHANG | os.WNOWAIT)
    return result(bench.plain) == -errno.ECHILD


@trial("6.9", "FTRUNCATE", Op.FTRUNCATE)
def try_ftruncate(bench: Bench) -> bool:
    fd = bench.owned(os.memfd_create("trial"))
    bench.plain.ftruncate(1, fd, 1)
    return result(bench.plain) == 0
