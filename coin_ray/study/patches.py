"""Named patches: dotted settings with places, checked against the typed configuration.

A level, a ``baseline:`` block and ``--set`` are all patches. Values are checked strictly (text is
no number, a number no switch), and every problem is told where the value was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from coin_ray.pipeline.settings import Cell, Section, dotted_fields
from coin_ray.study.errors import Place, Problems, nearest
from coin_ray.study.grammar import Node, loads, looks_like_number, with_point


@dataclass(frozen=True)
class Setting:
    """One dotted key with its plain value, as it was written in ``text``, and the value's place."""

    key: str
    value: Any
    place: Place
    text: str = ""


Patch = dict[str, Setting]


@lru_cache(maxsize=1)
def fields() -> Mapping[str, FieldInfo]:
    """Every settable key (``ot.lambda``) with its field."""
    return dict(dotted_fields())


@lru_cache(maxsize=1)
def sections() -> Mapping[str, tuple[str, ...]]:
    """Section -> its full dotted keys."""
    out: dict[str, list[str]] = {}
    for key in fields():
        out.setdefault(key.partition(".")[0], []).append(key)
    return {name: tuple(keys) for name, keys in out.items()}


def read_patch(node: Node, problems: Problems, prefix: str = "") -> Patch:
    """The settings of a map, nested (``uss: {family: mae}``) or dotted (``uss.family: mae``)."""
    patch: Patch = {}
    if node.kind == "scalar" and node.value is None:
        return patch
    if node.kind != "map":
        problems.add(node.place, "expected settings", "such as {uss.family: mae, ot.lambda: 0.1}")
        return patch
    for name, child in node.value.items():
        key, at = prefix + name, node.keys[name]
        found: Patch = {}
        if key in fields():
            setting = Setting(key, child.plain(), child.place, child.text)
            check_value(setting, problems)
            found = {key: setting}
        elif key in sections() and child.kind == "map":
            found = read_patch(child, problems, key + ".")
        elif key in sections():
            problems.add(at, f"'{key}' is a section, not a setting", _keys_hint(key, key))
        else:
            problems.add(at, f"unknown key '{key}'", _keys_hint(key, key.partition(".")[0]))
        for twice in found.keys() & patch.keys():
            problems.add(at, f"'{twice}' is set twice", f"also in line {patch[twice].place.line}")
        patch |= found
    return patch


def _keys_hint(key: str, section: str) -> str:
    if section in sections():
        known = sections()[section]
        guess = nearest(key, known)
        names = ", ".join(k.partition(".")[2] for k in known)
        return (
            f"did you mean '{guess}'?  (keys of {section}: {names})"
            if guess
            else (f"(keys of {section}: {names})")
        )
    guess = nearest(key, list(fields()))
    listed = f"(sections: {', '.join(sections())})"
    return f"did you mean '{guess}'?  {listed}" if guess else listed


def read_override(text: str, problems: Problems) -> Patch:
    """``a.b=value`` of the command line, the value typed by the setting: ``1e-3`` is a number where
    a number is wanted, ``[1, 2]`` a list, anything text where text is wanted."""
    key, equals, raw = text.partition("=")
    key, raw = key.strip(), raw.strip()
    place = Place(f"--set {text}")
    if not equals:
        problems.add(place, "expected KEY=VALUE", "such as --set ot.lambda=0.1")
        return {}
    if key not in fields():
        problems.add(place, f"unknown key '{key}'", _keys_hint(key, key.partition(".")[0]))
        return {}
    candidates: list[Any] = []
    node = loads(f"value: {raw}", "", Problems())
    if node is not None and "value" in node.value:
        candidates.append(node.value["value"].plain())
    if looks_like_number(raw):
        candidates.insert(0, float(raw))
    candidates.append(raw)
    value = next((c for c in candidates if _fits(key, c)), candidates[0])
    setting = Setting(key, value, place, raw)
    check_value(setting, problems)
    return {key: setting}


def check_value(setting: Setting, problems: Problems) -> None:
    """Note a problem when the value does not fit its setting, whatever the other settings are."""
    if _fits(setting.key, setting.value):
        return
    accepted = fields()[setting.key]
    hint = f"expected {describe(accepted)}"
    text = setting.text
    if isinstance(setting.value, str):
        if looks_like_number(text) and _fits(setting.key, float(text)):
            hint = f"YAML reads {text} as text, not as a number: write {with_point(text)}"
        elif guess := nearest(text, _choices(accepted.annotation)):
            hint = f"did you mean '{guess}'?  ({hint})"
    elif isinstance(setting.value, bool) and text.lower() not in ("true", "false"):
        hint += f"; YAML reads {text} without quotes as {str(setting.value).lower()}"
    quoted_number = isinstance(setting.value, str) and text.replace(".", "", 1).isdigit()
    shown = f'the text "{text}"' if quoted_number else text or json.dumps(setting.value)
    problems.add(setting.place, f"{setting.key} cannot be {shown}", hint)


def _fits(key: str, value: Any) -> bool:
    section, _, name = key.partition(".")
    model = Cell.model_fields[section].annotation
    assert isinstance(model, type) and issubclass(model, Section)
    try:
        model.model_validate_json(json.dumps({name: value}), strict=True)
    except ValidationError as error:
        return not any(e["loc"][:1] == (name,) for e in error.errors())
    except (TypeError, ValueError):  # What JSON cannot hold fits no setting.
        return False
    return True


def configure(patches: Sequence[Patch], where: Place, problems: Problems) -> Cell | None:
    """The configuration of ``patches`` laid over each other, the last winning; None with problems
    noted when the values do not fit together. ``where`` is told when no patch is at fault."""
    nested: dict[str, dict[str, Any]] = {}
    for patch in patches:
        for key, setting in patch.items():
            section, _, name = key.partition(".")
            nested.setdefault(section, {})[name] = setting.value
    try:
        return Cell.model_validate_json(json.dumps(nested), strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            if len(item["loc"]) == 1:  # A rule over a section; single values were checked before.
                place = _last_word(str(item["loc"][0]), patches) or where
                problems.add(place, item["msg"].removeprefix("Value error, "))
    return None


def _last_word(section: str, patches: Sequence[Patch]) -> Place | None:
    """Where the last patch that touches a section does so."""
    for patch in reversed(patches):
        for setting in patch.values():
            if setting.key.partition(".")[0] == section:
                return setting.place
    return None


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is Literal:
        return [str(a) for a in get_args(annotation)]
    return [c for a in get_args(annotation) for c in _choices(a)]


def describe(field: FieldInfo) -> str:
    """What a setting takes, in words: ``a number > 0``, ``mean or fixed``, ``true or false``."""
    return _describe(field.annotation, field.metadata)


def _describe(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner = [m for a in args[1:] for m in (a.metadata if isinstance(a, FieldInfo) else [a])]
        return _describe(args[0], inner)
    if origin is Literal:
        return _either([str(a) for a in args])
    if origin in (Union, UnionType):
        # Bounds of a union sit on the field as a whole and belong to its number.
        return _either([_describe(a, metadata if a in (int, float) else ()) for a in args])
    if origin is tuple:
        many = "" if args[-1] is Ellipsis else f"{len(args)} "
        return f"a list of {many}values, each {_describe(args[0])}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    word = words.get(annotation, "null" if annotation is type(None) else str(annotation))
    return " ".join([word, *_bounds(metadata)])


def _bounds(metadata: Sequence[Any]) -> list[str]:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    found = [
        f"{sign} {getattr(m, name):g}"
        for m in metadata
        for name, sign in signs.items()
        if getattr(m, name, None) is not None
    ]
    return [" and ".join(found)] if found else []


def _either(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
