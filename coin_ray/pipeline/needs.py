"""What a configuration asks for besides its stages: weight files, extras, the length of a round."""

from __future__ import annotations

from coin_ray.confidence.settings import segmenter_name
from coin_ray.pipeline.settings import Cell
from coin_ray.propagation.settings import Ot, backbone_name
from coin_ray.section import Values
from coin_ray.ucis.settings import DETECTOR, Psm, Ssa, Ucis


def needs_coarse(ot: Ot) -> bool:
    """True if the transport looks at the coarse mask itself."""
    return ot.enabled and (ot.foreground_mass == "coarse" or ot.prior > 0)


def with_cache(config: Cell, device: str, cheaper: str | None = None) -> Cell:
    """``uss.cache``, where it is left out, as ``cheaper`` or by the kind of device: a pass of a
    backbone takes a CPU far longer than to read what it gave, and a GPU hardly as long."""
    if config.uss.cache is not None:
        return config
    cache = cheaper or ("tokens" if device == "cpu" else "none")
    return config.model_copy(update={"uss": config.uss.model_copy(update={"cache": cache})})


def uses_crf(config: Cell) -> bool:
    """True if a cell needs the extra ``crf``."""
    if config.predictions.path:
        return False
    refines = config.crf.enabled and config.uss.family != "none"
    return refines or config.infer.crf or bool(config.relabel.crf)


def uses_sam2(config: Cell) -> bool:
    """True if a cell needs the extra ``sam2``."""
    return not config.predictions.path and segmenter_name(config.sam.model).startswith("sam2_")


CROPS_PER_EPOCH = 100
"""Crops of each image in an epoch, as in the public code."""


def round_schedule(config: Cell, round_: int, images: int) -> Values:
    """``iterations`` and ``lr`` of a round that trains on so many images; of one that goes on with
    the last one's schedule also the steps ``before`` it and of all rounds, ``total``.

    With ``student.epochs``, every round takes that many epochs; a batch that an epoch cannot fill
    is left out, as in the public code (37 images in batches of 16: 231 steps).
    """
    found = _alone(config, round_, images)
    if config.rounds.schedule == "continuous":
        steps = [_alone(config, r, images)["iterations"] for r in range(1, config.rounds.count + 1)]
        found |= {"before": sum(steps[: round_ - 1]), "total": sum(steps)}
    return found


def _alone(config: Cell, round_: int, images: int) -> Values:
    student = config.student
    first = {"iterations": student.iterations, "lr": student.lr}
    later = {"iterations": student.later_iterations, "lr": student.later_lr}
    schedule = first | {k: v for k, v in later.items() if v is not None and round_ > 1}
    if student.epochs is not None:
        steps = max(1, CROPS_PER_EPOCH * images // student.batch)
        schedule["iterations"] = student.epochs * steps
    return schedule


def student_has_encoder(config: Cell) -> bool:
    """True if the student starts from a pretrained encoder's file."""
    return config.student.arch == "deeplabv3plus"


def coarse_weights(ucis: Ucis) -> tuple[str, ...]:
    """Registry names of the files that the coarse model, or its training, reads."""
    if ucis.model == "detector":
        return (DETECTOR,)
    if not isinstance(ucis.trained, Ssa | Psm) or ucis.weights == "none":
        return ()
    return (f"{ucis.trained.encoder}_imagenet",)


def needed_weights(config: Cell, until: str | None = None) -> tuple[str, ...]:
    """Registry names of every model file that a cell reads, up to a stage or its end."""
    if config.predictions.path:
        return ()
    if until == "ucis_model":
        return coarse_weights(config.ucis)
    names = [segmenter_name(config.sam.model), *coarse_weights(config.ucis)]
    if config.uss.family not in ("none", "sam"):
        names.append(backbone_name(config.uss))
    if student_has_encoder(config) and config.student.encoder_weights == "imagenet":
        names.append(f"{config.student.encoder}_imagenet")
    return tuple(names)


def mask_folder(config: Cell) -> str | None:
    """Where a cell's masks lie that were made elsewhere: its result, or its coarse ones."""
    return config.predictions.path or config.ucis.folder


def mask_digest(folder: str, name: str) -> str:
    """Content digest of the coarse mask file of an image. UserError if there is none."""
    from coin_ray.data.digests import content_digest
    from coin_ray.ucis.mask_files import find_mask

    return content_digest(find_mask(folder, name))
