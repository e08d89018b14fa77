# SPDX-License-Identifier: MIT OR Apache-2.0
"""Skips for what a kernel lacks, found by trying."""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from trio_uring.lowlevel import Cqe


@contextmanager
def needs(what: str, *lacking: int) -> Iterator[None]:
    """Skips if a call in it fails with EINVAL, or ``lacking``: this kernel has no ``what``."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (lacking or (errno.EINVAL,)):
            pytest.skip(f"this kernel lacks {what}: {exc}")
        raise


def skip_if_lacking(cqe: Cqe, what: str) -> Cqe:
    """Skips if an operation failed with EINVAL: no ``what`` in this kernel."""
    if cqe.res == -errno.EINVAL:
        pytest.skip(f"this kernel lacks {what}: EINVAL")
    return cqe


@contextmanager
def raises_errno(code: int) -> Iterator[None]:
    """The block must fail with an OSError of this errno."""
    with pytest.raises(OSError, match=os.strerror(code)) as failure:
        yield
    assert failure.value.errno == code, failure.value
