"""``coin-ray predict``: segment images with the student of a finished cell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say
from coin_ray.errors import UserError
from coin_ray.files import check_writable
from coin_ray.study.errors import nearest
from coin_ray.study.resolved import ResolvedStudy, StudyCell

if TYPE_CHECKING:
    from coin_ray.data.sample import Image, Sample
    from coin_ray.pipeline.cell import CellRun

Images = Annotated[
    list[Path], typer.Option("--images", metavar="PATH", help="images to segment; repeatable")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="where the label maps go")]
Level = Annotated[
    str | None, typer.Option("--level", help="which level's student; default: the baseline")
]


@options.takes_study()
def predict(
    asked: options.Asked,
    images: Images,
    out: Out,
    level: Level = None,
    device: options.Device = "auto",
    overwrite: options.Overwrite = False,
) -> None:
    """Write a label map (tif) for every image, with the student of a cell that has finished.

    Give the options the study ran with; of several data sets or seeds the first counts. ``--mpp``
    is the resolution of --images. Label maps of an earlier call in DIR are replaced, other files
    are not.
    """
    from coin_ray.data.folder import find_samples, read_folders
    from coin_ray.data.sample import Sample, read_files
    from coin_ray.data.write import write_label_map
    from coin_ray.outputs import claim
    from coin_ray.pipeline import refs
    from coin_ray.planning.machines import find_device, usable_machine
    from coin_ray.study.datasets import resolve_data

    mpp, workspace = asked.request.mpp, asked.workspace
    cell = choose(asked._replace(request=replace(asked.request, mpp=None)).resolve(), level)
    samples = [sample for path in images for sample in find_samples(path, mpp=mpp)]
    _distinct([sample.name for sample in samples])
    found = resolve_data(cell.data, workspace)
    read = [*samples, *found.samples, *map(Sample, found.train)]
    output = claim(
        out,
        [f"{sample.name}.tif" for sample in samples],
        inputs=read_files(read),
        sources=read_folders(read),
        overwrite=overwrite,
    )
    computes = find_device(device, [usable_machine()])
    run = open_finished(cell, found.train, workspace, computes)
    step = refs.final_step(run.chain)
    _ready(run, step, samples)
    check_writable(out)
    for sample in samples:
        label_map = run.labels_at(sample.image, step)
        with output.file(f"{sample.name}.tif") as part:
            write_label_map(part, label_map)
        say(f"{sample.name}: {label_map.max(initial=0)} nuclei")
    say(f"{len(samples)} label maps in {out}, from {cell.level}, seed {cell.seed}")


def choose(study: ResolvedStudy, level: str | None) -> StudyCell:
    """The first cell of a level. Raises UserError naming the levels there are."""
    wanted = study.baseline_level if level is None else level
    for cell in study.cells:
        if cell.level == wanted:
            return cell
    guess = nearest(wanted, study.levels)
    raise UserError(
        f"no level '{wanted}' in this study",
        where=study.name,
        expected=", ".join(study.levels),
        do=f"did you mean '{guess}'?" if guess else "take one of these",
    )


def open_finished(cell: StudyCell, train: Sequence[Image], workspace: Path, device: str) -> CellRun:
    """A cell of whose trainings the store has all, which another kind of device may have done than
    ``device``. UserError if it has not."""
    from coin_ray.pipeline.runner import open_local
    from coin_ray.planning.states import KINDS

    rounds = cell.config.rounds.count
    for kind in dict.fromkeys((device, *KINDS)):
        run = open_local(cell.config, cell.seed, train, workspace, device=device, trained=kind)
        trained = [run.key("round", round_=rounds)] if rounds else []
        if cell.config.ucis.trained is not None:
            trained.append(run.key("ucis_model"))
        if all(map(run.store.has, trained)):
            return run
    raise UserError(
        "this cell has not finished, so not all that it trains is there yet",
        where=cell.key_label,
        do="run `coin-ray sweep` with the same options first",
    )


def _ready(run: CellRun, step: str, samples: Sequence[Sample]) -> None:
    """UserError for what would stop the work half-way: images, weights, masks, the dense CRF."""
    from coin_ray.data.dataset import DataSet
    from coin_ray.pipeline import refs
    from coin_ray.pipeline.needs import uses_crf
    from coin_ray.propagation.crf import load_dense_crf
    from coin_ray.study.datasets import check_images

    if uses_crf(run.config):
        load_dense_crf()
    images = tuple(sample.image for sample in samples)
    check_images({"": DataSet(images, ())})
    for image in images:
        run.chain.key(
            refs.behind(run.chain, image, step)
        )  # asks for every weight file and mask behind it


def _distinct(names: list[str]) -> None:
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise UserError(
            "two images of one name would overwrite each other",
            found=", ".join(twice[:5]),
            do="give their folders one at a time",
        )
