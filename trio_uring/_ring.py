# SPDX-License-Identifier: MIT OR Apache-2.0
"""The whole synchronous ring."""

from __future__ import annotations

from ._ops_control import ControlOperations
from ._ops_files import FileOperations
from ._ops_paths import PathOperations
from ._ops_sockets import SocketOperations
from ._registration import Registration


class Ring(FileOperations, PathOperations, SocketOperations, ControlOperations, Registration):
    """A ring of io_uring, without Trio: submission and completion queue, operations, registration.

    ``entries`` is a power of two from 1 to 4096, ``flags`` are `SetupFlag` bits. Of ``struct
    io_uring_params`` can be given ``sq_thread_cpu``, ``sq_thread_idle`` (milliseconds, 1000 by
    default), ``cq_entries`` (twice ``entries`` by default) and ``wq_fd``.

    A method with the name of an operation prepares one entry and returns it as an `Sqe`, which may
    still be changed; `submit` starts what was prepared, `copy_cqes` brings completions.
    ``user_data`` is any number of 64 bits, which the completion carries. Operations in flight may
    share one. What an operation borrows, buffers, names, paths, times, stays alive and in its place
    until the final completion was copied: a ``bytearray`` cannot be resized until then.

    A ring is a context manager; leaving it closes it. io_uring(7).

    Raises:
        ValueError: the kernel would refuse ``entries`` or a parameter.
        OSError: io_uring_setup(2) failed: ENOSYS and EPERM if io_uring is switched off, ENOMEM by
            ``RLIMIT_MEMLOCK``, EINVAL for flags that this kernel does not know.
    """
