# SPDX-License-Identifier: MIT OR Apache-2.0
"""Every public method and property of a ring, with arguments that fit: to see it refused."""

from __future__ import annotations

import inspect
import mmap
from functools import partial
from typing import TYPE_CHECKING, Any

from trio_uring.lowlevel import (
    BufferSelection,
    Cqe,
    EpollEvents,
    FutexWaiter,
    Msghdr,
    Op,
    OpenHow,
    Restriction,
    Ring,
    Siginfo,
    SockAddr,
    Statx,
)

if TYPE_CHECKING:
    from collections.abc import Callable

BY_NAME: dict[str, Any] = {
    "buffer_size": 8,
    "cpus": [0],
    "entries": 2,
    "fds": [-1],
    "futex": bytearray(4),
    "futexes": [FutexWaiter(bytearray(4), 0)],
    "memory": mmap.mmap(-1, mmap.PAGESIZE),
    "nbytes": 8,
    "restrictions": [Restriction.allow_op(Op.NOP)],
    "tags": [0],
}
BY_TYPE: dict[str, Any] = {
    "int": 1,
    "bool": True,
    "Address | SockAddr": ("127.0.0.1", 1),
    "Buffer": bytearray(64),
    "BufferSelection": BufferSelection(0),
    "Cqe": Cqe(1, 0, 0),
    "EpollEvents": EpollEvents(1),
    "Integers": [1],
    "Msghdr": Msghdr([bytearray(8)]),
    "OpenHow": OpenHow(0),
    "Path": "/",
    "Seconds": 1.0,
    "Siginfo": Siginfo(),
    "SockAddr": SockAddr(),
    "Statx": Statx(),
    "str | bytes": "user.x",
    "ReadableBuffer": bytearray(8),
    "WritableBuffer": bytearray(8),
}


def _value(parameter: inspect.Parameter) -> Any:
    if parameter.name in BY_NAME and parameter.annotation not in ("Buffer", "WritableBuffer"):
        return BY_NAME[parameter.name]
    annotation = str(parameter.annotation)
    for prefix in ("Sequence[", "Iterable["):
        if annotation.startswith(prefix):
            return [BY_TYPE[annotation.removeprefix(prefix).rstrip("]").partition(" |")[0]]]
    return BY_TYPE.get(annotation, BY_TYPE.get(annotation.partition(" |")[0]))


def ring_calls(ring: Ring) -> dict[str, Callable[[], object]]:
    """Name -> a call without arguments, of each public method and property of ``ring``."""
    calls: dict[str, Callable[[], object]] = {}
    for name in sorted(dir(Ring)):
        if name.startswith("_") or name == "fd":
            continue
        member = inspect.getattr_static(Ring, name)
        if isinstance(member, property):
            calls[name] = partial(getattr, ring, name)
            continue
        parameters = [*inspect.signature(member).parameters.values()][1:]
        needed = [p for p in parameters if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
        values = [ring if p.name == "source" else _value(p) for p in needed]
        calls[name] = partial(getattr(ring, name), *values)
    calls["sync_cancel"] = partial(ring.sync_cancel, 1)
    calls["close a descriptor"] = partial(ring.close, 1, 1 << 20)
    for view in ("sq", "cq"):
        kind = type(getattr(ring, view))
        for name, member in vars(kind).items():
            if isinstance(member, property):
                calls[f"{view}.{name}"] = partial(getattr, getattr(ring, view), name)
    return calls
