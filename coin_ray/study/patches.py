"""Named patches: dotted settings with places, checked against the typed configuration.

A level, a ``baseline:`` block and ``--set`` are all patches. Values are checked strictly (text is
no number, a number no switch), and every problem is told where the value was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, ValidationError

from coin_ray.errors import UserError
from coin_ray.files import expanded
from coin_ray.pipeline.settings import Cell, dotted_fields, nest
from coin_ray.propagation.settings import OF_A_BACKBONE
from coin_ray.section import Values
from coin_ray.study.errors import Place, Problems, nearest
from coin_ray.study.grammar import Node, loads, looks_like_number
from coin_ray.study.values import BAD, checked, fits

Patch = dict[str, Node]
"""Dotted keys with their values."""
FOLDERS = ("ucis.path",)
"""Settings that are paths; that of ``predictions:`` is a block's."""


@lru_cache(maxsize=1)
def fields() -> Mapping[str, Any]:
    """Every settable key (``ot.lambda``) with its type, bounds, default and description."""
    return {
        key: Annotated[(f.annotation, *f.metadata, Field(f.default, description=f.description))]
        for key, f in dotted_fields()
    }


@lru_cache(maxsize=1)
def sections() -> Mapping[str, tuple[str, ...]]:
    """Section (``ot``, ``ucis.ssa``) -> its keys and the sections in it, in full."""
    out: dict[str, list[str]] = {}
    for key in fields():
        section = key.rpartition(".")[0]
        outer = section.rpartition(".")[0]
        if outer and section not in out:
            out[outer].append(section)
        out.setdefault(section, []).append(key)
    return {name: tuple(keys) for name, keys in out.items()}


def read_patch(node: Node, prefix: str = "") -> Patch:
    """The settings of a map, nested (``uss: {family: mae}``) or dotted (``uss.family: mae``)."""
    patch: Patch = {}
    if node.kind == "scalar" and node.value is None:
        return patch
    example = "such as {uss.family: mae, ot.lambda: 0.1}"
    for name, child in node.entries("expected settings", example).items():
        key = prefix + name
        found: Patch = {}
        if key in fields():
            found = {key: located(key, child)}
            check_value(key, child)
        elif key in sections() and child.kind == "map":
            found = read_patch(child, key + ".")
        elif key in sections():
            hint = _keys_hint(key, key)
            node.note_key(name, f"'{key}' is a section, not a setting", hint)
        else:
            unknown_key(key, node.keys[name], node.problems)
        for twice in found.keys() & patch.keys():
            hint = f"also in line {patch[twice].place.line}"
            node.note_key(name, f"'{twice}' is set twice", hint)
        patch |= found
    return patch


def unknown_key(key: str, place: Place, problems: Problems) -> None:
    """Note that no setting is called ``key``, and which one was probably meant."""
    problems.add(place, f"unknown key '{key}'", _keys_hint(key, key.rpartition(".")[0]))


def _keys_hint(key: str, section: str) -> str:
    if section in sections():
        known = sections()[section]
        listed = f"(keys of {section}: {', '.join(k.rpartition('.')[2] for k in known)})"
    else:
        known = tuple(fields())
        listed = f"(sections: {', '.join(s for s in sections() if '.' not in s)})"
    guess = nearest(key, known)
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
        unknown_key(key, place, problems)
        return {}
    candidates: list[Any] = []
    unread = Problems()
    node = loads(f"value: {raw}", "", unread)
    if node is not None and not unread and "value" in node.value:
        candidates.append(node.value["value"].plain())
    if looks_like_number(raw):
        candidates.insert(0, float(raw))
    candidates.append(raw)
    value = next((c for c in candidates if fits(fields()[key], c)), candidates[0])
    patch = {key: Node("scalar", value, place, problems, raw)}
    check_value(key, patch[key])
    return patch


def located(key: str, node: Node) -> Node:
    """A setting that names a folder, from the folder of the file that it stands in, as an absolute
    path; one of the command line, and every other setting, as it is."""
    folder = node.problems.folders.get(node.place.path)
    if key not in FOLDERS or folder is None or not isinstance(node.value, str) or not node.value:
        return node
    try:
        return replace(node, value=str(folder / expanded(node.value)))
    except UserError as error:
        node.note(error.what, error.do)
        return node


def check_value(key: str, node: Node) -> bool:
    """True when the value fits its setting, whatever the other settings are; else a problem is
    noted."""
    return checked(key, node, fields()[key]) is not BAD


def plain(patch: Patch) -> Values:
    """The settings of a patch, without places."""
    return {key: node.plain() for key, node in patch.items()}


def configure(patches: Sequence[Patch], where: Place, problems: Problems) -> Cell | None:
    """The configuration of ``patches`` laid over each other, the last winning; None with problems
    noted when the values do not fit together. ``where`` is told when no patch is at fault."""
    flat = {key: value for patch in patches for key, value in plain(patch).items()}
    try:
        note_idle(patches)
        return Cell.model_validate_json(json.dumps(nest(flat)), strict=True)
    except ValidationError as error:
        for item in error.errors(include_url=False):
            # A rule over a section, or over several; single values were checked before.
            if len(item["loc"]) <= 1:
                message = item["msg"].removeprefix("Value error, ")
                # A rule over several says first which setting it is about.
                key = message.partition(":")[0].partition(" ")[0]
                section = str(*item["loc"]) or key.partition(".")[0]
                place = _last_word(key, patches) or _last_word(section, patches)
                problems.add(place or where, message)
    return None


def note_idle(patches: Sequence[Patch]) -> None:
    """What is said of a backbone by whoever takes the segmenter's features in its place, or in a
    level of such a study; what is said for the other levels of a study is left alone."""
    saying = next((patch for patch in reversed(patches) if "uss.family" in patch), {})
    if not saying or saying["uss.family"].plain() != "sam":
        return
    family = saying["uss.family"].place
    everywhere = saying is patches[0] or family.path.startswith("--set")
    for number, patch in enumerate(patches):
        for key in (f"uss.{name}" for name in OF_A_BACKBONE):
            if key not in patch:
                continue
            place = patch[key].place
            if number:
                idle = everywhere or not place.path.startswith("--set")
            else:
                idle = everywhere and place.path == family.path
            if idle:
                patch[key].note(
                    f"{key} says nothing beside uss.family: sam",
                    "its tokens are those of sam.model and sam.window: leave it out",
                )


def _last_word(named: str, patches: Sequence[Patch]) -> Place | None:
    """Where the last patch that touches a setting, or a section, does so."""
    for patch in reversed(patches):
        for key, node in patch.items():
            if named in (key, key.partition(".")[0]):
                return node.place
    return None
