"""A JSON Schema (draft 2020-12) of studies and search spaces, for completion in editors.

Made from what reads the files: the models of the settings, the dataclasses of the blocks and the
tables of keys. What a schema cannot know (labels that match, ranges that fit) ``plan`` says.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from coin_ray.metrics.settings import Result
from coin_ray.planning.growth import Growth
from coin_ray.section import Seed
from coin_ray.study import blocks, data_block
from coin_ray.study.base import MODULES
from coin_ray.study.chain import KEYS, PROFILE_KEYS, STUDY_KEYS
from coin_ray.study.factors import FACTOR_KEYS
from coin_ray.study.metrics import Metric
from coin_ray.study.patches import fields, sections
from coin_ray.study.resolved import (
    Analysis,
    Budget,
    Dimension,
    Gates,
    Objective,
    Published,
    Screen,
    Search,
    Stopping,
)
from coin_ray.study.space import KINDS, RANGE_KEYS
from coin_ray.study.values import adapter, takes_one
from coin_ray.study.varied import DESIGNS, Fraction

Schema = dict[str, Any]

_TEXT: Schema = {"type": "string"}
_LABEL: Schema = {"type": ["string", "number"]}
_PATCH: Schema = {"$ref": "#/$defs/settings"}
_KEY: Schema = {"$ref": "#/$defs/key"}


def json_schema() -> Schema:
    """The whole schema, as plain JSON values."""
    known = _described(KEYS, _values())
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "coin-ray studies and search spaces",
        "if": {"required": ["profile"]},
        "then": _map({key: known[key] for key in PROFILE_KEYS}, ["profile"]),
        "else": _map({key: known[key] for key in STUDY_KEYS}, ["study"]),
        "$defs": {
            **{key: _of(annotation) for key, annotation in fields().items()},
            "key": {"enum": list(fields())},
            "settings": _settings(),
            "space": _space(),
            "range": _range(),
        },
    }


def _values() -> dict[str, Schema]:
    """What each key of the top takes."""
    search = blocks.keys_of(Search)
    tiles, folder = _block(data_block.Tiles), _block(data_block.Folder)
    resources = {step: _block(kind) for step, kind in blocks.RESOURCES.items()}
    levels = {"type": "object", "additionalProperties": _one_or_more(_LABEL)}
    return {
        "study": {**_TEXT, "pattern": "^[a-z0-9][a-z0-9_-]{0,63}$"},
        "profile": _TEXT,
        "title": _TEXT,
        "question": _TEXT,
        "extends": _TEXT,
        "baseline": _PATCH,
        "generated": _PATCH,
        "without": _map(dict.fromkeys(MODULES, _PATCH)),
        "design": {"enum": list(DESIGNS)},
        "fraction": _of(Fraction),
        "factors": {"type": "object", "additionalProperties": _factor(levels)},
        "exclude": _one_or_more(levels),
        "predictions": _one_or_more(_block(blocks.MadeElsewhere)),
        "rungs": {"type": "array", "items": {"type": "array", "items": _LABEL, "minItems": 1}},
        "space": {"$ref": "#/$defs/space"},
        "trials": _of(search["trials"]),
        "sampler": _of(search["sampler"]),
        "repeats": _of(search["repeats"]),
        "stopping": _block(Stopping),
        "screen": _block(Screen),
        "data": {
            "anyOf": [
                {"const": data_block.GENERATED},
                {"type": "array", "items": _TEXT},
                {"type": "object", "additionalProperties": _any({"type": "null"}, tiles, folder)},
            ]
        },
        "seeds": _any(
            _of(blocks.SeedCount),
            {"type": "array", "items": _of(Seed), "minItems": 1, "maxItems": blocks.MOST_SEEDS},
            _block(blocks.SeedRange),
        ),
        "objective": _block(Objective),
        "report": _one_or_more(_of(Metric)),
        "steps": _one_or_more(_of(Result)),
        "analysis": _block(Analysis),
        "gates": _block(Gates),
        "published": _block(Published),
        "budget": _block(Budget),
        "resources": _map(resources),
        "cluster": _block(Growth),
    }


def _settings() -> Schema:
    """A patch: dotted keys, or sections with their keys inside."""
    return _map(_below("")) | {"type": ["object", "null"]}


def _below(prefix: str) -> dict[str, Schema]:
    """The keys behind a prefix, and the sections with their keys inside."""
    dotted = {key.removeprefix(prefix): _ref(key) for key in fields() if key.startswith(prefix)}
    nested = {
        section.removeprefix(prefix): _map(_below(f"{section}."))
        for section in sections()
        if section.startswith(prefix)
    }
    return dotted | nested


def _factor(levels: Schema) -> Schema:
    values: dict[str, Schema] = {
        "levels": _any(
            {"type": "object", "additionalProperties": _PATCH}, {"type": "array", "minItems": 1}
        ),
        "baseline": _LABEL,
        "key": _KEY,
        "when": levels,
    }
    return _map(_described(FACTOR_KEYS, values), ["levels", "baseline"])


def _space() -> Schema:
    ranges = {
        key: {"$ref": "#/$defs/range", "properties": {"any": {"items": _ref(key)}}}
        for key in fields()
    }
    return _any(_map(ranges), {"type": "array", "items": _KEY})


def _range() -> Schema:
    ends: Schema = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    values: dict[str, Schema] = {
        "log": ends,
        "lin": ends,
        "int": {**ends, "items": {"type": "integer"}},
        "any": {"type": "array", "minItems": 1},
        "step": _of(blocks.keys_of(Dimension)["step"]),
        "when": {"type": "object", "propertyNames": _KEY},
    }
    one = {"oneOf": [{"required": [kind]} for kind in KINDS]}
    return _map(_described(RANGE_KEYS, values)) | one


def _block(kind: type) -> Schema:
    """A block from its dataclass: types, ranges, defaults, and its docstring as description."""
    required = blocks.required_keys(kind)
    properties = {key: _of(annotation) for key, annotation in blocks.keys_of(kind).items()}
    for f in dataclasses.fields(kind):
        if f.name not in required and f.default not in (None, dataclasses.MISSING):
            plain = list(f.default) if isinstance(f.default, tuple) else f.default
            properties[f.name]["default"] = plain
    about = " ".join(inspect.getdoc(kind).replace("``", "").split())  # type: ignore[union-attr]
    return {"description": about, **_map(properties, required)}


def _of(annotation: Any) -> Schema:
    """The schema of a type, with what pydantic's does not say: maps by key, and lists that may be
    written as their only value."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Mapping:
        if get_origin(args[0]) is Literal:
            return _map({key: _of(args[1]) for key in get_args(args[0])})
        return {"type": "object", "additionalProperties": _of(args[1])}
    if origin in (Union, UnionType):
        return _any(*(_of(member) for member in args))
    if origin is tuple and dataclasses.is_dataclass(args[0]):
        return {"type": "array", "items": _block(args[0])}  # type: ignore[arg-type]
    found = adapter(annotation).json_schema()
    if "items" in found and takes_one(args[1:]):
        kept: Schema = {key: found.pop(key) for key in ("description", "default") if key in found}
        return {**kept, **_any(found["items"], found)}
    return found


def _map(properties: Mapping[str, Schema], required: Sequence[str] = ()) -> Schema:
    found: Schema = {"type": "object", "properties": dict(properties)}
    if required:
        found["required"] = list(required)
    return {**found, "additionalProperties": False}


def _described(table: Mapping[str, str], values: Mapping[str, Schema]) -> dict[str, Schema]:
    return {key: {"description": text, **values[key]} for key, text in table.items()}


def _any(*members: Schema) -> Schema:
    return {"anyOf": list(members)}


def _one_or_more(item: Schema) -> Schema:
    return _any(item, {"type": "array", "items": item})


def _ref(key: str) -> Schema:
    return {"$ref": f"#/$defs/{key}"}
