"""The results of a study, for whoever computes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from coin_ray.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from coin_ray.execution.study_run import Outcome
    from coin_ray.report.document.blocks import Plot
    from coin_ray.report.figures.pictures import Picture
    from coin_ray.report.values.study_results import Results as StudyResults


@dataclass(frozen=True)
class Results:
    """What the finished cells of a study say. ``values``: all that its report is made of;
    ``workspace``: where its store is; ``outcome``: what this run computed and how it ended, None
    for results that were only read.

    >>> import coin_ray
    >>> found = coin_ray.results(folder, "first.yaml")
    >>> found.table("aji").columns[:5]
    ['dataset', 'level', 'mean', 'low', 'high']
    >>> found.per_image().filter(level="mae", metric="pq")["step"].to_list()
    ['ucis', 'step1', 'round_1']
    >>> found.compare("mae")["level"].unique().to_list()
    ['none']
    >>> found.figure("levels").svg[:5]
    b'<?xml'
    >>> found.report().name
    'report.html'
    """

    values: StudyResults
    workspace: Path
    outcome: Outcome | None = None

    @property
    def failed(self) -> Mapping[str, str]:
        """Cell -> why it failed, in one line."""
        return self.outcome.failed if self.outcome else {}

    @property
    def folder(self) -> Path:
        """Where the cells lie: ``<cell>/predictions/<image>.tif``, ``overlays``, ``config.yaml``,
        ``metrics.json``."""
        return self.values.runs

    def table(self, metric: str = "aji") -> pl.DataFrame:
        """A row a data set and level: mean of a metric of ``study.report`` at the end of the chain
        with its interval (``low``, ``high``), numbers of images and seeds; null what is missing."""
        import polars as pl

        from coin_ray.report.values.result_tables import summary

        rows = summary(self.values.tables).filter(pl.col("metric") == metric)
        if rows.is_empty():
            raise UserError(
                f"the tables of this study have no {metric!r}",
                expected=", ".join(self.values.study.report),
                do="name it under report: of the study",
            )
        # The last row of a metric is its final one.
        last = rows.group_by("dataset", "level", maintain_order=True).last()
        return last.drop("metric", "step")

    def per_image(self) -> pl.DataFrame:
        """The tidy table that every number is computed from: study, cell, level, data set, image,
        seed, step, metric, value."""
        return self.values.frame

    def compare(self, baseline: str | None = None) -> pl.DataFrame:
        """Every level against the baseline (the study's, or another level) at the end of the chain:
        paired differences with intervals, corrected tests and verdicts."""
        from coin_ray.report.values.comparisons import comparisons

        study = self.values.study
        if baseline is None or baseline == study.baseline_level:
            return self.values.compared
        if baseline not in study.levels:
            raise UserError(
                f"no level {baseline!r} in this study",
                where=study.name,
                expected=", ".join(study.levels),
                do="take one of these",
            )
        other = replace(study, baseline_level=baseline)
        return comparisons(self.values.frame, other, self.values.ends)

    def figure(self, name: str = "levels", data: str | None = None) -> Plot:
        """A figure of the report (levels, differences, steps, profile, rounds …) of a data set, by
        default the first: ``svg`` and ``pdf`` are bytes, and a notebook shows it."""
        tables = self.values.tables
        names = [table.dataset for table in tables]
        wanted = data or names[0]
        drawn = [
            plot
            for table_of, plots in self._figures.items()
            if table_of == wanted
            for plot in plots
            if plot.name.startswith(name)
        ]
        if drawn:
            return drawn[0]
        there = ", ".join(plot.name for plots in self._figures.values() for plot in plots)
        raise UserError(
            f"the report has no figure {name!r} of {wanted}",
            expected=there or "a finished cell with labelled images",
            do="take one of these" if there else "see .failed and .report()",
        )

    def pictures(
        self,
        kind: str,
        *,
        images: str | Sequence[str] = (),
        levels: str | Sequence[str] = (),
        window: Sequence[int] = (),
        round_: int | None = None,
        metric: str | None = None,
        compute: bool = False,
    ) -> list[Picture]:
        """What `coin-ray figure` draws: pictures of a kind (stages, labels, scores, adjacency,
        compare, failures, curves) as the store has them. A notebook shows one, and
        ``to("pdf")`` (svg, png) are its bytes. ``window``: (side,) or (x, y, side) px;
        ``compute``: what is missing is made again."""
        from coin_ray.report.figures import pictures

        names, chosen = ((one,) if isinstance(one, str) else tuple(one) for one in (images, levels))
        asked = pictures.Asked(names, chosen, tuple(window), round_, metric, compute)
        return pictures.pictures(self.values, self.workspace, kind, asked)

    def report(self, folder: str | Path | None = None) -> Path:
        """Write the report (one page, Markdown, LaTeX, tables, figures) into a folder, by default
        the study's own; gives the page. UserError where files of these names are no report's."""
        from coin_ray.report.write import write_report

        place = Path(folder) if folder is not None else self.folder / "report"
        return write_report(self.values, place, overwrite=folder is None)[0]

    @cached_property
    def _figures(self) -> dict[str, list[Plot]]:
        """Data set -> its figures."""
        from coin_ray.report.document.blocks import Plot
        from coin_ray.report.figures.of_study import figures_section

        return {
            table.dataset: [plot for plot in section.blocks if isinstance(plot, Plot)]
            for table in self.values.tables
            for section in [figures_section(replace(self.values, tables=[table]))]
        }
