"""Every path of the package that runs on a device, small, on a device that is not there."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_stages import SMALL, STAGES, Stage
from coin_ray.confidence.prompts import Prompts, make_prompts, with_negatives
from coin_ray.confidence.sam import SamSegmenter
from coin_ray.confidence.small import SmallSegmenter
from coin_ray.confidence.small_model import SmallSam
from coin_ray.distillation import augment
from coin_ray.distillation.inference import predict_probability
from coin_ray.distillation.network import build_student, student_from_weights
from coin_ray.distillation.settings import Infer, Student
from coin_ray.distillation.targets import PseudoLabels
from coin_ray.distillation.training import Part, train_round
from coin_ray.pretraining.backbone import FAMILIES, pretrain_backbone
from coin_ray.pretraining.pretrain import Asked
from coin_ray.pretraining.small_sam import pretrain_segmenter
from coin_ray.propagation.backbones import Backbone, build_vit
from coin_ray.propagation.centroids import centroids, class_sums
from coin_ray.propagation.features import (
    WindowFeatures,
    extract_features,
    normalise_features,
)
from coin_ray.propagation.settings import Uss
from coin_ray.propagation.similarity import similarity_map
from coin_ray.training.layout import placed
from coin_ray.training.world import World
from coin_ray.ucis import fitting, psm, psm_network, self_training, ssa_network
from coin_ray.ucis.detection import read
from coin_ray.ucis.detector import VotingNetwork
from coin_ray.ucis.psm_activation import rotation_loss, self_activation_map
from coin_ray.ucis.settings import Psm, Ssa
from coin_ray.ucis.ssa import train_ssa
from coin_ray.ucis.ssa_prediction import ssa_mask
from coin_ray.weights.modules import to_arrays
from coin_ray.weights.registry import entry
from tests.test_confidence_sam import tiny_sam
from tests.test_confidence_sam2 import small_sam2

CUDA = World(device="cuda:0")
STEPS = 2
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 255, (96, 80, 3), dtype=np.uint8)
INSIDE = np.hypot(*(np.mgrid[:96, :80] - 40)) < 20
# Made before the trace: its weights are drawn until they lie in a range, and fake ones never do.
SAM2 = small_sam2() if find_spec("sam2") else None
POINTS = np.array([[40.0, 40.0], [30.0, 50.0], [60.0, 20.0]])
TINY_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2}
TINY_SAM = {"dim": 16, "depth": 2, "heads": 2, "decoder_dim": 16}
STUDENT: dict[str, Any] = {
    "width": 8, "encoder": "resnet50", "encoder_weights": "none", "batch": 2, "crop": 64,
    "iterations": STEPS,
}  # fmt: skip
PSM = Psm(
    encoder="resnet18", width=8, activation_width=8, batch=2, crop=64, region=96,
    activation_encoder="res2net50_26w_4s",
)  # fmt: skip
SSA: dict[str, Any] = {
    "width": 8, "encoder": "resnet18", "encoder_width": 8, "batch": 6, "crop": 32,
    "iterations": STEPS,
}  # fmt: skip


def features(family: str) -> None:
    """Tokens of windows, both ways round, stored and not, then class sums, centroids, cosines."""
    build = entry(f"{family}_mini").build
    model = build_vit(build["model"], {**build["overrides"], **TINY_VIT})[0].eval().to(CUDA.device)

    @torch.inference_mode()
    def tokens(batch: torch.Tensor) -> torch.Tensor:
        (found,) = model.forward_intermediates(
            batch, indices=[1], norm=True, stop_early=True, intermediates_only=True
        )
        return found

    patch = int(model.patch_embed.patch_size[0])
    mean, std = (tuple(build[key]) for key in ("mean", "std"))
    backbone = Backbone(patch, model.embed_dim, mean, std, torch.device(CUDA.device), tokens)
    found = extract_features(IMAGE, backbone, Uss(window=64, hflip=True), zoom=1.5, batch=2)
    stored = WindowFeatures.from_arrays(found.to_arrays(), CUDA.device)
    # As a segmenter's windows may: over the border.
    hanging = replace(found, origins=found.origins - 8)
    for features, how in (
        *((found, "none"), (stored, "none"), (found, "whiten")),
        (hanging, "whiten"),
    ):
        chosen = normalise_features(features, how)
        vectors = centroids(class_sums(chosen, INSIDE))
        assert similarity_map([(chosen, vectors)], relu=True).shape == (2, 96, 80)


def segmenter(build: Callable[[], Any], kinds: tuple[str, ...] = ("centroid",)) -> None:
    model, shape = build(), IMAGE.shape[:2]
    embedding = model.encode(IMAGE)
    assert len(model.decode(embedding, Prompts(POINTS), shape)) == len(POINTS)
    label_map = INSIDE.astype(np.int32)
    label_map[80:90, 60:70] = 2
    for kind in kinds:
        prompts = make_prompts(label_map, kind)
        assert len(model.decode(embedding, prompts, shape)) == 2
        if len(kinds) > 1:
            beside = with_negatives(prompts, label_map, 1, 80.0)
            assert beside.negatives().tolist() == [1, 1]
            assert len(model.decode(embedding, beside, shape)) == 2


def student(resident: float = augment.RESIDENT, **settings: Any) -> None:
    """Two rounds, the second from the first's weights, as in a cell; of data on the card if that is
    ``resident`` of its memory or less."""
    chosen = Student(**{**STUDENT, **settings})
    augment.RESIDENT = resident
    pseudo = PseudoLabels(INSIDE.astype(np.int32), np.zeros_like(INSIDE))
    weights, _ = train_round([(IMAGE, pseudo)], chosen, world=CUDA)
    _, log = train_round([(IMAGE, pseudo)], chosen, place=(0, 2), initial=weights, world=CUDA)
    assert log.steps == STEPS


def one_training(**settings: Any) -> None:
    """Two rounds, the second of which goes on with the first's moments."""
    chosen = Student(**{**STUDENT, "arch": "unet", **settings})
    tiles = [(IMAGE, PseudoLabels(INSIDE.astype(np.int32), np.zeros_like(INSIDE)))]
    weights, _ = train_round(tiles, chosen, part=Part(0, 2 * STEPS), world=CUDA)
    rest = Part(STEPS, 2 * STEPS)
    _, log = train_round(tiles, chosen, place=(0, 2), part=rest, initial=weights, world=CUDA)
    assert log.steps == STEPS


def inference(arch: str, **settings: Any) -> None:
    chosen = Student(**{**STUDENT, "arch": arch})
    weights = to_arrays(build_student(chosen).state_dict())
    model = student_from_weights(weights, chosen, CUDA.device)
    image = np.tile(IMAGE, (2, 2, 1))
    seg, edge = predict_probability(model, image, Infer(**settings), CUDA.device)
    assert seg.shape == image.shape[:2]
    assert edge is not None


def ssa(**settings: Any) -> None:
    chosen = Ssa(**{**SSA, **settings})
    _, log = train_ssa([IMAGE], chosen, weights="none", world=CUDA)
    assert log.steps == STEPS


def ssa_predicts() -> None:
    chosen = Ssa(**SSA)
    network = ssa_network.AttentionNetwork(chosen.width, chosen.sparsity)
    ssa_mask(to_arrays(network.state_dict()), IMAGE, chosen, device=CUDA.device)


def psm_activates() -> None:
    build = partial(
        psm.residual_network, PSM.activation_encoder, PSM.activation_width, num_classes=1
    )
    run = fitting.Run(PSM.crop, 0, STEPS, CUDA)
    model = fitting.fit(
        run, fitting.Stage(1, STEPS, 2, 1e-4), build,
        lambda net, batch: {"rotation": rotation_loss(net, psm._channels_first(batch[0]))},
        [(IMAGE,)],
    )  # fmt: skip
    assert self_activation_map(model, IMAGE).shape == IMAGE.shape[:2]


def psm_segments() -> None:
    """The point network's step, then the final one's, then a mask."""
    build = partial(psm_network.ResUNet, PSM.encoder, PSM.width, "none")
    run = fitting.Run(PSM.crop, 0, 2 * STEPS, CUDA)
    data = (IMAGE, INSIDE, INSIDE, ~INSIDE)
    fitting.fit(run, fitting.Stage(2, STEPS, 2, 1e-3), build, psm._mask_terms, [data[:2]])
    terms = partial(psm._final_terms, 0.5)
    model = fitting.fit(run, fitting.Stage(3, STEPS, 2, 1e-3), build, terms, [data])
    psm.psm_mask(to_arrays(model.state_dict()), IMAGE, PSM, device=CUDA.device)


def pretraining(start: Callable[[Asked], Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "weights.safetensors"
        asked = Asked(out, steps=STEPS, device=CUDA.device, tiles=2, batch=2)
        assert start(asked).steps == STEPS


def small_segmenter() -> SmallSegmenter:
    return SmallSegmenter(SmallSam(**TINY_SAM), batch=2, device=CUDA.device)


def detector() -> None:
    network = VotingNetwork(dim=16, depth=2, heads=2).to(CUDA.device).eval()
    read(IMAGE, network, views=4)


def detector_learns() -> None:
    run = fitting.Run(self_training.SQUARE, 0, STEPS, CUDA)
    stage = fitting.Stage(1, STEPS, 2, 1e-4, power=0.9, ema=0.9)
    build = partial(VotingNetwork, dim=16, depth=2, heads=2)
    tile = (IMAGE, INSIDE.astype(np.int32), ~INSIDE)
    fitting.fit(run, stage, build, self_training._terms, [tile], self_training._window)


def sam2_segmenter() -> Any:
    from coin_ray.confidence.sam2 import Sam2Segmenter

    return Sam2Segmenter(SAM2, batch=2, device=CUDA.device)


def benchmark(stage: Stage) -> None:
    for run in stage.prepare(SMALL, CUDA.device):
        run()


def placed_where(device: str) -> None:
    assert next(placed(torch.nn.Linear(2, 2), device).parameters()).device.type == "cuda"


PATHS: dict[str, Callable[[], Any]] = {
    "placing": partial(placed_where, CUDA.device),
    **{f"features of {name}": partial(features, name) for name in FAMILIES},
    "segment anything": partial(
        segmenter, lambda: SamSegmenter(tiny_sam(), batch=2, device=CUDA.device), ("box", "mask")
    ),
    **(
        {"sam 2.1": partial(segmenter, sam2_segmenter, ("box", "mask"))}
        if find_spec("sam2")
        else {}
    ),
    "small segmenter": partial(segmenter, small_segmenter),
    "detector": detector,
    "detector learns": detector_learns,
    "student unet": partial(student, arch="unet", edge=True),
    "student unet, data beside the card": partial(student, 0.0, arch="unet", rotate=True),
    "student unet, plain layout": partial(student, arch="unet", edge=False, channels_last=False),
    "student in parts of one training": one_training,
    "student in parts, adamw": partial(one_training, optimiser="adamw"),
    "student deeplab": partial(student, arch="deeplabv3plus"),
    "student deeplab, bf16, canny": partial(
        student,
        arch="deeplabv3plus",
        precision="bf16",
        edge_target="canny",
        optimiser="adamw",
        stain_jitter=0.1,
        hue_jitter=0.1,
    ),
    "inference unet, tiles": partial(inference, "unet", scales=(1.0, 1.5), tile=64),
    "inference deeplab": partial(inference, "deeplabv3plus", scales=(1.0, 0.5), hflip=True),
    "inference deeplab, tiles": partial(
        inference, "deeplabv3plus", scales=(1.0,), hflip=False, tile=64
    ),
    "ssa": partial(ssa, scale_equivariance=True),
    "ssa from stain": partial(ssa, scale_equivariance=False, start="stain", ema=0.9),
    "ssa predicts": ssa_predicts,
    "psm activation": psm_activates,
    "psm segmentation": psm_segments,
    **{
        f"pretraining {name}": partial(
            pretraining, partial(pretrain_backbone, name, overrides=TINY_VIT)
        )
        for name in FAMILIES
    },
    **{f"benchmark of {stage.title}": partial(benchmark, stage) for stage in STAGES},
    "pretraining segmenter": partial(
        pretraining, partial(pretrain_segmenter, prompts=4, size=TINY_SAM)
    ),
}
