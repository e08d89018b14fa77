# SPDX-License-Identifier: MIT OR Apache-2.0
"""Trio on io_uring, with direct descriptors whose scope closes them.

`lowlevel` is the ring itself, without Trio. `probe` tells what this kernel can do.

Importing the package is cheap: what a name needs is imported when the name is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import lowlevel as lowlevel
    from ._accept import AcceptedConnections
    from ._current import current_statistics
    from ._direct import (
        accept_direct,
        close_direct,
        open_direct,
        pipe_direct,
        register,
        socket_direct,
    )
    from ._errors import (
        ForkedRingError,
        RingClosedError,
        RingError,
        RingUnavailableError,
        SubmissionQueueFull,
        WrongThreadError,
    )
    from ._file_table import SlotsExhausted
    from ._fixed_file import FixedFile
    from ._fixed_socket import FixedSocket
    from ._locked_buffer import RegisteredBuffer, register_buffer
    from ._many import read_files, stat_many
    from ._options import RingOptions
    from ._probe import (
        BEHAVIOURS,
        Probe,
        probe,
    )
    from ._recv_multishot import ReceivedData
    from ._run import (
        RingInstrument,
        run,
        start_guest_run,
    )
    from ._scope import (
        FileNursery,
        FileNurseryManager,
        FileScope,
        open_file_scope,
        open_nursery,
    )
    from ._statistics import RingStatistics

__all__ = [
    "BEHAVIOURS",
    "AcceptedConnections",
    "FileNursery",
    "FileNurseryManager",
    "FileScope",
    "FixedFile",
    "FixedSocket",
    "ForkedRingError",
    "Probe",
    "ReceivedData",
    "RegisteredBuffer",
    "RingClosedError",
    "RingError",
    "RingInstrument",
    "RingOptions",
    "RingStatistics",
    "RingUnavailableError",
    "SlotsExhausted",
    "SubmissionQueueFull",
    "WrongThreadError",
    "accept_direct",
    "close_direct",
    "current_statistics",
    "open_direct",
    "open_file_scope",
    "open_nursery",
    "pipe_direct",
    "probe",
    "read_files",
    "register",
    "register_buffer",
    "run",
    "socket_direct",
    "start_guest_run",
    "stat_many",
]

_MODULES = {
    "_recv_multishot": ("ReceivedData",),
    "_accept": ("AcceptedConnections",),
    "_current": ("current_statistics",),
    "_direct": (
        "accept_direct",
        "close_direct",
        "open_direct",
        "pipe_direct",
        "register",
        "socket_direct",
    ),
    "_statistics": ("RingStatistics",),
    "_errors": (
        "ForkedRingError",
        "RingClosedError",
        "RingError",
        "RingUnavailableError",
        "SubmissionQueueFull",
        "WrongThreadError",
    ),
    "_file_table": ("SlotsExhausted",),
    "_fixed_file": ("FixedFile",),
    "_fixed_socket": ("FixedSocket",),
    "_many": ("read_files", "stat_many"),
    "_options": ("RingOptions",),
    "_locked_buffer": ("RegisteredBuffer", "register_buffer"),
    "_probe": (
        "BEHAVIOURS",
        "Probe",
        "probe",
    ),
    "_run": (
        "RingInstrument",
        "run",
        "start_guest_run",
    ),
    "_scope": (
        "FileNursery",
        "FileNurseryManager",
        "FileScope",
        "open_file_scope",
        "open_nursery",
    ),
}
_WHERE = {name: module for module, names in _MODULES.items() for name in names}


if not TYPE_CHECKING:  # a type checker shall find only what is there

    def __getattr__(name: str) -> object:
        if name == "lowlevel":
            return import_module(".lowlevel", __name__)
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value: object = getattr(import_module(f".{_WHERE[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "lowlevel"})
