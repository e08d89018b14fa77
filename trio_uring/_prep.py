# SPDX-License-Identifier: MIT OR Apache-2.0
"""Prep functions: each writes one operation into a submission queue entry.

``prep_x(sqe, *arguments, user_data=0, sqe_flags=0)`` writes all 64 bytes of the entry: nothing of
an earlier operation stays in it. The arguments are those of Zig's IO_Uring in its order, and those
of liburing's function of the same name where Zig has none. Memory is given by its address: whoever
submits the entry keeps it alive until the final CQE. ``sqe_flags`` are `SqeFlag` bits. What an
operation can do beyond its arguments is set as a field of the entry afterwards.

Each docstring names the system call that the operation stands for and the kernel that brought it;
an argument that it does not explain means what it means there, and io_uring_enter(2) tells more.

All raise ValueError for a number that does not fit its field; the entry is then a NOP.
"""

from __future__ import annotations

from . import _prep_file, _prep_net, _prep_path, _prep_ring, _prep_wait
from ._prep_entry import prep_many

# Their names are listed once, in __all__ of each.
from ._prep_file import *  # noqa: F403
from ._prep_net import *  # noqa: F403
from ._prep_path import *  # noqa: F403
from ._prep_ring import *  # noqa: F403
from ._prep_wait import *  # noqa: F403

__all__ = ["prep_many"]
__all__ += _prep_file.__all__
__all__ += _prep_net.__all__
__all__ += _prep_path.__all__
__all__ += _prep_ring.__all__
__all__ += _prep_wait.__all__
