"""``coin-ray pretrain``: make the built-in small models again, or on images of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say, steps_told
from coin_ray.files import check_new_file

if TYPE_CHECKING:
    from coin_ray.outputs import Output
    from coin_ray.pretraining.pretrain import Asked
    from coin_ray.training.checkpoint import Log

app = typer.Typer(no_args_is_help=True, help="Train the small built-in models, without labels.")

Out = Annotated[Path, typer.Option("--out", help="the .safetensors file to write")]
Data = Annotated[
    list[Path] | None, typer.Option(help="folder of real images, unlabelled; repeatable")
]
Minutes = Annotated[
    float | None, typer.Option(help="stop after this much training", min=0.0, max=1e6)
]
Steps = Annotated[
    int | None, typer.Option(help="stop after this many steps", min=1, max=100_000_000)
]
Seed = Annotated[
    int,
    typer.Option(help="of the tiles, the weights and every random draw", min=0, max=2**32 - 1),
]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the checkpoint beside the file")]
Threads = Annotated[int, typer.Option(help="CPU threads; 0 = as PyTorch likes", min=0, max=4096)]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N")]
Batch = Annotated[
    int | None, typer.Option(help="images a step; default: the model's own", min=1, max=1_000_000)
]
Rate = Annotated[
    float | None,
    typer.Option("--lr", help="AdamW's peak rate; default: the model's own", min=1e-12, max=1e3),
]


@app.command("backbone")
def backbone(
    family: Annotated[str, typer.Option(help="mae, dinov1, dinov2 or dinov2_reg")],
    out: Out,
    data: Data = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = 0,
    device: Device = "cpu",
    batch: Batch = None,
    lr: Rate = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Pretrain a small ViT on generated tiles and, unlabelled, on folders of real images."""
    from coin_ray.pretraining.pretrain import Asked

    minutes = 12.0 if minutes is None and steps is None else minutes
    asked = Asked(
        out, steps, minutes, seed, resume, device, batch=batch, lr=lr, progress=steps_told()
    )
    output = _prepared(asked, threads, overwrite)
    from coin_ray.pretraining.backbone import pretrain_backbone

    _finish(asked, output, pretrain_backbone(family, asked, data or []))


@app.command("segmenter")
def segmenter(
    out: Out,
    data: Data = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="um/px of the images of --data; default: 0.25", min=0.01, max=10.0),
    ] = None,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = 0,
    device: Device = "cpu",
    batch: Batch = None,
    lr: Rate = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train the small promptable segmenter on generated tiles; with --data go on with the built-in
    one, on real images whose nuclei the built-in detector draws."""
    from coin_ray.errors import UserError
    from coin_ray.pretraining.pretrain import Asked

    if mpp is not None and not data:
        raise UserError("--mpp is of the images of --data", do="add --data, or leave --mpp out")
    minutes = 40.0 if minutes is None and steps is None else minutes
    asked = Asked(
        out, steps, minutes, seed, resume, device, batch=batch, lr=lr, progress=steps_told()
    )
    output = _prepared(asked, threads, overwrite)
    from coin_ray.pretraining.small_sam import adapt_segmenter, pretrain_segmenter

    found = adapt_segmenter(asked, data, mpp or 0.25) if data else pretrain_segmenter(asked)
    _finish(asked, output, found)


@app.command("detector")
def detector(
    out: Out,
    minutes: Minutes = None,
    steps: Steps = None,
    seed: Seed = 0,
    resume: Resume = False,
    threads: Threads = 0,
    device: Device = "cpu",
    batch: Batch = None,
    lr: Rate = None,
    overwrite: options.Overwrite = False,
) -> None:
    """Train the small detector, from the segmenter's encoder on, on generated tiles."""
    from coin_ray.pretraining.pretrain import Asked

    minutes = 40.0 if minutes is None and steps is None else minutes
    asked = Asked(
        out, steps, minutes, seed, resume, device, batch=batch, lr=lr, progress=steps_told()
    )
    output = _prepared(asked, threads, overwrite)
    from coin_ray.pretraining.detector import pretrain_detector

    _finish(asked, output, pretrain_detector(asked))


def _prepared(asked: Asked, threads: int, overwrite: bool) -> Output:
    """Claims the weights and the checkpoint beside them, which other tools name so too; one to go
    on from is checked when it is loaded. Refuses what cannot be before anything is read."""
    import torch

    from coin_ray.errors import UserError
    from coin_ray.outputs import claim

    overwrite = overwrite or (asked.resume and asked.checkpoint.is_file())
    names = [asked.out.name, asked.checkpoint.name]
    output = claim(asked.out.parent, names, overwrite=overwrite)
    check_new_file(asked.out)
    if threads:
        torch.set_num_threads(threads)
    try:
        index = torch.device(asked.device).index or 0
    except RuntimeError as error:
        raise UserError(
            f"--device cannot be {asked.device}", expected="cpu, cuda or cuda:N"
        ) from error
    if asked.device.startswith("cuda") and torch.cuda.device_count() <= index:
        raise UserError(
            "no GPU here", expected="a CUDA device", found="none", do="use --device cpu"
        )
    return output


def _finish(asked: Asked, output: Output, log: Log) -> None:
    from coin_ray.pretraining.pretrain import ends

    for path in (asked.out, asked.checkpoint):
        output.note(path.name)
    (first, final), minutes = ends(log), log.seconds / 60
    say(f"{asked.out}: {log.steps} steps in {minutes:.1f} min, loss {first:.4f} -> {final:.4f}")
