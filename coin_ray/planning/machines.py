"""The machines of a cluster, and requests that they cannot meet."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from coin_ray.errors import UserError
from coin_ray.pipeline.stages import STAGES
from coin_ray.pipeline.steps import STEPS

Resources = Mapping[str, Mapping[str, float]]
"""What a study asks for: ``stage`` (any), the name of one, or ``round`` -> cpu, gpu, memory in GiB,
workers."""


@dataclass(frozen=True)
class Node:
    """One machine: CPU cores, GPUs, bytes of memory, and of its smallest GPU's if known."""

    cpus: float
    gpus: float
    memory: float
    card: int = 0

    def __str__(self) -> str:
        parts = (f"{self.cpus:g} CPU", f"{self.gpus:g} GPU", f"{self.memory / 2**30:.0f} GiB")
        return ", ".join(parts)


def this_machine() -> Node:
    """The machine we are on; GPUs as the driver shows them, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    if visible is not None:
        gpus = min(gpus, len([name for name in visible.split(",") if name.strip()]))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Node(len(os.sched_getaffinity(0)), gpus, memory)


def usable_machine() -> Node:
    """The machine we are on; GPUs that torch cannot use do not count."""
    node = this_machine()
    if node.gpus:
        import torch

        if not torch.cuda.is_available():
            return replace(node, gpus=0)
        cards = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        return replace(node, card=min((card.total_memory for card in cards), default=0))
    return node


PAPER_SIZE = ("coin", "official")
"""Profiles that no CPU can finish."""


def find_device(asked: str, nodes: Sequence[Node], profiles: Sequence[str] = ()) -> str:
    """``auto`` is the GPU where any of the nodes has one. UserError for what is no device, and for
    the paper's models without a GPU, unless the CPU was asked for by name. ``profiles``: that of
    the study, and those that it extends."""
    if asked == "cpu" or asked.startswith("cuda"):
        return asked
    if asked != "auto":
        raise UserError(f"there is no device {asked!r}", expected="auto, cpu or cuda")
    if any(node.gpus for node in nodes):
        return "cuda"
    if set(profiles) & set(PAPER_SIZE):
        raise UserError(
            f"profile {profiles[0]} has the paper's models, which take weeks without a GPU",
            expected="at least 1 GPU",
            found="nodes: " + shapes(nodes),
            do="take a machine with a GPU, a cluster (--address) or another profile; "
            "--device cpu runs it all the same",
        )
    return "cpu"


SEGMENTER_GPU = 0.3
"""Share of a GPU that a segmenter holds for as long as a study runs."""
STEP_GPU = 0.25
"""Share of a GPU that a process takes while it computes stages on it."""


def share(resources: Resources, stage: str, device: str) -> tuple[float, float]:
    """CPUs and GPUs that one run of a stage takes; of a training, one worker of it. What runs on
    CPUs takes no GPU."""
    trains, runs = STAGES[stage].trains, STAGES[stage].runs
    if trains:
        asked = resources.get("round", {})
    else:
        asked = {**resources.get("stage", {}), **resources.get(stage, {})}
    gpus = 0.0
    if device.startswith("cuda") and runs != "cpu":
        gpus = asked.get("gpu", 1 - segmenter_share(resources, device) if trains else STEP_GPU)
    return asked.get("cpu", 1.0), gpus


def segmenter_share(resources: Resources, device: str) -> float:
    """The share of a GPU that a segmenter takes: what is asked for the stage ``masks``, or
    ``embed``."""
    asked = {**resources.get("embed", {}), **resources.get("masks", {})}
    return asked.get("gpu", SEGMENTER_GPU) if device.startswith("cuda") else 0.0


@dataclass(frozen=True)
class Request:
    """``count`` processes at once, each with so many CPUs, GPUs (or a share of one) and bytes of
    memory of one node; ``where`` the study says so."""

    where: str
    cpus: float
    gpus: float
    memory: float
    count: int = 1

    @property
    def threads(self) -> int:
        """That work beside a card of its own; off GPUs the one that computes."""
        return max(1, int(self.cpus)) if self.gpus else 1

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} CPU"]
        parts += [f"{self.gpus:g} GPU"] if self.gpus else []
        parts += [f"{self.memory / 2**30:g} GiB"] if self.memory else []
        return ", ".join(parts)


def step_request(resources: Resources, step: str, device: str) -> Request:
    """What the process of a step takes: of everything the most that one of its stages asks for."""
    stages = STEPS[step].computes
    taken = [share(resources, stage, device) for stage in stages]
    cpus, gpus = (max(values) for values in zip(*taken, strict=True))
    named = [stage for stage in stages if stage in resources] or ["stage"]
    memory = max(_memory(resources, stage) for stage in stages)
    return Request(f"resources.{named[0]}", cpus, gpus, memory)


def round_request(resources: Resources, workers: int, device: str) -> Request:
    """What the workers of a round take."""
    cpus, gpus = share(resources, "round", device)
    return Request("resources.round", cpus, gpus, _memory(resources, "round"), workers)


def _memory(resources: Resources, stage: str) -> float:
    asked = resources.get(stage, {})
    if stage != "round":
        asked = {**resources.get("stage", {}), **asked}
    return asked.get("memory", 0.0) * 2**30


def room(request: Request, nodes: Sequence[Node], *, held: float = 0.0) -> int:
    """How many processes of a request fit on all nodes at once, where so much of every GPU is
    ``held`` by segmenters; of a node's first alone for what does not fit beside them."""
    return sum(_room(request, node, held) for node in nodes)


def _room(request: Request, node: Node, held: float) -> int:
    fits = [_times(node.cpus, request.cpus)]
    if request.memory:
        fits.append(_times(node.memory, request.memory))
    if request.gpus:
        beside = _times(max(0.0, 1 - held), request.gpus)
        free = int(node.gpus) if beside or not held else max(0, int(node.gpus) - 1)
        each = beside or _times(1.0, request.gpus)  # a share is one of one GPU
        fits.append(free * each if request.gpus <= 1 else _times(free, request.gpus))
    return min(fits)


def _times(have: float, need: float) -> int:
    return int(have / need + 1e-9)


def segmented(gpus: float, largest: float, held: float) -> int:
    """How many of a node's GPUs have segmenters, which hold so much of each: all where the
    ``largest`` request fits beside them, else one, and the others are left whole for it."""
    return int(gpus) if largest <= 1 - held + 1e-9 else min(1, int(gpus))


def largest_share(resources: Resources, device: str) -> float:
    """The most of a GPU that any process asks for which is no segmenter."""
    requests = [step_request(resources, step, device) for step in STEPS]
    return max(request.gpus for request in (*requests, round_request(resources, 1, device)))


def check_request(request: Request, nodes: Sequence[Node], *, held: float = 0.0) -> str | None:
    """None if all processes of a request fit at once, else what would have to be there."""
    fit = room(request, nodes, held=held)
    if fit >= request.count:
        return None
    if request.count == 1:
        return f"one node with {request} ({request.where})"
    each = f"{request.count} workers of {request} each"
    return f"room for {each} ({request.where}), there is room for {fit}"


def unmet(
    resources: Resources, nodes: Sequence[Node], *, device: str, workers: int, models: int = 1
) -> list[str]:
    """What would have to be there for each step to fit on a node, and for the workers of a round on
    all of them together; nothing if they do. ``models``: kinds of segmenters, each with its share
    of a GPU."""
    held = models * segmenter_share(resources, device)
    training = round_request(resources, workers, device)
    requests = [*(step_request(resources, step, device) for step in STEPS), training]
    problems = dict.fromkeys(check_request(request, nodes, held=held) for request in requests)
    return [problem for problem in problems if problem is not None]


def refuse_shared_card(resources: Resources, *, device: str, workers: int) -> None:
    """UserError if two workers of a round might get one GPU, whatever the cluster."""
    training = round_request(resources, workers, device)
    if workers > 1 and 0 < training.gpus <= 0.5:
        raise UserError(
            "two workers of one round could get the same GPU, which NCCL refuses",
            expected=f"more than half of a GPU for each of {workers} workers",
            found=f"{training.gpus:g} GPU ({training.where})",
            do="write `resources: {round: {gpu: 0.7}}` (segmenters hold `masks: {gpu: …}`, "
            f"{segmenter_share(resources, device):g} here), or train a round with one worker",
        )


def refuse_impossible(
    resources: Resources, nodes: Sequence[Node], *, device: str, workers: int, models: int = 1
) -> None:
    """UserError with the shapes of the nodes for what is unmet, and for workers of a round that
    might share a GPU."""
    refuse_shared_card(resources, device=device, workers=workers)
    told = unmet(resources, nodes, device=device, workers=workers, models=models)
    if told:
        raise too_much(told, nodes)


def too_much(told: Sequence[str], nodes: Sequence[Node], waited: str = "") -> UserError:
    """The error of what is unmet."""
    return UserError(
        f"the study asks for more than the cluster has{waited}",
        found="nodes: " + shapes(nodes),
        expected="; ".join(told),
        do="lower resources: in the study (or --workers), or take a larger cluster; for one that "
        "grows say `--wait MINUTES`, or `cluster:` in the study",
    )


def shapes(nodes: Sequence[Node]) -> str:
    """``2 × (16 CPU, 1 GPU, 60 GiB)``."""
    return "; ".join(f"{n} × ({node})" for node, n in Counter(map(str, nodes)).items())
