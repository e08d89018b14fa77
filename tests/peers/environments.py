# SPDX-License-Identifier: MIT OR Apache-2.0
"""A virtual environment for each suite and each Python, with this checkout installed."""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from catalogue import Suite

ROOT = Path(__file__).parents[2]
_NOT_BUILT = (".*", "build", "dist", "docs", "tests", "*.so", "*.egg-info", "__pycache__")


def newest_of(versions: Sequence[str]) -> str:
    """The last of the versions that is there, else the last."""
    return next((v for v in reversed(versions) if find_python(v)), versions[-1])


@functools.cache
def find_python(version: str) -> Path | None:
    """An interpreter of this version: the running one, one on the PATH, or one of pyenv's."""
    named = shutil.which(f"python{version}")
    of_pyenv = sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python"))
    for path in (sys.executable, named, *of_pyenv):
        if path is not None and _version(path) == version:
            return Path(path)
    return None


def _version(python: str | Path) -> str | None:
    program = "import sys; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run(
        [python, "-c", program], capture_output=True, text=True, check=False
    )  # pyenv's shims are there for versions that are not
    return done.stdout.strip() if done.returncode == 0 else None


def _quietly(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


@dataclass(frozen=True)
class Environment:
    """Where a suite runs."""

    python: Path
    cwd: Path

    @property
    def version(self) -> str:
        """Of the interpreter, in full."""
        program = "import platform; print(platform.python_version())"
        return subprocess.check_output([self.python, "-c", program], text=True).strip()


class Workshop:
    """Makes environments in one directory, and finds them there again."""

    def __init__(self, work: Path) -> None:
        self._work = work.resolve()
        self._work.mkdir(parents=True, exist_ok=True)
        self._wheel: Path | None = None

    def environment(self, suite: Suite, version: str) -> Environment | None:
        """The suite's, with this checkout as it is now; None if there is no such Python."""
        base = find_python(version)
        if base is None:
            return None
        venv = self._venv(suite, base)
        python = venv / "bin/python"
        wheel = self._built(python)
        _quietly(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall", wheel)
        return Environment(python, self._unpacked(suite, python) if suite.sdist else venv)

    def _venv(self, suite: Suite, base: Path) -> Path:
        wanted = " ".join(suite.requirements)
        digest = hashlib.sha256(f"{base} {wanted}".encode()).hexdigest()[:12]
        venv = self._work / f"venv-{digest}"
        ready = venv / "requirements.txt"
        if not ready.exists():
            _quietly(base, "-m", "venv", "--clear", venv)
            pip = (venv / "bin/python", "-m", "pip", "install", "-q")
            _quietly(*pip, "--upgrade", "pip")
            _quietly(*pip, self._built(venv / "bin/python"), *suite.requirements)
            ready.write_text(wanted)
        return venv

    def _built(self, python: Path) -> Path:
        """The wheel, which is the same for every Python, of a copy: no earlier build is in it."""
        if self._wheel is None:
            with tempfile.TemporaryDirectory(dir=self._work) as copy:
                source = Path(copy) / "source"
                shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*_NOT_BUILT))
                wheels = Path(copy) / "wheels"
                _quietly(python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, source)
                (built,) = wheels.glob("*.whl")
                self._wheel = built.replace(self._work / built.name)
        return self._wheel

    def _unpacked(self, suite: Suite, python: Path) -> Path:
        """The suite's source distribution."""
        pinned = re.sub(r"\[.*\]", "", suite.peer)
        where = self._work / pinned
        if not where.exists():
            with tempfile.TemporaryDirectory(dir=self._work) as part:
                pip = (python, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", ":all:")
                _quietly(*pip, "-d", part, pinned)
                (archive,) = Path(part).iterdir()
                with tarfile.open(archive) as tar:
                    tar.extractall(part, filter="data")
                (top,) = (path for path in Path(part).iterdir() if path.is_dir())
                top.rename(where)
        return where
