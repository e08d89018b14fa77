# SPDX-License-Identifier: MIT OR Apache-2.0
"""Sizes and limits of a run's ring."""

from __future__ import annotations

import attrs


def _power_of_two(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    limit = {"sq_entries": 4096, "cq_entries": 65536}.get(attribute.name, 32768)
    if not 1 <= value <= limit or value & (value - 1):
        raise ValueError(f"{attribute.name} must be a power of two up to {limit}, not {value}")


def _positive(instance: object, attribute: attrs.Attribute[int], value: int) -> None:
    if value < 1:
        raise ValueError(f"{attribute.name} must be at least 1, not {value}")


def _at_most_all_slots(instance: RingOptions, attribute: attrs.Attribute[int], value: int) -> None:
    if not 0 <= value <= instance.slots_max:
        raise ValueError(f"{attribute.name} must be from 0 to slots_max, not {value}")


@attrs.frozen(kw_only=True)
class RingOptions:
    """How large the ring of a Trio run is. The defaults serve a server on a laptop.

    A ring is made when a run first uses it. None of these is a limit on how much a program may have
    in flight: what does not fit waits.
    """

    sq_entries: int = attrs.field(default=128, validator=_power_of_two)
    """Submission queue entries, a power of two up to 4096: what one system call submits."""
    cq_entries: int = attrs.field(default=1024, validator=_power_of_two)
    """Completion queue entries, a power of two: completions that one pass of the loop handles."""
    slots_max: int = attrs.field(default=1024, validator=_positive)
    """Slots of the file table. The kernel refuses more than the soft ``RLIMIT_NOFILE``: then there
    are that many."""
    slots_manual: int = attrs.field(default=0, validator=_at_most_all_slots)
    """How many of them, from 0 on, are left to callers who name a slot (``slot=``)."""
    recv_buffers: int = attrs.field(default=256, validator=_power_of_two)
    """Buffers that all receives of the run share, a power of two up to 32768."""
    recv_buffer_bytes: int = attrs.field(default=16384, validator=_positive)
    """Size of each of them: the most that one receive returns out of them."""
