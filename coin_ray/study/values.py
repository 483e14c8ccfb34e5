"""Plain values against types: settings and blocks are checked by the same few lines.

Checks are strict (text is no number, a number no switch) and say in words what would fit.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator, TypeAdapter
from pydantic.fields import FieldInfo

from coin_ray.study.errors import nearest, shortened
from coin_ray.study.grammar import Node, looks_like_number, with_point

_LENGTHS = ("min_length", "max_length")
BAD: Any = object()
"""Stands for a value that does not fit; the problem has been noted."""


@functools.cache
def adapter(annotation: Any) -> TypeAdapter[Any]:
    """What validates values of a type and knows its JSON Schema."""
    return TypeAdapter(annotation)


def typed(annotation: Any, value: Any) -> Any:
    """``value`` as a type has it (a list as a tuple). Raises ValueError if it does not fit, as no
    type takes what is no finite number."""
    return adapter(annotation).validate_json(json.dumps(value, allow_nan=False), strict=True)


def fits(annotation: Any, value: Any) -> bool:
    """True if a type takes ``value`` as it is."""
    try:
        typed(annotation, value)
    except ValueError:
        return False
    return True


def checked(name: str, node: Node, annotation: Any) -> Any:
    """The value of a node as its type has it, or BAD with the problem noted."""
    value, text = node.plain(), node.text
    try:
        return typed(annotation, value)
    except ValueError:
        pass
    hint = f"expected {shortened(describe(annotation))}"
    if isinstance(value, str):
        if looks_like_number(text) and fits(annotation, float(text)):
            hint = f"YAML reads {text} as text, not as a number: write {with_point(text)}"
        elif guess := nearest(text, choices(annotation)):
            hint = f"did you mean '{guess}'?  ({hint})"
    elif isinstance(value, bool) and text.lower() not in ("true", "false"):
        hint += f"; YAML reads {text} without quotes as {str(value).lower()}"
    quoted_number = isinstance(value, str) and text.replace(".", "", 1).isdigit()
    shown = f'the text "{text}"' if quoted_number else text or json.dumps(value)
    node.note(f"{name} cannot be {shown}", hint)
    return BAD


def read(node: Node, annotation: Any, name: str) -> Any:
    """A node as its type has it, BAD if it does not fit. Of a map every key and value is checked
    on its own, and those that fit are kept."""
    if get_origin(annotation) is not Mapping:
        return checked(name, node, annotation)
    key_type, value_type = get_args(annotation)
    if node.kind != "map":
        node.note(f"{name} has to be a map")
        return BAD
    found = {}
    for key, child in node.value.items():
        if not fits(key_type, key):
            node.unknown(key, choices(key_type), "key", "names")
        elif (value := read(child, value_type, key)) is not BAD:
            found[key] = value
    return found


def choices(annotation: Any) -> list[str]:
    """The words that a type takes, if it takes words of a list."""
    if get_origin(annotation) is Literal:
        return [str(a) for a in get_args(annotation)]
    return [c for a in get_args(annotation) for c in choices(a)]


def describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """What a type takes, in words: ``a number > 0``, ``mean or fixed``, ``true or false``."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [m for a in args[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        return describe(args[0], inner)
    if origin is Literal:
        return _either([str(a) for a in args])
    if origin in (Union, UnionType):
        # Bounds of a union sit on the field as a whole and belong to its number.
        return _either([describe(a, metadata if a in (int, float) else ()) for a in args])
    if origin is tuple:
        one = describe(args[0])
        if takes_one(metadata):
            return f"{one}, or a list of such"
        many = _how_many(metadata) if args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {many}values, each {one}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    word = words.get(annotation, "null" if annotation is type(None) else str(annotation))
    return " ".join([word, *_bounds(metadata)])


def takes_one(metadata: Sequence[Any]) -> bool:
    """True for a list that may be written as its only value (``OneOrMore``)."""
    return any(isinstance(m, BeforeValidator) for m in metadata)


def _how_many(metadata: Sequence[Any]) -> str:
    ends = {name: getattr(m, name) for m in metadata for name in _LENGTHS if hasattr(m, name)}
    return f"{ends.get('min_length', 0)} to {ends['max_length']} " if "max_length" in ends else ""


def _bounds(metadata: Sequence[Any]) -> list[str]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {_shown(getattr(m, name))}"
        for m in metadata
        for name, sign in signs.items()
        if getattr(m, name, None) is not None
    ]
    found += [f"that fits {m.pattern}" for m in metadata if getattr(m, "pattern", None)]
    return [" and ".join(found)] if found else []


def _shown(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
