"""Dataclasses that take nothing on trust: a missing, unknown or ill-typed field is one clear error that names it.

Records (JSON) and sweeps (YAML) are both read through here. Only the standard library is imported.
"""

import functools
import json
import math
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, dataclass_transform, get_args, get_origin, get_type_hints

from memtrans.errors import UserError, did_you_mean

T = TypeVar("T")
_WORDS = {str: "non-empty text", int: "a whole number", float: "a finite number", dict: "a mapping", tuple: "a list"}


@dataclass_transform(kw_only_default=True, frozen_default=True)
def strict(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass whose constructor checks every field against its type hint.

    Lists become tuples and mappings become the strict dataclass that the hint names, so `cls(**json_object)` builds
    a whole tree. Raises UserError with the path of the field, such as `scores[0].signature: missing`.
    """
    made = dataclass(frozen=True, kw_only=True)(cls)
    plain_init = made.__init__
    hints = get_type_hints(made)
    required = [f.name for f in fields(made) if f.default is MISSING and f.default_factory is MISSING]  # type: ignore[arg-type]

    @functools.wraps(plain_init)
    def __init__(self: Any, **given: Any) -> None:
        for name in given:
            if name not in hints:
                raise UserError(f"{name}: no such field of {cls.__name__}; {did_you_mean(name, hints)}")
        for name in required:
            if name not in given:
                raise UserError(f"{name}: missing; {cls.__name__} needs it ({_words(hints[name])})")
        plain_init(self, **{name: _conform(hints[name], value, name) for name, value in given.items()})

    made.__init__ = __init__  # type: ignore[method-assign]
    return made


def build(cls: type[T], content: object, source: Path) -> T:
    """The strict dataclass `cls` from what a file held. Raises UserError that names the file and the field."""
    if not isinstance(content, Mapping):
        raise UserError(
            f"{source}: expected a mapping of fields ({', '.join(get_type_hints(cls))}), found {_short(content)}"
        )
    try:
        return cls(**{str(name): value for name, value in content.items()})
    except UserError as error:
        raise UserError(f"{source}: {error}") from None


def load_json(cls: type[T], path: Path, remedy: str) -> T:
    """`build` from a JSON file. Raises UserError that names it, and ends in the `remedy` if it is no JSON at all."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:  # ValueError: neither UTF-8 nor JSON
        raise UserError(f"{path}: cannot be read as JSON ({error}); {remedy}") from None
    return build(cls, content, path)


def _conform(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type hint wants it, or UserError."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        if value is None and NoneType in args:
            return None
        return _conform(next(arg for arg in args if arg is not NoneType), value, where)
    if origin is Literal and value not in args:
        raise UserError(f"{where}: no such value {_short(value)}; {did_you_mean(str(value), map(str, args))}")
    if origin is Any or origin is Literal:
        return value
    if is_dataclass(origin) and isinstance(value, Mapping):
        try:
            return hint(**{str(name): item for name, item in value.items()})
        except UserError as error:
            raise UserError(f"{where}.{error}") from None
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_conform(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {_conform(args[0], k, where): _conform(args[1], v, f"{where}[{k!r}]") for k, v in value.items()}
    if origin is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    # bool is a kind of int for Python, never for us
    if origin in (str, int) or is_dataclass(origin):
        good = isinstance(value, origin) and not isinstance(value, bool)
        if good and (origin is not str or value.strip()):
            return value
    raise UserError(f"{where}: expected {_words(hint)}, found {_short(value)}")


def _words(hint: Any) -> str:
    """A type hint in plain words."""
    origin, args = get_origin(hint) or hint, get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join("null" if arg is NoneType else _words(arg) for arg in args)
    if origin is Literal:
        return " or ".join(map(str, args))
    return _WORDS.get(origin, getattr(origin, "__name__", str(origin)))


def _short(value: object) -> str:
    return reprlib.repr(value)
