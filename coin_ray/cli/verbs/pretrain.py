"""``coin-ray pretrain``: make the built-in small models again, or on images of one's own."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from coin_ray.cli import options
from coin_ray.cli.screen.output import say, steps_told
from coin_ray.errors import UserError
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
Tiles = Annotated[
    int | None,
    typer.Option(help="how many are generated; default: the model's own", min=1, max=1_000_000),
]
Start = Annotated[
    Path | None,
    typer.Option(help="begin with the weights of this file, that such a training wrote"),
]
Batch = Annotated[
    int | None, typer.Option(help="images a step; default: the model's own", min=1, max=1_000_000)
]
Rate = Annotated[
    float | None,
    typer.Option("--lr", help="AdamW's peak rate; default: the model's own", min=1e-12, max=1e3),
]


_TRAINING: dict[str, tuple[Any, Any]] = {
    "out": (Out, inspect.Parameter.empty),
    "minutes": (Minutes, None),
    "steps": (Steps, None),
    "seed": (Seed, 0),
    "resume": (Resume, False),
    "threads": (Threads, 0),
    "device": (Device, "cpu"),
    "tiles": (Tiles, None),
    "batch": (Batch, None),
    "lr": (Rate, None),
    "overwrite": (options.Overwrite, False),
}
"""The options of every training -> what it is and its default."""


class Training(NamedTuple):
    """A pretraining as it is asked for on the command line, before anything is claimed."""

    asked: Asked
    threads: int
    overwrite: bool

    def run(self, train: Callable[[Asked], Log], start: Path | None = None) -> None:
        """Claim the weights and the checkpoint beside them, train (from the weights of ``start``),
        and say what came of it."""
        from coin_ray.pretraining.pretrain import ends

        asked, output = replace(self.asked, start=start), self._claimed()
        log = train(asked)
        for path in (asked.out, asked.checkpoint):
            output.note(path.name)
        (first, final), minutes = ends(log), log.seconds / 60
        say(f"{asked.out}: {log.steps} steps in {minutes:.1f} min, loss {first:.4f} -> {final:.4f}")

    def _claimed(self) -> Output:
        """Other tools name such files so too. A checkpoint to go on from is checked when it is
        loaded. Refuses what cannot be before anything is read."""
        import torch

        from coin_ray.outputs import claim

        asked = self.asked
        overwrite = self.overwrite or (asked.resume and asked.checkpoint.is_file())
        names = [asked.out.name, asked.checkpoint.name]
        output = claim(asked.out.parent, names, overwrite=overwrite)
        check_new_file(asked.out)
        if self.threads:
            torch.set_num_threads(self.threads)
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


def _takes_training(minutes: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb the options of a training, which lasts ``minutes`` unless a limit is said."""

    def gathered(*, threads: int, overwrite: bool, **given: Any) -> Training:
        from coin_ray.pretraining.pretrain import Asked

        if given["minutes"] is None and given["steps"] is None:
            given["minutes"] = minutes
        return Training(Asked(**given, progress=steps_told()), threads, overwrite)

    return options.shared(_TRAINING, gathered)


@app.command("backbone")
@_takes_training(minutes=12.0)
def backbone(
    training: Training,
    family: Annotated[str, typer.Option(help="mae, dinov1, dinov2 or dinov2_reg")],
    data: Data = None,
) -> None:
    """Pretrain a small ViT on generated tiles and, unlabelled, on folders of real images."""
    from coin_ray.pretraining.backbone import pretrain_backbone

    training.run(lambda asked: pretrain_backbone(family, asked, data or []))


@app.command("segmenter")
@_takes_training(minutes=40.0)
def segmenter(
    training: Training,
    start: Start = None,
    data: Data = None,
    mpp: Annotated[
        float | None,
        typer.Option(help="um/px of the images of --data; default: 0.25", min=0.01, max=10.0),
    ] = None,
) -> None:
    """Train the small promptable segmenter on generated tiles; with --data teach the built-in one,
    or that of --start, what its masks are worth, on real images whose nuclei the detector draws."""
    from coin_ray.pretraining.adapted_sam import adapt_segmenter
    from coin_ray.pretraining.small_sam import pretrain_segmenter

    if data:
        training.run(lambda asked: adapt_segmenter(asked, data, mpp or 0.25), start)
        return
    if mpp is not None:
        raise UserError("--mpp is of the images of --data", do="add --data, or leave --mpp out")
    training.run(pretrain_segmenter, start)


@app.command("detector")
@_takes_training(minutes=40.0)
def detector(training: Training, start: Start = None) -> None:
    """Train the small detector, from the segmenter's encoder on, on generated tiles."""
    from coin_ray.pretraining.detector import pretrain_detector

    training.run(pretrain_detector, start)
