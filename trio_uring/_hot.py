# SPDX-License-Identifier: MIT OR Apache-2.0
"""The engine for a Trio whose loop is known: `_engine`, and how its C code knows Trio.

What an awaited operation costs is calls, allocations, and what Trio does to sleep and to wake. With
this engine the record itself is what the task awaits and what Trio sends into it. A task is woken
by what ``Runner.reschedule`` does, written out in ``_csrc/python/turn.c``, and runs on until it
waits again by what Trio's loop does, in ``step.c``, unless that is of another release. With
instruments that watch it, and in guest mode, Trio does it itself.

An operation that mostly completes as it is submitted is submitted at once if its task is the only
one that can run: a pass of Trio's loop costs more than reading a page that is in memory. It stays a
point of cancellation. As nobody else can run, yielding would change nothing; but timers, readiness
and other threads are only looked at in a pass, so that there is one after `PROMPT_MAX` of them.

Private names of Trio in use, beside those of `_adopted`: of a task ``_runner``, ``_next_send_fn``,
``_next_send``, ``_abort_func``, ``_cancel_status``, ``_cancel_points``, ``_schedule_points``; of
the run ``runq``, ``instruments``, ``main_task``, ``ki_pending``, ``waiting_for_idle``; of the loop
``_ALLOW_DETERMINISTIC_SCHEDULING``. `recognises` and `_knows_loop` check them; C uses most of them.
"""

from __future__ import annotations

import functools
import types
from typing import TYPE_CHECKING, Any

from outcome import Error, Value
from trio._core import _run, _traps

from . import _native
from ._engine import Engine
from ._errors import SubmissionQueueFull

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from ._driver import Driver
    from ._engine_ring import EngineRing
    from ._operation import Operation
    from ._options import RingOptions
    from ._waiter import Waiter

PROMPT_MAX, ALONE_MIN = _native.TN_PROMPT_MAX, _native.TN_ALONE_MIN
_context: Any = _run.GLOBAL_RUN_CONTEXT
_Message: Any = _traps.WaitTaskRescheduled
_TASK_NAMES = frozenset(
    {
        "_abort_func",
        "_cancel_points",
        "_cancel_status",
        "_next_send",
        "_next_send_fn",
        "_runner",
        "_schedule_points",
        "context",
        "coro",
        "custom_sleep_data",
    }
)
_RUNNER_NAMES = frozenset(
    {
        "entry_queue",
        "instruments",
        "is_guest",
        "ki_pending",
        "main_task",
        "runq",
        "waiting_for_idle",
    }
)
# What Runner.reschedule uses, in all releases from 0.22 to 0.35.
_RESCHEDULE_NAMES = frozenset(
    {
        "_NO_SEND",
        "Value",
        "_abort_func",
        "_next_send",
        "_next_send_fn",
        "_runner",
        "append",
        "call",
        "coro",
        "custom_sleep_data",
        "force_guest_tick_asap",
        "instruments",
        "is_guest",
        "runq",
        "send",
    }
)
# What Trio's loop uses, in all releases from 0.23 to 0.35, but for how they keep Ctrl-C out of it.
_LOOP_NAMES = """
AUTOJUMP_CLOCK BaseException CONTEXT_RUN_TB_FRAMES CancelShieldedCheckpoint Error GLOBAL_RUN_CONTEXT
GeneratorExit IdlePrimedTypes KeyboardInterrupt MockClock PermanentlyDetachCoroutineObject
RuntimeWarning StopIteration TrioInternalError TypeError Value WAITING_FOR_IDLE WaitTaskRescheduled
_ALLOW_DETERMINISTIC_SCHEDULING _MAX_TIMEOUT __context__ __dict__ __traceback__ _abort_func
_attempt_delivery_of_any_pending_cancel _attempt_delivery_of_pending_ki _autojump _cancel_points
_core _next_send _next_send_fn _r _schedule_points abort_func call clear clock
clock_autojump_threshold close context coro current_time deadline_to_sleep_time deadlines
entry_queue error expire final_outcome init init_task instruments io_manager isinstance keys
ki_pending list main_task main_task_outcome max min next_deadline peekitem pop process_events random
range reschedule reverse run runq shuffle sort spawn_impl start_clock task task_exited tasks tb_next
throw type value waiting_for_idle wakeup wakeup_on_signals warn warnings with_traceback
"""
_LOOP_KI_NAMES = {"LOCALS_KEY_KI_PROTECTION_ENABLED", "_getframe", "f_locals", "locals", "sys"}
# Of both, what only assertions name: with ``python -O`` there are none.
_ASSERTED_WAKING: frozenset[str] = frozenset() if __debug__ else frozenset({"_runner"})
_ASSERTED = frozenset() if __debug__ else frozenset({"MockClock", "_core", "isinstance"})


@functools.cache
def recognises(runner: Any) -> bool:
    """Whether tasks, and runs of this class, are built as this module expects."""
    return (
        _fields(runner) >= _RUNNER_NAMES
        and _fields(_run.Task) >= _TASK_NAMES
        and frozenset(runner.reschedule.__code__.co_names) | _ASSERTED_WAKING == _RESCHEDULE_NAMES
        and _fields(_Message) == {"abort_func"}
    )


@functools.cache
def _knows_loop() -> bool:
    """Whether Trio's loop runs the step of a task as ``step.c`` has it written out."""
    code = getattr(_run.unrolled_run, "__code__", None)
    if code is None:
        return False
    names = set(code.co_names) | _ASSERTED
    return sorted(names - _LOOP_KI_NAMES) == _LOOP_NAMES.split()


def _fields(attrs_class: Any) -> set[str]:
    return {field.name for field in attrs_class.__attrs_attrs__}


class HotEngine(Engine):
    """The engine of the adopted driver."""

    __slots__ = ()

    def __init__(self, options: RingOptions, driver: Driver, ring: EngineRing, runner: Any) -> None:
        # Of this thread: the dictionary that the attributes of this `threading.local` are in.
        self._context = vars(_context)
        self._runner = runner
        super().__init__(options, driver, ring)
        self._message_type = _Message
        # Under Hypothesis the order of tasks is its own.
        self._may_step = _knows_loop() and not _run._ALLOW_DETERMINISTIC_SCHEDULING

    def current_task(self) -> Any:
        """As `Engine.current_task`."""
        try:
            task = _context.task
        except AttributeError:
            raise RuntimeError("must be called from async context") from None
        if task._runner is not self._runner:
            raise RuntimeError("this handle belongs to another Trio run")
        return task

    def message_for(self, waiting: Operation | Waiter) -> Any:
        """As `Engine.message_for`."""
        return _Message(waiting.abort)

    @types.coroutine
    def wait_for(self, waiter: Waiter) -> Generator[Any, Any, int]:
        """As `Engine.wait_for`."""
        outcome: Any = yield waiter.message
        try:
            result: int = outcome.unwrap()
            return result
        finally:
            del outcome  # holds the exception, and that this frame

    def _task_ended(self, task: Any, exc: BaseException) -> None:
        """What Trio's loop does when a task has returned or raised."""
        self._runner.task_exited(
            task, Value(exc.value) if isinstance(exc, StopIteration) else Error(exc)
        )

    def _tell_of_step(self, task: Any) -> None:
        """What it does when a step is over that has added an instrument."""
        instruments = self._runner.instruments
        if "after_task_step" in instruments:
            instruments.call("after_task_step", task)

    def _hand_over_quietly(self) -> bool:
        """What must reach the kernel before it is entered out of turn; whether it does."""
        try:
            self._hand_over()
        except (SubmissionQueueFull, OSError):
            return False
        return True

    def dispatch(self, cqes: Sequence[tuple[int, int, int]]) -> None:
        """As `Engine.dispatch`."""
        super().dispatch(cqes)
        self.pass_begins()
