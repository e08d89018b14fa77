# SPDX-License-Identifier: MIT OR Apache-2.0
"""Exceptions of the ring, and the one place where a negative errno becomes an exception."""

from __future__ import annotations

import errno
import os


class RingError(Exception):
    """Base of what the ring itself refuses; what the kernel refuses is `OSError`."""


class SubmissionQueueFull(RingError):
    """Every entry of the submission queue is taken: submit first, or make the ring larger.

    With ``SQPOLL`` the kernel's thread takes entries when it likes, and gives them back a moment
    after it has posted their completions.
    """


class RingClosedError(RingError, ValueError):
    """The ring was closed before this call."""


class WrongThreadError(RingError, RuntimeError):
    """Another thread owns this ring (``IORING_SETUP_SINGLE_ISSUER``), or is inside a call on it."""


class ForkedRingError(RingError, RuntimeError):
    """This process is a fork of the one that made the ring; the ring stays with the parent."""


class RingUnavailableError(OSError):
    """io_uring cannot be used here.

    ``reason`` says why in one sentence, ``remedy`` what would change it; both are in the text.
    ``errno`` is what ``io_uring_setup(2)`` answered.
    """

    def __init__(self, code: int, reason: str, remedy: str) -> None:
        super().__init__(code, f"io_uring is not available: {reason}. {remedy}")
        self.reason = reason
        self.remedy = remedy


# What the C core answers when the kernel was not asked at all (core.h).
CLOSED = -errno.ESHUTDOWN
IN_USE = -errno.EDEADLK
NOT_OURS = -errno.EREMOTE


def error_of(code: int, what: str) -> Exception:
    """The exception for ``code``, a negative errno from the C core; ``what`` names the call."""
    if code == CLOSED:
        return RingClosedError("the ring is closed")
    if code == IN_USE:
        return WrongThreadError("another thread is inside a call on this ring")
    if code == NOT_OURS or (code == -errno.EEXIST and what == "io_uring_enter"):
        return WrongThreadError(
            "a SINGLE_ISSUER ring can be used only in the thread that enabled it"
        )
    return OSError(-code, f"{what}: {os.strerror(-code)}")


def check(code: int, what: str) -> int:
    """``code`` if it is a result, else its exception (`error_of`)."""
    if code < 0:
        raise error_of(code, what)
    return code
