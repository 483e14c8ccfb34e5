"""What a study file becomes: cells that are complete configurations, nothing left to look up.

Everything downstream (plan, sweep, tracking, report) takes a ``ResolvedStudy`` and never reads
YAML. All classes are frozen and pickle, so they travel to Ray workers as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from coin_ray.pipeline.settings import Cell

Kind = Literal["generated", "folder", "dataset"]


@dataclass(frozen=True)
class DataSpec:
    """One data set of a study, named but not read.

    ``kind`` generated: tiles drawn by the project, ``options`` holds ``train``, ``test`` (numbers
    of tiles), ``size`` (px) and ``seed``; ``train: 0`` trains on the test tiles without their
    labels. ``kind`` folder: ``path`` is a folder of images, or one with ``image/`` and perhaps
    ``mask/`` or ``label/``. ``kind`` dataset: ``path`` is the root of a data set with splits and
    ``split`` the evaluated one. ``train_paths`` are other folders to train on; ``mpp`` (um/px) wins
    over metadata.
    """

    name: str
    kind: Kind
    path: str | None = None
    split: str | None = None
    train_paths: tuple[str, ...] = ()
    mpp: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def setting(self) -> Literal["transductive", "inductive"]:
        """Transductive: the evaluated images are the training images (never with their labels)."""
        if self.train_paths:
            return "inductive"
        if self.kind == "generated":
            return "inductive" if self.options.get("train", 0) else "transductive"
        return "transductive"


@dataclass(frozen=True)
class Published:
    """Numbers of a paper to stand beside ours.

    ``rows``: level label -> data set name -> metric -> value, metrics under our names.
    ``comparable`` names the profiles whose cells measure the same thing; beside any other profile
    the numbers are shown as not comparable.
    """

    source: str
    rows: Mapping[str, Mapping[str, Mapping[str, float]]]
    tolerance: float = 0.01
    comparable: tuple[str, ...] = ("coin", "official")
    note: str = ""


@dataclass(frozen=True)
class Objective:
    """What a search or "best so far" ranks by; ``agreement`` (mean score of the instances against
    the segmenter, no label read) unless a study says otherwise."""

    metric: str = "agreement"
    mode: Literal["max", "min"] = "max"
    split: str = "proxy"


@dataclass(frozen=True)
class StudyCell:
    """One level on one data set with one random seed: what one Ray Tune trial runs.

    ``labels`` maps each factor to its level in this cell (flat params in the tracker); ``config``
    is the complete configuration; ``key_label`` is readable, unique in the study and safe in a
    path.
    """

    level: str
    labels: Mapping[str, str]
    data: DataSpec
    seed: int
    config: Cell
    key_label: str


@dataclass(frozen=True)
class ResolvedStudy:
    """A study file after ``extends``, profile, overrides and design have been applied.

    ``cells`` are ordered so that every level gets one seed before any gets two. ``levels`` are the
    labels in table order, ``patches`` the dotted settings in which each level differs from the
    base, ``factors`` the level labels of each factor. ``resources`` (``stage`` and ``round`` ->
    cpu, gpu, workers) is runtime only. ``source_files`` are the YAML files read, the study first;
    ``overrides`` the ``--set`` settings. ``profile_reason`` says in one phrase where the profile
    came from, ``warnings`` what is allowed and probably not meant.
    """

    name: str
    title: str
    profile: str
    source_files: tuple[str, ...]
    data: tuple[DataSpec, ...]
    levels: tuple[str, ...]
    baseline_level: str
    cells: tuple[StudyCell, ...]
    report: tuple[str, ...]
    published: Published | None = None
    question: str = ""
    design: str = "one_at_a_time"
    seeds: tuple[int, ...] = (0,)
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    objective: Objective = Objective()
    resources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    overrides: Mapping[str, Any] = field(default_factory=dict)
    profile_reason: str = ""
    warnings: tuple[str, ...] = ()

    @property
    def run_name(self) -> str:
        """Readable name of this study on these data with this profile, for a folder of results."""
        data = "+".join(spec.name for spec in self.data)
        return f"{self.name}-{self.profile}-{data}"

    def configuration(self, level: str) -> Cell:
        """The complete configuration of a level. Raises KeyError for a label that is not one."""
        for cell in self.cells:
            if cell.level == level:
                return cell.config
        raise KeyError(level)
