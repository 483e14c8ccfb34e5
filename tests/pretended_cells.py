"""Cells of a study that are said to have run, with values made up by a formula: for what decides
which cells are run. No stage is computed."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from coin_ray.execution.study_run import in_order
from coin_ray.execution.tally import Tally
from coin_ray.study.resolved import ResolvedStudy, StudyCell

Value = Callable[[StudyCell, int], float]
"""AJI, and agreement, of a cell on an image; ``fp`` is 1 less it."""


class Pretended:
    """Stands for a ``CellRunner``: a cell that is run leaves its values. ``batches``: what was run
    at once, as level/data/seed."""

    def __init__(self, runs: Path, study: ResolvedStudy, value: Value, images: int) -> None:
        self._runs, self._study, self._value, self._images = runs, study, value, images
        self.batches: list[list[str]] = []

    def is_stored(self, cell: StudyCell) -> bool:
        return (self._runs / cell.key_label / "metrics.json").is_file()

    def finish(self, what: str, cells: Sequence[StudyCell]) -> None:
        self.batches.append([named(cell) for cell in cells])
        for cell in cells:
            self._leave(cell)

    def search(self) -> None:
        """No study of these tests searches."""

    def _leave(self, cell: StudyCell) -> None:
        place = self._runs / cell.key_label
        place.mkdir(parents=True, exist_ok=True)
        values = {f"i{n}": self._value(cell, n) for n in range(self._images)}
        step = f"round_{cell.config.rounds.count}"
        rows = [
            {"image": image, "step": step, "metric": metric, "value": number}
            for image, value in values.items()
            for metric, number in (("aji", value), ("fp", 1 - value))
        ]
        told = {"cell": cell.key_label, "content": self._study.contents[cell.data.name]}
        (place / "metrics.json").write_text(
            json.dumps({"cell": told, "agreement": values, "rows": rows})
        )
        config = cell.config.model_dump(mode="json", by_alias=True)
        (place / "config.yaml").write_text(yaml.safe_dump(config))


def named(cell: StudyCell) -> str:
    return f"{cell.level}/{cell.data.name}/{cell.seed}"


def run(
    study: ResolvedStudy, runs: Path, value: Value, images: int = 6, seconds: float = 0.0
) -> tuple[list[list[str]], Tally, list[str]]:
    """Run a study; the batches, the tally and what was said. ``seconds``: what it has computed."""
    runner, said = Pretended(runs, study, value, images), list[str]()
    tally = Tally(lambda event: said.append(getattr(event, "text", "")))
    tally.state.seconds["round"] = seconds
    in_order(study, runner, tally, runs)  # type: ignore[arg-type]
    return runner.batches, tally, [text for text in said if text]
