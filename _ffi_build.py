# SPDX-License-Identifier: MIT OR Apache-2.0
"""Builds the C core: its cffi description, and the setuptools commands that compile it.

pyproject.toml names the two commands (``[tool.setuptools.cmdclass]``), so there is no setup.py. A
wheel without the extension cannot be built by accident: ``ext-modules`` names a source file that
only `build_ext` here writes.

``TRIO_URING_SANITIZE=address,undefined`` in the environment builds with those sanitizers of the
compiler; Python must then be started with their run-time library preloaded (``LD_PRELOAD``).
"""

from __future__ import annotations

import os
import re
import sysconfig
from pathlib import Path

from cffi import FFI
from setuptools.command.bdist_wheel import bdist_wheel as _bdist_wheel
from setuptools.command.build_ext import build_ext as _build_ext

ROOT = Path(__file__).parent
CSRC = ROOT / "trio_uring" / "_csrc"
GENERATED = ROOT / "build" / "_uring.c"

# One binary for every CPython from 3.10 on. Free-threaded and debug builds have no limited API.
LIMITED_API = not (
    sysconfig.get_config_var("Py_GIL_DISABLED") or sysconfig.get_config_var("Py_DEBUG")
)

ffibuilder = FFI()
ffibuilder.cdef(re.sub(r"(?m)^#.*$", "", (CSRC / "core.h").read_text()))
ffibuilder.set_source("trio_uring._uring", '#include "core.h"\n')


def sanitizer_flags(names: str) -> list[str]:
    """What the compiler and the linker are told for ``names``, as in ``address,undefined``."""
    if not names:
        return []
    return [f"-fsanitize={names}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g"]


class build_ext(_build_ext):
    """Writes the C source of the extension, then compiles it with the core."""

    def finalize_options(self) -> None:
        flags = sanitizer_flags(os.environ.get("TRIO_URING_SANITIZE", ""))
        for extension in self.distribution.ext_modules or ():
            extension.py_limited_api = LIMITED_API  # type: ignore[attr-defined]
            extension.extra_compile_args += flags
            extension.extra_link_args += flags
        super().finalize_options()

    def run(self) -> None:
        GENERATED.parent.mkdir(exist_ok=True)
        ffibuilder.emit_c_code(str(GENERATED))
        super().run()


class bdist_wheel(_bdist_wheel):
    """Tags the wheel with what `build_ext` compiles for."""

    def finalize_options(self) -> None:
        self.py_limited_api = "cp310" if LIMITED_API else ""
        super().finalize_options()
