# SPDX-License-Identifier: MIT OR Apache-2.0
"""What this kernel can do: asked where it answers, tried where it does not."""

from __future__ import annotations

import errno
import os
import resource
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import attrs

# Importing the trials fills TRIALS.
from . import _trials as _trials
from ._abi import Feature, Op, SetupFlag
from ._errors import RingUnavailableError
from ._lib import ffi, lib
from ._ring import Ring
from ._trial_bench import TRIALS, Bench, result
from ._unavailable import setup_plain_ring, unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

# What a set-up flag needs beside it.
COMPANIONS = {
    SetupFlag.SQ_AFF: SetupFlag.SQPOLL,
    SetupFlag.TASKRUN_FLAG: SetupFlag.COOP_TASKRUN,
    SetupFlag.DEFER_TASKRUN: SetupFlag.SINGLE_ISSUER,
    SetupFlag.REGISTERED_FD_ONLY: SetupFlag.NO_MMAP,
    SetupFlag.HYBRID_IOPOLL: SetupFlag.IOPOLL,
    SetupFlag.SQ_REWIND: SetupFlag.NO_SQARRAY,
}


@attrs.frozen(kw_only=True)
class Probe:
    """What `probe` found."""

    usable: bool
    """Rings can be set up here."""
    kernel: str
    """The kernel's release, as ``uname -r`` prints it."""
    error: RingUnavailableError | None = None
    """When not usable: what `lowlevel.Ring` raises, with ``errno``, ``reason`` and ``remedy``."""
    features: Feature = attrs.field(default=Feature(0))
    """What io_uring_setup(2) says of the kernel."""
    ops: frozenset[Op] = frozenset()
    """The opcodes that the kernel says it knows. Empty before Linux 5.6, which cannot be asked."""
    setup_flags: SetupFlag = attrs.field(default=SetupFlag(0))
    """The flags with which a ring could be set up, each with those that it needs beside it."""
    behaviours: Mapping[str, bool] = attrs.field(factory=dict)
    """By name, what was found by trying; `BEHAVIOURS` says what the names mean."""
    untried: Mapping[str, str] = attrs.field(factory=dict)
    """By name, why a behaviour could not be tried: no loopback interface, say."""

    @property
    def reason(self) -> str:
        """Why io_uring is not usable, in a sentence; empty when it is."""
        return "" if self.error is None else self.error.reason

    @property
    def remedy(self) -> str:
        """What would change it; empty when io_uring is usable."""
        return "" if self.error is None else self.error.remedy

    def can(self, behaviour: str) -> bool:
        """Whether a behaviour was found.

        Raises:
            KeyError: `BEHAVIOURS` has no such name.
        """
        return self.behaviours.get(TRIALS[behaviour].name, False)

    @property
    def notes(self) -> list[str]:
        """What the lack of something means, for a person to read."""
        return [text for name, text in CONSEQUENCES.items() if self.usable and not self.can(name)]


CONSEQUENCES = {
    "direct_descriptors": (
        "Direct descriptors need the io_uring of Linux 5.15. A ring works here with ordinary "
        "descriptors and registered files; nothing that opens into a slot or closes one does."
    ),
    "ext_arg": (
        "Without IORING_FEAT_EXT_ARG (5.11) a wait with a timeout needs a second system call."
    ),
    "file_index_alloc": (
        "The kernel does not choose slots (5.19): every direct operation names its own."
    ),
    "fixed_fd_install": ("There is no way back from a slot to an ordinary descriptor (6.8)."),
    "socket_commands": (
        "Options of a socket in a slot cannot be set (6.7): set them on an ordinary descriptor, "
        "then register that."
    ),
}

BEHAVIOURS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {name: (trial.kernel, trial.meaning) for name, trial in TRIALS.items()}
)
"""The names in `Probe.behaviours`: the upstream kernel that brought each, and what it is."""


def probe() -> Probe:
    """Finds out what io_uring can do in this process; some ten milliseconds, no trace left.

    Never raises: where io_uring is not usable, the result says why, and what would change that. It
    makes small rings, sockets and files in memory, and closes them.
    """
    kernel = os.uname().release
    code = setup_plain_ring()
    if code < 0:
        return Probe(usable=False, kernel=kernel, error=unavailable(code))
    try:
        return _probe_usable(kernel)
    except RingUnavailableError as error:
        return Probe(usable=False, kernel=kernel, error=error)
    except OSError as error:  # a filter that refuses io_uring_enter, a limit that is reached
        code = -(error.errno or errno.ETIMEDOUT)
        return Probe(usable=False, kernel=kernel, error=unavailable(code))


def _probe_usable(kernel: str) -> Probe:
    with Bench() as bench:
        bench.plain.nop(1)
        result(bench.plain)
        features = Feature(bench.idle.features)
        ops = _known_ops(bench.idle)
        behaviours, untried = _try_all(bench, ops)
    return Probe(
        usable=True,
        kernel=kernel,
        features=features,
        ops=ops,
        setup_flags=_working_setup_flags(),
        behaviours=MappingProxyType(behaviours),
        untried=MappingProxyType(untried),
    )


def _known_ops(ring: Ring) -> frozenset[Op]:
    try:
        supported = ring.get_probe().supported
    except OSError:  # before 5.6
        return frozenset()
    return frozenset(op for op in Op if op in supported)


def _try_all(bench: Bench, ops: frozenset[Op]) -> tuple[dict[str, bool], dict[str, str]]:
    behaviours: dict[str, bool] = {}
    untried: dict[str, str] = {}
    for name, trial in TRIALS.items():
        possible = (not ops or ops.issuperset(trial.ops)) and all(map(behaviours.get, trial.needs))
        try:
            behaviours[name] = possible and trial.run(bench)
        except Exception as error:
            untried[name] = f"{type(error).__name__}: {error}"
            bench.renew()
        bench.tidy_up()
    return behaviours, untried


def _working_setup_flags() -> SetupFlag:
    found = SetupFlag(0)
    with Ring(1) as other:
        for flag in SetupFlag:
            if _sets_up(flag | COMPANIONS.get(flag, 0), other.fd):
                found |= flag
    return found


def _sets_up(flags: int, wq_fd: int) -> bool:
    """Not by `Ring`, which refuses what it does not offer. SQE_MIXED needs two entries."""
    params: Any = ffi.new("struct tu_params *", {"flags": flags, "sq_thread_idle": 1})
    if flags & SetupFlag.CQSIZE:
        params.cq_entries = 4
    if flags & SetupFlag.ATTACH_WQ:
        params.wq_fd = wq_fd
    if flags & SetupFlag.SQ_AFF:
        params.sq_thread_cpu = min(os.sched_getaffinity(0))
    ring = ffi.new("struct tu_ring *")
    if lib.tu_setup(ring, 2, params, 0) < 0:
        return False
    if lib.tu_begin_exclusive(ring) == 0:
        lib.tu_close(ring)
    return True


def ring_memory_counts() -> bool | None:
    """Whether the memory of rings counts against ``RLIMIT_MEMLOCK``; None if that cannot be found.

    It counts before Linux 5.12 and again from 6.16 to 7.2, without ``CAP_IPC_LOCK``. A
    forked child tries it with a limit of 0, as nobody if this process is root: not for programs
    that have threads.
    """
    child = os.fork()
    if child == 0:
        try:
            os._exit(_try_without_locked_memory())
        finally:
            os._exit(UNKNOWN)
    _, status = os.waitpid(child, 0)
    return {0: False, errno.ENOMEM: True}.get(os.waitstatus_to_exitcode(status))


UNKNOWN = 255
NOBODY = 65534


def _try_without_locked_memory() -> int:
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    if os.geteuid() == 0:
        os.setuid(NOBODY)
    return -setup_plain_ring()
