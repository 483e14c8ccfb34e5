"""How the numbers of a study came about, told at the end of its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from coin_ray.report.document.blocks import Block, Code, Fold, Section, Table, Value
from coin_ray.report.document.numbers import DASH
from coin_ray.study.resolved import ResolvedStudy

DIGITS = 12
"""Characters of a content digest that are shown."""


def provenance(study: ResolvedStudy, sweep: Mapping[str, Any], files: tuple[str, ...]) -> Section:
    """Command, commit, environment, data, settings and files."""
    blocks: list[Block] = []
    if sweep:
        blocks += [
            "The last sweep; what it found in the store may be older.",
            Code(sweep["command"]),
            _table("Software and machine", _environment(sweep)),
            *_data(sweep["data"]),
        ]
    else:
        blocks.append("No sweep was recorded in this folder: command and environment are unknown.")
    blocks += [_settings(study), _sources(study), Fold("Files of this report", files)]
    return Section("How this was made", tuple(blocks))


def _environment(sweep: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = sweep["environment"]
    commit = sweep["git_commit"] or "none: an installed package"
    if sweep["git_changed"]:
        commit += ", with uncommitted changes"
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    return [
        ("commit", commit),
        ("python", found["python"]),
        ("machine", _machine(found)),
        ("packages", packages),
    ]


def _machine(found: Mapping[str, Any]) -> str:
    # Sweeps of before 0.2 did not say which processor they ran on.
    named = [found["processor"]] if "processor" in found else []
    cores = f"{found['cores']} cores"
    return ", ".join([found["platform"], *named, cores, f"device {found['device']}"])


def _table(title: str, rows: list[tuple[str, str]], columns: tuple[str, str] = ("", "")) -> Table:
    return Table(title, columns, tuple((Value(a), Value(b)) for a, b in rows), words=2)


def _data(data: Mapping[str, Any]) -> list[Block]:
    rows, folds = [], []
    for name, found in data.items():
        train, evaluated = found["train"], found["evaluated"]
        where = "the same images" if train == evaluated else f"{len(train)} other images"
        told = (name, found["digest"][:DIGITS], str(len(evaluated)), str(found["labelled"]), where)
        rows.append(tuple(map(Value, told)))
        lines = [f"{image}  {digest[:DIGITS]}" for image, digest in evaluated.items()]
        if train != evaluated:
            lines += [f"{image}  {digest[:DIGITS]}  (train)" for image, digest in train.items()]
        folds.append(Fold(f"Images of {name} and the digests of their pixels", tuple(lines)))
    columns = ("data", "digest", "evaluated", "with labels", "trained, without labels, on")
    return [Table("Data", columns, tuple(rows), words=2), *folds]


def _settings(study: ResolvedStudy) -> Table:
    title = f"What each level sets on top of the profile {study.profile}"
    return _table(
        title,
        [(level, ", ".join(_written(study.patches[level])) or DASH) for level in study.levels],
        ("level", "settings"),
    )


def _written(settings: Mapping[str, Any]) -> list[str]:
    """Settings as they would be written in the study."""
    return [f"{k} = {v if isinstance(v, str) else json.dumps(v)}" for k, v in settings.items()]


def _sources(study: ResolvedStudy) -> Fold:
    lines = [f"# --set {line}" for line in _written(study.overrides)]
    for file in study.source_files[:1]:
        lines += Path(file).read_text(encoding="utf-8").splitlines()
    return Fold("The study file", tuple(lines))
