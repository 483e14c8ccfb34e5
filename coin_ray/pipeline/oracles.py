"""Ceilings: a cell in which the ground truth stands in for one of its stages.

It answers how much of what a cell lacks that stage holds (``coin-ray headroom``), and nothing else:
no setting names an oracle, so that no study, search or level has one, and what an oracle makes, and
all that follows from it, has keys that no other cell has.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from coin_ray.data.sample import Image, Sample
from coin_ray.pipeline.stage import Ref, Truth

TITLES = {
    "coarse": "true coarse mask",
    "foreground": "true foreground after step 1",
    "split": "true splitting of predictions",
    "prompts": "true centres as prompts",
    "masks": "true masks of detected nuclei",
    "acceptance": "true acceptance",
    "labels": "true labels (supervised)",
}
"""Oracle -> what it knows, in the chain's order."""
_STAGES: Mapping[str, Mapping[str, str]] = {
    "coarse": {"ucis": "oracle_coarse"},
    "foreground": {"refine": "oracle_foreground"},
    "split": {"instances": "oracle_split", "predict": "oracle_split"},
    "masks": {"masks": "oracle_masks"},
    "acceptance": {"select": "oracle_accept"},
    "labels": {"select": "oracle_labels"},
}
"""Oracle -> stage -> what stands for it, whoever takes it."""
_SCORING = ("masks", "score", "select")


@dataclass(frozen=True)
class Oracle:
    """An oracle by its ``name``, with the labelled ``samples`` of the cell's images."""

    name: str
    samples: Mapping[Image, Sample]

    @property
    def number(self) -> int:
        """Its place among all, from 1."""
        return 1 + list(TITLES).index(self.name)

    def instead(self, truth: Callable[[Sample], Truth], ref: Ref, taker: str) -> Ref:
        """What stands for a stage that ``taker`` takes; empty: that the cell is asked for."""
        if ref.own:
            return ref
        stage = _STAGES.get(self.name, {}).get(ref.stage)
        if self.name == "prompts":
            stage = _prompted(ref, taker)
        if stage is None:
            return ref
        return ref._replace(stage=stage, truth=truth(self.samples[ref.image]))


def _prompted(ref: Ref, taker: str) -> str | None:
    """The student's own prediction is measured as it is; what the segmenter is asked for changes,
    and with it the masks that redraw a result."""
    if ref.stage == "masks" and ref.step == "result":
        return "oracle_prompts"
    if taker in _SCORING and ref.stage in ("instances", "predict"):
        return "oracle_prompted"
    return None
