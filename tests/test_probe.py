# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the probe says is so; where io_uring is unusable it says why, and what would help."""

from __future__ import annotations

import errno
import json
import os
import resource
import socket
import subprocess
import sys
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import open_fds
from refusing import NO_SECCOMP

import trio_uring
from trio_uring._register_ringless import OpcodesAnswer, query
from trio_uring._unavailable import DISABLED, GROUP, RELEASE, STATUS, setup_error, unavailable
from trio_uring.lowlevel import AT_FDCWD, Feature, Op, QueryOp, Ring, SetupFlag

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio_uring import Probe

HERE = Path(__file__).parent
NEW = "6.12.0-generic"


def _python(*arguments: object, refused: tuple[str, str] | None = None) -> tuple[int, str, str]:
    """Runs a child of this interpreter: its exit status, output and errors."""
    command = [sys.executable, *map(str, arguments)]
    if refused is not None:
        command = [sys.executable, str(HERE / "refusing.py"), *refused, *command]
    done = subprocess.run(
        command, cwd="/", capture_output=True, text=True, timeout=300, check=False
    )
    if refused is not None and done.returncode == NO_SECCOMP:
        pytest.skip("this kernel has no seccomp filters")
    return done.returncode, done.stdout, done.stderr


def _need_usable(probed: Probe) -> None:
    if not probed.usable:
        pytest.skip(f"io_uring is not usable here: {probed.reason}")


# -- what it says is so ----------------------------------------------------------------------------


def test_probing_leaves_every_descriptor_as_it_was() -> None:
    """No descriptor is opened or lost, not even 0, which old kernels close for slot 0."""
    before = open_fds()
    trio_uring.probe()

    assert open_fds() == before


def test_two_probes_agree(probed: Probe) -> None:
    """The answers do not depend on chance."""
    again = trio_uring.probe()

    assert (again.features, again.ops, again.setup_flags) == (
        probed.features,
        probed.ops,
        probed.setup_flags,
    )
    assert again.behaviours == probed.behaviours


def _socket(ring: Ring, folder: Path) -> None:
    ring.socket(1, socket.AF_UNIX, socket.SOCK_STREAM)


def _mkdirat(ring: Ring, folder: Path) -> None:
    ring.mkdirat(1, AT_FDCWD, folder / "made")


def _pipe(ring: Ring, folder: Path) -> None:
    ring.pipe(1, array("i", [-1, -1]))


def _futex_wake(ring: Ring, folder: Path) -> None:
    ring.futex_wake(1, array("I", [0]), 1, 0xFFFFFFFF)


def _timeout(ring: Ring, folder: Path) -> None:
    ring.timeout(1, 0.0)


@pytest.mark.parametrize(
    ("op", "prepare"),
    [
        (Op.TIMEOUT, _timeout),
        (Op.MKDIRAT, _mkdirat),
        (Op.SOCKET, _socket),
        (Op.FUTEX_WAKE, _futex_wake),
        (Op.PIPE, _pipe),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_an_operation_works_if_and_only_if_the_probe_lists_it(
    op: Op, prepare: Callable[[Ring, Path], None], probed: Probe, tmp_path: Path
) -> None:
    """What is not listed ends with EINVAL, what is listed does not."""
    _need_usable(probed)
    before = open_fds()
    with Ring(1) as ring:
        prepare(ring, tmp_path)
        ring.submit()
        result = ring.copy_cqe().res
    for fd in open_fds().keys() - before.keys():
        os.close(fd)

    assert (result != -errno.EINVAL) == (op in probed.ops)


@pytest.mark.parametrize(
    ("flag", "companion"),
    [
        (SetupFlag.SUBMIT_ALL, 0),
        (SetupFlag.COOP_TASKRUN, 0),
        (SetupFlag.CQE32, 0),
        (SetupFlag.DEFER_TASKRUN, SetupFlag.SINGLE_ISSUER),
        (SetupFlag.NO_SQARRAY, 0),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_ring_takes_a_set_up_flag_if_and_only_if_the_probe_has_it(
    flag: SetupFlag, companion: int, probed: Probe
) -> None:
    """A flag that the probe lacks is refused with EINVAL."""
    _need_usable(probed)
    refused = 0
    try:
        Ring(2, flag | companion).close()
    except OSError as error:
        refused = error.errno or 0

    assert refused == (0 if flag in probed.setup_flags else errno.EINVAL)


def test_the_probe_agrees_with_the_kernels_own_list(probed: Probe) -> None:
    """Flags found by trying are those that IORING_REGISTER_QUERY (6.18) names."""
    if not probed.can("query"):
        pytest.skip("this kernel has no IORING_REGISTER_QUERY")
    said = query(QueryOp.OPCODES)
    assert isinstance(said, OpcodesAnswer)
    all_flags = sum(SetupFlag)

    assert said.ring_setup_flags & all_flags == probed.setup_flags
    assert said.feature_flags & sum(Feature) == probed.features
    assert max(probed.ops) < said.nr_request_opcodes


def test_direct_descriptors_are_what_the_probe_says(probed: Probe, tmp_path: Path) -> None:
    """With direct descriptors an open into slot 0 makes no descriptor; without, it makes one."""
    _need_usable(probed)
    before = open_fds()
    with Ring(2) as ring:
        ring.register_files([-1])
        ring.openat_direct(1, AT_FDCWD, tmp_path, os.O_RDONLY, 0, 0)
        ring.submit()
        ring.copy_cqe()
        made = open_fds().keys() - before.keys() - {ring.fd}
    for fd in made:
        os.close(fd)

    assert bool(made) == (not probed.can("direct_descriptors"))


def test_a_behaviour_that_fails_to_be_tried_is_not_claimed(probed: Probe) -> None:
    """Every behaviour is either found or not, or has a reason why it could not be tried."""
    _need_usable(probed)

    assert probed.behaviours.keys() | probed.untried.keys() == trio_uring.BEHAVIOURS.keys()
    assert not probed.behaviours.keys() & probed.untried.keys()
    assert not any(probed.can(name) for name in probed.untried)


def test_asking_for_an_unknown_behaviour_is_a_mistake(probed: Probe) -> None:
    """A misspelt name raises instead of saying no."""
    with pytest.raises(KeyError):
        probed.can("teleport")


# -- why it is unusable ----------------------------------------------------------------------------


def test_a_seccomp_filter_that_says_eperm_is_named() -> None:
    """Under a filter as Docker's the command fails and tells of seccomp and of the profile."""
    status, output, errors = _python(
        "-m", "trio_uring", "probe", refused=("EPERM", "io_uring_setup")
    )

    assert (status, output) == (1, "")
    assert "seccomp filter refuses it" in errors
    assert "--security-opt seccomp=" in errors


def test_a_seccomp_filter_that_says_enosys_is_named() -> None:
    """A filter may answer as a kernel without io_uring would: both causes are told."""
    status, _, errors = _python("-m", "trio_uring", "probe", refused=("ENOSYS", "io_uring_setup"))

    assert status == 1
    assert "seccomp filter can be the cause" in errors
    assert "CONFIG_IO_URING" in errors


def test_a_filter_that_lets_rings_be_made_but_not_entered_makes_them_unusable() -> None:
    """A profile that forgot io_uring_enter does not pass for a working one."""
    status, _, errors = _python("-m", "trio_uring", "probe", refused=("EPERM", "io_uring_enter"))

    assert status == 1
    assert "io_uring_enter" in errors


def test_a_filter_that_refuses_registering_leaves_the_rest_usable() -> None:
    """The probe ends without an exception and says what it could not try."""
    status, output, errors = _python(
        "-m", "trio_uring", "probe", "--json", refused=("EPERM", "io_uring_register")
    )

    said = json.loads(output)

    assert (status, errors) == (0, "")
    # Before 5.13 unknown commands are not even sent: nothing is left to be refused.
    assert said["untried"] or "RSRC_TAGS" not in said["features"]
    assert all(why.startswith("PermissionError") for why in said["untried"].values())


def test_a_ring_that_cannot_be_made_says_why() -> None:
    """Ring() raises RingUnavailableError with the errno, the reason and the remedy."""
    code = (
        "from trio_uring.lowlevel import Ring\n"
        "from trio_uring import RingUnavailableError\n"
        "try:\n    Ring(1)\n"
        "except RingUnavailableError as error:\n    print(error.errno, error)"
    )
    status, output, _ = _python("-c", code, refused=("EPERM", "io_uring_setup"))

    assert status == 0
    assert output.startswith(f"{errno.EPERM} ")
    assert "seccomp" in output


def test_too_little_locked_memory_is_named_with_its_numbers() -> None:
    """Where rings count against RLIMIT_MEMLOCK the limit is told, and how to raise it."""
    code = (
        "import trio_uring._probe as p, resource, os\n"
        "counts = p.ring_memory_counts()\n"
        "if not counts: raise SystemExit(77)\n"
        "resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "found = p.probe()\n"
        "print(found.usable, found.reason, found.remedy)"
    )
    status, output, errors = _python("-c", code)
    if status == NO_SECCOMP:
        pytest.skip("on this kernel rings do not count against RLIMIT_MEMLOCK")

    assert output.startswith("False the memory of all rings"), errors
    assert "RLIMIT_MEMLOCK, which is 0 bytes" in output
    assert "ulimit -l" in output


def _files(
    disabled: str = "0", group: str = "-1", seccomp: int = 0, capabilities: int = 0
) -> dict[str, str]:
    return {
        DISABLED: disabled,
        GROUP: group,
        RELEASE: NEW,
        STATUS: f"Name:\tpython\nCapEff:\t{capabilities:016x}\nSeccomp:\t{seccomp}\n",
    }


@pytest.mark.parametrize(
    ("code", "files", "reason", "remedy"),
    [
        (errno.EPERM, _files(disabled="2"), "io_uring_disabled is 2", "io_uring_disabled=0"),
        (errno.EPERM, _files(disabled="1"), "io_uring_disabled is 1", "io_uring_group"),
        (errno.EPERM, _files(disabled="1", group="1234"), "the group is 1234", "of group 1234"),
        (
            errno.EPERM,
            _files(disabled="1", capabilities=1 << 21, seccomp=2),
            "seccomp filter",
            "io_uring_enter",
        ),
        (errno.EPERM, _files(), "security module", "audit log"),
        (errno.EPERM, {}, "security module", "audit log"),
        (errno.ENOSYS, {RELEASE: "4.19.0-9-amd64"}, "Linux 4.19.0-9-amd64 has none", "5.15"),
        (errno.ENOSYS, _files(), "without CONFIG_IO_URING", "CONFIG_IO_URING=y"),
        (errno.ENOMEM, _files(capabilities=1 << 14), "not enough memory", "smaller"),
        (errno.EPROTONOSUPPORT, {RELEASE: "5.2.0"}, "Linux 5.2.0 is too old", "5.15"),
        (errno.EMFILE, _files(), "no file descriptor is left", "ulimit -n"),
        (errno.EIO, _files(), "Input/output error", ""),
    ],
)
def test_the_cause_is_told_from_the_files_in_proc(
    code: int, files: dict[str, str], reason: str, remedy: str
) -> None:
    """Each errno has its reason and remedy, by the sysctl, the filter, capabilities and version."""
    error = unavailable(-code, lambda path: files.get(path, ""))

    assert error.errno == code
    assert reason in error.reason
    assert remedy in error.remedy
    assert error.reason in str(error)
    assert error.remedy in str(error)


def test_bad_flags_are_not_taken_for_an_unusable_kernel(probed: Probe) -> None:
    """An errno that comes from the flags or the size stays a plain OSError."""
    _need_usable(probed)
    errors = [setup_error(-code) for code in (errno.EINVAL, errno.EPERM, errno.EMFILE)]

    assert not any(isinstance(error, trio_uring.RingUnavailableError) for error in errors)


# -- the command line ------------------------------------------------------------------------------


def test_the_table_has_a_line_for_every_operation_and_behaviour(probed: Probe) -> None:
    """Python -m trio_uring probe prints what probe() returns, for a person."""
    _need_usable(probed)
    status, output, errors = _python("-m", "trio_uring", "probe")
    lines = {line.split()[0]: line.split() for line in output.splitlines() if line.split()}

    assert (status, errors) == (0, "")
    assert probed.kernel in output.splitlines()[0]
    assert {op.name for op in Op if lines[op.name][2] == "yes"} == {op.name for op in probed.ops}
    for name, found in probed.behaviours.items():
        assert lines[name][2] == ("yes" if found else "no")


def test_the_probe_as_json_is_the_probe(probed: Probe) -> None:
    """Python -m trio_uring probe --json is for programs."""
    _need_usable(probed)
    status, output, _ = _python("-m", "trio_uring", "probe", "--json")
    said = json.loads(output)

    assert status == 0
    assert set(said["ops"]) == {op.name for op in probed.ops}
    assert said["behaviours"] == dict(probed.behaviours)
    assert said["memlock_bytes"] in (resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], None)


def test_the_demo_prints_the_first_line_of_a_file(probed: Probe, tmp_path: Path) -> None:
    """Python -m trio_uring demo opens, reads and closes through a direct descriptor."""
    if not probed.can("direct_descriptors"):
        pytest.skip("this kernel has no direct descriptors")
    file = tmp_path / "file"
    file.write_text("first line\nsecond line\n")
    status, output, _ = _python("-m", "trio_uring", "demo", file)

    assert status == 0
    assert output.splitlines()[-1] == "first line"


def test_the_demo_of_a_file_that_is_not_there_fails(tmp_path: Path) -> None:
    """The exit status and the message tell it."""
    status, output, errors = _python("-m", "trio_uring", "demo", tmp_path / "none")

    assert (status, output) == (1, "")
    assert "none" in errors
