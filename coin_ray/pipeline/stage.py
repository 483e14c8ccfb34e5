"""What a stage is. It is declared once, and its key, its cost, its place and what its computation
may see follow from the declaration.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeVar, cast

from numpy.typing import NDArray

from coin_ray.pipeline.settings import Cell
from coin_ray.precision import Precision
from coin_ray.section import Section, Values, identity, is_runtime

if TYPE_CHECKING:
    from coin_ray.confidence.prompts import Prompts
    from coin_ray.data.sample import Image, Sample
    from coin_ray.labels import InstanceMasks
    from coin_ray.store.artifacts import Artifact

S = TypeVar("S", bound=Section)
Array = NDArray[Any]


class Scope(Protocol):
    """A cell as the declarations see it: its settings, what it trains on, and inputs that are no
    artifacts."""

    @property
    def config(self) -> Cell: ...
    @property
    def train(self) -> Sequence[Image]: ...
    @property
    def images(self) -> int:
        """How many these are."""

    @property
    def seed(self) -> int: ...
    def pixels(self, image: Image) -> Content:
        """The image, (H, W, 3) uint8."""

    def scale(self, image: Image) -> Content:
        """Its resolution, 0.25 / mpp."""

    def weights(self, name: str) -> Content:
        """A registered model file: its name in the registry."""

    def mask_file(self, folder: str, image: Image) -> Content:
        """A coarse mask made elsewhere: its path."""

    def prediction(self, image: Image) -> Content | None:
        """A label map made elsewhere, (H, W) int32; None where there is none of the image."""


class Ref(NamedTuple):
    """A stage within a cell: of which image, round, zoom, row of the table, ground truth. ``own``:
    the pipeline's, even where an oracle stands for it."""

    stage: str
    image: Any = None
    round: int = 0
    zoom: float = 0.0
    step: str = ""
    truth: Truth | None = None
    own: bool = False


class Truth:
    """A labelled sample as an input: it is what its content is, whatever it is called."""

    def __init__(self, digest: str, sample: Sample) -> None:
        self.digest, self.sample = digest, sample

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Truth) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


class Content(NamedTuple):
    """An input that is no artifact: what stands for it in the key, and how it is read."""

    digest: str
    read: Callable[[], Any]


class Together(NamedTuple):
    """An artifact of every training image as one input; ``refs(chain, round)`` lists them."""

    refs: Callable[[Scope, int], Sequence[Ref]]
    round: int = 0


Source = Ref | Content | Together | Sequence[Ref] | Sequence[Content]


def always(*_: object) -> bool:
    return True


@dataclass(frozen=True)
class Read:
    """Settings of one section that a stage reads: ``fields`` or, if none is named, all but ``but``.

    They stand in the key under ``under``, or beside the others. ``when`` says for which cells.
    ``old`` holds, of settings that are younger than the stage, the value that means what the stage
    did before: at that value they add nothing to a key, so that older artifacts are served.
    ``former`` holds, of settings that the stage reads no longer, the value that means what it does:
    the key has it for the same reason, and the computation is not handed it.
    """

    section: str
    fields: tuple[str, ...] = ()
    but: tuple[str, ...] = ()
    under: str = ""
    when: Callable[[Cell], bool] = always
    old: Values = field(default_factory=dict)
    former: Values = field(default_factory=dict)

    def values(self, config: Cell) -> Values:
        """What the stage is handed, under the names of the study."""
        section = functools.reduce(getattr, self.section.split("."), config)
        found = identity(section, self.fields or None)
        return {name: value for name, value in found.items() if name not in self.but}


FP32: Values = {"precision": "fp32"}
"""What stages that run on a device did before there was a choice."""


@dataclass(frozen=True)
class Take:
    """An input of a stage by its ``role``; ``stages``: where it may come from, if from a stage."""

    role: str
    find: Callable[[Scope, Ref], Source]
    stages: tuple[str, ...] = ()
    when: Callable[[Scope, Ref], bool] = always


@dataclass(frozen=True)
class Stage:
    """One arrow of the pipeline.

    ``version`` is raised when its result changes for the same inputs. It reads the configuration
    that it ``sees``: the cell's, unless one place in the chain has other settings. ``adds`` gives
    what belongs to its identity and is no setting (a zoom of several, the random seed). It ``runs``
    on the CPU, on the device, or on the segmenter's; ``on_card`` says for which cells it needs the
    device, if not for all. Where it ``trains``, ``compute`` takes the processes that share the work
    and who hears of its progress. ``large`` artifacts are made from an image alone and are
    collected first. Where its artifact is not what a cell ``keeps``, whoever takes it makes it on
    the way. ``ahead`` is what the device does of it, for one after the other; ``compute`` takes
    what that gives, or does it itself. ``told`` is False where the key leaves the kind of
    device to those of its inputs: it ran on the CPU once. ``work`` is the kind and amount of what
    it costs, for one pixel of its image; of an artifact that does not grow (``grows``) the size is
    the same for any amount.
    """

    name: str
    compute: Callable[..., Artifact]
    reads: tuple[Read, ...] = ()
    takes: tuple[Take, ...] = ()
    sees: Callable[[Scope, Ref], Any] = lambda chain, ref: chain.config
    adds: Callable[[Scope, Ref], Values] = lambda chain, ref: {}
    version: int = 1
    runs: Literal["cpu", "device", "segmenter"] = "cpu"
    on_card: Callable[[Cell], bool] = always
    trains: bool = False
    large: bool = False
    keeps: Callable[[Cell], bool] = always
    ahead: Callable[[Iterable[Given]], Iterator[Any]] | None = None
    told: bool = True
    grows: bool = True
    work: Callable[[Cell, Values], tuple[str, float]] = lambda config, values: ("", 1.0)
    label: Callable[[Scope, Ref], str] = lambda chain, ref: ref.image.name

    def values(self, chain: Scope, ref: Ref) -> Values:
        """Everything but its inputs that the stage is handed."""
        return self._values(chain, ref, lambda read, values: values)

    def identity(self, chain: Scope, ref: Ref) -> Values:
        """That of it which stands in the key."""
        return self._values(chain, ref, _in_key)

    def _values(self, chain: Scope, ref: Ref, part: Callable[[Read, Values], Values]) -> Values:
        found: Values = {}
        config = self.sees(chain, ref)
        for read in self.reads:
            if read.when(config):
                values = part(read, read.values(config))
                if read.under:
                    values = {read.under: found.get(read.under, {}) | values}
                found |= values
        return found | self.adds(chain, ref)

    def inputs(self, chain: Scope, ref: Ref) -> dict[str, Source]:
        """Where its inputs come from, by role."""
        return {take.role: take.find(chain, ref) for take in self.takes if take.when(chain, ref)}


def _in_key(read: Read, values: Values) -> Values:
    found = {k: v for k, v in values.items() if k not in read.old or v != read.old[k]}
    return found | read.former


class Undeclared(LookupError):
    """A stage asked for something that its key does not hold."""


class Keyed:
    """The settings of a stage, as attributes or items; what its key does not hold it has not."""

    def __init__(self, stage: str, values: Values, where: str = "") -> None:
        self._stage, self._values, self._where = stage, values, where

    def __getitem__(self, name: str) -> Any:
        if name not in self._values:
            raise Undeclared(f"{self._stage} reads {self._where}{name}, and its key has it not")
        value = self._values[name]
        if isinstance(value, dict):
            return Keyed(self._stage, value, f"{self._where}{name}.")
        return value

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self[name.removesuffix("_")]  # lambda_ is lambda in a study

    def section(self, kind: type[S]) -> S:
        """These settings where a function takes their section: it reads of it what the key holds,
        and anything else raises."""
        return cast(S, self)

    def options(self, section: type[Section], *but: str) -> Values:
        """All of a section that identifies a result, as keyword arguments of the function that does
        its work; each of them has to be there."""
        return {
            name: self[found.alias or name]
            for name, found in section.model_fields.items()
            if name not in but and not is_runtime(found)
        }


class Given:
    """What a computation is handed: its settings, its inputs by role, and nothing else.

    ``runtime`` are the settings that change its speed alone; ``device`` is where it runs.
    """

    def __init__(
        self,
        stage: Stage,
        values: Values,
        sources: Mapping[str, Source],
        fetch: Callable[[Ref | Content], Any],
        *,
        config: Cell,
        device: str = "cpu",
        prompt: Callable[[Ref, Prompts, Precision], InstanceMasks] | None = None,
        upstream: Callable[[Ref], Keyed] | None = None,
    ) -> None:
        self.settings = Keyed(stage.name, values)
        self.runtime = Keyed(stage.name, _runtime(config), "runtime.")
        self.device = device
        self._stage, self._sources, self._fetch = stage, sources, fetch
        self._prompt, self._upstream = prompt, upstream

    def __contains__(self, role: str) -> bool:
        return role in self._sources

    def source(self, role: str) -> Source:
        """Where an input comes from."""
        if role not in self._sources:
            raise Undeclared(f"{self._stage.name} takes {role!r}, and its key has it not")
        return self._sources[role]

    def __getitem__(self, role: str) -> Any:
        """An input: an artifact, or what else it is. Of a stage that is not kept, what its own
        computation is handed."""
        source = self.source(role)
        assert isinstance(source, Ref | Content)
        return self._fetch(source)

    def made_with(self, role: str) -> Keyed:
        """The settings of an artifact that is an input: its digest stands in the key for them."""
        source = self.source(role)
        assert isinstance(source, Ref) and self._upstream is not None
        return self._upstream(source)

    def array(self, role: str) -> Array:
        """The only array of an input."""
        return self[role].arrays["array"]

    def all(self, role: str) -> list[Any]:
        """Where the parts of an input come from."""
        source = self.source(role)
        assert not isinstance(source, Ref | Content | Together)
        return list(source)

    def each(self, role: str) -> Iterator[Any]:
        """An input of several parts, one at a time, each as ``given[role]``."""
        return map(self._fetch, self.all(role))

    def prompted(self, role: str, prompts: Prompts, precision: Precision) -> InstanceMasks:
        """The segmenter's masks of N prompts, by the embedding that is input ``role``."""
        source = self.source(role)
        assert isinstance(source, Ref) and self._prompt is not None
        return self._prompt(source, prompts, precision)


def _runtime(config: Cell) -> dict[str, Values]:
    return {
        name: {
            key: getattr(section, key)
            for key, found in type(section).model_fields.items()
            if is_runtime(found)
        }
        for name, section in config
    }
