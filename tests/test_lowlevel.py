# SPDX-License-Identifier: MIT OR Apache-2.0
"""Everything that the ring is made of has a public name in trio_uring.lowlevel."""

from __future__ import annotations

from trio_uring import _abi, _prep, _structs, lowlevel


def test_every_number_of_the_abi_is_public() -> None:
    """Enumerations, flags and constants: what a new kernel brings must not be forgotten here."""
    own = {
        name
        for name, value in vars(_abi).items()
        if name.isupper() or getattr(value, "__module__", "") == _abi.__name__
    }
    assert own - set(lowlevel.__all__) == set()


def test_every_prep_function_is_public() -> None:
    """All of them fill an entry that a caller submits himself."""
    assert set(_prep.__all__) - set(lowlevel.__all__) == set()


def test_every_struct_is_public() -> None:
    """A method that takes one is of no use without it."""
    own = {
        name
        for name, value in vars(_structs).items()
        if getattr(value, "__module__", "") == _structs.__name__ and name[0].isupper()
    }
    assert own - set(lowlevel.__all__) == set()


def test_every_public_name_is_there_once() -> None:
    """And each public class and function says what it is."""
    assert len(lowlevel.__all__) == len(set(lowlevel.__all__))
    values = {name: getattr(lowlevel, name) for name in lowlevel.__all__}
    assert [name for name, value in values.items() if callable(value) and not value.__doc__] == []


def test_every_method_of_the_ring_says_what_it_does() -> None:
    """All 150 or so of them have a docstring."""
    methods = {name: getattr(lowlevel.Ring, name) for name in dir(lowlevel.Ring) if name[0] != "_"}
    undocumented = [
        name for name, value in methods.items() if callable(value) and not value.__doc__
    ]
    assert undocumented == []
