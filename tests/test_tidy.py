# SPDX-License-Identifier: MIT OR Apache-2.0
"""The layout of the project: who may import whom, how long files are, how each begins."""

from __future__ import annotations

import ast
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "trio_uring"
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py"))
SPDX = "SPDX-License-Identifier: MIT OR Apache-2.0"
LINES_MAX = 500

# A module imports only from its own layer, without cycles, and from those before it in this list.
LAYERS: dict[str, tuple[str, ...]] = {
    "L1 facts": ("_native", "_uring", "_lib", "_abi", "_errors", "_unavailable"),
    "L2 ring": (
        *("_sqe", "_structs", "_sockaddr", "_msghdr", "_buffers", "_buf_ring", "_file_table"),
        *("_prep*", "_queue*", "_ops_*", "_register*", "_registration", "_ring"),
        *("_trial*", "_probe"),
    ),
    "L3 engine": (
        *("_options", "_statistics", "_driver", "_capabilities", "_operation", "_engine*"),
        *("_shared_buffers", "_slots", "_hot", "_batch", "_locked_buffer", "_waiter"),
        *("_adopted", "_hosted", "_clock_holder", "_current", "_run", "_every_run"),
    ),
    "L4 handles": (
        "_handle",
        "_fixed_*",
        "_socket_setup",
        "_socket_receive",
        "_accept",
        "_recv_multishot",
        "_scope",
        "_direct",
        "_many",
        "_stat",
    ),
    "L5 Trio's interfaces": ("_stream*", "_listener*", "_file", "_path", "socket"),
    "L6 face": ("lowlevel", "__init__", "testing", "__main__"),
}
NAMES = tuple(LAYERS)
WITHOUT_TRIO = NAMES[:2]

# Tables of numbers, one line each.
LONG = {"_abi"}


def _layer(module: str) -> str:
    for layer, patterns in LAYERS.items():
        if any(fnmatchcase(module, pattern) for pattern in patterns):
            return layer
    pytest.fail(f"{module} has no place in LAYERS")


def _tree(module: str) -> ast.Module:
    return ast.parse((PACKAGE / f"{module}.py").read_text())


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def _run_time_nodes(node: ast.AST) -> list[ast.AST]:
    """All nodes but those that only a type checker sees."""
    found = [node]
    for child in ast.iter_child_nodes(node):
        if not _is_type_checking(child):
            found += _run_time_nodes(child)
    return found


def _own_imports(module: str) -> set[str]:
    names = set()
    for node in _run_time_nodes(_tree(module)):
        if isinstance(node, ast.ImportFrom) and node.level == 1:
            aliases = [alias.name for alias in node.names]
            names |= {node.module.partition(".")[0]} if node.module else set(aliases)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trio_uring"):
            names.add((node.module or "").partition(".")[2] or "__init__")
    return names


def _foreign_imports(module: str) -> set[str]:
    names = set()
    for node in _run_time_nodes(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


@pytest.mark.parametrize("module", MODULES)
def test_every_module_imports_only_what_is_below_it(module: str) -> None:
    """A module is in LAYERS, and nothing that it imports of the package is in a later layer."""
    height = NAMES.index(_layer(module))
    above = {name for name in _own_imports(module) if NAMES.index(_layer(name)) > height}

    assert above == set()


def test_no_two_modules_import_each_other() -> None:
    """The modules can be put in an order in which each imports only what is before it."""
    try:
        TopologicalSorter({module: _own_imports(module) for module in MODULES}).prepare()
    except CycleError as error:
        pytest.fail(f"a cycle: {error.args[1]}")


@pytest.mark.parametrize("module", MODULES)
def test_the_facts_and_the_ring_know_nothing_of_trio(module: str) -> None:
    """Nothing in L1 and L2 imports Trio: the synchronous ring works without it."""
    assert _layer(module) not in WITHOUT_TRIO or not _foreign_imports(module) & {"trio", "outcome"}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_command_line_prints(module: str) -> None:
    """No module but __main__ calls print."""
    calls = [node for node in ast.walk(_tree(module)) if isinstance(node, ast.Call)]
    prints = [
        f"line {call.lineno}"
        for call in calls
        if isinstance(call.func, ast.Name) and call.func.id == "print"
    ]

    assert module == "__main__" or not prints


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_enough_to_read(module: str) -> None:
    """A module has at most 500 lines."""
    lines = len((PACKAGE / f"{module}.py").read_text().splitlines())

    assert module in LONG or lines <= LINES_MAX


SOURCES = sorted(
    path
    for folder in ("trio_uring", "tests", "docs", "")
    for pattern in ("*.py", "*.c", "*.h")
    for path in (ROOT / folder).glob(f"**/{pattern}" if folder else pattern)
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_source_file_names_its_licence_first(path: Path) -> None:
    """The first line of each source file is its SPDX identifier."""
    with path.open() as file:
        assert SPDX in file.readline()


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").glob("**/test_*.py")), ids=lambda p: p.name
)
def test_every_test_says_what_it_claims(path: Path) -> None:
    """Each test function has a docstring."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]

    assert [node.name for node in functions if not ast.get_docstring(node)] == []
