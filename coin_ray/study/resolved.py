"""What a study file becomes: cells that are complete configurations, nothing left to look up.

Everything downstream (plan, sweep, tracking, report) takes a ``ResolvedStudy`` and never reads
YAML. All classes are frozen and pickle, so they travel to Ray workers as they are. Those that stand
for a block of the file are its grammar too: keys, types, ranges and defaults are their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from coin_ray.data.dataset import DataSpec
from coin_ray.identity import digest
from coin_ray.pipeline.identity import CellIdentity
from coin_ray.pipeline.settings import Cell, dotted_fields
from coin_ray.planning.growth import Growth
from coin_ray.section import NotNegative, OneOrMore, Positive, is_runtime
from coin_ray.study.metrics import Goal, LabelFree, Metric, mode
from coin_ray.study.names import study_name

AtLeastOne = Annotated[int, Field(ge=1, le=1_000_000)]
Mpp = Annotated[float, Field(gt=0, le=1000)]
Share = Annotated[float, Field(gt=0, lt=1)]
Until = Literal["ucis_model"]
"""A stage that cells may end with."""


@dataclass(frozen=True)
class Statement:
    """A sentence of a paper that its tables do not hold, as a number: ``value`` is what it says.

    ``spread``: the best of ``levels`` less the worst; ``difference``: their mean less that of
    ``than``; ``flat``: the last round less the one after ``share`` of them; ``trend``: the last
    round less the first, of a fact that reads no label (``score_std``); ``slower``: seconds of
    ``train`` or of ``infer`` over those of ``than``, less 1. Where ``tolerance`` is not said it is
    that of the numbers.
    """

    says: str
    kind: Literal["spread", "difference", "flat", "trend", "slower"]
    metric: Metric | LabelFree | Literal["train", "infer"]
    levels: OneOrMore[str]
    value: float
    than: OneOrMore[str] | None = None
    share: Share = 0.4
    tolerance: NotNegative | None = None


@dataclass(frozen=True)
class Published:
    """Numbers of a paper to stand beside ours.

    ``rows``: level label -> data set name -> metric -> value, metrics under our names; a data set
    without metrics is one that the paper has and whose numbers are not known. ``comparable`` names
    the profiles whose cells measure the same thing; beside any other profile the numbers are shown
    as not comparable, as are those of ``unlike``: metric -> why the paper's is another.
    """

    source: str
    rows: Mapping[str, Mapping[str, Mapping[Metric, float]]]
    tolerance: NotNegative = 0.01
    comparable: OneOrMore[str] = ("coin", "official")
    note: str = ""
    unlike: Mapping[Metric, str] = field(default_factory=dict)
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True)
class Objective:
    """What a search or "best so far" ranks by; ``agreement`` (mean score of the instances against
    the segmenter, no label read) unless a study says otherwise. ``mode``: whether more of it is
    better or less; unsaid, what the metric says, of a fact without labels max. ``split``: proxy
    reads no labels, val those of data that are no test split."""

    metric: Goal = "agreement"
    mode: Literal["max", "min"] = None  # type: ignore[assignment]  # known after __post_init__
    split: Literal["proxy", "val"] = "proxy"

    def __post_init__(self) -> None:
        object.__setattr__(self, "mode", self.mode or mode(self.metric) or "max")


@dataclass(frozen=True)
class Dimension:
    """One setting that a search varies. ``kind`` log and lin: floats in [``values``[0],
    ``values``[1]]; int: whole numbers in it, by ``step``; any: one of ``values``. ``when``: dotted
    key -> values, one of which it has to have for the setting to be asked for."""

    key: str
    kind: Literal["log", "lin", "int", "any"]
    values: tuple[Any, ...]
    step: AtLeastOne = 1
    when: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """``design: search``: a sampler proposes ``trials`` configurations one after the other. With
    ``repeats`` each is run with the study's first random seed, and only so many of the best, and
    the baseline, with all of them."""

    space: tuple[Dimension, ...]
    trials: AtLeastOne
    sampler: Literal["tpe", "random", "grid", "cmaes"] = "tpe"
    repeats: AtLeastOne | None = None


@dataclass(frozen=True)
class Stopping:
    """``asha``: rounds are rungs: at least ``grace`` rounds, 1 in ``reduction`` goes on. ``race``:
    after each random seed the levels that are surely worse than another stop; the best one is lost
    with probability ``alpha`` at most."""

    rule: Literal["none", "asha", "race"]
    grace: AtLeastOne = 1
    reduction: Annotated[int, Field(ge=2, le=1000)] = 3
    alpha: Share = 0.05


@dataclass(frozen=True)
class Claim:
    """What would count, written down before anything runs: ``level`` is better in ``metric`` than
    ``baseline`` (unsaid, the study's) on the images of ``data``, by a difference that may be as
    small as ``worth``, over the first ``seeds`` random seeds and so many ``images``; wrongly
    confirmed with probability ``alpha`` at most. ``watch``: the data set that is looked at after
    each seed; unsaid, ``data``, unless that is sealed."""

    claim: Annotated[str, Field(min_length=1, max_length=200)]
    level: str
    data: str
    seeds: Annotated[int, Field(ge=2, le=10_000)]
    images: Annotated[int, Field(ge=2, le=1_000_000)]
    metric: Metric = "aji"
    baseline: str | None = None
    watch: str | None = None
    worth: NotNegative = 0.01
    alpha: Share = 0.05


@dataclass(frozen=True)
class Gates:
    """``claims`` that are registered before the first result. One whose conditional power has
    fallen to ``futility`` stops (0: none does). ``sealed``: the data set that is run last, once,
    for the claims that are left. ``hours`` of computing, beyond which claims stop undecided."""

    claims: tuple[Claim, ...]
    futility: Annotated[float, Field(ge=0, lt=1)] = 0.1
    sealed: str | None = None
    hours: Positive | None = None


@dataclass(frozen=True)
class Screen:
    """Score the stages before the first round of all levels, distil only the ``keep`` best and the
    baseline. ``metric`` reads no label."""

    keep: AtLeastOne
    metric: LabelFree = "agreement"
    mode: Literal["max", "min"] = "max"


@dataclass(frozen=True)
class Analysis:
    """``confidence`` of intervals, ``alpha`` of tests; ``min_effect`` is worth having."""

    confidence: Share = 0.95
    alpha: Share = 0.05
    correction: Literal["holm", "none"] = "holm"
    min_effect: NotNegative = 0.01


@dataclass(frozen=True)
class Budget:
    """Hours beyond which a study does not start; without one there is no limit."""

    gpu_hours: Positive | None = None
    cpu_hours: Positive | None = None
    wall_hours: Positive | None = None


@dataclass(frozen=True)
class StudyCell(CellIdentity):
    """What one Ray Tune trial runs. ``labels`` maps each factor to its level in this cell (flat
    params in the tracker)."""

    labels: Mapping[str, str]


@dataclass(frozen=True)
class ResolvedStudy:
    """A study file after ``extends``, profile, overrides and design have been applied.

    ``cells`` are ordered so that every level gets one seed before any gets two. ``levels`` are the
    labels in table order, ``steps`` those that the table has columns of beside the end, ``patches``
    the dotted settings in which each level differs from the base, ``factors`` the level labels of
    each factor. ``resources`` (stage -> cpu, gpu, memory, workers) and ``cluster``, how far that
    grows, are runtime only. ``source_files`` are the YAML files read, the study first;
    ``overrides`` the ``--set`` settings. ``profile_reason`` says in one phrase where the profile
    came from, ``extras`` which of its settings count for generated tiles, or because an extra is
    there or lacks, ``extended`` are those that it extends. ``warnings``: what is allowed and
    probably not meant. With ``first_seeds`` the seeds after those are run only for levels whose
    verdict against the baseline is open. With ``search`` the cells hold the baseline alone;
    ``study.search.with_trials`` adds the proposed ones. ``contents``: data set -> digest of its
    images and labels, once ``datasets.with_data`` has read them. ``until``: the stage that its
    cells are computed up to; without one, to their end.
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
    steps: tuple[str, ...] = ()
    published: Published | None = None
    question: str = ""
    design: str = "one_at_a_time"
    seeds: tuple[int, ...] = (0,)
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    objective: Objective = Objective()
    resources: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    cluster: Growth | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    profile_reason: str = ""
    extras: tuple[str, ...] = ()
    extended: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    search: Search | None = None
    stopping: Stopping = Stopping("none")
    screen: Screen | None = None
    first_seeds: int | None = None
    analysis: Analysis = Analysis()
    budget: Budget = Budget()
    gates: Gates | None = None
    contents: Mapping[str, str] = field(default_factory=dict)
    until: Until | None = None

    @property
    def data_digest(self) -> str:
        """One digest over the contents of all data sets. Raises ValueError before they are read."""
        if self.contents.keys() != {spec.name for spec in self.data}:
            raise ValueError(f"the data sets of {self.name} have not been read yet")
        return digest(dict(self.contents))

    @property
    def least_seeds(self) -> int:
        """After how many random seeds a level may be left out of the further ones; all of them in
        a study that leaves none out."""
        looks = self.stopping.rule == "race" or (self.gates is not None)
        first = [self.first_seeds or len(self.seeds), 2 if looks else len(self.seeds)]
        return min(*first, len(self.seeds))

    @property
    def changes(self) -> dict[str, Any]:
        """The overrides that may change a result."""
        runtime = {key for key, setting in dotted_fields() if is_runtime(setting)}
        return {key: value for key, value in self.overrides.items() if key not in runtime}

    @property
    def run_name(self) -> str:
        """Name of the folder of results of this study on these contents, with this profile and
        these overrides. Raises ValueError before its data sets are read."""
        shown = (self.name, self.profile, "+".join(spec.name for spec in self.data))
        return study_name(shown, [self.name, self.profile, self.data_digest, self.changes])

    def configuration(self, level: str) -> Cell:
        """The complete configuration of a level. Raises KeyError for a label that is not one."""
        for cell in self.cells:
            if cell.level == level:
                return cell.config
        raise KeyError(level)
