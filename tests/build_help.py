# SPDX-License-Identifier: MIT OR Apache-2.0
"""Compiles the extension modules of a copy of the package, in the way a test wants them."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sysconfig
from typing import TYPE_CHECKING

from cffi import FFI

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# By name: where their sources are in the package.
EXTENSIONS = {"_uring": "_csrc", "_native": "_csrc/python"}


def _emit_c(csrc: Path, path: Path) -> None:
    """What _ffi_build.py has the build make of core.h."""
    ffi = FFI()
    ffi.cdef(re.sub(r"(?m)^#.*$", "", (csrc / "core.h").read_text()))
    ffi.set_source("trio_uring._uring", '#include "core.h"\n')
    with contextlib.redirect_stdout(io.StringIO()):  # cffi tells what it does
        ffi.emit_c_code(str(path))


def extension_of(file: str) -> str | None:
    """The module that a file of the package is compiled into, if it is."""
    folder = file.rpartition("/")[0]
    return next((name for name, csrc in EXTENSIONS.items() if csrc == folder), None)


def build(folder: Path, name: str, *flags: str, compiler: str = "cc") -> tuple[int, str]:
    """Compiles ``folder/trio_uring/NAME``; the compiler's exit status, and what it said."""
    package = folder / "trio_uring"
    sources: Sequence[Path] = sorted((package / EXTENSIONS[name]).glob("*.c"))
    if name == "_uring":
        _emit_c(package / "_csrc", folder / "_uring.c")
        sources = [folder / "_uring.c", *sources]
    for old in package.glob(f"{name}.*so"):
        old.unlink()
    command = [compiler, "-std=gnu11", "-shared", "-fPIC", *flags]
    command += ["-I", str(package / "_csrc"), "-I", sysconfig.get_paths()["include"]]
    command += map(str, sources)
    command += ["-o", str(package / f"{name}{sysconfig.get_config_var('EXT_SUFFIX')}")]
    done = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout
