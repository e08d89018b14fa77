# SPDX-License-Identifier: MIT OR Apache-2.0
"""What is built from a clean checkout can be installed in an empty environment, and works there.

The known traps: a wheel without the extension is built without a word, and an sdist without the
build script or the C sources. So every artefact is made, looked into, installed and imported.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECKOUT = ("pyproject.toml", "_ffi_build.py", "MANIFEST.in", "README.md", "CHANGELOG.md")
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

# Runs outside of the checkout: what it imports was installed.
TRY_OUT = """
import errno, pathlib, trio_uring, trio_uring._uring
from trio_uring.lowlevel import Ring
if trio_uring.probe().usable:
    with Ring(1) as ring:
        ring.nop(0xAAAA)
        ring.submit()
        assert ring.copy_cqe() == (0xAAAA, 0, 0)
assert (pathlib.Path(trio_uring.__file__).parent / "py.typed").exists()
print(trio_uring.__file__)
"""

packaging = pytest.mark.packaging


def _run(*command: object, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Workshop:
    """A clean copy of the checkout, and an environment with pip, setuptools and cffi."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = self._environment("builder", "--upgrade-deps")
        self.checkout = self._copy_checkout()

    def _environment(self, name: str, *options: str) -> Path:
        _run(sys.executable, "-m", "venv", *options, self.folder / name, cwd=self.folder)
        return self.folder / name / "bin" / "python"

    def _copy_checkout(self) -> Path:
        target = self.folder / "checkout"
        target.mkdir()
        for name in (*CHECKOUT, *(path.name for path in ROOT.glob("LICENSE*"))):
            shutil.copy(ROOT / name, target)
        unwanted = shutil.ignore_patterns("*.so", "__pycache__", ".*")
        for name in ("trio_uring", "tests", "docs"):
            shutil.copytree(ROOT / name, target / name, ignore=unwanted)
        return target

    def wheel_of(self, source: Path) -> Path:
        """Built in isolation, so that it is seen whether pyproject.toml names all it needs."""
        out = self.folder / f"wheel-of-{source.name}"
        _run(
            *(self.python, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, source),
            cwd=self.folder,
        )
        (wheel,) = out.iterdir()
        return wheel

    def sdist(self) -> Path:
        out = self.folder / "sdist"
        out.mkdir(exist_ok=True)
        _run(self.python, "-m", "pip", "install", "-q", "setuptools", "cffi", cwd=self.folder)
        hook = f"from setuptools import build_meta; build_meta.build_sdist({str(out)!r})"
        _run(self.python, "-c", hook, cwd=self.checkout)
        (sdist,) = out.iterdir()
        return sdist

    def try_out(self, name: str, *requirement: object) -> str:
        """Installs in a new environment and uses it there; returns where it was imported from."""
        python = self._environment(name, "--without-pip")
        pip = (self.python, "-m", "pip", "--python", python, "install", "-q")
        _run(*pip, *requirement, cwd=self.folder)
        return _run(python, "-W", "error", "-c", TRY_OUT, cwd=self.folder)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """Needs a package index: pip takes setuptools, cffi and the dependencies from it."""
    return Workshop(tmp_path_factory.mktemp("packaging"))


@packaging
def test_the_wheel_has_the_extension_its_types_and_the_tag_of_the_limited_api(
    workshop: Workshop,
) -> None:
    """A wheel built from a checkout holds both modules, py.typed and both licences."""
    wheel = workshop.wheel_of(workshop.checkout)
    names = zipfile.ZipFile(wheel).namelist()
    suffix = sysconfig.get_config_var("EXT_SUFFIX") if FREE_THREADED else ".abi3.so"

    assert {f"trio_uring/_uring{suffix}", f"trio_uring/_native{suffix}"} <= set(names)
    assert "trio_uring/py.typed" in names
    assert {Path(name).name for name in names if "/licenses/" in name} == {
        "LICENSE-MIT",
        "LICENSE-APACHE",
    }
    assert not [name for name in names if name.endswith((".c", ".h"))]
    assert FREE_THREADED or "-cp310-abi3-linux_" in wheel.name
    assert "wheel/lib" in workshop.try_out("wheel", wheel)


@packaging
def test_the_sdist_has_all_that_a_wheel_is_built_from(workshop: Workshop) -> None:
    """An sdist holds the build script and every C source, and the wheel built from it works."""
    sdist = workshop.sdist()
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {
        str(path.relative_to(ROOT)) for path in (ROOT / "trio_uring" / "_csrc").rglob("*.[ch]")
    }

    assert {"_ffi_build.py", "LICENSE-MIT", "LICENSE-APACHE", "CHANGELOG.md", *sources} <= names
    assert "build/_uring.c" not in names
    assert "from-sdist/lib" in workshop.try_out("from-sdist", workshop.wheel_of(sdist))


@packaging
def test_an_editable_install_imports_from_the_checkout(workshop: Workshop) -> None:
    """After pip install -e the package is imported from the checkout, with its extension."""
    where = workshop.try_out("editable", "-e", workshop.checkout)

    assert Path(where.strip()).parent == workshop.checkout / "trio_uring"


def test_importing_the_package_imports_neither_trio_nor_the_ring() -> None:
    """Import trio_uring is cheap: what a name needs is imported when the name is used."""
    code = "import sys, trio_uring; print(*sys.modules)"
    loaded = _run(sys.executable, "-c", code, cwd=ROOT).split()

    assert "trio_uring" in loaded
    assert not {"trio", "attrs", "cffi", "trio_uring._uring"} & set(loaded)
