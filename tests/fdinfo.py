# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the kernel says of a ring in /proc: direct descriptors show nowhere else (proc(5))."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trio_uring.lowlevel import Ring

_SLOT = re.compile(r"^\s*(\d+): (.*)$")  # up to 6.12 the name of a pipe is empty
EMPTY = "<none>"


def used_slots(ring: Ring) -> dict[int, str]:
    """The files in the table of ``ring``, by slot."""
    found: dict[int, str] = {}
    in_files = False
    for line in Path(f"/proc/self/fdinfo/{ring.fd}").read_text().splitlines():
        slot = _SLOT.match(line)
        if not slot:
            in_files = line.startswith("UserFiles:")
        elif in_files and slot[2] != EMPTY:
            found[int(slot[1])] = slot[2]
    return found
