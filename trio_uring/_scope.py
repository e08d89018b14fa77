# SPDX-License-Identifier: MIT OR Apache-2.0
"""What owns handles: scopes, and nurseries that are scopes.

A scope closes what it owns when it ends: last opened, first closed, whatever happens meanwhile. A
handle that is closed early, or moved, is forgotten at once. A scope that is over closes what
arrives late, and raises.
"""

from __future__ import annotations

import inspect
import sys
from types import CoroutineType
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from . import _native
from ._direct import accept_direct, open_direct, pipe_direct, register, socket_direct
from ._handle import Handle

if TYPE_CHECKING:
    import socket as stdlib_socket
    from collections.abc import Awaitable, Callable
    from types import TracebackType

    from typing_extensions import TypeVarTuple, Unpack

    PosArgT = TypeVarTuple("PosArgT")

    from ._buffers import Path
    from ._fixed_file import FixedFile
    from ._fixed_socket import FixedSocket


if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


FileT = TypeVar("FileT", bound=Handle)


class FileScope(trio.abc.AsyncResource):
    """Owns handles and closes them at its end; made by `open_file_scope`."""

    def __init__(self) -> None:
        self._files: dict[Handle, None] = {}
        self._closed = False

    @property
    def files(self) -> tuple[Handle, ...]:
        """The handles that it owns, first opened first."""
        return tuple(self._files)

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("the scope is closed")

    @enable_ki_protection
    def adopt(self, file: FileT) -> FileT:
        """Takes over a handle from whoever owns it; returns the handle.

        Raises:
            trio.ClosedResourceError: the handle is closed; or this scope is, and then the handle is
                closed too.
        """
        if not isinstance(file, _native.Handle):  # not an abc, which looks longer
            raise TypeError(f"a handle is needed, not {file!r}")
        file._checked_slot()
        file._engine.check_run()
        if file._owner is not None:
            file._owner._forget(file)
        file._owner = self
        self._files[file] = None
        if self._closed:
            file._close_now()
            raise trio.ClosedResourceError(
                "the scope is closed; the handle that arrived was closed"
            )
        return file

    def _forget(self, file: Handle) -> None:
        """The handle is closed or has another owner."""
        self._files.pop(file, None)
        file._owner = None

    @enable_ki_protection
    async def open_direct(
        self,
        path: Path,
        flags: int = 0,
        mode: int = 0o666,
        *,
        dir_fd: int | None = None,
        slot: int | None = None,
        wait: bool = True,
    ) -> FixedFile:
        """`trio_uring.open_direct` into this scope."""
        self._check_open()
        file = await open_direct(path, flags, mode, dir_fd=dir_fd, slot=slot, wait=wait)
        return self.adopt(file)

    @enable_ki_protection
    async def socket_direct(
        self,
        family: int = 2,
        type: int = 1,
        proto: int = 0,
        *,
        slot: int | None = None,
        wait: bool = True,
    ) -> FixedSocket:
        """`trio_uring.socket_direct` into this scope."""
        self._check_open()
        return self.adopt(await socket_direct(family, type, proto, slot=slot, wait=wait))

    @enable_ki_protection
    async def accept_direct(
        self, listener: FixedSocket, *, slot: int | None = None, wait: bool = True
    ) -> FixedSocket:
        """`trio_uring.accept_direct` into this scope."""
        self._check_open()
        return self.adopt(await accept_direct(listener, slot=slot, wait=wait))

    @enable_ki_protection
    async def pipe_direct(
        self, flags: int = 0, *, wait: bool = True
    ) -> tuple[FixedFile, FixedFile]:
        """`trio_uring.pipe_direct` into this scope."""
        self._check_open()
        reader, writer = await pipe_direct(flags, wait=wait)
        try:
            self.adopt(reader)
        except BaseException:
            writer._close_now()
            raise
        return reader, self.adopt(writer)

    @overload
    async def register(
        self, fd: stdlib_socket.socket, *, slot: int | None = None, wait: bool = True
    ) -> FixedSocket: ...
    @overload
    async def register(
        self, fd: Any, *, slot: int | None = None, wait: bool = True
    ) -> FixedFile | FixedSocket: ...
    @enable_ki_protection
    async def register(
        self, fd: Any, *, slot: int | None = None, wait: bool = True
    ) -> FixedFile | FixedSocket:
        """`trio_uring.register` into this scope."""
        self._check_open()
        file: FixedFile | FixedSocket = await register(fd, slot=slot, wait=wait)
        return self.adopt(file)

    @enable_ki_protection
    async def aclose(self) -> None:
        """Closes every handle, last opened first; all of them, even if one close fails.

        Raises:
            ExceptionGroup: what the closes raised.
        """
        was_empty = not self._files
        errors = await self._close_all()
        if len(errors) == 1 and isinstance(errors[0], trio.Cancelled):
            raise errors[0]
        if errors:
            raise BaseExceptionGroup("closing the handles of a scope", errors)
        if was_empty:  # else closing was a checkpoint
            await trio.lowlevel.checkpoint()

    async def _close_all(self) -> list[BaseException]:
        """Closes everything; returns what that raised, a cancellation only once."""
        self._closed = True
        errors: list[BaseException] = []
        cancelled = False
        while self._files:
            file = next(reversed(self._files))
            try:
                await file.aclose()
            except trio.Cancelled as exc:
                if not cancelled:
                    errors.append(exc)
                cancelled = True
            except BaseException as exc:
                errors.append(exc)
            self._files.pop(file, None)
        return errors


class FileNursery(FileScope):
    """A Trio nursery that also owns handles; made by `open_nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self.nursery = nursery
        """The Trio nursery itself."""

    @property
    def cancel_scope(self) -> trio.CancelScope:
        """As `trio.Nursery.cancel_scope`."""
        return self.nursery.cancel_scope

    @property
    def child_tasks(self) -> frozenset[trio.lowlevel.Task]:
        """As `trio.Nursery.child_tasks`."""
        return self.nursery.child_tasks

    @property
    def parent_task(self) -> trio.lowlevel.Task:
        """As `trio.Nursery.parent_task`."""
        return self.nursery.parent_task

    def start_soon(
        self,
        async_fn: Callable[[Unpack[PosArgT]], Awaitable[object]],
        *args: Unpack[PosArgT],
        name: object = None,
    ) -> None:
        """As `trio.Nursery.start_soon`."""
        self.nursery.start_soon(async_fn, *args, name=name)

    async def start(
        self, async_fn: Callable[..., Awaitable[object]], *args: Any, name: object = None
    ) -> Any:
        """As `trio.Nursery.start`."""
        return await self.nursery.start(async_fn, *args, name=name)

    @enable_ki_protection
    def start_soon_with(
        self,
        file: FileT,
        async_fn: Callable[[FileT, Unpack[PosArgT]], Awaitable[object]],
        *args: Unpack[PosArgT],
        name: object = None,
    ) -> None:
        """Runs ``async_fn(file, *args)`` in a child task that owns ``file``.

        The handle is closed when the task ends, however it ends; also when the nursery is cancelled
        before the task has begun.

        Raises:
            trio.ClosedResourceError: the handle is closed.
        """
        if not isinstance(file, _native.Handle):  # not an abc, which looks longer
            raise TypeError(f"the first argument is the handle, not {file!r}")
        if not callable(async_fn):
            raise TypeError(
                f"an async function is needed, not {async_fn!r}; pass its arguments after it"
            )
        file._checked_slot()
        file._engine.check_run()
        owner = _TaskOwner(file)
        run: Any = _run_with
        self.nursery.start_soon(run, owner, async_fn, file, args, name=name or async_fn)
        if file._owner is not None:
            file._owner._forget(file)
        file._owner = owner


class _TaskOwner:
    """A task that owns one handle: what `FileScope` is to many."""

    __slots__ = ("file",)

    def __init__(self, file: Handle) -> None:
        self.file: Handle | None = file

    def _forget(self, file: Handle) -> None:
        """As `FileScope._forget`."""
        self.file = file._owner = None


@enable_ki_protection
async def _run_with(
    owner: _TaskOwner,
    async_fn: Callable[..., Awaitable[object]],
    file: FixedFile,
    args: tuple[Any, ...],
) -> None:
    try:
        await _run_interruptible(async_fn, file, args)
    finally:
        if owner.file is not None:
            await owner.file.aclose()


@disable_ki_protection
async def _run_interruptible(
    async_fn: Callable[..., Awaitable[object]], file: FixedFile, args: tuple[Any, ...]
) -> None:
    awaitable = async_fn(file, *args)
    if type(awaitable) is not CoroutineType and not inspect.isawaitable(awaitable):
        raise TypeError(f"an async function is needed, and {async_fn!r} is synchronous")
    await awaitable


def open_file_scope() -> FileScope:
    """``async with``: a scope that owns handles and has no tasks."""
    return FileScope()


def open_nursery(strict_exception_groups: bool | None = None) -> FileNurseryManager:
    """``async with``: a Trio nursery that also owns handles.

    At the end of the block the child tasks end first, as in `trio.open_nursery`; then its handles
    close, last opened first. What closing raises joins the nursery's exception group.
    """
    return FileNurseryManager(strict_exception_groups)


class FileNurseryManager:
    """The context manager of `open_nursery`."""

    def __init__(self, strict_exception_groups: bool | None) -> None:
        self._manager = trio.open_nursery(strict_exception_groups)

    @enable_ki_protection
    async def __aenter__(self) -> FileNursery:
        self._nursery = FileNursery(await self._manager.__aenter__())
        return self._nursery

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        failure = exc
        try:
            if await self._manager.__aexit__(exc_type, exc, traceback):
                failure = None
        except BaseException as combined:
            failure = combined
        errors = await self._nursery._close_all()
        if errors:
            raise _joined(failure, errors)
        if failure is None:
            return True
        if failure is exc:
            return False
        raise failure


def _joined(failure: BaseException | None, errors: list[BaseException]) -> BaseException:
    """One exception for how the tasks ended and how the closing went."""
    if isinstance(failure, BaseExceptionGroup):
        joined: BaseException = failure.derive([*failure.exceptions, *errors])
        if notes := getattr(failure, "__notes__", None):
            joined.__notes__ = list(notes)  # type: ignore[attr-defined]
        joined.__cause__, joined.__context__ = failure.__cause__, failure.__context__
        return joined
    if failure is not None:
        errors = [failure, *errors]
    if len(errors) == 1 and isinstance(errors[0], trio.Cancelled):
        return errors[0]
    return BaseExceptionGroup("closing the handles of a nursery", errors)
