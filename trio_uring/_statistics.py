# SPDX-License-Identifier: MIT OR Apache-2.0
"""What a run's ring is doing, in numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

if TYPE_CHECKING:
    from ._engine import Engine


@attrs.frozen(kw_only=True)
class RingStatistics:
    """What the ring of the current run is doing; see `current_statistics`."""

    driver: str
    """``adopted``: the ring is part of Trio's loop."""
    operations_in_flight: int
    """Operations prepared or submitted whose final CQE was not seen."""
    submitted: int
    """SQEs handed to the kernel since the ring was made, modulo 2**32."""
    completed: int
    """CQEs that were handled."""
    enters: int
    """``io_uring_enter`` system calls."""
    queue_full_count: int
    """Times that the submission queue was full and was submitted in mid-pass."""
    overflow_count: int
    """Passes that found more completions than the completion queue holds."""
    cancels_sent: int
    """Cancel requests submitted."""
    late_completions: int
    """CQEs of operations that had already ended; always 0."""
    slots_used: int
    """Slots of the file table that hold a file or are reserved for one."""
    slots_free: int
    slots_quarantined: int
    """Slots that were closed while an operation in flight still named them."""
    buffers_lent: int
    """Provided buffers that hold data nobody has copied out yet."""


def statistics_of(engine: Engine) -> RingStatistics:
    """What the engine's ring is doing."""
    table = engine._table
    return RingStatistics(
        driver=engine.driver.name,
        operations_in_flight=engine.in_flight,
        submitted=engine._flushed,
        completed=engine.completed,
        enters=engine.ring.enters,
        queue_full_count=engine.queue_full_count,
        overflow_count=engine.overflow_count,
        cancels_sent=engine.cancels_sent,
        late_completions=engine.late_completions,
        slots_used=table.used_count if table else 0,
        slots_free=table.free_count if table else engine.options.slots_max,
        slots_quarantined=table.quarantined_count if table else 0,
        buffers_lent=engine.buffers.lent if engine.buffers else 0,
    )
