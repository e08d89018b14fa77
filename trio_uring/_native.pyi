# What each does is written in _csrc/python.
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

TN_ALONE_MIN: int
TN_IDLE_MAX: int
TN_PROMPT_MAX: int

def bind(*addresses: int) -> None: ...
def new_bytes(nbytes: int, /) -> bytes: ...
def address_of_bytes(data: bytes, /) -> int: ...
def write_unraisable(exc: BaseException, source: object, /) -> None: ...

class Queue:
    tail: int
    limit: int
    mask: int
    def attach(self, ring: int, sqes: int, entries: list[Any], /) -> None: ...
    def detach(self) -> None: ...

class OfQueue:
    def __init__(self, name: str, /) -> None: ...
    def __get__(self, ring: object, owner: type, /) -> int: ...
    def __set__(self, ring: object, value: int, /) -> None: ...

class Operation(Iterator[Any]):
    @property
    def engine(self) -> Any: ...
    task: Any
    file: Any
    pins: Any
    raise_cancel: Callable[[], NoReturn] | None
    sent: int
    linked: bool
    # Of a batch.
    chain: int
    strict: bool
    def _hold_results(self, count: int, /) -> int: ...
    def _start(self, file: Any, pins: Any, /) -> None: ...
    def answers(self) -> list[int]: ...
    abort: Any
    message: Any
    user_data: int
    res: int
    index: int
    position: int
    flags: int
    closing: bool
    bounded: bool
    @property
    def sqe(self) -> Any: ...
    def __init__(self, engine: Engine, index: int, /) -> None: ...
    def __await__(self) -> Iterator[Any]: ...
    def __next__(self) -> Any: ...
    def send(self, outcome: Any, /) -> Any: ...
    def unwrap(self) -> Any: ...
    def recycle(self) -> None: ...

class Handle:
    _engine: Any
    _drained: Any
    _closed: Any
    _owner: Any
    _waiting_for_slot: Any
    _opened_at: Any
    _companion: int
    _quarantined: int
    _sole_owner: bool
    _closing: bool
    _kind: Any
    @property
    def _received(self) -> list[bytes | memoryview]: ...
    # Why nothing can be received, or sent, any more.
    _receive_lost: OSError | None
    _send_lost: OSError | None
    _slot: int
    _number: int
    _in_flight: int
    _fixed: int
    _receiving: bool
    _sending: bool
    _may_share: bool
    def _open(self, engine: Any, slot: int, companion: int, opened_at: Any, /) -> None: ...
    def _begin_close(self) -> Any: ...
    def _begin_read(self, nbytes: int, offset: int, /) -> Any: ...
    def _begin_readinto(self, buffer: Any, offset: int, /) -> Any: ...
    def _begin_write(self, data: Any, offset: int, /) -> Any: ...
    def _begin_many(self, opcode: int, buffer: Any, offsets: Any, /) -> Any: ...
    def _begin_receive(self, bufsize: int, /) -> Any: ...
    def _begin_receive_into(self, buffer: Any, /) -> Any: ...
    def _begin_send(self, data: Any, /) -> Any: ...
    def _begin_exchange(self, data: Any, bufsize: int, /) -> Any: ...

class SharedBuffers:
    @property
    def nbytes(self) -> int: ...
    returned: int
    def _attach(
        self, memory: int, flags: int, buf_ring: int, count: int, nbytes: int, /
    ) -> None: ...
    def take(self, flags: int, nbytes: int, /) -> bytes: ...

class Engine:
    _context: Any
    _runner: Any
    _current_task: Callable[[], Any]
    _current_token: Callable[[], Any]
    _sleep: Callable[..., Any]
    _reschedule: Callable[..., None]
    token: Any
    failure: BaseException | None
    records: list[Any]
    buffers: Any
    _cancels: list[int]
    _cancels_again: list[int]
    cancelled_chains: list[Any]
    _stash: list[tuple[int, int, int]]
    reclaim: list[tuple[int, int]]
    _free_indices: list[int]
    spare_batch: Any
    files: dict[int, Any]
    _message_type: Any
    _may_step: bool
    _lets_go_late: bool
    sent: int
    _generation: int
    @property
    def _pool_count(self) -> int: ...
    _flushed: int
    _prompt_left: int
    _passes_alone: int
    clock_jumps: bool
    completed: int
    overflow_count: int
    def _attach(self, queue: Queue, cqes_max: int, /) -> None: ...
    def add_record(self, record: Any, /) -> None: ...
    def remove_record(self, record: Any, /) -> None: ...
    def begin_record(self, file: Any, /) -> Any: ...
    def begin_entry(
        self,
        file: Any,
        opcode: int,
        flags: int,
        fd: int,
        offset: int,
        address: int,
        length: int,
        op_flags: int,
        file_index: int,
        pins: Any,
        /,
    ) -> Any: ...
    def write_entry(
        self,
        opcode: int,
        flags: int,
        fd: int,
        offset: int,
        address: int,
        length: int,
        op_flags: int,
        file_index: int,
        user_data: int,
        /,
    ) -> None: ...
    def pass_begins(self) -> None: ...
    def take_completions(self) -> int | None: ...
    def wait(self, operation: Operation, prompt: bool = False, /) -> Awaitable[int]: ...

class Pinned:
    export: Any
    _engine: Any
    _place: Any
    address: int
    nbytes: int
    writable: bool

class Driver:
    engine: Any
    _armed: bool
    _is_guest: bool | None
    _epoll_has_events: bool
    _inner: Any
    _asleep: bool
    _idle_passes: int
    def get_events(self, timeout: float, /) -> Any: ...
    def process_events(self, events: Any, /) -> None: ...
