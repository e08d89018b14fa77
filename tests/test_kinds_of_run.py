# SPDX-License-Identifier: MIT OR Apache-2.0
"""Which driver a run gets, runs without io_uring, thousands of runs, abandoned runs."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from typing import TYPE_CHECKING, Any

import pytest
import trio
from engine_help import WAIT_S, Asleep, engine, rounds, run_python, socket_pair
from test_engine_process import work_a_little
from trio._core import _run
from trio._core._io_epoll import EpollIOManager
from trio._core._run import Runner

import trio_uring
from trio_uring import _adopted, _current, _hot
from trio_uring.testing import requires_direct_descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = requires_direct_descriptors()


# -- a Trio that is not as we know it ----------------------------------------------------------


@pytest.fixture
def _nobody_was_warned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("TRIO_URING_DRIVER", raising=False)
    forget_trio()
    _current._warn_unknown_trio.cache_clear()
    yield
    forget_trio()
    _current._warn_unknown_trio.cache_clear()


def forget_trio() -> None:
    """The classes of Trio are looked at once, and here they change."""
    _adopted._recognises_class.cache_clear()
    _hot.recognises.cache_clear()


def a_new_method(patch: pytest.MonkeyPatch) -> None:
    """The manager can do something that our own would not pass on."""
    patch.setattr(EpollIOManager, "wait_for_something", lambda self: None, raising=False)


def another_signature(patch: pytest.MonkeyPatch) -> None:
    """Trio calls the manager in another way."""
    get_events: Callable[..., Any] = EpollIOManager.get_events
    patch.setattr(
        EpollIOManager, "get_events", lambda self, timeout, more=None: get_events(self, timeout)
    )


def another_reschedule(patch: pytest.MonkeyPatch) -> None:
    """What the hot path has written out does something else."""
    reschedule: Callable[..., Any] = Runner.reschedule
    patch.setattr(Runner, "reschedule", lambda self, *args: reschedule(self, *args))


class Proxy:
    """Has the names of another object, and is of no known type."""

    def __init__(self, of: Any) -> None:
        self._of = of

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)

    def __contains__(self, hook: str) -> bool:
        return hook in self._of


def instruments_of_another_kind(patch: pytest.MonkeyPatch) -> None:
    """C looks into the dictionary of hooks."""
    kind: Any = vars(_run)["Instruments"]
    patch.setattr(_run, "Instruments", lambda incoming: Proxy(kind(incoming)))


def a_context_of_another_kind(patch: pytest.MonkeyPatch) -> None:
    """C looks into the dictionary of the thread."""
    patch.setattr(_adopted, "_context", Proxy(_run.GLOBAL_RUN_CONTEXT))


@pytest.mark.usefixtures("_nobody_was_warned")
@pytest.mark.parametrize(
    "change",
    [
        a_new_method,
        another_signature,
        another_reschedule,
        instruments_of_another_kind,
        a_context_of_another_kind,
    ],
)
def test_a_trio_with_another_loop_gets_the_hosted_driver_and_one_warning(
    change: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its private names are looked at; what is said of them is said once."""

    async def main() -> str:
        await work_a_little()
        return trio_uring.current_statistics().driver

    assert trio.run(main) == "adopted"
    with monkeypatch.context() as patch:
        change(patch)
        forget_trio()
        with pytest.warns(RuntimeWarning, match="does not know the loop of Trio"):
            assert trio.run(main) == "hosted"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert trio.run(main) == "hosted"
    forget_trio()
    assert trio.run(main) == "adopted"


@pytest.mark.usefixtures("_nobody_was_warned")
def test_the_environment_can_ask_for_the_hosted_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """TRIO_URING_DRIVER=hosted needs no warning: also under trio_uring.run."""

    async def main() -> str:
        await work_a_little()
        return trio_uring.current_statistics().driver

    monkeypatch.setenv("TRIO_URING_DRIVER", "hosted")
    assert trio.run(main) == "hosted"
    assert trio_uring.run(main) == "hosted"


# -- no io_uring -------------------------------------------------------------------------------


WITHOUT = """
import errno, sys, warnings
import refusing
if not refusing.refuse(refusing.NUMBERS[sys.argv[1]], errno.EPERM):
    sys.exit(77)
import run_modes, trio, trio_uring
trio.run = run_modes.trio_run
async def main():
    await trio.to_thread.run_sync(bool)
    for attempt in (trio_uring.socket_direct, lambda: trio_uring.open_direct("/dev/zero")):
        try:
            await attempt()
        except trio_uring.RingUnavailableError as exc:
            errors.append(exc)
errors = []
try:
    trio_uring.run(main)
except trio_uring.RingUnavailableError as exc:
    refused = exc
assert refused.errno == errno.EPERM and not errors
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    trio_uring.run(main, fallback=True)
[warning] = caught
assert warning.category is RuntimeWarning and warning.filename == "<string>"
for error in (refused, *errors):
    assert (error.errno, error.reason, error.remedy) == (1, refused.reason, refused.remedy)
    assert refused.reason in str(error) and refused.remedy in str(error)
assert len(errors) == 2 and refused.reason in str(warning.message)
done = []
try:
    trio_uring.start_guest_run(main, run_sync_soon_threadsafe=print, done_callback=print)
except trio_uring.RingUnavailableError as exc:
    assert exc.reason == refused.reason
    print("over")
"""


@pytest.mark.parametrize("call", ["io_uring_setup", "io_uring_enter", "io_uring_register"])
def test_without_io_uring_a_run_is_refused_or_falls_back_with_one_warning(call: str) -> None:
    """fallback=True: plain Trio, told once and why; handles raise what the run would have."""
    done = run_python(WITHOUT, call, check=False)
    if done.returncode == 77:
        pytest.skip("seccomp cannot be used here")
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")


# -- many runs ---------------------------------------------------------------------------------


SEQUENCE = """
import gc, os, sys, trio, trio_uring
from test_end_of_run import mappings
async def main():
    async with await trio_uring.open_direct("/dev/zero") as file:
        assert await file.read(4) == bytes(4)
def kept():
    gc.collect()
    with open("/proc/self/statm") as line:
        pages = int(line.read().split()[1])
    return len(os.listdir("/proc/self/fd")), mappings(), pages * os.sysconf("SC_PAGE_SIZE")
run = trio_uring.run if sys.argv[1] == "uring" else trio.run
for _ in range(300):
    run(main)
fds, rings, resident = kept()
for _ in range(int(sys.argv[2])):
    run(main)
after = kept()
assert after[:2] == (fds, rings), (fds, rings, after)
print(after[2] - resident)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["uring", "adopted"])
def test_thousands_of_runs_in_sequence_keep_nothing(kind: str) -> None:
    """Descriptors, mappings of rings and memory are after 2000 runs what they were before."""
    runs = rounds(2000, 20_000)
    grown = int(run_python(SEQUENCE, kind, str(runs)).stdout)
    # What the allocator does with its arenas, once; 2 KiB for each run, where a ring has 100.
    assert grown < 4 << 20, f"{grown} bytes in {runs} runs"


@pytest.mark.parametrize("run", [trio.run, trio_uring.run], ids=["adopted", "uring"])
def test_eight_threads_can_have_many_runs_at_once(run: Callable[..., Any]) -> None:
    """Each run has its ring, made and closed in its thread, whoever else has one."""
    errors: list[BaseException] = []

    def run_often() -> None:
        try:
            for _ in range(rounds(25, 200)):
                run(work_a_little)
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=run_often) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# -- Ctrl-C ------------------------------------------------------------------------------------


@pytest.mark.parametrize("run", [trio.run, trio_uring.run], ids=["adopted", "uring"])
@pytest.mark.parametrize("idle", [True, False], ids=["idle", "in an operation"])
def test_ctrl_c_ends_a_run_that_sleeps(idle: bool, run: Callable[..., Any]) -> None:
    """The wait in the kernel ends, the operation is cancelled, and the run raises."""

    async def main() -> None:
        async with socket_pair() as (sock, _):
            try:
                if idle:
                    await trio.sleep_forever()
                await sock.recv(10)
            finally:
                left.append(engine().in_flight)

    def interrupt() -> None:
        asleep.event.wait(WAIT_S)
        os.kill(os.getpid(), signal.SIGINT)

    left: list[int] = []
    asleep = Asleep()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run(main, instruments=[asleep])
    thread.join()
    assert left == [0]


# -- crashes -----------------------------------------------------------------------------------


CRASH = """
import os, socket, sys, attrs, trio, trio_uring, warnings
from engine_help import connect, listen, passes
from trio_uring import _capabilities
from trio_uring.lowlevel import Op
warnings.simplefilter("ignore")
def found():
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink("/proc/self/fd/" + name))
        except FileNotFoundError:
            pass
    return sum("zero" in link or "socket" in link for link in links)
def before_6_8():
    old = _capabilities.capabilities()
    old = attrs.evolve(old, ops=old.ops - {Op.FIXED_FD_INSTALL})
    for name, module in list(sys.modules.items()):
        if name.startswith("trio_uring.") and hasattr(module, "capabilities"):
            module.capabilities = lambda: old
def crash():
    trio.lowlevel.current_task()._runner.clock = None
async def others():
    while True:
        await trio.lowlevel.checkpoint()
async def install(nursery):
    file = await trio_uring.open_direct("/dev/zero")
    nursery.start_soon(others)
    async def install_one():
        os.close(await file.install_fd())
    nursery.start_soon(install_one)
    nursery.start_soon(install_one)
    await passes(1)
    crash()
    await passes(1)
async def open_file(nursery):
    before_6_8()
    nursery.start_soon(others)
    nursery.start_soon(trio_uring.open_direct, "/dev/zero")
    await passes(1)
    crash()
    await passes(1)
async def accept(nursery):
    before_6_8()
    listener, address = await listen()
    nursery.start_soon(listener.accept_direct)
    await trio.sleep(0.01)
    clients.append(connect(address))
    while not clients[0].getpeername():
        pass
    crash()
    await trio.sleep_forever()
async def multishot(nursery):
    before_6_8()
    listener, address = await listen()
    async with listener.accept_direct_multishot() as connections:
        await trio.sleep(0.01)
        clients.append(connect(address))
        crash()
        await trio.sleep_forever()
async def main():
    async with trio.open_nursery() as nursery:
        await globals()[sys.argv[1]](nursery)
clients = []
before = found()
try:
    trio.run(main)
except trio.TrioInternalError:
    print(found() - before - len(clients), flush=True)
os._exit(0)  # Trio itself complains of what the crash has left
"""


@pytest.mark.parametrize("what", ["install", "open_file", "accept", "multishot"])
def test_a_descriptor_that_comes_in_a_crash_is_closed(what: str) -> None:
    """What operations of a crashed run bring, in its last pass or while it ends, has no owner."""
    for _ in range(rounds(3, 30)):
        assert run_python(CRASH, what).stdout == "0\n"


# -- abandoned guest runs ----------------------------------------------------------------------


ABANDONED = """
import asyncio, gc, os, sys, threading, trio, trio_uring, warnings
from engine_help import engine, socket_pair
from test_engine_process import work_a_little
warnings.simplefilter("ignore")
sys.stderr = open(os.devnull, "w")  # Trio and asyncio complain at length
gc.disable()
rings, waiting = [], []
async def receive(sock):
    waiting.append(trio.lowlevel.current_task())
    await sock.recv(10)
async def main():
    rings.append(engine().ring)
    async with socket_pair() as (sock, peer), trio.open_nursery() as nursery:
        nursery.start_soon(receive, sock)
        while True:
            await trio.lowlevel.checkpoint()
async def host():
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=asyncio.get_running_loop().call_soon_threadsafe,
        done_callback=print,
    )
    await asyncio.sleep(0.05)
asyncio.run(host())
"""

CANCELLED_LATER = """
gc.collect()
assert rings[0].fd == -1
waiting[0]._attempt_abort(None)  # what a cancel scope does, where it can ask the time
print("cancelled", flush=True)
os._exit(0)
"""

COLLECTED_IN_A_RUN = """
async def collect():
    await work_a_little()
    gc.collect()
    assert rings[0].fd == -1
    await work_a_little()
    print("went on", flush=True)
thread = threading.Thread(target=trio.run, args=(collect,))
thread.start()
thread.join()
os._exit(0)
"""


def test_a_task_of_a_collected_guest_run_can_be_cancelled() -> None:
    """Its ring is closed and unmapped: the abort of an operation must not touch it any more."""
    assert run_python(ABANDONED + CANCELLED_LATER).stdout == "cancelled\n"


def test_a_guest_run_that_is_collected_in_another_run_disturbs_it_not() -> None:
    """The garbage collector ends an abandoned run wherever it happens to be."""
    assert run_python(ABANDONED + COLLECTED_IN_A_RUN).stdout == "went on\n"
