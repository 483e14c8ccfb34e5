"""The segmenters of a study: one of each model a GPU, found again while nodes come and go."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from coin_ray.cluster.leaving import leaving
from coin_ray.cluster.scoring import SegmenterActor
from coin_ray.confidence.settings import Sam
from coin_ray.execution.failures import lost

EVERY = 1.0
"""Seconds between two looks at who lives."""
AGAIN = 60.0
"""Seconds until a node is tried again that had no room."""
PLACING = 1.0
"""Seconds in which Ray finds a place where there is one."""
STILLBORN = 5
"""Segmenters in a row that may die before their first word."""
ANYWHERE = ""
"""In place of a node's id: wherever Ray puts it."""


@dataclass
class _Home:
    """A segmenter's share of a card, its own until its node goes, and the process that is there.
    ``asked``: its next word; ``cards`` are unknown before the first."""

    node: str
    group: Any
    actor: Any
    asked: Any
    cards: tuple[str, ...] | None = None


class Segmenters:
    """``share``: of a GPU, for each; 0 on CPUs, where there is one for two of them. ``cards(n)``:
    how many of a node's n GPUs have segmenters."""

    def __init__(
        self, store: Path, device: str, share: float, cards: Callable[[float], int]
    ) -> None:
        self._store, self._device, self._share, self._cards = store, device, share, cards
        self._homes: dict[str, dict[str, _Home]] = {}
        self._batch: dict[str, int] = {}
        self._again: dict[tuple[str, str], float] = {}
        self._deaths: Counter[str] = Counter()
        self._fault: dict[str, Exception] = {}
        self._made = 0
        self._due = 0.0

    def ready(self, sam: Sam) -> bool:
        """Have the segmenters of a model from now on; True once one has its place: steps that come
        earlier would take the cards and wait on them for ever."""
        if sam.model not in self._homes:
            self._homes[sam.model], self._batch[sam.model] = {}, sam.batch
            self._due = 0.0
        return bool(self._homes[sam.model]) or sam.model in self._fault

    def tend(self, hub: Any) -> None:
        """Look after them, and tell the hub which there are."""
        if time.monotonic() < self._due:
            return
        wanted, going = self._wanted(), leaving()
        for model, homes in self._homes.items():
            self._visit(model, wanted)
            if model not in self._fault:
                for node, count in wanted.items():
                    if node not in going and not self._settle(model, node, count):
                        break  # the others come next time: events wait for this
            there = {name: home.actor for name, home in homes.items() if home.cards is not None}
            hub.staff.remote(model, there, self._fault.get(model))
        self._due = time.monotonic() + EVERY

    def lines(self) -> list[str]:
        """How many there are."""
        size = f" of {self._share:g} GPU each" if self._share else ""
        return [
            f"segmenters {model}: {len(homes)} have a place{size}, "
            f"{sum(home.cards is not None for home in homes.values())} answer"
            for model, homes in self._homes.items()
        ]

    def _wanted(self) -> dict[str, int]:
        """How many of a model, by node."""
        nodes = {n["NodeID"]: n["Resources"] for n in ray.nodes() if n["Alive"]}
        if self._share:
            return {node: self._cards(has.get("GPU", 0.0)) for node, has in nodes.items()}
        return {ANYWHERE: max(1, int(sum(has.get("CPU", 0.0) for has in nodes.values())) // 2)}

    def _visit(self, model: str, wanted: dict[str, int]) -> None:
        """Start again whose process has died, and give up whose node has gone or whose card has
        another."""
        homes, taken = self._homes[model], set[tuple[str, tuple[str, ...]]]()
        for name, home in list(homes.items()):
            error = self._word(model, home)
            card = home.node, home.cards or ()
            if home.node not in wanted or (home.cards and card in taken):
                ray.kill(home.actor)
                if home.group is not None:
                    remove_placement_group(home.group)
                del homes[name]
            elif error is None:
                taken.add(card)
            else:
                if home.cards is None:
                    self._deaths[model] += 1
                if not lost(error) or self._deaths[model] >= STILLBORN:
                    self._fault[model] = error
                else:
                    homes[name] = self._begun(model, home.node, home.group)

    def _word(self, model: str, home: _Home) -> Exception | None:
        """Where it says it is; why it will say nothing any more."""
        if not ray.wait([home.asked], timeout=0)[0]:
            return None
        try:
            node, home.cards = ray.get(home.asked)
        except RayError as error:
            return error
        self._deaths[model] = 0
        home.node = node if self._share else ANYWHERE
        home.asked = home.actor.where.remote()
        return None

    def _settle(self, model: str, node: str, count: int) -> bool:
        """Start those that a node lacks; False where it has no room for them."""
        homes = self._homes[model]
        there = sum(home.node == node for home in homes.values())
        if there >= count or time.monotonic() < self._again.get((model, node), 0.0):
            return True
        if not self._share:
            for _ in range(count - there):
                self._add(model, self._begun(model, node, None))
            return True
        self._again[model, node] = time.monotonic() + AGAIN
        # Ray fills one card before it begins another: what is left of a card is taken, too, until
        # all have theirs.
        beside = sum(any(h.node == node for h in own.values()) for own in self._homes.values())
        rest, fillers = 1 - self._share * (beside + (not there)), []
        try:
            for number in range(count):
                if number >= there:
                    group = _reserved(node, self._share)
                    if group is None:
                        return False
                    self._add(model, self._begun(model, node, group))
                if rest > 1e-4 and number < count - 1:
                    fillers.append(_reserved(node, rest))
        finally:
            for filler in fillers:
                if filler is not None:
                    remove_placement_group(filler)
        return True

    def _add(self, model: str, home: _Home) -> None:
        self._made += 1
        self._homes[model][str(self._made)] = home

    def _begun(self, model: str, node: str, group: Any) -> _Home:
        """It reserves no CPU: its callers wait while it works, and segmenters that held CPUs could
        starve the trials they serve."""
        where = PlacementGroupSchedulingStrategy(group) if group else "DEFAULT"
        kind: Any = ray.remote(num_cpus=0, num_gpus=self._share)(SegmenterActor)
        given = (model, self._store, self._device, self._batch[model], self._share)
        actor = kind.options(scheduling_strategy=where).remote(*given)
        return _Home(node, group, actor, actor.where.remote())


def _reserved(node: str, gpus: float) -> Any:
    """So much of one of a node's cards; None where no card has that now."""
    group = placement_group([{"GPU": gpus}], strategy="STRICT_PACK", _soft_target_node_id=node)
    if group.wait(PLACING):
        return group
    remove_placement_group(group)
    return None
