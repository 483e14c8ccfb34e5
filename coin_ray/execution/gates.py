"""The claims of a study: registered before its first result, looked at after each random seed, and
held against the sealed split once, at the end."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from coin_ray.events.events import Note
from coin_ray.execution.tally import Tally
from coin_ray.files import make_folder, write_text
from coin_ray.identity import digest
from coin_ray.report.values.by_image import values_by_image
from coin_ray.report.values.claims import FILE, paired, registered, watched
from coin_ray.statistics.sequential import conditional_power
from coin_ray.study.cells import config_digest
from coin_ray.study.resolved import Claim, Gates, ResolvedStudy, StudyCell

LATE = "its level or its baseline had results before it was registered"
CHANGED = "changed after its first result"
UNSEALED = "the sealed split had been opened before it was registered"


class Registry:
    """The claims of a study that has ``gates``, in a file beside its cells."""

    def __init__(self, study: ResolvedStudy, runs: Path, tally: Tally) -> None:
        assert study.gates is not None
        self._study, self._gates, self._runs, self._tally = study, study.gates, runs, tally
        kept = registered(runs)
        self._claims: dict[str, dict[str, Any]] = kept.get("claims", {})
        self._history: list[list[str]] = kept.get("history", [])
        self._opened: str | None = kept.get("opened")
        self._ended = ""
        self._before = float(kept.get("seconds", 0.0)) - self._seconds

    @property
    def _seconds(self) -> float:
        """What this run has computed so far."""
        return sum(self._tally.state.seconds.values())

    def register(self, stored: Callable[[StudyCell], bool]) -> None:
        """Write down what would count. A claim that is new, or another than it was, when there are
        results of it (``stored``) is exploratory, and that is said."""
        for claim in self._gates.claims:
            identity, old = claim_identity(self._study, claim), self._claims.get(claim.claim)
            if old is not None and old["digest"] == identity:
                continue
            late = any(map(stored, self._cells([claim])))
            why = (CHANGED if old else LATE) if late else ""
            if self._opened and claim.data == self._gates.sealed:
                why = UNSEALED
            self._claims[claim.claim] = {
                "digest": identity,
                "study": digest([cell.key_label for cell in self._study.cells]),
                "registered": _now(),
                "exploratory": why,
                "claim": asdict(claim),
                "looks": [],
            }
            word = "registered again" if old else "registered"
            word += f", exploratory: {why}" if why else ""
            self._say(f"claim {claim.claim!r} {word}", again=True)
        for name in self._claims.keys() - {claim.claim for claim in self._gates.claims}:
            del self._claims[name]
            self._say(f"claim {name!r} withdrawn", again=True)
        self._write()

    def decide(self, part: ResolvedStudy) -> dict[tuple[str, str], str]:
        """Look at every claim that is left; (data set, level) -> why it is left out of the further
        random seeds."""
        for claim in self._left():
            if len(part.seeds) < claim.seeds:
                self._look(claim, part)
        self._look_at_hours()
        self._write()
        needed = {level for claim in self._left() for level in (claim.level, self._baseline(claim))}
        return {
            (str(dataset), claim.level): self._why(claim)
            for claim in self._gates.claims
            if claim.level not in needed
            for dataset in (claim.data, watched(claim, self._study))
            if dataset not in (None, self._gates.sealed)
        }

    def open(self) -> list[StudyCell]:
        """The cells of the sealed split that the claims which are left ask for; the seal is broken,
        and that is written down before any of them runs."""
        self._look_at_hours()
        self._write()
        left = [claim for claim in self._left() if claim.data == self._gates.sealed]
        if not left:
            return []
        if self._opened is None:
            self._opened = _now()
            names = ", ".join(repr(claim.claim) for claim in left)
            self._say(f"{self._gates.sealed} is unsealed for {names}")
            self._write()
        return [cell for cell in self._cells(left) if cell.data.name == self._gates.sealed]

    def _look_at_hours(self) -> None:
        """End the claims if the hours are spent. A split that is unsealed is run to its end, also
        by a run that goes on: to stop in the middle of it would waste the seal."""
        hours = (self._before + self._seconds) / 3600
        if self._gates.hours is None or hours < self._gates.hours or self._opened or self._ended:
            return
        self._ended = f"the {self._gates.hours:g} hours of its gates were spent"
        self._say(f"claims stop undecided: {self._ended}")

    def _left(self) -> list[Claim]:
        claims = () if self._ended else self._gates.claims
        return [c for c in claims if not any(told["futile"] for told in self._looks(c))]

    def _looks(self, claim: Claim) -> list[dict[str, Any]]:
        looks: list[dict[str, Any]] = self._claims[claim.claim]["looks"]
        return looks

    def _baseline(self, claim: Claim) -> str:
        return claim.baseline or self._study.baseline_level

    def _cells(self, claims: Sequence[Claim]) -> list[StudyCell]:
        """The cells that judge claims, and those on which they are looked at."""
        wanted = {
            (level, dataset, seed)
            for claim in claims
            for level in (claim.level, self._baseline(claim))
            for dataset in (claim.data, watched(claim, self._study))
            for seed in self._study.seeds[: claim.seeds]
        }
        return [c for c in self._study.cells if (c.level, c.data.name, c.seed) in wanted]

    def _look(self, claim: Claim, part: ResolvedStudy) -> None:
        dataset = watched(claim, self._study)
        if dataset is None:
            return
        found = paired(values_by_image(part, self._runs, claim.metric), claim, dataset, self._study)
        if found is None or found.seeds < len(part.seeds):
            return  # a cell failed
        power = conditional_power(found, claim.seeds, claim.worth, claim.alpha)
        futility = self._gates.futility
        told = {
            "seeds": found.seeds,
            "images": found.images,
            "on": dataset,
            "mean": round(found.mean, 6),
            "power": round(power, 6),
            "futile": futility > 0 and power <= futility,
        }
        looks = self._looks(claim)
        looks[:] = [*(one for one in looks if one["seeds"] < found.seeds), told]
        if told["futile"]:
            self._say(f"claim {claim.claim!r}: {self._why(claim)}")

    def _why(self, claim: Claim) -> str:
        looks = self._looks(claim)
        if looks and looks[-1]["futile"]:
            last = looks[-1]
            return (
                f"futile after {last['seeds']} random seeds: conditional power "
                f"{last['power']:.2g}, at most {self._gates.futility:g}"
            )
        return self._ended

    def _say(self, text: str, *, again: bool = False) -> None:
        """Once, unless it may come ``again``: a study that goes on finds what it found before."""
        if again or text not in [what for _, what in self._history]:
            self._history.append([_now(), text])
            self._tally(Note(text))

    def _write(self) -> None:
        make_folder(self._runs)
        kept = {
            "claims": self._claims,
            "history": self._history,
            "opened": self._opened,
            "ended": self._ended,
            "seconds": round(self._before + self._seconds, 1),
        }
        write_text(self._runs / FILE, json.dumps(kept, indent=1))


def claim_identity(study: ResolvedStudy, claim: Claim) -> str:
    """Digest of a claim with all of the study that its result depends on: settings of both levels,
    images and labels, random seeds, and the rules of the gates."""
    gates: Gates | None = study.gates
    assert gates is not None
    rules: Mapping[str, Any] = {k: v for k, v in asdict(gates).items() if k != "claims"}
    levels = (claim.level, claim.baseline or study.baseline_level)
    names = sorted({claim.data, watched(claim, study) or claim.data})
    return digest(
        {
            "study": study.run_name,
            "claim": asdict(claim),
            "rules": rules,
            "levels": [config_digest(study.configuration(level)) for level in levels],
            "data": [study.contents[name] for name in names],
            "seeds": list(study.seeds[: claim.seeds]),
        }
    )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
