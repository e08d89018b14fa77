# SPDX-License-Identifier: MIT OR Apache-2.0
"""The io_uring ABI in numbers: opcodes, flags and commands, each with the kernel that brought it.

Names are those of ``linux/io_uring.h`` without the prefix (``IORING_OP_READ`` is ``Op.READ``), up
to the header of Linux 7.3. Kernels are upstream ones: a distribution may bring a thing earlier, so
ask the kernel (``RegisterOp.PROBE``, the features word, or try once) and print these for people.
No kernel beside a member means that it is not known for certain.

Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2), the kernel's header, and
probes run on kernels 5.10 to 7.3.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class Op(IntEnum):
    """What an entry does: ``IORING_OP_*``."""

    NOP = 0  # 5.1: completes at once
    READV = 1  # 5.1
    WRITEV = 2  # 5.1
    FSYNC = 3  # 5.1
    READ_FIXED = 4  # 5.1
    WRITE_FIXED = 5  # 5.1
    POLL_ADD = 6  # 5.1
    POLL_REMOVE = 7  # 5.1: 5.13 to change it instead
    SYNC_FILE_RANGE = 8  # 5.2
    SENDMSG = 9  # 5.3
    RECVMSG = 10  # 5.3
    TIMEOUT = 11  # 5.4
    TIMEOUT_REMOVE = 12  # 5.5: 5.11 to change it instead
    ACCEPT = 13  # 5.5: into a slot since 5.15, multishot since 5.19
    ASYNC_CANCEL = 14  # 5.5
    LINK_TIMEOUT = 15  # 5.5: limits the entry before it
    CONNECT = 16  # 5.5
    FALLOCATE = 17  # 5.6
    OPENAT = 18  # 5.6: into a slot since 5.15
    CLOSE = 19  # 5.6: a slot since 5.15
    FILES_UPDATE = 20  # 5.6: put files into slots
    STATX = 21  # 5.6
    READ = 22  # 5.6
    WRITE = 23  # 5.6
    FADVISE = 24  # 5.6
    MADVISE = 25  # 5.6
    SEND = 26  # 5.6
    RECV = 27  # 5.6
    OPENAT2 = 28  # 5.6: into a slot since 5.15
    EPOLL_CTL = 29  # 5.6
    SPLICE = 30  # 5.7
    PROVIDE_BUFFERS = 31  # 5.7: the older way, see RegisterOp.PBUF_RING
    REMOVE_BUFFERS = 32  # 5.7
    TEE = 33  # 5.8
    SHUTDOWN = 34  # 5.11
    RENAMEAT = 35  # 5.11
    UNLINKAT = 36  # 5.11
    MKDIRAT = 37  # 5.15
    SYMLINKAT = 38  # 5.15
    LINKAT = 39  # 5.15
    MSG_RING = 40  # 5.18: to another ring
    FSETXATTR = 41  # 5.19
    SETXATTR = 42  # 5.19
    FGETXATTR = 43  # 5.19
    GETXATTR = 44  # 5.19
    SOCKET = 45  # 5.19
    URING_CMD = 46  # 5.19: sockets since 6.7: SocketOp
    SEND_ZC = 47  # 6.0: no copy, two completions
    SENDMSG_ZC = 48  # 6.1
    READ_MULTISHOT = 49  # 6.7: pollable files only
    WAITID = 50  # 6.7
    FUTEX_WAIT = 51  # 6.7
    FUTEX_WAKE = 52  # 6.7
    FUTEX_WAITV = 53  # 6.7
    FIXED_FD_INSTALL = 54  # 6.8: from a slot to a normal descriptor
    FTRUNCATE = 55  # 6.9
    BIND = 56  # 6.11
    LISTEN = 57  # 6.11
    RECV_ZC = 58  # 6.15: needs RegisterOp.ZCRX_IFQ
    EPOLL_WAIT = 59  # 6.15
    READV_FIXED = 60  # 6.15
    WRITEV_FIXED = 61  # 6.15
    PIPE = 62  # 6.16
    NOP128 = 63  # 6.19: SetupFlag.SQE_MIXED
    URING_CMD128 = 64  # 6.19: SetupFlag.SQE_MIXED


class SqeFlag(IntFlag):
    """Flags of any entry: ``IOSQE_*``."""

    FIXED_FILE = 1 << 0  # 5.1: fd is a slot
    IO_DRAIN = 1 << 1  # 5.2: start after all before it
    IO_LINK = 1 << 2  # 5.3: the next starts after this, if it went well
    IO_HARDLINK = 1 << 3  # 5.5: the next starts after this, however it went
    ASYNC = 1 << 4  # 5.6: straight to a worker thread
    BUFFER_SELECT = 1 << 5  # 5.7: the kernel picks a buffer of the group
    CQE_SKIP_SUCCESS = 1 << 6  # 5.17: complete only on failure


class SetupFlag(IntFlag):
    """Flags of io_uring_setup(2): ``IORING_SETUP_*``."""

    IOPOLL = 1 << 0  # 5.1: busy-wait for the device
    SQPOLL = 1 << 1  # 5.1: a kernel thread submits
    SQ_AFF = 1 << 2  # 5.1: pin that thread to a CPU
    CQSIZE = 1 << 3  # 5.5: cq_entries is given
    CLAMP = 1 << 4  # 5.6: lower sizes that are too large
    ATTACH_WQ = 1 << 5  # 5.6: share the workers of another ring
    R_DISABLED = 1 << 6  # 5.10: starts with RegisterOp.ENABLE_RINGS
    SUBMIT_ALL = 1 << 7  # 5.18: a bad entry does not stop the rest
    COOP_TASKRUN = 1 << 8  # 5.19: no interrupt to run task work
    TASKRUN_FLAG = 1 << 9  # 5.19: tell by SqFlag.TASKRUN
    SQE128 = 1 << 10  # 5.19
    CQE32 = 1 << 11  # 5.19
    SINGLE_ISSUER = 1 << 12  # 6.0: one task submits
    DEFER_TASKRUN = 1 << 13  # 6.1: task work only when asked for events
    NO_MMAP = 1 << 14  # 6.5: the caller brings the memory
    REGISTERED_FD_ONLY = 1 << 15  # 6.5: the ring gets an index, no descriptor
    NO_SQARRAY = 1 << 16  # 6.6: entries without the index array
    HYBRID_IOPOLL = 1 << 17  # 6.13: sleep, then busy-wait
    CQE_MIXED = 1 << 18  # 6.18: both sizes of completions
    SQE_MIXED = 1 << 19  # 6.19: both sizes of entries
    SQ_REWIND = 1 << 20  # 7.0: each submit starts at entry 0


class Feature(IntFlag):
    """What io_uring_setup(2) says of the kernel: ``IORING_FEAT_*``."""

    SINGLE_MMAP = 1 << 0  # 5.4: both rings in one mapping
    NODROP = 1 << 1  # 5.5: completions are kept when the ring is full
    SUBMIT_STABLE = 1 << 2  # 5.5: arguments may go after the submit
    RW_CUR_POS = 1 << 3  # 5.6: offset -1 is the file position
    CUR_PERSONALITY = 1 << 4  # 5.6: runs as who submits
    FAST_POLL = 1 << 5  # 5.7: polls instead of using a worker
    POLL_32BITS = 1 << 6  # 5.9: EPOLLEXCLUSIVE and the like
    SQPOLL_NONFIXED = 1 << 7  # 5.11: SQPOLL with normal descriptors
    EXT_ARG = 1 << 8  # 5.11: io_uring_enter(2) takes a timeout
    NATIVE_WORKERS = 1 << 9  # 5.12: workers are threads of the process
    RSRC_TAGS = 1 << 10  # 5.13: tagged files and buffers
    CQE_SKIP = 1 << 11  # 5.17: SqeFlag.CQE_SKIP_SUCCESS
    LINKED_FILE = 1 << 12  # 5.17: a linked entry finds its file when it starts
    REG_REG_RING = 1 << 13  # 6.3: register by ring index
    RECVSEND_BUNDLE = 1 << 14  # 6.10: RecvSendFlag.BUNDLE
    MIN_TIMEOUT = 1 << 15  # 6.12: a wait has a lower bound
    RW_ATTR = 1 << 16  # 6.14: attributes of reads and writes
    NO_IOWAIT = 1 << 17  # 6.15: EnterFlag.NO_IOWAIT


class EnterFlag(IntFlag):
    """Flags of io_uring_enter(2): ``IORING_ENTER_*``."""

    GETEVENTS = 1 << 0  # 5.1: wait, or run deferred work
    SQ_WAKEUP = 1 << 1  # 5.1: wake the SQPOLL thread
    SQ_WAIT = 1 << 2  # 5.10: wait for room with SQPOLL
    EXT_ARG = 1 << 3  # 5.11: the argument has a timeout
    REGISTERED_RING = 1 << 4  # 5.18: fd is a ring index
    ABS_TIMER = 1 << 5  # 6.12: the timeout is a point in time
    EXT_ARG_REG = 1 << 6  # 6.13: the argument is registered memory
    NO_IOWAIT = 1 << 7  # 6.15: do not count as waiting for I/O


class SqFlag(IntFlag):
    """What the kernel says in the submission ring: ``IORING_SQ_*``."""

    NEED_WAKEUP = 1 << 0  # 5.1: the SQPOLL thread sleeps
    CQ_OVERFLOW = 1 << 1  # 5.8: completions wait for room
    TASKRUN = 1 << 2  # 5.19: task work waits for a call


class CqFlag(IntFlag):
    """What the program says in the completion ring: ``IORING_CQ_*``."""

    EVENTFD_DISABLED = 1 << 0  # 5.8: no eventfd for now


class CqeFlag(IntFlag):
    """Flags of a completion: ``IORING_CQE_F_*``."""

    BUFFER = 1 << 0  # 5.7: a buffer id is above CQE_BUFFER_SHIFT
    MORE = 1 << 1  # 5.13: not the last of its entry
    SOCK_NONEMPTY = 1 << 2  # 5.19: more to receive
    NOTIF = 1 << 3  # 6.0: the kernel let go of the memory
    BUF_MORE = 1 << 4  # 6.12: the buffer is not used up
    SKIP = 1 << 5  # 6.18: fills a gap, ignore it
    F32 = 1 << 15  # 6.18: IORING_CQE_F_32, a completion of 32 bytes
    TSTAMP_HW = 1 << 16  # 6.17: time stamp of the device


CQE_BUFFER_SHIFT = 16  # 5.7


class RegisterOp(IntEnum):
    """Commands of io_uring_register(2): ``IORING_REGISTER_*``, ``IORING_UNREGISTER_*``."""

    BUFFERS = 0  # 5.1
    UNREGISTER_BUFFERS = 1  # 5.1
    FILES = 2  # 5.1
    UNREGISTER_FILES = 3  # 5.1
    EVENTFD = 4  # 5.2
    UNREGISTER_EVENTFD = 5  # 5.2
    FILES_UPDATE = 6  # 5.5
    EVENTFD_ASYNC = 7  # 5.6: only for what did not complete at once
    PROBE = 8  # 5.6: which opcodes there are
    PERSONALITY = 9  # 5.6
    UNREGISTER_PERSONALITY = 10  # 5.6
    RESTRICTIONS = 11  # 5.10
    ENABLE_RINGS = 12  # 5.10: end SetupFlag.R_DISABLED
    FILES2 = 13  # 5.13: with tags; RSRC_REGISTER_SPARSE since 5.19
    FILES_UPDATE2 = 14  # 5.13: with tags
    BUFFERS2 = 15  # 5.13: with tags; RSRC_REGISTER_SPARSE since 5.19
    BUFFERS_UPDATE = 16  # 5.13
    IOWQ_AFF = 17  # 5.14: CPUs of the workers
    UNREGISTER_IOWQ_AFF = 18  # 5.14
    IOWQ_MAX_WORKERS = 19  # 5.15
    RING_FDS = 20  # 5.18
    UNREGISTER_RING_FDS = 21  # 5.18
    PBUF_RING = 22  # 5.19: ring of provided buffers
    UNREGISTER_PBUF_RING = 23  # 5.19
    SYNC_CANCEL = 24  # 6.0: cancel and wait for it
    FILE_ALLOC_RANGE = 25  # 6.0: where FILE_INDEX_ALLOC looks
    PBUF_STATUS = 26  # 6.8
    NAPI = 27  # 6.9: busy-poll the network
    UNREGISTER_NAPI = 28  # 6.9
    CLOCK = 29  # 6.12: of the timeouts of waits
    CLONE_BUFFERS = 30  # 6.12: from another ring
    SEND_MSG_RING = 31  # 6.13: MSG_RING without a ring
    ZCRX_IFQ = 32  # 6.15: receive without a copy
    RESIZE_RINGS = 33  # 6.13
    MEM_REGION = 34  # 6.13
    QUERY = 35  # 6.18: QueryOp
    ZCRX_CTRL = 36  # 6.19: ZcrxCtrlOp
    BPF_FILTER = 37  # 7.0


class FsyncFlag(IntFlag):
    """Flags of FSYNC: ``IORING_FSYNC_*``."""

    DATASYNC = 1 << 0  # 5.1: as fdatasync(2)


class TimeoutFlag(IntFlag):
    """Flags of TIMEOUT, TIMEOUT_REMOVE and LINK_TIMEOUT: ``IORING_TIMEOUT_*``."""

    ABS = 1 << 0  # 5.5: a point in time
    UPDATE = 1 << 1  # 5.11: TIMEOUT_REMOVE changes it
    BOOTTIME = 1 << 2  # 5.15
    REALTIME = 1 << 3  # 5.15
    LINK_UPDATE = 1 << 4  # 5.15: IORING_LINK_TIMEOUT_UPDATE
    ETIME_SUCCESS = 1 << 5  # 5.16: running out is no failure
    MULTISHOT = 1 << 6  # 6.4
    IMMEDIATE_ARG = 1 << 7  # 7.1: addr is nanoseconds, no pointer


class PollFlag(IntFlag):
    """Flags of POLL_ADD and POLL_REMOVE, in ``len``: ``IORING_POLL_*``."""

    ADD_MULTI = 1 << 0  # 5.13: multishot
    UPDATE_EVENTS = 1 << 1  # 5.13
    UPDATE_USER_DATA = 1 << 2  # 5.13
    ADD_LEVEL = 1 << 3  # 6.0: level-triggered


class CancelFlag(IntFlag):
    """What ASYNC_CANCEL matches: ``IORING_ASYNC_CANCEL_*``."""

    ALL = 1 << 0  # 5.19: every match
    FD = 1 << 1  # 5.19: by file
    ANY = 1 << 2  # 5.19: everything matches
    FD_FIXED = 1 << 3  # 6.0: fd is a slot
    USERDATA = 1 << 4  # 6.6: by user_data, besides another key
    OP = 1 << 5  # 6.6: by opcode


class RecvSendFlag(IntFlag):
    """Flags of sends and receives, in ``ioprio``: ``IORING_RECVSEND_*`` and kin."""

    POLL_FIRST = 1 << 0  # 5.19: wait before the first try
    RECV_MULTISHOT = 1 << 1  # 6.0
    FIXED_BUF = 1 << 2  # 6.0: a registered buffer
    SEND_ZC_REPORT_USAGE = 1 << 3  # 6.2: say if it was copied
    BUNDLE = 1 << 4  # 6.10: several provided buffers at once
    SEND_VECTORIZED = 1 << 5  # 6.17: addr is an array of iovec


class AcceptFlag(IntFlag):
    """Flags of ACCEPT, in ``ioprio``: ``IORING_ACCEPT_*``."""

    MULTISHOT = 1 << 0  # 5.19
    DONTWAIT = 1 << 1  # 6.10: EAGAIN if nobody is there
    POLL_FIRST = 1 << 2  # 6.10: wait before the first try


class MsgRingCommand(IntEnum):
    """What MSG_RING sends, in ``addr``: ``IORING_MSG_*``."""

    DATA = 0  # 5.18: a completion
    SEND_FD = 1  # 6.0: the file of a slot


class MsgRingFlag(IntFlag):
    """Flags of MSG_RING: ``IORING_MSG_RING_*``."""

    CQE_SKIP = 1 << 0  # 6.0: no completion over there
    FLAGS_PASS = 1 << 1  # 6.3: file_index is the flags over there


class InstallFlag(IntFlag):
    """Flags of FIXED_FD_INSTALL: ``IORING_FIXED_FD_*``."""

    NO_CLOEXEC = 1 << 0  # 6.8


class NopFlag(IntFlag):
    """Flags of NOP, for tests: ``IORING_NOP_*``."""

    INJECT_RESULT = 1 << 0  # 6.10: the result is len
    FILE = 1 << 1  # 6.13: look the file up
    FIXED_FILE = 1 << 2  # 6.13: look it up as a slot
    FIXED_BUFFER = 1 << 3  # 6.13
    TW = 1 << 4  # 6.17: complete by task work
    CQE32 = 1 << 5  # 6.18


class UringCmdFlag(IntFlag):
    """Flags of URING_CMD: ``IORING_URING_CMD_*``."""

    FIXED = 1 << 0  # 6.1: a registered buffer
    MULTISHOT = 1 << 1  # 6.18


class SocketOp(IntEnum):
    """What URING_CMD does with a socket: ``SOCKET_URING_OP_*``."""

    SIOCINQ = 0  # 6.7: bytes to receive
    SIOCOUTQ = 1  # 6.7: bytes not yet sent
    GETSOCKOPT = 2  # 6.7: SOL_SOCKET only
    SETSOCKOPT = 3  # 6.7
    TX_TIMESTAMP = 4  # 6.17: needs completions of 32 bytes
    GETSOCKNAME = 5  # 6.19: getpeername(2) too


class RestrictionOp(IntEnum):
    """What a restricted ring may do: ``IORING_RESTRICTION_*``."""

    REGISTER_OP = 0  # 5.10
    SQE_OP = 1  # 5.10
    SQE_FLAGS_ALLOWED = 2  # 5.10
    SQE_FLAGS_REQUIRED = 3  # 5.10


class PbufRingFlag(IntFlag):
    """Flags of RegisterOp.PBUF_RING: ``IOU_PBUF_RING_*``."""

    MMAP = 1 << 0  # 6.4: the kernel brings the memory
    INC = 1 << 1  # 6.12: a buffer is used up bit by bit


class CloneFlag(IntFlag):
    """Flags of RegisterOp.CLONE_BUFFERS."""

    SRC_REGISTERED = 1 << 0  # 6.12: the source is a ring index
    DST_REPLACE = 1 << 1  # 6.13: over the buffers that are there


class NapiTracking(IntEnum):
    """Which NAPI ids are polled: ``IO_URING_NAPI_TRACKING_*``."""

    DYNAMIC = 0  # 6.9: those of the sockets in use
    STATIC = 1  # 6.13: those that were added
    INACTIVE = 255  # 6.13


class QueryOp(IntEnum):
    """What RegisterOp.QUERY is asked: ``IO_URING_QUERY_*``."""

    OPCODES = 0  # 6.18: and all flags
    ZCRX = 1  # 6.19
    SCQ = 2  # 6.19: sizes of the ring headers
    ZCRX_EVENT = 3


class ZcrxRegFlag(IntFlag):
    """Flags of RegisterOp.ZCRX_IFQ: ``ZCRX_REG_*``."""

    IMPORT = 1 << 0  # 6.19: the queue of another ring
    NODEV = 1 << 1  # no device, always copied


class ZcrxCtrlOp(IntEnum):
    """What RegisterOp.ZCRX_CTRL does: ``ZCRX_CTRL_*``."""

    FLUSH_RQ = 0  # 6.19: take the returned buffers
    EXPORT = 1  # 6.19: a descriptor for another ring
    ARM_EVENT = 2
    ADD_AREA = 3


FILE_INDEX_ALLOC = 0xFFFFFFFF  # 5.19: file_index, any free slot
FILES_SKIP = -2  # 5.12: leave this slot as it is
RSRC_REGISTER_SPARSE = 1  # 5.19: a table of empty slots
PROBE_OP_SUPPORTED = 1  # 5.6
NOTIF_USAGE_ZC_COPIED = 1 << 31  # 6.2: result of a CqeFlag.NOTIF, the data was copied
SPLICE_F_FD_IN_FIXED = 1 << 31  # 5.7: the input of SPLICE and TEE is a slot
FUTEX2_SIZE_U32 = 2  # 6.7
FUTEX2_PRIVATE = 128  # 6.7
AT_FDCWD = -100

# The kernel of each, for tables.
OP_KERNEL: dict[Op, str] = {
    Op.NOP: "5.1",
    Op.READV: "5.1",
    Op.WRITEV: "5.1",
    Op.FSYNC: "5.1",
    Op.READ_FIXED: "5.1",
    Op.WRITE_FIXED: "5.1",
    Op.POLL_ADD: "5.1",
    Op.POLL_REMOVE: "5.1",
    Op.SYNC_FILE_RANGE: "5.2",
    Op.SENDMSG: "5.3",
    Op.RECVMSG: "5.3",
    Op.TIMEOUT: "5.4",
    Op.TIMEOUT_REMOVE: "5.5",
    Op.ACCEPT: "5.5",
    Op.ASYNC_CANCEL: "5.5",
    Op.LINK_TIMEOUT: "5.5",
    Op.CONNECT: "5.5",
    Op.FALLOCATE: "5.6",
    Op.OPENAT: "5.6",
    Op.CLOSE: "5.6",
    Op.FILES_UPDATE: "5.6",
    Op.STATX: "5.6",
    Op.READ: "5.6",
    Op.WRITE: "5.6",
    Op.FADVISE: "5.6",
    Op.MADVISE: "5.6",
    Op.SEND: "5.6",
    Op.RECV: "5.6",
    Op.OPENAT2: "5.6",
    Op.EPOLL_CTL: "5.6",
    Op.SPLICE: "5.7",
    Op.PROVIDE_BUFFERS: "5.7",
    Op.REMOVE_BUFFERS: "5.7",
    Op.TEE: "5.8",
    Op.SHUTDOWN: "5.11",
    Op.RENAMEAT: "5.11",
    Op.UNLINKAT: "5.11",
    Op.MKDIRAT: "5.15",
    Op.SYMLINKAT: "5.15",
    Op.LINKAT: "5.15",
    Op.MSG_RING: "5.18",
    Op.FSETXATTR: "5.19",
    Op.SETXATTR: "5.19",
    Op.FGETXATTR: "5.19",
    Op.GETXATTR: "5.19",
    Op.SOCKET: "5.19",
    Op.URING_CMD: "5.19",
    Op.SEND_ZC: "6.0",
    Op.SENDMSG_ZC: "6.1",
    Op.READ_MULTISHOT: "6.7",
    Op.WAITID: "6.7",
    Op.FUTEX_WAIT: "6.7",
    Op.FUTEX_WAKE: "6.7",
    Op.FUTEX_WAITV: "6.7",
    Op.FIXED_FD_INSTALL: "6.8",
    Op.FTRUNCATE: "6.9",
    Op.BIND: "6.11",
    Op.LISTEN: "6.11",
    Op.RECV_ZC: "6.15",
    Op.EPOLL_WAIT: "6.15",
    Op.READV_FIXED: "6.15",
    Op.WRITEV_FIXED: "6.15",
    Op.PIPE: "6.16",
    Op.NOP128: "6.19",
    Op.URING_CMD128: "6.19",
}
FEATURE_KERNEL: dict[Feature, str] = {
    Feature.SINGLE_MMAP: "5.4",
    Feature.NODROP: "5.5",
    Feature.SUBMIT_STABLE: "5.5",
    Feature.RW_CUR_POS: "5.6",
    Feature.CUR_PERSONALITY: "5.6",
    Feature.FAST_POLL: "5.7",
    Feature.POLL_32BITS: "5.9",
    Feature.SQPOLL_NONFIXED: "5.11",
    Feature.EXT_ARG: "5.11",
    Feature.NATIVE_WORKERS: "5.12",
    Feature.RSRC_TAGS: "5.13",
    Feature.CQE_SKIP: "5.17",
    Feature.LINKED_FILE: "5.17",
    Feature.REG_REG_RING: "6.3",
    Feature.RECVSEND_BUNDLE: "6.10",
    Feature.MIN_TIMEOUT: "6.12",
    Feature.RW_ATTR: "6.14",
    Feature.NO_IOWAIT: "6.15",
}
SETUP_KERNEL: dict[SetupFlag, str] = {
    SetupFlag.IOPOLL: "5.1",
    SetupFlag.SQPOLL: "5.1",
    SetupFlag.SQ_AFF: "5.1",
    SetupFlag.CQSIZE: "5.5",
    SetupFlag.CLAMP: "5.6",
    SetupFlag.ATTACH_WQ: "5.6",
    SetupFlag.R_DISABLED: "5.10",
    SetupFlag.SUBMIT_ALL: "5.18",
    SetupFlag.COOP_TASKRUN: "5.19",
    SetupFlag.TASKRUN_FLAG: "5.19",
    SetupFlag.SQE128: "5.19",
    SetupFlag.CQE32: "5.19",
    SetupFlag.SINGLE_ISSUER: "6.0",
    SetupFlag.DEFER_TASKRUN: "6.1",
    SetupFlag.NO_MMAP: "6.5",
    SetupFlag.REGISTERED_FD_ONLY: "6.5",
    SetupFlag.NO_SQARRAY: "6.6",
    SetupFlag.HYBRID_IOPOLL: "6.13",
    SetupFlag.CQE_MIXED: "6.18",
    SetupFlag.SQE_MIXED: "6.19",
    SetupFlag.SQ_REWIND: "7.0",
}

# Opcodes that take SqeFlag.FIXED_FILE. Others fail with EBADF or, worse, ignore it and use the
# normal descriptor of that number (EPOLL_CTL does); RECV_ZC and URING_CMD128 were not tried.
OPS_WITH_FIXED_FILE: frozenset[Op] = frozenset(
    {
        Op.READV,
        Op.WRITEV,
        Op.FSYNC,
        Op.READ_FIXED,
        Op.WRITE_FIXED,
        Op.POLL_ADD,
        Op.SYNC_FILE_RANGE,
        Op.SENDMSG,
        Op.RECVMSG,
        Op.ACCEPT,
        Op.ASYNC_CANCEL,
        Op.CONNECT,
        Op.FALLOCATE,
        Op.READ,
        Op.WRITE,
        Op.FADVISE,
        Op.SEND,
        Op.RECV,
        Op.SPLICE,
        Op.TEE,
        Op.SHUTDOWN,
        Op.FSETXATTR,
        Op.FGETXATTR,
        Op.URING_CMD,
        Op.SEND_ZC,
        Op.SENDMSG_ZC,
        Op.READ_MULTISHOT,
        Op.FIXED_FD_INSTALL,
        Op.FTRUNCATE,
        Op.BIND,
        Op.LISTEN,
        Op.EPOLL_WAIT,
        Op.READV_FIXED,
        Op.WRITEV_FIXED,
    }
)
