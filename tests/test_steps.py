# SPDX-License-Identifier: MIT OR Apache-2.0
"""Tasks that a completion has woken run on in C: nobody but a clock can tell."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import gc
import linecache
import signal
import subprocess
import sys
import traceback
import types
import weakref
from typing import TYPE_CHECKING, Any

import outcome
import pytest
import trio
import trio._core._run
import trio.testing
from engine_help import WAIT_S, engine, passes, python_command, python_env, socket_pair
from run_modes import MODE

import trio_uring
from trio_uring import _hot
from trio_uring.testing import requires_direct_descriptors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Generator

pytestmark = requires_direct_descriptors()
# What these look at is what C does: with the hosted driver, and in guest mode, it does not.
stepping = pytest.mark.skipif(MODE in ("hosted", "guest"), reason="Trio's loop runs every step")


@pytest.fixture(params=["in C", "in Trio's loop"], autouse=True)
def _steps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param != "in C":
        monkeypatch.setattr(_hot, "_knows_loop", lambda: False)


@pytest.fixture
async def zero() -> AsyncIterator[trio_uring.FixedFile]:
    async with await trio_uring.open_direct("/dev/zero") as file:
        yield file


async def woken(file: trio_uring.FixedFile) -> None:
    """Returns in a step that a completion has caused."""
    for _ in range(3):
        assert await file.read_at(1, 0) == b"\0"


async def busy() -> None:
    """Keeps others from being alone, so that nothing is finished in place."""
    while True:
        await trio.lowlevel.checkpoint()


@pytest.fixture
async def crowd() -> AsyncIterator[trio.Nursery]:
    """A nursery with a task that never sleeps."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(busy)
        await passes(3)
        yield nursery
        nursery.cancel_scope.cancel()


def line_of_loop() -> str:
    """What Trio's loop is at."""
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "unrolled_run":
        frame = frame.f_back
    assert frame is not None
    return linecache.getline(frame.f_code.co_filename, frame.f_lineno).strip()


# -- who runs them ---------------------------------------------------------------------------------


@stepping
async def test_a_woken_task_runs_on_while_completions_are_handed_out(
    zero: trio_uring.FixedFile, crowd: trio.Nursery, request: pytest.FixtureRequest
) -> None:
    """Or, with a loop that is not known, in its turn."""
    in_c = "process_events" in await in_crowd(crowd, lambda: line_after(zero))
    assert in_c == ("in C" in request.node.name)
    assert engine()._may_step == in_c


async def line_after(file: trio_uring.FixedFile) -> str:
    await woken(file)
    return line_of_loop()


async def in_crowd(nursery: trio.Nursery, async_fn: Callable[[], Awaitable[Any]]) -> Any:
    """What a task of its own returns."""
    result: list[Any] = []
    done = trio.Event()

    async def run() -> None:
        result.append(await async_fn())
        done.set()

    nursery.start_soon(run)
    await done.wait()
    return result[0]


@stepping
@pytest.mark.parametrize(
    "hook", ["before_task_step", "after_task_step", "before_io_wait", "after_io_wait"]
)
async def test_an_instrument_that_watches_steps_sees_them_all(
    zero: trio_uring.FixedFile, crowd: trio.Nursery, hook: str
) -> None:
    """As long as it is there Trio's loop runs them."""
    seen: list[object] = []
    instrument = type(
        "Watching", (trio.abc.Instrument,), {hook: lambda _, about: seen.append(about)}
    )()
    trio.lowlevel.add_instrument(instrument)
    try:
        assert "process_events" not in await in_crowd(crowd, lambda: line_after(zero))
    finally:
        trio.lowlevel.remove_instrument(instrument)
    assert len(seen) >= 3


async def test_an_instrument_that_comes_in_a_pass_sees_the_rest_of_it(
    zero: trio_uring.FixedFile,
) -> None:
    """And the end of the step that has added it."""

    class Watching(trio.abc.Instrument):
        before = 0
        after = 0

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.before += "reads" in task.name

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            self.after += "reads" in task.name or "adds" in task.name

    watching = Watching()
    ran = 0
    is_there = False

    async def reads() -> None:
        nonlocal ran
        while True:
            await zero.read_at(1, 0)
            ran += is_there

    async def adds() -> None:
        nonlocal is_there
        await woken(zero)
        trio.lowlevel.add_instrument(watching)
        is_there = True
        await zero.read_at(1, 0)
        is_there = False
        trio.lowlevel.remove_instrument(watching)
        seen = watching.before, watching.after
        nursery.cancel_scope.cancel()
        assert seen == (ran, ran + 1)
        assert ran

    for _ in range(20):
        watching.before = watching.after = ran = 0
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(reads)
            nursery.start_soon(adds)
            for _ in range(4):
                nursery.start_soon(reads)


@stepping
def test_under_hypothesis_the_order_of_tasks_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """pytest-trio sets this, where Hypothesis is installed."""
    monkeypatch.setattr(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", True)

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            await woken(file)
            assert not engine()._may_step

    trio.run(main)


def test_the_loop_of_this_trio_is_known() -> None:
    """Else all is well, and slower."""
    names = set(trio._core._run.unrolled_run.__code__.co_names)
    assert names - _hot._LOOP_KI_NAMES == set(_hot._LOOP_NAMES.split())


@stepping
def test_a_loop_that_is_no_function_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As when somebody has put something around it."""
    monkeypatch.undo()
    usual = trio._core._run.unrolled_run
    _hot._knows_loop.cache_clear()
    monkeypatch.setattr(trio._core._run, "unrolled_run", functools.partial(usual))

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            await woken(file)
            assert not engine()._may_step

    try:
        trio.run(main)
    finally:
        _hot._knows_loop.cache_clear()


KNOWN = """
import trio, trio_uring
from engine_help import engine
async def main():
    async with await trio_uring.open_direct("/dev/zero") as file:
        print(await file.read_at(1, 0), engine()._may_step)
trio.run(main)
"""


@stepping
@pytest.mark.parametrize("option", ["-O", "-OO", "-X dev"])
def test_the_loop_is_known_without_assertions(option: str) -> None:
    """Python leaves out the names in them, too."""
    command = python_command(KNOWN)
    command[1:1] = option.split()
    done = subprocess.run(command, capture_output=True, text=True, env=python_env(), check=False)
    assert (done.stdout, done.stderr) == ("b'\\x00' True\n", "")


async def test_both_orders_occur(zero: trio_uring.FixedFile) -> None:
    """Of two tasks that are woken in the same passes; as Trio takes care, too."""
    order: list[int] = []

    async def read(number: int) -> None:
        for _ in range(200):
            await zero.read_at(1, 0)
            order.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(2):
            nursery.start_soon(read, number)
    assert {(0, 1), (1, 0)} <= {*zip(order[::2], order[1::2], strict=True)}


# -- how they end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [None, 5, (1, 2), (), ValueError("returned"), StopIteration(3)])
async def test_what_a_task_returns_is_what_its_run_returns(result: object) -> None:
    """Also a tuple, and an exception that is not raised."""

    async def main() -> object:
        file = await trio_uring.open_direct("/dev/zero")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            await file.aclose()
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        async with await trio_uring.open_direct("/dev/zero") as file, socket_pair() as (sock, peer):
            peer.send(b"x")
            await sock.recv(1)
        return result

    assert await trio.to_thread.run_sync(trio.run, main) is result


async def the_failure_of(async_fn: Callable[[], Awaitable[None]]) -> BaseException:
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(async_fn)
    except BaseException as exc:
        # Before Trio 0.25 one exception alone is not in a group.
        [failure] = getattr(exc, "exceptions", [exc])
        assert isinstance(failure, BaseException)
        return failure
    raise AssertionError("it did not fail")


async def test_an_exception_has_the_traceback_that_it_has_without_us(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """From the task's own function on; nothing of the loop."""

    async def fails() -> None:
        await woken(zero)
        raise KeyError("mine")

    error = await the_failure_of(fails)
    names = [entry.name for entry in traceback.extract_tb(error.__traceback__)]
    assert names[-1] == "fails"
    assert "woken" not in names
    assert not [name for name in names if name in ("unrolled_run", "yield_again", "_task_ended")]


def test_an_exception_keeps_its_context() -> None:
    """Also in a run that is made where another one is being handled."""

    async def fails(file: trio_uring.FixedFile) -> None:
        await woken(file)
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            raise KeyError from None

    async def main() -> BaseException:
        async with await trio_uring.open_direct("/dev/zero") as file:
            return await the_failure_of(functools.partial(fails, file))

    try:
        raise LookupError("outside")
    except LookupError:
        error = trio.run(main)
    assert isinstance(error.__context__, ZeroDivisionError)


async def test_nobody_finds_a_task_that_has_ended(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Whoever runs in the same pass, and looks at all tasks."""
    found: list[str] = []

    async def looks(nursery: trio.Nursery) -> None:
        while nursery.child_tasks:
            await zero.read_at(1, 0)
            found.extend(task.name for task in nursery.child_tasks if task.coro.cr_frame is None)

    async with trio.open_nursery() as watching:
        for _ in range(50):
            async with trio.open_nursery() as nursery:
                watching.start_soon(looks, nursery)
                for _ in range(3):
                    nursery.start_soon(woken, zero)
    assert not found


async def test_a_task_that_ends_keeps_nothing_alive(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Neither one that returns nor one that raises; without the garbage collector."""

    class Local:
        pass

    async def ends(how: str) -> None:
        local = Local()
        references.append(weakref.ref(local))
        references.append(weakref.ref(trio.lowlevel.current_task()))
        await woken(zero)
        if how == "raises":
            raise KeyError

    references: list[weakref.ref[object]] = []
    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ends, "returns")
        with contextlib.suppress(Exception):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ends, "raises")
        await passes(1)
        assert [reference() for reference in references] == [None] * 4
    finally:
        gc.enable()


# -- what they may yield ---------------------------------------------------------------------------


async def test_after_an_operation_a_task_can_wait_for_anything(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Checkpoints of all kinds, events, time, threads, readiness, other tasks."""
    event = trio.Event()
    send, receive = trio.open_memory_channel[int](0)
    ours, theirs = trio.socket.socketpair()

    async def waits() -> list[object]:
        await woken(zero)
        await trio.lowlevel.checkpoint()
        await woken(zero)
        await trio.lowlevel.cancel_shielded_checkpoint()
        await woken(zero)
        await event.wait()
        await woken(zero)
        await trio.sleep(0.001)
        await woken(zero)
        got: list[object] = [await trio.to_thread.run_sync(lambda: 1)]
        await woken(zero)
        got.append(await ours.recv(10))
        await woken(zero)
        got.append(await receive.receive())
        return got

    async def helps() -> None:
        await passes(10)
        event.set()
        await theirs.send(b"data")
        await send.send(5)

    with ours, theirs, trio.fail_after(WAIT_S):
        crowd.start_soon(helps)
        assert await in_crowd(crowd, waits) == [1, b"data", 5]


async def test_a_task_can_be_detached_after_an_operation(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Its task has ended then, and the coroutine is somebody else's."""

    async def detached() -> None:
        await woken(zero)
        coroutines.append(trio.lowlevel.current_task().coro)
        await trio.lowlevel.permanently_detach_coroutine_object(outcome.Value(None))
        coroutines.append("goes on")

    coroutines: list[Any] = []
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(detached)
    with pytest.raises(StopIteration):
        coroutines[0].send(None)
    assert coroutines[1] == "goes on"


async def test_a_yield_that_is_not_trios_is_complained_of_as_ever(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """With the message of Trio, thrown in where it was yielded."""

    @types.coroutine
    def foreign() -> Generator[object, object, None]:
        yield "what asyncio might yield"

    async def confused() -> str:
        await woken(zero)
        try:
            await foreign()
        except TypeError as exc:
            return str(exc)
        return "nothing"

    said = await in_crowd(crowd, confused)
    assert said.startswith(
        "trio.run received unrecognized yield message 'what asyncio might yield'"
    )


async def test_a_task_waits_from_the_moment_that_it_says_so(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Another one that runs in the same pass can wake it, also when it is being cancelled."""
    for cancelled in (False, True):
        for _ in range(20):
            sleeping: list[trio.lowlevel.Task] = []
            told: list[str] = []

            async def sleeps(
                cancelled: bool = cancelled,
                sleeping: list[trio.lowlevel.Task] = sleeping,
                told: list[str] = told,
            ) -> None:
                with trio.CancelScope() as scope:
                    await zero.read_at(1, 0)
                    if cancelled:
                        scope.cancel()
                    sleeping.append(trio.lowlevel.current_task())

                    def abort(_: object) -> trio.lowlevel.Abort:
                        told.append("abort")
                        return trio.lowlevel.Abort.FAILED

                    await trio.lowlevel.wait_task_rescheduled(abort)
                    told.append("woken")

            async def wakes(sleeping: list[trio.lowlevel.Task] = sleeping) -> None:
                await zero.read_at(1, 0)
                while not sleeping:
                    await zero.read_at(1, 0)
                trio.lowlevel.reschedule(sleeping[0])

            with trio.fail_after(WAIT_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(sleeps)
                    nursery.start_soon(wakes)
            assert told == (["abort", "woken"] if cancelled else ["woken"])


async def test_a_task_that_is_to_run_cannot_be_woken_once_more(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Trio says so where the mistake is."""
    tasks: list[Any] = []

    async def reads() -> None:
        tasks.append(trio.lowlevel.current_task())
        while True:
            await zero.read_at(1, 0)

    async def mistaken() -> str:
        while True:
            await zero.read_at(1, 0)
            if tasks and tasks[0]._abort_func is None:  # woken, and has not run yet
                try:
                    trio.lowlevel.reschedule(tasks[0])
                except AssertionError:
                    return "refused"

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reads)
            assert await in_crowd(nursery, mistaken) == "refused"
            nursery.cancel_scope.cancel()


# -- what they are -------------------------------------------------------------------------------


async def test_a_step_has_the_context_and_the_identity_of_its_task(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Context variables, the current task."""
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")

    async def child(number: int) -> None:
        task = trio.lowlevel.current_task()
        variable.set(number)
        for _ in range(20):
            await woken(zero)
            assert variable.get() == number
            assert trio.lowlevel.current_task() is task

    async with trio.open_nursery() as nursery:
        for number in range(10):
            nursery.start_soon(child, number)
    assert variable.get(None) is None


async def test_between_steps_nobody_is_the_current_task(zero: trio_uring.FixedFile) -> None:
    """As when the loop cancels what has reached its deadline."""
    found: list[bool] = []

    def abort(_: object) -> trio.lowlevel.Abort:
        try:
            trio.lowlevel.current_task()
        except RuntimeError:
            found.append(False)
        else:
            found.append(True)
        return trio.lowlevel.Abort.SUCCEEDED

    async def reads() -> None:
        while True:
            await zero.read_at(1, 0)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(reads)
        with trio.move_on_after(0.001):
            await trio.lowlevel.wait_task_rescheduled(abort)
        nursery.cancel_scope.cancel()
    assert found == [False]


async def test_an_operation_is_one_checkpoint(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Trio's counters say so, of which trio.testing.assert_checkpoints makes use."""

    async def count() -> tuple[int, int]:
        await woken(zero)
        task: Any = trio.lowlevel.current_task()
        before = task._schedule_points, task._cancel_points
        with trio.testing.assert_checkpoints():
            await zero.read_at(1, 0)
        return task._schedule_points - before[0], task._cancel_points - before[1]

    assert await in_crowd(crowd, count) == (1, 1)


# -- cancelled and interrupted ---------------------------------------------------------------------


async def test_a_cancellation_reaches_a_task_at_its_next_wait(
    zero: trio_uring.FixedFile, crowd: trio.Nursery
) -> None:
    """Its own, and one by a task that runs in the same pass."""

    async def own() -> bool:
        with trio.CancelScope() as scope:
            await woken(zero)
            scope.cancel()
            await trio.sleep_forever()
        return scope.cancelled_caught

    assert await in_crowd(crowd, own)

    async def waits(scope: trio.CancelScope) -> None:
        with scope:
            while True:
                await zero.read_at(1, 0)

    async def cancels(scope: trio.CancelScope) -> None:
        await woken(zero)
        scope.cancel()

    for _ in range(20):
        with trio.fail_after(WAIT_S):
            async with trio.open_nursery() as nursery:
                scope = trio.CancelScope()
                nursery.start_soon(waits, scope)
                nursery.start_soon(cancels, scope)
        assert scope.cancelled_caught


async def test_a_deadline_and_a_timer_are_kept_beside_busy_readers(
    zero: trio_uring.FixedFile,
) -> None:
    """Every pass looks at the time, however many completions there are."""

    async def reads() -> None:
        while True:
            await zero.read_at(1, 0)

    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(reads)
            await trio.sleep(0.01)
            with trio.move_on_after(0.01) as scope:
                await reads()
            assert scope.cancelled_caught
            nursery.cancel_scope.cancel()


@pytest.mark.skipif(MODE == "guest", reason="a host has signals of its own")
def test_ctrl_c_reaches_the_main_task_at_its_next_wait() -> None:
    """While it is protected it is only noted. No other task gets it, and nothing is read before."""

    @trio.lowlevel.enable_ki_protection
    async def protected(file: trio_uring.FixedFile) -> None:
        await woken(file)
        signal.raise_signal(signal.SIGINT)
        for _ in range(5):
            await trio.lowlevel.cancel_shielded_checkpoint()
        reached.append("noted")
        while True:
            await file.read_at(1, 0)
            reached.append("read")

    async def reads(file: trio_uring.FixedFile) -> None:
        while True:
            await file.read_at(1, 0)

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(reads, file)
                await passes(3)
                try:
                    await protected(file)
                except KeyboardInterrupt:
                    reached.append("raised")
                    nursery.cancel_scope.cancel()

    reached: list[str] = []
    trio.run(main)
    assert reached == ["noted", "raised"]


@pytest.mark.skipif(MODE == "guest", reason="a host has signals of its own")
def test_ctrl_c_in_a_step_is_raised_before_the_next_operation_begins() -> None:
    """The step is one that a completion has caused."""

    @trio.lowlevel.enable_ki_protection
    async def protected(file: trio_uring.FixedFile) -> None:
        await woken(file)
        signal.raise_signal(signal.SIGINT)
        while True:
            await file.read_at(1, 0)
            read.append(1)

    async def main() -> None:
        async with await trio_uring.open_direct("/dev/zero") as file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(busy)
                await passes(3)
                with pytest.raises(KeyboardInterrupt):
                    await protected(file)
                nursery.cancel_scope.cancel()

    read: list[int] = []
    trio.run(main)
    assert not read
