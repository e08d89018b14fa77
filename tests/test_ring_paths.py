# SPDX-License-Identifier: MIT OR Apache-2.0
"""Each operation on paths does to a real directory what the system call of its name does."""

from __future__ import annotations

import errno
import os
import pathlib
from typing import TYPE_CHECKING

import pytest
from kernel_help import completes
from ring_help import a_file, open_ring, run_one

from trio_uring.lowlevel import AT_FDCWD, FILE_INDEX_ALLOC, OpenHow, Statx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from trio_uring.lowlevel import Sqe

RESOLVE_BENEATH = 8
STATX_BASIC_STATS = 0x7FF
STATX_BTIME = 0x800
RENAME_NOREPLACE = 1


@pytest.fixture
def dir_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    yield fd
    os.close(fd)


@pytest.fixture
def attribute(tmp_path: Path) -> str:
    """The name of an extended attribute, if the file system has them."""
    (tmp_path / "file").touch()
    try:
        os.setxattr(tmp_path / "file", "user.other", b"1")
    except OSError as exc:
        pytest.skip(f"no extended attributes in {tmp_path}: {exc}")
    return "user.name"


@pytest.mark.parametrize("kind", [str, bytes, pathlib.Path])
def test_a_file_is_opened_by_any_kind_of_path(
    tmp_path: Path, kind: Callable[[Path], str | bytes | Path]
) -> None:
    """Text, bytes and path objects, with the mode for a file that is made."""
    path = tmp_path / "n\N{LATIN SMALL LETTER A WITH DIAERESIS}me"
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    with open_ring(1) as ring:
        fd = completes(ring, ring.openat(1, AT_FDCWD, kind(path), flags, 0o600)).res
        assert os.fstat(fd).st_mode & 0o777 == 0o600
        assert os.path.samestat(os.fstat(fd), path.stat())
        os.close(fd)


def test_a_path_with_a_nul_is_refused(dir_fd: int) -> None:
    """It would name another file than it says."""
    with open_ring(1) as ring:
        with pytest.raises(ValueError, match="null"):
            ring.openat(1, dir_fd, "name\0.txt", os.O_RDONLY)
        assert ring.sq_ready() == 0


def test_openat2_does_not_leave_the_directory_when_told_so(tmp_path: Path, dir_fd: int) -> None:
    """RESOLVE_BENEATH lets a path inside pass, and refuses one that goes out with EXDEV."""
    (tmp_path / "file").write_bytes(b"data")
    with open_ring(1) as ring:
        how = OpenHow(os.O_RDONLY | os.O_CLOEXEC, resolve=RESOLVE_BENEATH)
        fd = completes(ring, ring.openat2(1, dir_fd, "file", how)).res
        assert os.read(fd, 8) == b"data"
        os.close(fd)
        ring.openat2(2, dir_fd, f"../{tmp_path.name}/file", how)
        assert run_one(ring).res == -errno.EXDEV


def test_files_are_opened_into_slots(tmp_path: Path, dir_fd: int) -> None:
    """openat_direct and openat2_direct put the file into the slot that they are given."""
    (tmp_path / "file").write_bytes(b"data")
    with open_ring(1) as ring:
        ring.register_files([-1] * 3)
        opens: list[Callable[[int], Sqe]] = [
            lambda slot: ring.openat_direct(1, dir_fd, "file", os.O_RDONLY, 0, slot),
            lambda slot: ring.openat2_direct(1, dir_fd, "file", OpenHow(os.O_RDONLY), slot),
        ]
        for slot, open_at in enumerate(opens):
            assert completes(ring, open_at(slot), "5.15").res == 0
            buffer = bytearray(4)
            ring.read(2, slot, buffer, 0).use_registered_fd()
            assert (run_one(ring).res, bytes(buffer)) == (4, b"data")
        assert completes(ring, opens[1](FILE_INDEX_ALLOC), "5.19").res == 2


def test_statx_tells_what_stat_tells(tmp_path: Path, dir_fd: int) -> None:
    """Sizes, owners, times: those of os.stat(), and which of them are there."""
    path = tmp_path / "file"
    path.write_bytes(b"data" * 1000)
    os.utime(path, ns=(1_000_000_001, 2_000_000_002))
    found, buf = path.stat(), Statx()
    with open_ring(1) as ring:
        mask = STATX_BASIC_STATS | STATX_BTIME
        assert completes(ring, ring.statx(1, dir_fd, "file", 0, mask, buf)).res == 0
    assert buf.stx_mask & STATX_BASIC_STATS == STATX_BASIC_STATS
    for name in ("mode", "nlink", "uid", "gid", "ino", "size", "blocks", "blksize"):
        assert getattr(buf, f"stx_{name}") == getattr(found, f"st_{name}")
    times = (buf.stx_atime_ns, buf.stx_mtime_ns, buf.stx_ctime_ns)
    assert times == (1_000_000_001, 2_000_000_002, found.st_ctime_ns)
    assert os.makedev(buf.stx_dev_major, buf.stx_dev_minor) == found.st_dev
    assert len(bytes(buf)) == 256
    assert "size=4000" in repr(buf)


def test_names_are_made_moved_and_removed(tmp_path: Path, dir_fd: int) -> None:
    """mkdirat, renameat, linkat, symlinkat and unlinkat change the directory as they should."""
    (tmp_path / "file").write_bytes(b"data")
    with open_ring(1) as ring:
        assert completes(ring, ring.renameat(1, dir_fd, "file", dir_fd, "new")).res == 0
        assert os.listdir(tmp_path) == ["new"]
        assert completes(ring, ring.mkdirat(1, dir_fd, "sub", 0o700)).res == 0
        assert (tmp_path / "sub").stat().st_mode & 0o777 == 0o700
        assert completes(ring, ring.linkat(1, dir_fd, "new", AT_FDCWD, tmp_path / "hard")).res == 0
        assert (tmp_path / "hard").samefile(tmp_path / "new")
        assert completes(ring, ring.symlinkat(1, "new", dir_fd, "soft")).res == 0
        assert os.readlink(tmp_path / "soft") == "new"
        flag = RENAME_NOREPLACE
        ring.renameat(1, AT_FDCWD, tmp_path / "hard", AT_FDCWD, tmp_path / "soft", flag)
        assert run_one(ring).res == -errno.EEXIST
        for name in ("hard", "soft", "new"):
            assert completes(ring, ring.unlinkat(1, dir_fd, name)).res == 0
        assert os.listdir(tmp_path) == ["sub"]
        ring.unlinkat(1, dir_fd, "sub")
        assert run_one(ring).res == -errno.EISDIR
        at_removedir = 0x200
        assert completes(ring, ring.unlinkat(1, dir_fd, "sub", at_removedir)).res == 0


def test_attributes_of_a_path_are_set_and_got(tmp_path: Path, attribute: str) -> None:
    """setxattr and getxattr; an empty buffer asks for the size alone, flags are obeyed."""
    path = tmp_path / "file"
    with open_ring(1) as ring:
        assert completes(ring, ring.setxattr(1, attribute, b"value", path)).res == 0
        assert os.getxattr(path, attribute) == b"value"
        buffer = bytearray(8)
        assert completes(ring, ring.getxattr(1, attribute, buffer, path)).res == 5
        assert bytes(buffer) == b"value\0\0\0"
        assert completes(ring, ring.getxattr(1, attribute, bytearray(), path)).res == 5
        ring.setxattr(1, attribute, b"", path, os.XATTR_CREATE)
        assert run_one(ring).res == -errno.EEXIST


def test_attributes_of_an_open_file_are_set_and_got(tmp_path: Path, attribute: str) -> None:
    """fsetxattr and fgetxattr take a descriptor, and on newer kernels a slot."""
    with a_file(tmp_path) as fd, open_ring(1) as ring:
        assert completes(ring, ring.fsetxattr(1, fd, attribute, b"value", os.XATTR_CREATE)).res == 0
        buffer = bytearray(8)
        assert completes(ring, ring.fgetxattr(1, fd, attribute.encode(), buffer)).res == 5
        assert bytes(buffer) == b"value\0\0\0"
        ring.register_files([fd])
        ring.fgetxattr(1, 0, attribute, bytearray(8)).use_registered_fd()
        cqe = run_one(ring)
        if cqe.res == -errno.EBADF:
            pytest.skip("FGETXATTR of this kernel takes no slots")
        assert cqe.res == 5
