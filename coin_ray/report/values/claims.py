"""The claims of a study: how they were registered, the path from there, what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from coin_ray.files import read_kept
from coin_ray.report.values.study_results import Results
from coin_ray.statistics.claims import judge
from coin_ray.statistics.paired import Values, aligned
from coin_ray.statistics.sequential import Look, bounds, look
from coin_ray.study.metrics import mode
from coin_ray.study.resolved import Claim, ResolvedStudy

FILE = "gates.json"
"""Beside the cells: claims as they were registered, their looks, and when the seal was broken."""
Verdict = Literal["confirmed", "refuted", "not decided", "futile"]


@dataclass(frozen=True)
class Judged:
    """A claim with its ``verdict``. ``exploratory``: why it proves nothing, empty for one that was
    registered before its first result; ``path``: lines from its registration to its verdict;
    ``found``: the difference at the end, where it was looked at, with its bounds."""

    claim: Claim
    baseline: str
    verdict: Verdict
    exploratory: str
    path: tuple[str, ...]
    found: Look | None

    @property
    def bounds(self) -> tuple[float, float] | None:
        return bounds(self.found, self.claim.alpha) if self.found else None


def registered(runs: Path) -> dict[str, Any]:
    """What is kept about the claims of a study; empty before it ran. UserError for a file that is
    empty or cut: registered anew in silence, a claim would look older than its results."""
    return read_kept(
        runs / FILE,
        "put a copy of it back; without one, move it away and sweep again: claims that have "
        "results are then registered as exploratory",
    )


def watched(claim: Claim, study: ResolvedStudy) -> str | None:
    """The data set on which a claim is looked at before its end; None where all is sealed."""
    assert study.gates is not None
    return claim.watch or (claim.data if claim.data != study.gates.sealed else None)


def paired(
    values: Mapping[tuple[str, str], Values], claim: Claim, dataset: str, study: ResolvedStudy
) -> Look | None:
    """A look at a claim: how much better its level is on what both have of its random seeds."""
    seeds = study.seeds[: claim.seeds]
    levels = (claim.level, claim.baseline or study.baseline_level)
    own, base = (
        {key: value for key, value in values.get((dataset, level), {}).items() if key[1] in seeds}
        for level in levels
    )
    if not own or not base:
        return None
    level, baseline = aligned(own, base)
    return look((level - baseline) * (-1 if mode(claim.metric) == "min" else 1))


def judged(results: Results) -> list[Judged]:
    """Every claim of the study, in its order."""
    study, kept = results.study, registered(results.runs)
    return [_judged(results, claim, kept) for claim in (study.gates.claims if study.gates else ())]


def history(results: Results) -> list[str]:
    """What happened to the gates as a whole."""
    return [f"{at}: {what}" for at, what in registered(results.runs).get("history", ())]


def _judged(results: Results, claim: Claim, kept: Mapping[str, Any]) -> Judged:
    study = results.study
    entry = kept.get("claims", {}).get(claim.claim, {})
    found = _at_end(results, claim)
    verdict: Verdict = judge(found, worth=claim.worth, alpha=claim.alpha)
    why = ""
    if any(told["futile"] for told in entry.get("looks", ())):
        verdict, found = "futile", None
    elif lacks := _lacks(found, claim, kept.get("ended", "")):
        verdict, why = "not decided", lacks
    path = [f"registered {entry['registered']}, digest {entry['digest'][:12]}"] if entry else []
    path += [_of_look(told) for told in entry.get("looks", ())]
    if claim.data == (study.gates and study.gates.sealed) and verdict != "futile":
        opened = kept.get("opened")
        path.append(f"{claim.data} {f'unsealed {opened}' if opened else 'is still sealed'}")
    if found is not None:
        low, high = bounds(found, claim.alpha)
        path.append(
            f"at the end, {found.seeds} random seeds and {found.images} images of {claim.data}: "
            f"{found.mean:+.4f}, at least {low:+.4f}, at most {high:+.4f}"
        )
    path.append(f"{verdict}{f': {why}' if why else ''}")
    base = claim.baseline or study.baseline_level
    exploratory = entry.get("exploratory", "it has not been registered")
    return Judged(claim, base, verdict, exploratory, tuple(path), found)


def _at_end(results: Results, claim: Claim) -> Look | None:
    values = {which: end.values.get(claim.metric, {}) for which, end in results.ends.items()}
    return paired(values, claim, claim.data, results.study)


def _lacks(found: Look | None, claim: Claim, ended: str) -> str:
    """Why a claim cannot be judged as it was registered."""
    seeds, images = (found.seeds, found.images) if found else (0, 0)
    if seeds >= claim.seeds and images >= claim.images:
        return ""
    return ended or (
        f"{seeds} of {claim.seeds} random seeds and {images} of {claim.images} images on "
        f"{claim.data}"
    )


def _of_look(told: Mapping[str, Any]) -> str:
    return (
        f"after {told['seeds']} random seeds, {told['images']} images of {told['on']}: "
        f"{told['mean']:+.4f}, conditional power {told['power']:.2f}, "
        f"{'futile' if told['futile'] else 'goes on'}"
    )
