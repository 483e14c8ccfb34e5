"""``coin-ray ucis``: the models that make coarse masks, trained without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say, say_failed
from coin_ray.data.dataset import DataSet
from coin_ray.files import check_writable

if TYPE_CHECKING:
    from coin_ray.events.events import Event
    from coin_ray.execution.executor import Executor
    from coin_ray.execution.refusals import Target
    from coin_ray.execution.study_run import Outcome
    from coin_ray.outputs import Output
    from coin_ray.pipeline.cell import CellRun
    from coin_ray.study.resolved import ResolvedStudy, StudyCell

app = typer.Typer(no_args_is_help=True, help="Coarse masks: train the models that make them.")

STUDIES = {"ssa": "main_comparison", "psm": "main_comparison", "detector": "detector"}
"""The shipped studies whose coarse models these are."""
TITLES = {"ssa": "SSA", "psm": "PSM", "detector": "the detector"}

Model = Annotated[Literal["ssa", "psm", "detector"], typer.Argument(help="which model to train")]
Out = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="DIR", help="write the model, its card and the masks of the images there"
    ),
]


@app.callback()
def main() -> None:
    """Without a callback Typer would drop the verb of a group that has only one."""


@app.command()
@options.takes_study(study=None, seeds=None)
def train(
    asked: options.Asked,
    model: Model,
    address: options.Address = None,
    workers: options.Workers = None,
    device: options.Device = "auto",
    local: options.Here = False,
    no_tracking: options.NoTracking = False,
    out: Out = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train a model of coarse masks on the images of each --data, or take it from the store.

    A study with such a ucis.model on the same images and settings finds it there. The same
    command continues a training that was interrupted.
    """
    from coin_ray.cli.screen import preamble
    from coin_ray.execution.refusals import target
    from coin_ray.study.datasets import check_images, resolve_data, with_data
    from coin_ray.study.study import resolve

    request, workspace = replace(asked.request, seeds="1"), asked.workspace
    study = coarse_study(model, resolve(STUDIES[model], request))
    if out is not None:
        check_writable(out)
    for text in preamble.opening(study):
        say(text)
    found = {spec.name: resolve_data(spec, workspace) for spec in study.data}
    output = _claim(out, model, found, overwrite) if out is not None else None
    check_images(found)
    study = with_data(study, found)
    executor = options.executor(address, workers, device, local=local)
    where = target(study, executor)
    outcome = _run(study, found, workspace, executor, where, tracked=not no_tracking, plain=local)
    say_failed(outcome.failed, outcome.traces)
    for cell in study.cells:
        if cell.key_label not in outcome.failed:
            _finish(_open(cell, found, workspace, where.device), cell.data.name, found, output)
    if outcome.failed:
        raise typer.Exit(1)


def _claim(out: Path, model: str, data: Mapping[str, DataSet], overwrite: bool) -> Output:
    from coin_ray.data.folder import read_folders
    from coin_ray.data.sample import Sample, read_files
    from coin_ray.outputs import claim

    names = [f"{name}-{model}{suffix}" for name in data for suffix in (".safetensors", ".yaml")]
    names += [f"{name}/{s.name}.tif" for name, found in data.items() for s in found.samples]
    read = [s for found in data.values() for s in (*found.samples, *map(Sample, found.train))]
    return claim(
        out, names, inputs=read_files(read), sources=read_folders(read), overwrite=overwrite
    )


def coarse_study(model: str, study: ResolvedStudy) -> ResolvedStudy:
    """The part of a study that trains the coarse model, up to there: one cell a data set."""
    from coin_ray.execution.order import up_to

    level = next(
        cell.level
        for cell in study.cells
        if cell.config.ucis.model == model and cell.config.ucis.trained
    )
    part = replace(
        study,
        name=f"ucis_{model}",
        title=f"Coarse masks of {TITLES[model]}",
        question="",
        levels=(level,),
        baseline_level=level,
        cells=tuple(cell for cell in study.cells if cell.level == level),
        published=None,
    )
    return up_to(part, "ucis_model")


def _run(
    study: ResolvedStudy,
    data: Mapping[str, DataSet],
    workspace: Path,
    executor: Executor,
    where: Target,
    *,
    tracked: bool,
    plain: bool,
) -> Outcome:
    from coin_ray.api.recording import recorder
    from coin_ray.cli.screen.live import watch
    from coin_ray.cli.screen.output import command_line, console
    from coin_ray.events.events import CellFinished
    from coin_ray.execution.study_run import run_study
    from coin_ray.execution.trial_log import runs_folder

    cells = {cell.key_label: cell for cell in study.cells}
    runs = runs_folder(study, workspace)
    command = command_line() if tracked else None
    with (
        recorder(study, workspace, runs, device=where.device, command=command) as record,
        watch(console(), "ucis_loss", larger_is_better=False, plain=plain) as show,
    ):

        def listen(event: Event) -> None:
            show(event)
            if isinstance(event, CellFinished):
                # Before the final values, which count as those of the last step.
                run = _open(cells[event.cell], data, workspace, where.device)
                for step, losses in curves(run.artifact("ucis_model").info):
                    record.metrics(event.cell, step, losses)
            record(event)

        return run_study(
            study,
            data,
            workspace=workspace,
            listen=listen,
            executor=executor,
            device=where.device,
            workers=where.workers,
        )


def curves(info: Mapping[str, Any]) -> Iterator[tuple[int, dict[str, float]]]:
    """Step -> the losses there, in order, from what is kept of a model's training."""
    found: dict[int, dict[str, float]] = {}
    for term, values in info["log"].items():
        for part, value in enumerate(values, 1):
            step = round(part * info["steps"][term] / len(values))
            found.setdefault(step, {})[f"ucis_{term}"] = value
    yield from sorted(found.items())


def _open(cell: StudyCell, data: Mapping[str, DataSet], workspace: Path, device: str) -> CellRun:
    from coin_ray.pipeline.runner import open_local

    return open_local(cell.config, cell.seed, data[cell.data.name].train, workspace, device=device)


def _finish(run: CellRun, name: str, data: Mapping[str, DataSet], output: Output | None) -> None:
    from coin_ray.data.write import write_label_map

    place = run.store.folder(run.key("ucis_model"))
    losses = ", ".join(f"{k.removeprefix('ucis_')} {v:.4f}" for k, v in run.ucis_losses().items())
    say(f"{name}: {run.config.ucis.model} in {place} ({losses})")
    if output is not None:
        file = write_model(run, output, name)
        for sample in data[name].samples:
            mask = run.array("ucis", sample.image).astype("int32")
            with output.file(f"{name}/{sample.name}.tif") as part:
                write_label_map(part, mask)
        say(f"{file} and its card; masks for ucis.model: files in {output.folder / name}")


def write_model(run: CellRun, output: Output, name: str) -> Path:
    """NAME-MODEL.safetensors, with its settings inside, and its card beside it (.yaml)."""
    import json

    import safetensors.numpy
    import yaml

    from coin_ray import __version__
    from coin_ray.cli.screen.output import command_line

    ucis, artifact = run.config.ucis, run.artifact("ucis_model")
    assert ucis.trained is not None
    settings = ucis.model_dump(mode="json", include={"model", "weights", "seed", ucis.model})
    card = {
        "model": f"coarse masks of nuclei by {TITLES[ucis.model]}, trained without labels",
        "checkpoint": "the weights after the last step, or their average (ema); no label is read",
        "settings": {"ucis": settings},
        "losses": run.ucis_losses(),
        "images": {image.name: image.digest() for image in run.train},
        "key": run.key("ucis_model").digest,
        "coin_ray": __version__,
        "command": command_line(),
    }
    stem = f"{name}-{ucis.model}"
    with output.file(f"{stem}.safetensors") as part:
        safetensors.numpy.save_file(artifact.arrays, part, {"settings": json.dumps(settings)})
    with output.file(f"{stem}.yaml") as part:
        text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True)
        part.write_text(text, encoding="utf-8")
    return output.folder / f"{stem}.safetensors"
