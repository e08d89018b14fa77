# SPDX-License-Identifier: MIT OR Apache-2.0
"""io_uring itself, without Trio: the ring, its entries, the ABI's numbers, prep functions.

`Ring` has everything; the prep functions fill any `Sqe`, and whoever submits that keeps its memory.
"""

from __future__ import annotations

from . import _prep
from ._abi import (
    AT_FDCWD,
    CQE_BUFFER_SHIFT,
    FEATURE_KERNEL,
    FILE_INDEX_ALLOC,
    FILES_SKIP,
    FUTEX2_PRIVATE,
    FUTEX2_SIZE_U32,
    NOTIF_USAGE_ZC_COPIED,
    OP_KERNEL,
    OPS_WITH_FIXED_FILE,
    PROBE_OP_SUPPORTED,
    RSRC_REGISTER_SPARSE,
    SETUP_KERNEL,
    SPLICE_F_FD_IN_FIXED,
    AcceptFlag,
    CancelFlag,
    CloneFlag,
    CqeFlag,
    CqFlag,
    EnterFlag,
    Feature,
    FsyncFlag,
    InstallFlag,
    MsgRingCommand,
    MsgRingFlag,
    NapiTracking,
    NopFlag,
    Op,
    PbufRingFlag,
    PollFlag,
    QueryOp,
    RecvSendFlag,
    RegisterOp,
    RestrictionOp,
    SetupFlag,
    SocketOp,
    SqeFlag,
    SqFlag,
    TimeoutFlag,
    UringCmdFlag,
    ZcrxCtrlOp,
    ZcrxRegFlag,
)
from ._buf_ring import (
    BufferRing,
)
from ._buffers import (
    PinnedBuffer,
)
from ._errors import (
    ForkedRingError,
    RingClosedError,
    RingError,
    RingUnavailableError,
    SubmissionQueueFull,
    WrongThreadError,
)
from ._msghdr import (
    Msghdr,
    RecvmsgOut,
)
from ._prep import *  # noqa: F403
from ._queue import (
    BIG_CQE,
    CQE,
    BigCqe,
    Cqe,
)
from ._register_settings import (
    NapiSettings,
    Probe,
    Restriction,
)
from ._ring import (
    Ring,
)
from ._sockaddr import (
    SockAddr,
)
from ._sqe import (
    Sqe,
)
from ._structs import (
    BufferSelection,
    EpollEvent,
    EpollEvents,
    EpollOp,
    FutexWaiter,
    OpenHow,
    Siginfo,
    Statx,
    Timespec,
)

__all__ = [
    "AT_FDCWD",
    "BIG_CQE",
    "CQE",
    "CQE_BUFFER_SHIFT",
    "FEATURE_KERNEL",
    "FILES_SKIP",
    "FILE_INDEX_ALLOC",
    "FUTEX2_PRIVATE",
    "FUTEX2_SIZE_U32",
    "NOTIF_USAGE_ZC_COPIED",
    "OPS_WITH_FIXED_FILE",
    "OP_KERNEL",
    "PROBE_OP_SUPPORTED",
    "RSRC_REGISTER_SPARSE",
    "SETUP_KERNEL",
    "SPLICE_F_FD_IN_FIXED",
    "AcceptFlag",
    "BigCqe",
    "BufferRing",
    "BufferSelection",
    "CancelFlag",
    "CloneFlag",
    "CqFlag",
    "Cqe",
    "CqeFlag",
    "EnterFlag",
    "EpollEvent",
    "EpollEvents",
    "EpollOp",
    "Feature",
    "ForkedRingError",
    "FsyncFlag",
    "FutexWaiter",
    "InstallFlag",
    "MsgRingCommand",
    "MsgRingFlag",
    "Msghdr",
    "NapiSettings",
    "NapiTracking",
    "NopFlag",
    "Op",
    "OpenHow",
    "PbufRingFlag",
    "PinnedBuffer",
    "PollFlag",
    "Probe",
    "QueryOp",
    "RecvSendFlag",
    "RecvmsgOut",
    "RegisterOp",
    "Restriction",
    "RestrictionOp",
    "Ring",
    "RingClosedError",
    "RingError",
    "RingUnavailableError",
    "SetupFlag",
    "Siginfo",
    "SockAddr",
    "SocketOp",
    "SqFlag",
    "Sqe",
    "SqeFlag",
    "Statx",
    "SubmissionQueueFull",
    "TimeoutFlag",
    "Timespec",
    "UringCmdFlag",
    "WrongThreadError",
    "ZcrxCtrlOp",
    "ZcrxRegFlag",
]
__all__ += _prep.__all__
