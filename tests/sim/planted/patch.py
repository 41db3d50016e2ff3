"""A textual patch of the product, in effect for a while.

The patched source is compiled, and the code of every function that differs is put into the function that is loaded: whoever
imported it, under whatever name, runs the patched one. A text that is not there (any more), or more than once, is an error, and
so is a patch that changes nothing.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

Edit = tuple[str, str]


class Outdated(Exception):
    """The product was changed: the patch has to follow."""


@functools.lru_cache(maxsize=512)
def _patched(path: Path, edits: tuple[Edit, ...]) -> CodeType:
    source = path.read_text()
    for old, new in edits:
        found = source.count(old)
        if found != 1:
            raise Outdated(f"{path.name} has this text {found} times, expected once:\n{old}")
        source = source.replace(old, new)
    return compile(source, str(path), "exec", dont_inherit=True)


def _codes(code: CodeType) -> Iterator[CodeType]:
    """The code of every function and method at the top of a module and of its classes."""
    for item in code.co_consts:
        if not isinstance(item, CodeType):
            continue
        if item.co_flags & inspect.CO_NEWLOCALS and item.co_flags & inspect.CO_OPTIMIZED:
            yield item
        else:
            yield from _codes(item)  # a class


def _function(module: ModuleType, name: str) -> FunctionType | None:
    found: object = module
    for part in name.split("."):
        found = inspect.getattr_static(found, part, None)
    if isinstance(found, property):
        found = found.fget
    found = inspect.unwrap(found) if callable(found) else found
    return found if isinstance(found, FunctionType) else None


def replacements(module: ModuleType, edits: Sequence[Edit]) -> list[tuple[FunctionType, CodeType]]:
    """Each function of the module that the edits change, with its other code."""
    assert module.__file__ is not None
    found = []
    for code in _codes(_patched(Path(module.__file__), tuple(edits))):
        function = _function(module, code.co_qualname)
        if function is not None and function.__code__ != code and _differs(function.__code__, code):
            found.append((function, code))
    if not found:
        raise Outdated(f"the patch of {module.__name__} changes no function")
    return found


def _differs(one: CodeType, other: CodeType) -> bool:
    """Do they do something else? An edit above a function moves its lines, which is nothing."""
    if (one.co_code, one.co_names, one.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return True
    if len(one.co_consts) != len(other.co_consts):
        return True
    for left, right in zip(one.co_consts, other.co_consts, strict=True):
        if isinstance(left, CodeType) and isinstance(right, CodeType):
            if _differs(left, right):
                return True
        elif left != right or type(left) is not type(right):
            return True
    return False


@contextmanager
def planted(patches: Sequence[tuple[str, Sequence[Edit]]]) -> Iterator[None]:
    """`patches`: (module, edits). Taken back at the end, whatever happens."""
    swaps = [pair for name, edits in patches for pair in replacements(importlib.import_module(name), edits)]
    kept = [(function, function.__code__) for function, _ in swaps]
    for function, code in swaps:
        function.__code__ = code
    try:
        yield
    finally:
        for function, code in kept:
            function.__code__ = code
