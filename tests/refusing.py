# SPDX-License-Identifier: MIT OR Apache-2.0
"""``python refusing.py EPERM io_uring_setup COMMAND...``: runs it where seccomp refuses a call."""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from struct import Struct

# The same numbers on every architecture but Alpha.
NUMBERS = {"io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427}
NO_SECCOMP = 77

PR_SET_NO_NEW_PRIVS = 38
PR_SET_SECCOMP = 22
SECCOMP_MODE_FILTER = 2
SECCOMP_RET_ERRNO = 0x00050000
SECCOMP_RET_ALLOW = 0x7FFF0000

# struct sock_filter: code, jump if true, jump if false, operand (seccomp(2))
INSTRUCTION = Struct("=HBBI")
LOAD_SYSCALL_NUMBER = INSTRUCTION.pack(0x20, 0, 0, 0)


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("count", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def refuse(number: int, error: int) -> bool:
    """From now on the call fails, in this process and what it executes."""
    instructions = (
        LOAD_SYSCALL_NUMBER
        + INSTRUCTION.pack(0x15, 0, 1, number)
        + INSTRUCTION.pack(0x06, 0, 0, SECCOMP_RET_ERRNO | error)
        + INSTRUCTION.pack(0x06, 0, 0, SECCOMP_RET_ALLOW)
    )
    program = Program(len(instructions) // INSTRUCTION.size, instructions)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    done: int = libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)
    return done == 0


if __name__ == "__main__":
    if not refuse(NUMBERS[sys.argv[2]], getattr(errno, sys.argv[1])):
        sys.exit(NO_SECCOMP)
    os.execv(sys.argv[3], sys.argv[3:])
