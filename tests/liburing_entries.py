# SPDX-License-Identifier: MIT OR Apache-2.0
"""The entries that liburing's inline functions write, from a C program compiled for the purpose."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from prep_cases import CASES, NUMBERS, POINTERS

if TYPE_CHECKING:
    from prep_cases import Case

INCLUDE = Path(os.environ.get("LIBURING_INCLUDE", "/usr/include"))
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")

PROGRAM = """
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <liburing.h>

%(values)s

static void show(const char *name, struct io_uring_sqe *sqe)
{
    const unsigned char *bytes = (const unsigned char *) sqe;

    sqe->user_data = USER_DATA;
    sqe->flags |= SQE_FLAGS;
    printf("%%s ", name);
    for (size_t i = 0; i < 64; i++)
        printf("%%02x", bytes[i]);
    printf("\\n");
    memset(sqe, 0, sizeof(*sqe));
}

int main(void)
{
    struct io_uring_sqe sqe;

    memset(&sqe, 0, sizeof(sqe));
%(calls)s
    return 0;
}
"""


def missing() -> str | None:
    """Why there is nothing to compare with."""
    if COMPILER is None:
        return "no C compiler"
    if not (INCLUDE / "liburing.h").exists():
        return f"no liburing.h in {INCLUDE} (set LIBURING_INCLUDE)"
    return None


def header() -> str:
    """The text of liburing.h."""
    return (INCLUDE / "liburing.h").read_text()


def functions() -> set[str]:
    """The names after ``io_uring_prep_`` of all prep functions in the header."""
    return set(re.findall(r"\bio_uring_prep_(\w+)\s*\(", header()))


def body_of(function: str) -> str:
    """The source of one inline function."""
    found = re.search(
        rf"\b{function}\(struct io_uring_sqe.*?^}}", header(), re.DOTALL | re.MULTILINE
    )
    return found.group() if found else ""


def _show(name: str, call: str) -> str:
    return f'    {call}; show("{name}", &sqe);'


def compiled_entries(directory: Path) -> dict[str, bytes]:
    """For each case that this liburing has a function for: its 64 bytes.

    Besides, under "close_direct-overflow", those of a close of slot 0xffffffff.
    """
    assert COMPILER is not None
    values = [f"#define {name} ((void *) {value}UL)" for name, value in POINTERS.items()]
    values += [
        f"#define {name} {value}{'' if value < 0 else 'ULL'}" for name, value in NUMBERS.items()
    ]
    known = functions()
    calls = [_show(case.id, case.c_call) for case in CASES if _has(case, known)]
    calls.append(_show("close_direct-overflow", "io_uring_prep_close_direct(&sqe, 0xffffffffU)"))
    source, program = directory / "entries.c", directory / "entries"
    source.write_text(PROGRAM % {"values": "\n".join(values), "calls": "\n".join(calls)})
    # -w: a new liburing may have other types for the same arguments.
    command = [COMPILER, "-w", "-O0", "-I", str(INCLUDE), "-o", str(program), str(source)]
    subprocess.run(command, check=True)
    lines = subprocess.run([program], check=True, capture_output=True, text=True).stdout
    return {name: bytes.fromhex(entry) for name, entry in map(str.split, lines.splitlines())}


def _has(case: Case, known: set[str]) -> bool:
    return case.c_function is not None and case.c_function.removeprefix("io_uring_prep_") in known
