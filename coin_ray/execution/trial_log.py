"""What a study has proposed and stopped, kept beside its cells for when it goes on.

``trials.jsonl`` is only added to, a line a fact; the reader passes over what no longer belongs to
the study (another space, another configuration, other data).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from coin_ray import bucket
from coin_ray.files import longest
from coin_ray.identity import digest
from coin_ray.pipeline.settings import Cell
from coin_ray.section import identity
from coin_ray.study.resolved import Dimension, ResolvedStudy, StudyCell
from coin_ray.study.search import active, proposal, with_trials
from coin_ray.workspace import Workspace

FILE = "trials.jsonl"


def runs_folder(study: ResolvedStudy, workspace: Path) -> Path:
    """The folder of the cells of a study that knows the contents of its data sets."""
    return Workspace(workspace).runs / study.run_name


def with_proposals(study: ResolvedStudy, runs: Path) -> ResolvedStudy:
    """A search with the levels and cells that it has proposed so far; any other study as it is.
    ``runs``: the folder of its cells."""
    return study if study.search is None else with_trials(study, TrialLog(study, runs).proposals)


class TrialLog:
    """The file of one study. ``proposals``: settings in the order they were proposed in, each
    configuration once and only those within the space as it is now."""

    def __init__(self, study: ResolvedStudy, runs: Path) -> None:
        """A study that does not know the contents of its data sets knows no stopped cell."""
        self._study, self._path = study, runs / FILE
        lines = _read(self._path)
        self.proposals = _valid(study, [line["values"] for line in lines if "values" in line])
        self._stopped = {line["of"]: line["rounds"] for line in lines if "of" in line}

    def propose(self, values: Mapping[str, Any]) -> None:
        """A configuration is going to be run."""
        self.proposals.append(dict(values))
        self._append({"values": dict(values)})

    def valued(self, values: Mapping[str, Any], value: float | None) -> None:
        """It has been, and came to this; None: it failed. For the reader of the file."""
        self._append({"result": dict(values), "value": value})

    def stop(self, cell: StudyCell, rounds: int) -> None:
        """A cell was stopped after so many rounds."""
        self._stopped[self._identity(cell)] = rounds
        self._append({"of": self._identity(cell), "cell": cell.key_label, "rounds": rounds})

    def rounds(self, cell: StudyCell) -> int:
        """How many rounds of a cell are to be run: all, or those after which it was stopped under
        the rule and the objective that the study has now."""
        count = cell.config.rounds.count
        if self._study.stopping.rule != "asha" or cell.level == self._study.baseline_level:
            return count
        return min(count, self._stopped.get(self._identity(cell), count))

    def _identity(self, cell: StudyCell) -> str:
        settings = {name: identity(getattr(cell.config, name)) for name in Cell.model_fields}
        stopping = asdict(self._study.stopping)
        del stopping["alpha"]  # of races, which are decided again from their results
        rule = [stopping, asdict(self._study.objective)]
        data = self._study.contents.get(cell.data.name)
        return digest([settings, cell.seed, data, rule])

    def _append(self, line: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            # A killed writer leaves half a line; the next one begins on a line of its own.
            file.write(f"\n{json.dumps(line)}")
            file.flush()
            os.fsync(file.fileno())
        bucket.send(self._path)


def _read(path: Path) -> list[dict[str, Any]]:
    lines = []
    for text in longest(path).read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue  # empty, or torn by a crash
    return lines


def _valid(study: ResolvedStudy, found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if study.search is None:
        return []
    space = {dimension.key: dimension for dimension in study.search.space}
    out: list[dict[str, Any]] = []
    for values in found:
        if not all(_inside(space[key], value) for key, value in values.items() if key in space):
            continue
        try:
            settings = active(study, values)
            proposal(study, settings)
        except (KeyError, ValidationError):
            continue  # of a space without such a setting, or of a baseline that it does not fit
        if settings not in out:
            out.append(settings)
    return out


def _inside(dimension: Dimension, value: Any) -> bool:
    if dimension.kind == "any":
        # As text, as Optuna is told of it: 1, 1.0 and true are one number to Python.
        return json.dumps(value) in [json.dumps(choice) for choice in dimension.values]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = dimension.values
    if dimension.kind == "int":
        return value in range(low, high + 1, dimension.step)
    return bool(low <= value <= high)
