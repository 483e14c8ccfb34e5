"""What each stage computes: settings and plain arrays in, plain arrays out.

These functions are where the method rooms meet. None of them sees a key, a store or a cluster, and
only ``evaluate`` takes a ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.labels import BoolArray, InstanceMasks, LabelMap, relabel
from coin_ray.pipeline.section import Section
from coin_ray.pipeline.settings import Cell

FloatMap = NDArray[np.float32]
Image = NDArray[np.uint8]


def options(section: Section, *leave_out: str) -> dict[str, Any]:
    """A section as keyword arguments for the function that does its work."""
    return {k: v for k, v in section.model_dump().items() if k not in leave_out}


def ucis(
    config: Cell, image: Image, scale: float, source: Any = None, device: str = "cpu"
) -> BoolArray:
    """Coarse mask M0 (H, W) bool. ``source``: for ``files`` the path of the mask, for ``ssa`` and
    ``psm`` the weights of the trained network."""
    ucis = config.ucis
    if ucis.model == "files":
        from coin_ray.data.label_files import read_foreground

        return read_foreground(source, image.shape[:2])
    if ucis.model == "ssa":
        from coin_ray.ucis.ssa_prediction import ssa_mask

        ssa = ucis.ssa
        return ssa_mask(
            source,
            image,
            width=ssa.width,
            scale_equivariance=ssa.scale_equivariance,
            scale=scale,
            device=device,
        )
    if ucis.model == "psm":
        from coin_ray.ucis.psm import psm_mask

        psm = ucis.psm
        return psm_mask(
            source, image, width=psm.width, encoder=psm.encoder, scale=scale, device=device
        )
    from coin_ray.ucis.stain import stain_mask

    others = ("model", "path", "weights", "seed", "ssa", "psm")
    return stain_mask(image, scale=scale, **options(ucis, *others))


def features(config: Cell, image: Image, zoom: float, device: str) -> dict[str, NDArray[Any]]:
    """Window features at one zoom on their token grids (fp16), as arrays."""
    from coin_ray.propagation.backbones import load_backbone
    from coin_ray.propagation.features import extract_features

    uss = config.uss
    backbone = load_backbone(
        uss.family, uss.size, weights=uss.weights, layer=uss.layer, device=device
    )
    found = extract_features(
        image,
        backbone,
        zoom=zoom,
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
    features: Iterable[dict[str, NDArray[Any]]],
    own: Sequence[dict[str, NDArray[Any]]],
    everyone: Sequence[Sequence[dict[str, NDArray[Any]]]] | None,
) -> FloatMap:
    """(2, H, W) cosine to the background and foreground centroid (Eq. 3), the zooms' mean.

    ``features`` and ``own``, the image's class sums, have one entry a zoom; ``everyone`` holds such
    sums of all training images.
    """
    from coin_ray.propagation.centroids import ClassSums, centroids, merge
    from coin_ray.propagation.similarity import similarity_map

    uss = config.uss

    def vectors(zoom: int) -> NDArray[np.float64]:
        of_all = None
        if everyone is not None:
            parts = [ClassSums(**sums[zoom]) for sums in everyone]
            of_all = merge(parts, uss.centroid_weight)
        return centroids(ClassSums(**own[zoom]), of_all, scope=uss.centroid_scope)

    return similarity_map(
        ((_normalised(config, found), vectors(zoom)) for zoom, found in enumerate(features)),
        relu=uss.relu,
        minmax=uss.minmax and config.ot.enabled,
        percentile=uss.percentile,
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
        solver=ot.solver,
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
) -> dict[str, NDArray[Any]]:
    """Facts (N,) of the instances: ``agreement`` with the segmenter (Eq. 6), ``scores`` that
    selection ranks by, and what its sanity checks look at."""
    from coin_ray.confidence import consistency, scoring

    evidence = cache(partial(stain_evidence, config, image, scale))

    def coarse_instances(stained: Image) -> LabelMap:
        stain = config.ucis.model_copy(update={"model": "stain"})
        mask = ucis(config.model_copy(update={"ucis": stain}), stained, scale, None)
        return instances(config, mask, scale)

    agreement = scoring.agreement(label_map, masks)
    compute: dict[str, Callable[[], NDArray[np.float32]]] = {
        "segmenter": lambda: agreement,
        "predicted_iou": lambda: masks.predicted_iou,
        "stain_jitter": lambda: consistency.stain_jitter_agreement(
            image, label_map, coarse_instances
        ),
        "regrowth": lambda: consistency.regrowth_agreement(evidence(), label_map),
        "ring_contrast": lambda: consistency.ring_contrast(evidence(), label_map),
        "ellipse": lambda: consistency.ellipse_fit(label_map),
    }
    terms = [compute[term]() for term in config.score.terms]
    return {
        "agreement": agreement,
        "scores": terms[0] if len(terms) == 1 else consistency.mean_rank(terms),
        "area_ratio": scoring.area_ratios(label_map, masks),
        "holds_point": scoring.holds_points(masks, prompts(config, label_map)),
    }


def stain_evidence(config: Cell, image: Image, scale: float) -> FloatMap:
    """(H, W) signed evidence of a nucleus in the stain, with the coarse mask's own constants."""
    from coin_ray.imaging.stain import nuclear_evidence

    ucis = config.ucis
    return nuclear_evidence(
        image, sigma=ucis.sigma, contrast_sigma=ucis.contrast_sigma, scale=scale
    )


def select(
    config: Cell,
    scored: Sequence[dict[str, NDArray[Any]]],
    position: int,
    masks: InstanceMasks,
) -> tuple[BoolArray, float]:
    """Accepted (N,) of the image at ``position`` and the threshold (Eqs. 7, 8).

    ``scored`` are the results of ``score`` of all images that share one threshold; the guard of
    ``accept`` acts on all of them together. ``masks`` are those of the image itself.
    """
    from coin_ray.confidence import selection

    select = config.select
    rule = options(select, "scope", "area_ratio", "contains_point", "max_overlap")
    scores = np.concatenate([s["scores"] for s in scored])
    sound = selection.sound(
        np.concatenate([s["area_ratio"] for s in scored]),
        np.concatenate([s["holds_point"] for s in scored]),
        area_ratio=select.area_ratio,
        contains_point=select.contains_point,
    )
    start = sum(len(s["scores"]) for s in scored[:position])
    accepted = selection.accept(scores, sound, **rule)[start : start + len(masks)]
    own = scored[position]["scores"]
    accepted = selection.without_overlaps(accepted, own, masks, select.max_overlap)
    return accepted, selection.threshold(scores, **rule)


def pseudo_labels(
    config: Cell,
    label_map: LabelMap,
    masks: InstanceMasks,
    scores: NDArray[np.float32],
    accepted: BoolArray,
    step1: BoolArray | None,
    earlier: dict[str, NDArray[Any]] | None,
) -> dict[str, NDArray[Any]]:
    """``label_map`` and ``ignore`` (H, W): accepted masks as labels, the rest ignored (Eqs. 9, 10).

    With ``labels.memory`` also the painted masks and their ``scores``, for the next refresh, which
    gets them as ``earlier``.
    """
    from coin_ray.distillation import targets

    memory = None
    if config.labels.memory:
        memory = targets.Memory() if earlier is None else targets.Memory.from_arrays(earlier)
    labels = targets.pseudo_labels(
        label_map,
        masks,
        scores,
        accepted,
        source=config.labels.source,
        missed_foreground=step1 if config.labels.missed == "ignore" else None,
        memory=memory,
    )
    kept = labels.memory.to_arrays() if labels.memory is not None else {}
    return {"label_map": labels.label_map, "ignore": labels.ignore, **kept}


def label_change(now: LabelMap, before: LabelMap | None) -> dict[str, int]:
    """Pixels of the label foreground that two refreshes share, and that either has; their churn is
    1 - shared / either. Before the first refresh there are no labels."""
    old = np.zeros(now.shape, dtype=bool) if before is None else before > 0
    return {
        "label_shared": int(np.count_nonzero((now > 0) & old)),
        "label_either": int(np.count_nonzero((now > 0) | old)),
    }


def predict(
    config: Cell, weights: dict[str, NDArray[Any]], image: Image, scale: float, device: str
) -> LabelMap:
    """Label map of the student (its weights as arrays). ``infer.edge_markers`` acts where the
    student has an edge head."""
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
    return instances_from_probability(
        segmentation,
        edge,
        evidence=stain_evidence(config, image, scale) if infer.stain_weight else None,
        minmax=infer.minmax,
        refine=partial(_foreground_crf, config, image) if infer.crf else None,
        stain_weight=infer.stain_weight,
        edge_markers=infer.edge_markers and edge is not None,
        fill_holes=infer.fill_holes,
        opening=infer.opening,
        scale=scale,
        **options(config.instances, "opening"),
    )


def _foreground_crf(config: Cell, image: Image, probability: FloatMap) -> FloatMap:
    """Posterior (H, W) of the foreground after the dense CRF on [1 - p, p]."""
    from coin_ray.propagation.crf import dense_crf

    maps = np.stack([1 - probability, probability])
    return dense_crf(image, maps, **options(config.crf, "enabled"))[1]


def redraw(config: Cell, masks: InstanceMasks, predicted: LabelMap, scale: float) -> LabelMap:
    """The segmenter's masks of the ``predicted`` instances in their place, (H, W).

    Painted in ascending predicted IoU, the segmenter's own estimate, so that the surest is on top,
    and grown by a few pixels where the student saw foreground that no mask holds: the small
    segmenter draws tight. What is left of a mask below ``instances.min_area`` is dropped.
    """
    from skimage.segmentation import expand_labels

    infer = config.infer
    sure = masks.take(np.flatnonzero(masks.predicted_iou >= infer.redraw_min_iou))
    painted = sure.paint(predicted.shape, sure.predicted_iou)
    if infer.redraw_grow:
        grown = expand_labels(painted, infer.redraw_grow * scale)
        painted = np.where((painted > 0) | (predicted > 0), grown, 0)
    keep = np.bincount(painted.ravel()) >= config.instances.min_area * scale**2
    return relabel(np.where(keep[painted], painted, 0))


def evaluate(config: Cell, truth: LabelMap, predicted: LabelMap) -> dict[str, float]:
    """All metrics of one image; the only stage that takes a ground truth."""
    from coin_ray.metrics.evaluate import evaluate as metrics

    return metrics(truth, predicted, **options(config.evaluate))
