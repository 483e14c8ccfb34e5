"""What the tracker is told about a study before it runs: identity, factors, every setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coin_ray import safe
from coin_ray.events.tracked import CellDescribed, LevelDescribed, StudyDescribed
from coin_ray.identity import digest
from coin_ray.pipeline.settings import flatten
from coin_ray.section import without_younger
from coin_ray.store.keys import SHORT
from coin_ray.study.names import folded, safe_names
from coin_ray.study.resolved import ResolvedStudy, StudyCell
from coin_ray.tracking.records import PARAM_LENGTH, text

NAME = 250
"""Characters of a run's name that every database of MLflow takes."""


def describe_study(
    study: ResolvedStudy, *, data_digest: str, command: str = "", device: str = "", runs: str = ""
) -> dict[str, Any]:
    """The ``study_info`` of :class:`coin_ray.tracking.tracker.Tracker`, as plain JSON values.

    ``data_digest`` is one digest over the content of all images of the study: with the name, the
    profile and the overrides it is the study's identity. ``command`` is the command line,
    ``device`` what computes, ``runs`` the name of the folder of results.
    """
    from coin_ray.tracking.environment import environment, git_commit

    commit, changed = git_commit()
    return {
        "study": study.name,
        "title": study.title,
        "question": study.question,
        "profile": study.profile,
        "data_digest": data_digest,
        "design": study.design,
        "baseline": study.baseline_level,
        "levels": list(study.levels),
        "seeds": list(study.seeds),
        "factors": {factor: list(levels) for factor, levels in study.factors.items()},
        "data": {spec.name: spec.setting for spec in study.data},
        "overrides": study.changes,
        "sources": _sources(study.source_files),
        "command": command,
        "runs": runs,
        "git_commit": commit,
        "git_changed": changed,
        "environment": environment() | ({"device": device} if device else {}),
        "cells": describe_cells(study.cells),
    }


def _sources(files: Sequence[str]) -> dict[str, str]:
    """File name -> text; of two files of one name (a study and the one it extends) both."""
    out: dict[str, str] = {}
    for file in map(Path, files):
        name = file.name if file.name not in out else f"{len(out)}-{file.name}"
        out[name] = file.read_text(encoding="utf-8")
    return out


def describe_cells(cells: Sequence[StudyCell]) -> list[dict[str, Any]]:
    """The cells of a study, or those that it adds while it runs, as plain JSON values."""
    found: dict[str, dict[str, Any]] = {}
    for cell in cells:
        run = cell_digest(cell)
        if run in found:  # two levels that come to the same configuration still are two cells
            run = digest([run, cell.level])
        found[run] = {
            "cell": cell.key_label,
            "digest": run,
            "level": cell.level,
            "factors": dict(cell.labels),
            "data": cell.data.name,
            "setting": cell.data.setting,
            "seed": cell.seed,
            "config": cell.config.model_dump(mode="json", by_alias=True),
        }
    return list(found.values())


def describe_levels(
    study: ResolvedStudy,
    points: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
    seeds: Mapping[tuple[str, str], Sequence[int]],
) -> dict[tuple[str, str], dict[str, Any]]:
    """(Data set, level) -> the level's run as plain JSON values, for those with ``points``
    (``report.values.spreads``), which are part of what the run is."""
    first = {(cell.data.name, cell.level): cell for cell in reversed(study.cells)}
    found = {}
    for (dataset, level), own in points.items():
        cell = first[dataset, level]
        # Another processor sums in another order.
        values = [[p["round"], p["metric"], f"{p['mean']:.6f}"] for p in own]
        run = digest(["level", level, cell_digest(cell), list(seeds[dataset, level]), values])
        found[dataset, level] = {
            **describe_cells([cell])[0],
            "cell": f"level-{run}",
            "digest": run,
            "seeds": list(seeds[dataset, level]),
        }
    return found


def cell_digest(cell: StudyCell) -> str:
    """Identity of a cell in the tracker: its resolved configuration without runtime settings, its
    data set and its random seed. A level that is renamed stays the same run: its name and its tag
    ``level`` follow, its param cannot."""
    return digest([without_younger(cell.config), cell.data.name, cell.seed])


def within(text: str, most: int) -> str:
    """A text of at most ``most`` characters: itself, or its beginning and its digest."""
    return text if len(text) <= most else f"{text[: most - SHORT - 2]}…-{digest(text)[:SHORT]}"


def study_event(info: Mapping[str, Any]) -> StudyDescribed:
    """What describes the study's own run."""
    import yaml

    # A study file may be edited, and MLflow's params cannot: what an edit may change is a tag.
    design = {key: info[key] for key in ("design", "baseline", "levels", "seeds")}
    names = safe_names(info["factors"])
    factors = {f"factor.{names[factor]}": levels for factor, levels in info["factors"].items()}
    shown = {key: info[key] for key in info if key not in ("cells", "sources", "environment")}
    note = [safe.markdown_block(part) for part in (info["title"], info["question"]) if part]
    if info["command"]:
        note.append(safe.fenced(info["command"]))
    return StudyDescribed(
        name=within(f"{info['study']} ({info['profile']}, {', '.join(info['data'])})", NAME),
        params={"profile": info["profile"], "data": info["data"]},
        tags={
            **_common(info),
            **design,
            **factors,
            **{f"name.{name}": factor for factor, name in names.items() if name != factor},
            **{key: info[key] for key in ("overrides", "runs") if info[key]},
            "dataset": ", ".join(info["data"]),
            "mlflow.note.content": "\n\n".join(note),
        },
        texts={
            **{f"study/{file}": source for file, source in info["sources"].items()},
            "study/resolved.yaml": yaml.safe_dump(shown, sort_keys=False, allow_unicode=True),
            "environment.yaml": yaml.safe_dump(info["environment"], sort_keys=False),
        },
    )


def cell_event(info: Mapping[str, Any], cell: Mapping[str, Any]) -> CellDescribed:
    """What describes a cell's run: every factor and every setting as a flat param, and
    once more as tags what a flat list of runs is grouped by."""
    import yaml

    ours = {
        **flatten(cell["config"]),
        "level": within(cell["level"], PARAM_LENGTH),
        "dataset": cell["data"],
        "seed": cell["seed"],
    }
    return CellDescribed(
        name=f"{within(cell['level'], NAME - 130)} · {cell['data']} · seed {cell['seed']}",
        params={**_factors(cell["factors"], ours), **ours},
        tags={
            **_common(info),
            "level": cell["level"],
            "dataset": cell["data"],
            "setting": cell["setting"],
            "seed": cell["seed"],
            "cell": cell["cell"],
        },
        texts={
            "config.yaml": yaml.safe_dump(cell["config"], sort_keys=False, allow_unicode=True),
            "environment.yaml": yaml.safe_dump(info["environment"], sort_keys=False),
        },
    )


def level_event(info: Mapping[str, Any], level: Mapping[str, Any]) -> LevelDescribed:
    """What describes a level's run: params as of its cells, but for the random seed."""
    told = cell_event(info, {**level, "seed": 0})
    seeds = ", ".join(map(str, level["seeds"]))
    return LevelDescribed(
        name=f"{within(level['level'], NAME - 130)} · {level['data']}",
        params={key: value for key, value in told.params.items() if key != "seed"},
        tags={
            **{key: value for key, value in told.tags.items() if key not in ("seed", "cell")},
            "seeds": seeds,
        },
        texts={"config.yaml": told.texts["config.yaml"]},
    )


def _factors(levels: Mapping[str, str], ours: Mapping[str, Any]) -> dict[str, str]:
    """Params of the factors: one that is called as one of ours, and says something else, stands
    beside it."""
    out = {}
    for factor, name in safe_names(levels).items():
        level = within(levels[factor], PARAM_LENGTH)
        if name in ours and text(ours[name]) == level:
            continue
        taken = folded(name) in ours or name.startswith("factor.")
        out[f"factor.{name}" if taken else name] = level
    return out


def _common(info: Mapping[str, Any]) -> dict[str, Any]:
    tags = {
        "study": info["study"],
        "profile": info["profile"],
        "data_digest": info["data_digest"],
        "coin_ray": info["environment"]["packages"].get("coin-ray", ""),
        "mlflow.source.name": "coin-ray",
        "mlflow.source.type": "LOCAL",
    }
    if info["git_commit"]:
        tags["git_commit"] = info["git_commit"] + ("-changed" if info["git_changed"] else "")
        tags["mlflow.source.git.commit"] = info["git_commit"]
    return tags
