"""What each stage computes: settings and plain arrays in, plain arrays out.

These functions are where the method rooms meet. None of them sees a key, a store or a cluster, and
only ``evaluate`` takes a ground truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, InstanceMasks, LabelMap
from coin_ray.pipeline.settings import Cell, Section

FloatMap = NDArray[np.float32]
Image = NDArray[np.uint8]


def options(section: Section, *leave_out: str) -> dict[str, Any]:
    """A section as keyword arguments for the function that does its work."""
    return {k: v for k, v in section.model_dump().items() if k not in leave_out}


def ucis(config: Cell, image: Image, scale: float, mask_path: Any) -> BoolArray:
    """Coarse mask M0 (H, W) bool, from the stain or from a file."""
    if config.ucis.model == "files":
        from coin_ray.data.label_files import read_foreground

        return read_foreground(mask_path, image.shape[:2])
    from coin_ray.ucis.stain import stain_mask

    return stain_mask(image, scale=scale, **options(config.ucis, "model", "path"))


def features(config: Cell, image: Image, device: str) -> dict[str, NDArray[Any]]:
    """Window features on their token grids (fp16), as arrays."""
    from coin_ray.propagation.backbones import load_backbone
    from coin_ray.propagation.features import extract_features

    uss = config.uss
    backbone = load_backbone(uss.family, uss.size, device=device)
    found = extract_features(
        image,
        backbone,
        zoom=uss.zoom,
        window=uss.window,
        stride=uss.stride,
        hflip=uss.hflip,
        batch=uss.batch,
    )
    return found.to_arrays()


def class_sums(
    config: Cell, features: dict[str, NDArray[Any]], coarse: BoolArray
) -> dict[str, NDArray[Any]]:
    """Sums (2, D) and pixel counts (2,) of the unit features in background and foreground."""
    from coin_ray.propagation.centroids import class_sums as sums_of

    sums = sums_of(_normalised(config, features), coarse)
    return {"sums": sums.sums, "counts": sums.counts}


def similarity(
    config: Cell,
    features: dict[str, NDArray[Any]],
    own: dict[str, NDArray[Any]],
    everyone: Sequence[dict[str, NDArray[Any]]] | None,
) -> FloatMap:
    """(2, H, W) cosine to the background and foreground centroid (Eq. 3)."""
    from coin_ray.propagation.centroids import ClassSums, centroids, merge
    from coin_ray.propagation.similarity import similarity_map

    uss = config.uss
    of_all = None if everyone is None else merge([ClassSums(**sums) for sums in everyone])
    vectors = centroids(ClassSums(**own), of_all, scope=uss.centroid_scope)
    return similarity_map(
        _normalised(config, features),
        vectors,
        relu=uss.relu,
        minmax=uss.minmax and config.ot.enabled,
        complement=uss.complement and config.ot.enabled,
    )


def _normalised(config: Cell, features: dict[str, NDArray[Any]]) -> Any:
    from coin_ray.propagation.features import WindowFeatures, normalise_features

    return normalise_features(WindowFeatures.from_arrays(features), config.uss.normalise)


def transport(config: Cell, similarity: FloatMap, coarse: BoolArray | None) -> FloatMap:
    """S^OT (2, H, W) (Eq. 4), or the paper's thresholded map when transport is off."""
    from coin_ray.propagation import transport as room

    ot = config.ot
    if not ot.enabled:
        return room.without_transport(similarity, ot.threshold)
    mass = ot.foreground_mass
    if mass == "coarse":
        assert coarse is not None
        # A transport needs some mass on either side, also for an image without a cell.
        mass = float(np.clip(coarse.mean(), 1e-3, 1 - 1e-3))
    return room.transport(
        similarity,
        lambda_=ot.lambda_,
        mode=ot.mode,
        foreground_mass=mass,
        prior=ot.prior,
        output=ot.output,
        coarse=coarse,
        complement=config.uss.complement,
    )


def refine(config: Cell, image: Image, transported: FloatMap) -> BoolArray:
    """Propagated mask: arg-max of S^OT, after the dense CRF if that is on."""
    crf = config.crf
    if crf.enabled:
        from coin_ray.propagation.crf import dense_crf

        transported = dense_crf(image, transported, **options(crf, "enabled"))
    return transported[1] > transported[0]


def instances(config: Cell, foreground: BoolArray, scale: float) -> LabelMap:
    """Label map of a mask (Eq. 5)."""
    from coin_ray.imaging.instances import split_instances

    return split_instances(foreground, scale=scale, **options(config.instances))


def prompts(config: Cell, label_map: LabelMap) -> NDArray[np.float64]:
    """(N, 2) yx point of each instance."""
    from coin_ray.confidence.prompts import prompt_points

    return prompt_points(label_map, config.sam.prompt)


def score(
    config: Cell, image: Image, label_map: LabelMap, masks: InstanceMasks, scale: float
) -> dict[str, NDArray[np.float32]]:
    """``agreement`` (N,) with the segmenter (Eq. 6) and ``scores`` (N,), what selection ranks
    by."""
    from coin_ray.confidence import consistency
    from coin_ray.confidence.scoring import agreement

    found = {"agreement": agreement(label_map, masks)}
    kind = config.score.kind
    if kind == "segmenter":
        return {**found, "scores": found["agreement"]}
    jitter = consistency.stain_jitter_agreement(
        image,
        label_map,
        lambda stained: instances(config, ucis(Cell(), stained, scale, None), scale),
        draws=2,
        seed=0,
    )
    if kind == "combined":
        from coin_ray.imaging.stain import nuclear_evidence

        evidence = nuclear_evidence(image, scale=scale)
        jitter = consistency.mean_rank(
            [
                found["agreement"],
                jitter,
                consistency.regrowth_agreement(evidence, label_map),
                consistency.ring_contrast(evidence, label_map),
                consistency.ellipse_fit(label_map),
            ]
        )
    return {**found, "scores": jitter.astype(np.float32)}


def select(
    config: Cell, scores: Sequence[NDArray[np.float32]], position: int
) -> tuple[BoolArray, float]:
    """Accepted (N,) of the image at ``position`` and the threshold (Eqs. 7, 8).

    ``scores`` are those of all images that share one threshold; the guards of ``accept`` then act
    on all of them together.
    """
    from coin_ray.confidence.selection import accept, threshold

    rule = options(config.select, "scope")
    pooled = np.concatenate(list(scores))
    start = sum(len(s) for s in scores[:position])
    accepted = accept(pooled, **rule)[start : start + len(scores[position])]
    return accepted, threshold(pooled, **rule)


def pseudo_labels(
    config: Cell,
    label_map: LabelMap,
    masks: InstanceMasks,
    scores: NDArray[np.float32],
    accepted: BoolArray,
    step1: BoolArray | None,
) -> Any:
    """Accepted masks as labels, the rest ignored (Eqs. 9, 10)."""
    from coin_ray.distillation.targets import pseudo_labels as make

    return make(
        label_map,
        masks,
        scores,
        accepted,
        source=config.labels.source,
        missed_foreground=step1 if config.labels.missed == "ignore" else None,
    )


def predict(
    config: Cell, weights: dict[str, NDArray[Any]], image: Image, scale: float, device: str
) -> LabelMap:
    """Label map of the student (its weights as arrays)."""
    from coin_ray.distillation.inference import instances_from_probability, predict_probability
    from coin_ray.distillation.network import student_from_weights

    infer = config.infer
    student = config.student
    model = student_from_weights(
        weights,
        arch=student.arch,
        width=student.width,
        encoder=student.encoder,
        edge=student.edge,
        device=device,
    )
    segmentation, edge = predict_probability(
        model, image, scales=infer.scales, hflip=infer.hflip, tile=infer.tile, device=device
    )
    evidence = None
    if infer.stain_weight:
        from coin_ray.imaging.stain import nuclear_evidence

        evidence = nuclear_evidence(
            image,
            sigma=config.ucis.sigma,
            contrast_sigma=config.ucis.contrast_sigma,
            scale=scale,
        )
    return instances_from_probability(
        segmentation,
        edge,
        evidence=evidence,
        minmax=infer.minmax,
        stain_weight=infer.stain_weight,
        edge_markers=infer.edge_markers,
        fill_holes=infer.fill_holes,
        opening=infer.opening,
        scale=scale,
        **options(config.instances, "opening"),
    )


def evaluate(truth: LabelMap, predicted: LabelMap) -> dict[str, float]:
    """All metrics of one image; the only stage that takes a ground truth."""
    from coin_ray.metrics.evaluate import evaluate as metrics

    return metrics(truth, predicted)
