"""In what order a study's cells are run, and which of them are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from coin_ray.execution.cell_spec import with_rounds
from coin_ray.statistics.objective import spearman
from coin_ray.study.resolved import ResolvedStudy, Stopping, StudyCell, Until

Cells = Sequence[StudyCell]
Metrics = Mapping[str, Mapping[str, float]]
"""Cell (its label) -> metric -> value; cells that failed are not there."""
Decide = Callable[[ResolvedStudy], Mapping[tuple[str, str], str]]
"""Of a study with the cells and seeds that have run: (data set, level) -> why that level is left
out of the further seeds; those that go on are not there."""
Verdicts = Callable[[ResolvedStudy], Mapping[tuple[str, str], str | None]]
"""What the cells of a study say about its levels: (data set, level) -> better, worse, equal, open
or None."""


def decided(first: int, verdicts: Verdicts) -> Decide:
    """Leave out what has a verdict after ``first`` seeds or more."""

    def decide(part: ResolvedStudy) -> dict[tuple[str, str], str]:
        count = len(part.seeds)
        found = verdicts(part) if count >= first else {}
        return {
            pair: f"decided after {count} random seeds: {verdict}"
            for pair, verdict in found.items()
            if verdict not in ("open", None)
        }

    return decide


def together(rules: Sequence[Decide]) -> Decide:
    """Leave out what any rule does; the first one says why."""

    def decide(part: ResolvedStudy) -> dict[tuple[str, str], str]:
        found: dict[tuple[str, str], str] = {}
        for rule in rules:
            found = {**rule(part), **found}
        return found

    return decide


def verdicts_in(runs: Path) -> Verdicts:
    """By what the finished cells of (a part of) a study left in ``runs``, and its first metric."""
    from coin_ray.report.values.collect import collect
    from coin_ray.report.values.comparisons import comparisons

    def verdicts(part: ResolvedStudy) -> dict[tuple[str, str], str | None]:
        rows = comparisons(collect(part, runs).frame, part).to_dicts()
        own = [row for row in rows if row["metric"] == part.report[0]]
        return {(row["dataset"], row["level"]): row["verdict"] for row in own}

    return verdicts


def up_to(study: ResolvedStudy, stage: Until) -> ResolvedStudy:
    """The study with its cells computed up to a stage before the first round: on the way there
    nothing is searched, screened, stopped or decided."""
    cells = tuple(replace(c, config=with_rounds(c.config, 0)) for c in study.cells)
    return replace(up_to_end(study), cells=cells, until=stage)


def up_to_end(study: ResolvedStudy) -> ResolvedStudy:
    """The study with every cell that it has now, each to its end."""
    whole = replace(study, search=None, screen=None, stopping=Stopping("none"), first_seeds=None)
    return replace(whole, gates=None)


def most_rounds(study: ResolvedStudy) -> int:
    """Of any cell of a study, those that a search may propose included."""
    space = study.search.space if study.search else ()
    searched = [max(d.values) for d in space if d.key == "rounds.count"]
    return max([*(cell.config.rounds.count for cell in study.cells), *searched])


def halves(study: ResolvedStudy) -> bool:
    """True if a study stops cells that fall behind others after a round."""
    return study.stopping.rule == "asha" and most_rounds(study) > study.stopping.grace


def screened(study: ResolvedStudy, metrics: Metrics) -> tuple[tuple[str, ...], dict[str, str]]:
    """The levels that are worth their rounds: the baseline, then the ``keep`` best by the mean of
    the screening metric over data sets; and why each of the others is not."""
    assert study.screen is not None
    metric = study.screen.metric
    values = {}
    for level in study.levels:
        own = [c.key_label for c in study.cells if c.level == level and c.seed == study.seeds[0]]
        if all(metric in metrics.get(label, {}) for label in own):
            values[level] = fmean(metrics[label][metric] for label in own)
    others = [level for level in values if level != study.baseline_level]
    others.sort(key=lambda level: values[level], reverse=study.screen.mode == "max")
    made = [v for v in study.levels if study.configuration(v).predictions.path]
    kept = (study.baseline_level, *others[: study.screen.keep], *made)
    reasons = {
        level: f"screened out: {metric} {values[level]:.3f} before round 1, rank {rank} of "
        f"{len(others)}, {study.screen.keep} kept"
        for rank, level in enumerate(others, 1)
        if level not in kept
    }
    failed = [level for level in study.levels if level not in values and level not in kept]
    return kept, reasons | dict.fromkeys(failed, "screened out: its first stages failed")


def validity(study: ResolvedStudy, before: Metrics, after: Metrics) -> list[str]:
    """How well the screening ranked the levels that were distilled all the same: by data set, the
    rank correlation between its metric and the objective at the end (mean over seeds)."""
    assert study.screen is not None
    metric, goal = study.screen.metric, study.objective.metric
    lines = []
    for spec in study.data:
        pairs = []
        for level in study.levels:
            own = [c for c in study.cells if c.level == level and c.data.name == spec.name]
            ends = [after[c.key_label][goal] for c in own if goal in after.get(c.key_label, {})]
            start = [told[metric] for c in own if metric in (told := before.get(c.key_label, {}))]
            if ends and start:
                pairs.append((start[0], fmean(ends)))
        found = spearman([x for x, _ in pairs], [y for _, y in pairs])
        said = "too few or too equal to tell" if found is None else f"{found.rho:.2f}"
        lines.append(
            f"validity of the screening on {spec.name}: Spearman correlation of {metric} before "
            f"round 1 with {goal} at the end: {said} (n = {len(pairs)} distilled levels)"
        )
    return lines


def by_seeds(
    study: ResolvedStudy,
    cells: Cells,
    finish: Callable[[str, Cells], None],
    decide: Decide,
) -> dict[str, str]:
    """Run the first seeds of all cells, then of each further seed only the levels that nothing has
    been decided about, and the baseline that they are compared with. Why a cell is left out.

    ``finish(what, cells)`` runs cells to their end. A level that has been decided stays decided.
    """
    first = study.least_seeds if len(study.levels) > 1 else len(study.seeds)
    finish("", [c for c in cells if c.seed in study.seeds[:first]])
    known: dict[tuple[str, str], str] = {}
    reasons: dict[str, str] = {}
    for count in range(first, len(study.seeds)):
        seeds = study.seeds[:count]
        done = [c for c in cells if c.seed in seeds and c.key_label not in reasons]
        known = {**decide(part_of(study, done, seeds)), **known}
        following = [c for c in cells if c.seed == study.seeds[count]]
        undecided = {
            c.data.name
            for c in following
            if c.level != study.baseline_level and (c.data.name, c.level) not in known
        }
        for cell in following:
            if cell.level == study.baseline_level and cell.data.name not in undecided:
                reasons[cell.key_label] = f"every level was decided after {count} random seeds"
            elif (cell.data.name, cell.level) in known:
                reasons[cell.key_label] = known[cell.data.name, cell.level]
        wanted = [c for c in following if c.key_label not in reasons]
        if wanted:
            levels = len({c.level for c in wanted} - {study.baseline_level})
            still = f"{levels} level{'s' * (levels != 1)}"
            finish(f"random seed {study.seeds[count]} of what is open: {still}", wanted)
    return reasons


def part_of(study: ResolvedStudy, cells: Cells, seeds: Sequence[int]) -> ResolvedStudy:
    """The study with these cells and seeds alone."""
    there = {cell.level for cell in cells}
    levels = tuple(level for level in study.levels if level in there)
    return replace(study, cells=tuple(cells), levels=levels, seeds=tuple(seeds))
