# SPDX-License-Identifier: MIT OR Apache-2.0
"""Why ``io_uring_setup(2)`` was refused, in words, and what would change it.

The errno alone says little: EPERM is a sysctl (6.6), a seccomp filter or a security module; ENOSYS
is a kernel without io_uring or again a filter. So the files that tell them apart are read.
"""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

from ._errors import RingUnavailableError, error_of
from ._lib import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Reader: TypeAlias = Callable[[str], str]

DISABLED = "/proc/sys/kernel/io_uring_disabled"
GROUP = "/proc/sys/kernel/io_uring_group"
STATUS = "/proc/self/status"
RELEASE = "/proc/sys/kernel/osrelease"

# Bits of CapEff in /proc/self/status (capabilities(7)).
CAP_IPC_LOCK = 14
CAP_SYS_ADMIN = 21

SECCOMP_REMEDY = (
    "Run it outside of the container or sandbox, or with a seccomp profile that allows "
    "io_uring_setup, io_uring_enter and io_uring_register (docker run --security-opt "
    "seccomp=profile.json; seccomp=unconfined shows whether that is the cause)"
)
VERSIONS = (
    "Linux 5.15 is the least for direct descriptors, 6.1 the first with all that is used here"
)


def read_file(path: str) -> str:
    """The text of a file in /proc without white space at its ends; empty when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().strip()
    except OSError:
        return ""


def setup_error(code: int) -> Exception:
    """The exception for ``code``, what ``tu_setup`` answered: a negative errno.

    `RingUnavailableError` if no ring can be set up here, else the plain error: the size or the
    flags were the reason.
    """
    if code == -errno.ENOMEM or (code in _REFUSALS and setup_plain_ring() == code):
        return unavailable(code)
    return error_of(code, "io_uring_setup")


def setup_plain_ring() -> int:
    """Sets up the smallest ring and closes it: 0, or a negative errno."""
    ring = ffi.new("struct tu_ring *")
    code = lib.tu_setup(ring, 1, ffi.new("struct tu_params *"), 0)
    if code == 0 and lib.tu_begin_exclusive(ring) == 0:
        lib.tu_close(ring)
    return code


def unavailable(code: int, read: Reader = read_file) -> RingUnavailableError:
    """The reason and the remedy for ``code``, a negative errno of io_uring_setup(2).

    ``read`` gives the text of the files in /proc that this decides on.
    """
    explain = _REASONS.get(code, _other)
    reason, remedy = explain(code, read)
    return RingUnavailableError(-code, reason, remedy)


def _not_permitted(code: int, read: Reader) -> tuple[str, str]:
    disabled = read(DISABLED)
    if disabled == "2":
        return (
            "the administrator switched it off for every process (kernel.io_uring_disabled is 2)",
            "As root: sysctl kernel.io_uring_disabled=0",
        )
    if disabled == "1" and not _has_capability(CAP_SYS_ADMIN, read):
        group = read(GROUP)
        whose = "of no group" if group in ("", "-1") else f"of group {group}"
        return (
            "only processes with CAP_SYS_ADMIN or of the group kernel.io_uring_group may use it "
            f"(kernel.io_uring_disabled is 1, and the group is {group or 'not set'})",
            "As root: sysctl kernel.io_uring_disabled=0, or set kernel.io_uring_group, now that "
            f"{whose}, to a group of this user",
        )
    if _has_seccomp_filter(read):
        return "a seccomp filter refuses it, as those of container runtimes do", SECCOMP_REMEDY
    return (
        "the kernel does not permit it, though neither the sysctl kernel.io_uring_disabled nor a "
        "seccomp filter says no: a security module (SELinux, AppArmor) can be the cause",
        "Look for io_uring in the audit log",
    )


def _not_implemented(code: int, read: Reader) -> tuple[str, str]:
    release = read(RELEASE)
    if _version(release) < (5, 1):
        return f"Linux {release} has none: it came with 5.1", VERSIONS
    if _has_seccomp_filter(read):
        return (
            f"Linux {release} answers that it has none: a seccomp filter can be the cause, as "
            "those of container runtimes and sandboxes are, or a kernel without CONFIG_IO_URING",
            SECCOMP_REMEDY,
        )
    return (
        f"Linux {release} was built without CONFIG_IO_URING, or is a sandbox's imitation (gVisor)",
        "Boot a kernel with CONFIG_IO_URING=y",
    )


def _no_memory(code: int, read: Reader) -> tuple[str, str]:
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft == resource.RLIM_INFINITY or _has_capability(CAP_IPC_LOCK, read):
        return "there is not enough memory for a ring of this size", "Make the ring smaller"
    return (
        f"the memory of all rings of this user counts against RLIMIT_MEMLOCK, which is {soft} "
        f"bytes (hard limit {_bytes(hard)})",
        f"Raise it (ulimit -l, now {soft // 1024} KiB; LimitMEMLOCK= of systemd; memlock in "
        "/etc/security/limits.conf), use fewer or smaller rings, or another kernel: those before "
        "5.12 and from 6.16 to 7.2 count rings, the others do not",
    )


def _too_old(code: int, read: Reader) -> tuple[str, str]:
    return (
        f"Linux {read(RELEASE)} is too old: its rings cannot be mapped in one piece "
        "(IORING_FEAT_SINGLE_MMAP, 5.4)",
        VERSIONS,
    )


def _too_many_files(code: int, read: Reader) -> tuple[str, str]:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    whose = f"this process (its limit is {soft})" if code == -errno.EMFILE else "the system"
    return f"no file descriptor is left to {whose}", "Close some, or raise the limit (ulimit -n)"


def _other(code: int, read: Reader) -> tuple[str, str]:
    return f"it answers {os.strerror(-code)!r}", "Nothing is known about this case"


_REASONS: dict[int, Callable[[int, Reader], tuple[str, str]]] = {
    -errno.EPERM: _not_permitted,
    -errno.EACCES: _not_permitted,
    -errno.ENOSYS: _not_implemented,
    -errno.ENOMEM: _no_memory,
    -errno.EPROTONOSUPPORT: _too_old,
    -errno.EMFILE: _too_many_files,
    -errno.ENFILE: _too_many_files,
}


# Those that mean io_uring itself, not this call.
_REFUSALS = (-errno.EPERM, -errno.EACCES, -errno.ENOSYS, -errno.EPROTONOSUPPORT)


def _has_seccomp_filter(read: Reader) -> bool:
    return _status_field("Seccomp", read) == "2"


def _has_capability(bit: int, read: Reader) -> bool:
    effective = _status_field("CapEff", read)
    return bool(effective) and bool(int(effective, 16) >> bit & 1)


def _status_field(name: str, read: Reader) -> str:
    for line in read(STATUS).splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return value.strip()
    return ""


def _version(release: str) -> tuple[int, ...]:
    """``5.10.0-46-cloud`` as (5, 10); what cannot be read counts as new."""
    parts = release.split(".")[:2]
    return tuple(map(int, parts)) if len(parts) == 2 and all(map(str.isdigit, parts)) else (99, 0)


def _bytes(limit: int) -> str:
    return "none" if limit == resource.RLIM_INFINITY else str(limit)
