# SPDX-License-Identifier: MIT OR Apache-2.0
"""The file table of a ring: io_uring_registered_files(7).

Tags. A registered file may have a tag, a number that is not 0. One completion with it as user_data
comes when the file has left its slot and the last operation on it has ended: not for every update,
and later than a closed descriptor would suggest.
"""

from __future__ import annotations

import errno
from struct import Struct
from typing import TYPE_CHECKING

from ._abi import RSRC_REGISTER_SPARSE, Feature, RegisterOp
from ._lib import NULL, CData, address_of, ffi, lib
from ._queue import RingQueues

if TYPE_CHECKING:
    from collections.abc import Iterable

# struct io_uring_rsrc_register: nr, flags, resv, data, tags
RSRC_REGISTER = Struct("=IIQQQ")
# struct io_uring_rsrc_update2: offset, resv, data, tags, nr, resv; its first 16 bytes are
# struct io_uring_files_update
RSRC_UPDATE2 = Struct("=IIQQII")
FILES_UPDATE = Struct("=IIQ")
# struct io_uring_file_index_range: off, len, resv
INDEX_RANGE = Struct("=IIQ")


def argument(layout: Struct, *values: int) -> CData:
    """Memory for one argument of io_uring_register(2)."""
    return ffi.new("char[]", layout.pack(*values))


def tag_array(tags: Iterable[int] | None, count: int) -> CData:
    """``count`` tags as the kernel takes them; None is no tag at all.

    Raises:
        ValueError: there is not one tag for each resource.
    """
    listed = [0] * count if tags is None else list(tags)
    if len(listed) != count:
        raise ValueError(f"{count} resources need as many tags, not {len(listed)}; 0 is none")
    return ffi.new("uint64_t[]", listed or 1)


class RegisteredFiles(RingQueues):
    """The methods of `Ring` for the file table."""

    def __init__(self, entries: int, flags: int = 0, **params: int) -> None:
        # Where the tagged files and buffers end in their tables, if there are any.
        self._tagged_files_end = 0
        self._tagged_buffers_end = 0
        super().__init__(entries, flags, **params)

    def _register(self, opcode: int, arg: CData, count: int, what: str) -> int:
        # A kernel before 5.13 that does not know a command says so only when nothing is in flight.
        if opcode > RegisterOp.ENABLE_RINGS and not self.features & Feature.RSRC_TAGS:
            return self._check(-errno.EINVAL, what)
        while True:
            rc = lib.tu_register(self._ring, opcode, arg, count)
            if rc != -errno.EINTR:
                return self._check(rc, what)

    def _expect_tags(self, tags: CData, offset: int, count: int) -> int:
        """Enters the tags of resources from ``offset`` on in the ledger; returns where they end."""
        end = 0
        for place, tag in enumerate(tags[0:count], offset):
            if tag:
                self._check(lib.tu_expect(self._ring, tag), "tags")
                end = place + 1
        return end

    def _release_file_tags(self) -> None:
        """Empties the slots with tags: unregistering alone posts no tags before 6.13."""
        end, self._tagged_files_end = self._tagged_files_end, 0
        if end:
            array = ffi.new("int32_t[]", [-1] * end)
            arg = argument(FILES_UPDATE, 0, 0, address_of(array))
            lib.tu_register(self._ring, RegisterOp.FILES_UPDATE, arg, end)

    def register_files(self, fds: Iterable[int]) -> None:
        """Makes ``fds`` the file table: slot 0 has the first. -1 leaves a slot empty. (5.1)

        The kernel takes its own references, so the descriptors may be closed at once. The table
        cannot grow. It is unregistered when the ring closes. Kernels before 5.13 wait here until no
        operation is in flight. io_uring_register_files(3).

        Raises:
            OSError: EBUSY, there is a table already; EBADF, not a descriptor, a ring, or
                `FILES_SKIP`; EMFILE, more slots than ``RLIMIT_NOFILE``, which is not touched.
        """
        array = ffi.new("int32_t[]", list(fds))
        self._register(RegisterOp.FILES, array, len(array), "io_uring_register(FILES)")
        self._has_files = True

    def register_files_tags(self, fds: Iterable[int], tags: Iterable[int]) -> None:
        """`register_files` with one tag for each slot, 0 for none. (5.13)

        Raises:
            OSError: EINVAL, also for a tag on an empty slot; else as `register_files`.
            ValueError: not one tag for each slot.
        """
        array = ffi.new("int32_t[]", list(fds))
        count = len(array)
        tagged = tag_array(tags, count)
        arg = argument(RSRC_REGISTER, count, 0, 0, address_of(array), address_of(tagged))
        self._register(RegisterOp.FILES2, arg, RSRC_REGISTER.size, "io_uring_register(FILES2)")
        self._has_files = True
        self._tagged_files_end = self._expect_tags(tagged, 0, count)

    def register_files_sparse(self, count: int) -> None:
        """Makes a file table of ``count`` empty slots. (5.19; earlier as an array of -1)

        Raises:
            OSError: as `register_files`. Kernels before 5.19 have at most 32768 slots.
        """
        arg = argument(RSRC_REGISTER, count, RSRC_REGISTER_SPARSE, 0, 0, 0)
        try:
            self._register(RegisterOp.FILES2, arg, RSRC_REGISTER.size, "io_uring_register(FILES2)")
        except OSError as exc:
            if exc.errno != errno.EINVAL:
                raise
            self.register_files([-1] * count)
        self._has_files = True

    def register_files_update(self, offset: int, fds: Iterable[int]) -> int:
        """Replaces the files from slot ``offset`` on; -1 empties a slot. (5.5)

        `FILES_SKIP` leaves a slot as it is (5.12). Operations in flight keep their file. This
        closes direct descriptors without an SQE.

        Returns how many slots were done, those skipped included. A bad descriptor ends the work:
        the slots before it are done, so the count may be less than asked; its own slot is emptied.

        Raises:
            OSError: no slot was done. EBADF, the first is no descriptor; EINVAL, past the end of
                the table; ENXIO, no table.
        """
        array = ffi.new("int32_t[]", list(fds))
        arg = argument(FILES_UPDATE, offset, 0, address_of(array))
        what = "io_uring_register(FILES_UPDATE)"
        return self._register(RegisterOp.FILES_UPDATE, arg, len(array), what)

    def register_files_update_tag(
        self, offset: int, fds: Iterable[int], tags: Iterable[int]
    ) -> int:
        """`register_files_update` with one tag for each slot, 0 for none. (5.13)

        A tag on -1 or `FILES_SKIP` ends the work as a bad descriptor does, with EINVAL.
        """
        array = ffi.new("int32_t[]", list(fds))
        count = len(array)
        tagged = tag_array(tags, count)
        arg = argument(RSRC_UPDATE2, offset, 0, address_of(array), address_of(tagged), count, 0)
        what = "io_uring_register(FILES_UPDATE2)"
        done = self._register(RegisterOp.FILES_UPDATE2, arg, RSRC_UPDATE2.size, what)
        end = self._expect_tags(tagged, offset, done)
        self._tagged_files_end = max(self._tagged_files_end, end)
        return done

    def unregister_files(self) -> None:
        """Empties all slots and drops the table. (5.1)

        Operations in flight keep their files. Kernels before 6.13 may wait here for their end.

        Raises:
            OSError: ENXIO, no table.
        """
        self._release_file_tags()
        self._register(RegisterOp.UNREGISTER_FILES, NULL, 0, "io_uring_register(UNREGISTER_FILES)")
        self._has_files = False

    def register_file_alloc_range(self, offset: int, length: int) -> None:
        """`FILE_INDEX_ALLOC` finds slots only in ``[offset, offset + length)``. (6.0)

        Explicit slots are free anywhere. (0, 0) leaves nothing to find: ENFILE for each. A new
        table has no range. io_uring_register_file_alloc_range(3).

        Raises:
            OSError: EINVAL, past the end of the table or no table.
        """
        arg = argument(INDEX_RANGE, offset, length, 0)
        what = "io_uring_register(FILE_ALLOC_RANGE)"
        self._register(RegisterOp.FILE_ALLOC_RANGE, arg, 0, what)
