# SPDX-License-Identifier: MIT OR Apache-2.0
"""The C core under AddressSanitizer and UndefinedBehaviorSanitizer, driven by the ring's tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from build_help import EXTENSIONS, build

pytestmark = [pytest.mark.sanitizers, pytest.mark.slow]

ROOT = Path(__file__).parent.parent
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]
TESTS = {
    "queues": ["test_ledger", "test_queue", "test_queue_setups", "test_queue_misuse"],
    "lifetimes": ["test_lifetimes", "test_ring_lending", "test_ring_messages"],
    "operations": ["test_ring_files", "test_ring_sockets", "test_ring_paths", "test_ring_control"],
    "registration": [
        *("test_registration", "test_registered_files", "test_registered_buffers"),
        "test_buffer_ring",
    ],
    "batches": ["test_many", "test_exchange", "test_hot", "test_steps"],
    "awaits": ["test_promises", "test_engine_queues", "test_engine_sockets", "test_races"],
    "parity": ["test_zig_io_uring", "test_zig_direct", "test_zig_operations"],
}


def run(*command: str, cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    done = subprocess.run(
        command, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """A folder with the package on a sanitized core, and the environment that Python needs."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc here")
    folder = tmp_path_factory.mktemp("sanitized")
    package = folder / "trio_uring"
    shutil.copytree(
        ROOT / "trio_uring", package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    for name in EXTENSIONS:
        status, output = build(folder, name, "-g", "-O1", *FLAGS, compiler=compiler)
        if status:
            pytest.skip(f"gcc builds nothing with {FLAGS[0]}: {output.strip().splitlines()[-1]}")
    _, runtime = run(compiler, "-print-file-name=libasan.so", cwd=folder)
    env = os.environ | {
        "LD_PRELOAD": runtime.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(folder),
    }
    status, output = run(
        sys.executable,
        "-c",
        "import trio_uring._uring, trio_uring._native as m; print(m.__file__)",
        cwd=folder,
        env=env,
    )
    if status:
        pytest.skip(f"Python does not start with libasan: {output.strip().splitlines()[-1]}")
    assert output.strip().startswith(str(package))
    return folder, env


def test_the_sanitizers_would_find_something(sanitized: tuple[Path, dict[str, str]]) -> None:
    """A control: an undersized buffer given to the core is reported, and ends the process."""
    folder, env = sanitized
    script = """
from trio_uring._lib import ffi, lib
from trio_uring.lowlevel import Ring
ring = Ring(4)
for number in range(4):
    ring.nop(number)
ring.submit()
lib.tu_peek_cqes(ring._ring, ffi.new("char[]", 16), 4)
"""
    status, output = run(sys.executable, "-c", script, cwd=folder, env=env)
    assert status != 0
    assert "AddressSanitizer: heap-buffer-overflow" in output


@pytest.mark.parametrize("part", TESTS)
def test_the_tests_of_the_core_are_clean(part: str, sanitized: tuple[Path, dict[str, str]]) -> None:
    """They pass on the sanitized core, and it reports nothing."""
    folder, env = sanitized
    paths = [str(ROOT / "tests" / f"{name}.py") for name in TESTS[part]]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    config = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)]
    status, output = run(*command, *config, *paths, cwd=folder, env=env)
    assert "Sanitizer" not in output, output
    assert "runtime error" not in output, output
    assert status == 0, output
