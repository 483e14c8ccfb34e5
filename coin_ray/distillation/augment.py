"""Training crops with their targets, made of their draws in batches where the network is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from coin_ray.distillation.canny import canny_target
from coin_ray.distillation.sampling import Crop
from coin_ray.distillation.settings import Student
from coin_ray.distillation.targets import PseudoLabels
from coin_ray.imaging.stain import restained
from coin_ray.precision import arithmetic
from coin_ray.training.layout import moved

Image = NDArray[np.uint8]
Layer = Sequence[NDArray[Any]] | Sequence[Tensor]
RESIDENT = 0.25  # of a device's free memory, for the images and labels of a round
_PAD = (124, 116, 104)  # ImageNet mean: zero after normalisation


@dataclass(frozen=True)
class Tiles:
    """Images, their labels and what is ignored, (H, W, 3) uint8, (H, W) int32 and bool: tensors on
    ``device``, or where they do not fit there, and on a CPU, the arrays themselves.

    ``lines`` (H + 1, W + 1) int32, for edges that are found once an image: how many of its pixels
    lie above and left of a place.
    """

    device: torch.device
    pixels: Layer
    labels: Layer
    ignore: Layer
    lines: Layer


def placed_tiles(
    tiles: Sequence[tuple[Image, PseudoLabels]], student: Student, device: torch.device
) -> Tiles:
    """The data of a round, moved once if it takes no more than a quarter of the memory that is free
    on the device; windows of it are moved at each step otherwise."""
    lines = []
    if student.edge and student.edge_target == "canny":
        lines = [_counted(canny_target(pseudo.label_map)) for _, pseudo in tiles]
    labels, ignore = ([getattr(p, name) for _, p in tiles] for name in ("label_map", "ignore"))
    layers: tuple[Layer, ...] = ([image for image, _ in tiles], labels, ignore, lines)
    if device.type != "cpu":
        size = sum(one.nbytes for layer in layers for one in layer)
        if size <= RESIDENT * torch.cuda.mem_get_info(device)[0]:
            layers = tuple([torch.tensor(one, device=device) for one in layer] for layer in layers)
    return Tiles(device, *layers)


def _counted(lines: NDArray[np.bool_]) -> NDArray[np.int32]:
    padded = np.pad(lines, ((1, 0), (1, 0)))
    return padded.cumsum(0, dtype=np.int32).cumsum(1, dtype=np.int32)


def make_batch(
    tiles: Tiles, crops: Sequence[Crop], student: Student
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images (B, c, c, 3) uint8, foreground, edge and ignore (B, c, c) bool of ``crops``.

    Images are resampled bicubic, labels nearest; what lies outside the image is ignored. The edge
    target is cut out of the image's lines, of which none tears when it shrinks, or is the boundary
    of the resampled label map, one pixel wide at every scale.
    """
    device = tiles.device
    axes = [_axes(crop, student.crop) for crop in crops]
    at = _places(crops, axes, device)
    labels = _taken(_windows(tiles.labels, crops, device), at)
    ignore = _taken(_windows(tiles.ignore, crops, device), at)
    if any(crop.size != (student.crop, student.crop) for crop in crops):
        beyond = [(row, column) for row, column in (axis[:, 1] == axis[:, 2] for axis in axes)]
        rows, columns = moved(_laid(crops, beyond), device).unbind(1)
        outside = rows[:, :, None] | columns[:, None]
        labels, ignore = labels.masked_fill_(outside, 0), ignore.logical_or_(outside)
    edge = _lines(tiles, crops, axes) if tiles.lines else _boundaries(labels)
    return _pictures(tiles, crops, student), labels > 0, edge, ignore


def _windows(layer: Layer, crops: Sequence[Crop], device: torch.device, more: int = 0) -> Tensor:
    """The windows of ``crops`` one after another, flat, on the device."""
    parts = [
        layer[c.image][c.y : c.y + c.height + more, c.x : c.x + c.width + more].reshape(-1)
        for c in crops
    ]
    if isinstance(layer[0], Tensor):
        return torch.cat(cast(list[Tensor], parts))
    return moved(np.concatenate(cast(list[NDArray[Any]], parts)), device)


def _axes(crop: Crop, side: int) -> NDArray[np.int64]:
    """(2, 3, ``side``): for each row, then each column of a crop as it lies in its image, the
    nearest one of the window, and the first and the one after the last that come to lie there; 0
    outside."""
    out = np.zeros((2, 3, side), dtype=np.int64)
    for axis, old in enumerate((crop.height, crop.width)):
        new, start = crop.size[axis], crop.place[axis]
        at = np.arange(new)
        nearest = np.minimum(((at + 0.5) * old / new).astype(np.int64), old - 1)
        landed = (2 * np.arange(old) + 1) * new // (2 * old)
        first = np.minimum(np.searchsorted(landed, at), nearest)
        last = np.maximum(np.searchsorted(landed, at, side="right"), nearest + 1)
        out[axis, :, start : start + new] = nearest, first, last
    return out


def _laid(crops: Sequence[Crop], axes: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> NDArray[Any]:
    """(B, 2, c): something of each row and column in the image, by the axes of the crop."""
    both = []
    for crop, pair in zip(crops, axes, strict=True):
        first, second = pair[::-1] if crop.swapped else pair
        both.append([first[:: crop.ways[0]], second[:: crop.ways[1]]])
    return np.array(both)


def _places(
    crops: Sequence[Crop],
    axes: Sequence[NDArray[np.int64]],
    device: torch.device,
    which: tuple[int, int] = (0, 0),
    more: int = 0,
) -> Tensor:
    """(B, c, c), where in the flat windows the pixels of the crops are. ``which`` of :func:`_axes`,
    of rows and columns."""
    pairs, start = [], 0
    for crop, axis in zip(crops, axes, strict=True):
        stride = crop.width + more
        pairs.append((axis[0, which[0]] * stride + start, axis[1, which[1]]))
        start += (crop.height + more) * stride
    kind = np.int32 if start < 2**31 else np.int64  # the smaller the faster
    first, second = moved(_laid(crops, pairs).astype(kind), device).unbind(1)
    return first[:, :, None] + second[:, None]


def _taken(flat: Tensor, at: Tensor) -> Tensor:
    return flat.index_select(0, at.view(-1)).view_as(at)


def _lines(tiles: Tiles, crops: Sequence[Crop], axes: Sequence[NDArray[np.int64]]) -> Tensor:
    """(B, c, c) True where the nearest pixel, or any that comes to lie there, is of a line."""
    flat = _windows(tiles.lines, crops, tiles.device, more=1)

    def counted(row: int, column: int) -> Tensor:
        return _taken(flat, _places(crops, axes, tiles.device, (row, column), more=1))

    return counted(2, 2) - counted(1, 2) - counted(2, 1) + counted(1, 1) > 0


def _boundaries(labels: Tensor) -> Tensor:
    """:func:`coin_ray.labels.boundaries` of each (H, W) of (B, H, W)."""
    edge = torch.zeros_like(labels, dtype=torch.bool)
    for ids, out in ((labels, edge), (labels.mT, edge.mT)):
        differs = ids[:, 1:] != ids[:, :-1]
        out[:, 1:] |= differs
        out[:, :-1] |= differs
    return edge & (labels > 0)


def _pictures(tiles: Tiles, crops: Sequence[Crop], student: Student) -> Tensor:
    flat = _windows(tiles.pixels, crops, tiles.device)
    parts = flat.split([3 * crop.height * crop.width for crop in crops])
    out = flat.new_empty(len(crops), student.crop, student.crop, 3)
    for channel, value in enumerate(_PAD):
        out[..., channel] = value
    for one, crop, part in zip(out, crops, parts, strict=True):
        (y, x), (height, width) = crop.place, crop.size
        picture = part.view(crop.height, crop.width, 3)
        one[y : y + height, x : x + width] = _resized(picture, height, width)
        turned = one.transpose(0, 1) if crop.swapped else one
        one.copy_(turned.flip([axis for axis in (0, 1) if crop.ways[axis] < 0]))
    place = tiles.device
    # Whatever the network computes in, optical densities have more than 8 or 11 bits.
    with (
        torch.autocast(place.type, enabled=False),
        arithmetic(str(place), "fp32", deterministic=False),
    ):
        if student.stain_jitter > 0:
            stains = [crop.stain for crop in crops if crop.stain is not None]
            out = restained(out, moved(np.stack(stains), place))
        for one, crop in zip(out, crops, strict=True):
            if crop.colour is not None:
                one.copy_(_recoloured(one, moved(crop.colour, place)))
    return out


def _resized(picture: Tensor, height: int, width: int) -> Tensor:
    """(H, W, 3) uint8 -> (height, width, 3), the same but for single rounded values anywhere."""
    if picture.shape[:2] == (height, width):
        return picture
    if picture.device.type == "cpu":
        from PIL import Image as Pillow

        resized = Pillow.fromarray(picture.numpy()).resize(
            (width, height), Pillow.Resampling.BICUBIC
        )
        return torch.from_numpy(np.array(resized))
    return resampled(picture, height, width)


def resampled(picture: Tensor, height: int, width: int) -> Tensor:
    """Pillow's bicubic, along rows and then columns, by torch: on a device, whole numbers as
    float32."""
    x = picture.permute(2, 0, 1)[None].float()
    for size in ((picture.shape[0], width), (height, width)):
        x = F.interpolate(x, size, mode="bicubic", antialias=True)
        x = x.add_(0.5).floor_().clamp_(0, 255)
    return x[0].permute(1, 2, 0)


def _recoloured(picture: Tensor, colour: Tensor) -> Tensor:
    x = picture.view(-1, 3).double()
    mean = x.mean(0, keepdim=True) @ colour[3:] + 0.5
    return torch.addmm(mean, x, colour[:3]).clamp_(0, 255).to(torch.uint8).view_as(picture)
