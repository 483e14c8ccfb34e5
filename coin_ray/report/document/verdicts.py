"""What became of the claims that a study registered before it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from coin_ray.report.document.blocks import Block, Document, Notes, Section, Table, Value
from coin_ray.report.document.numbers import DASH, interval
from coin_ray.report.values.claims import Judged, history, judged
from coin_ray.report.values.study_results import Results
from coin_ray.report.values.tidy import metric_title

MEANING = (
    "Confirmed: the lower bound of the difference is above 0, and the upper one not below the "
    "smallest difference worth having. Refuted: the upper bound is below that. Each is wrong with "
    "the claim's alpha at most. Futile: it was stopped, for what it had shown after some random "
    "seeds left too small a probability of its being confirmed.",
    "Bounds are one-sided and of Student's t; images and random seeds both count as chance. Claims "
    "are not corrected for each other. An exploratory one proves nothing.",
)


def verdicts_section(results: Results) -> Section | None:
    """Every claim with its verdict; None for a study that claims nothing."""
    found = judged(results)
    return _overview(found) if found else None


def verdicts_page(results: Results) -> Document | None:
    """A page of its own: the verdicts, and of each claim the path that led there."""
    study, found = results.study, judged(results)
    if study.gates is None or not found:
        return None
    counts = Counter(one.verdict for one in found)
    futility = study.gates.futility
    facts = (
        ("claims", ", ".join(f"{n} {word}" for word, n in counts.items())),
        ("futility", f"conditional power of {futility:g} or less" if futility else "not asked"),
        ("sealed", study.gates.sealed or "nothing"),
        ("profile", study.profile),
    )
    log = history(results)
    end = (Section("What happened", (Notes(tuple(log)),)),) if log else ()
    sections = (_overview(found), *map(_path, found), *end)
    return Document(f"{study.title}: verdicts", study.question.strip(), facts, sections)


def _overview(found: Sequence[Judged]) -> Section:
    columns = ("claim", "levels", "data", "verdict", "kind", "difference", "worth", "alpha")
    return Section("Verdicts", (Table("", columns, tuple(map(_row, found)), 5), Notes(MEANING)))


def _row(one: Judged) -> tuple[Value, ...]:
    low, high = one.bounds or (None, None)
    claim = one.claim
    return (
        Value(claim.claim),
        Value(f"{claim.level} against {one.baseline}"),
        Value(claim.data),
        Value(one.verdict, strong=one.verdict == "confirmed" and not one.exploratory),
        Value("exploratory" if one.exploratory else "registered"),
        interval(one.found.mean, low, high, "+.3f") if one.found else Value(DASH),
        Value(f"{metric_title(claim.metric)} {claim.worth:g}"),
        Value(f"{claim.alpha:g}"),
    )


def _path(one: Judged) -> Section:
    claim = one.claim
    said = (
        f"The claim: {claim.level} is better than {one.baseline} in "
        f"{metric_title(claim.metric)} on {claim.data}, by as little as "
        f"{claim.worth:g}, over {claim.seeds} random seeds and "
        f"{claim.images} images."
    )
    blocks: list[Block] = [said, Notes(one.path)]
    if one.exploratory:
        blocks.append(f"Exploratory: {one.exploratory}.")
    return Section(f"{claim.claim}: {one.verdict}", tuple(blocks))
