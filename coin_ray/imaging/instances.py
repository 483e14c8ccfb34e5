"""Binary mask to instances: distance map, peaks, watershed (COIN Eq. 5), and the mask's clean-up.

Pixel constants are stated at 0.25 um/px; ``scale`` = 0.25 / mpp adapts lengths by itself and areas
by its square.
"""

from __future__ import annotations

from math import isqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coin_ray.imaging.settings import Instances
from coin_ray.labels import BoolArray, LabelMap, first_pixels, keep_instances

FloatMap = NDArray[np.float32]


def disk_maximum(values: NDArray[Any], radius: int) -> NDArray[Any]:
    """Maximum over the disk dy^2 + dx^2 <= radius^2 around each pixel, the image alone counting.

    (H, W) of any real or bool dtype -> same. The disk is a stack of horizontal segments; a
    segment's maximum is that of two overlapping runs of a power of two, and those double cheaply.
    So the work is about 3 * radius passes over the image where the footprint itself has 3 *
    radius^2 pixels: 30 ms instead of 600 ms for radius 12 on 1000x1000.
    """
    height, width = values.shape
    lowest = -np.inf if values.dtype.kind == "f" else np.zeros((), values.dtype)
    if values.dtype.kind == "i":
        lowest = np.iinfo(values.dtype).min
    runs = [np.pad(values, ((0, 0), (radius, radius)), constant_values=lowest)]
    while 2 ** len(runs) <= 2 * radius + 1:
        half = 2 ** (len(runs) - 1)
        runs.append(np.maximum(runs[-1][:, :-half], runs[-1][:, half:]))
    out = values.copy()
    segment, segment_reach = out, -1
    for dy in range(radius + 1):
        reach = isqrt(radius * radius - dy * dy)
        if reach != segment_reach:
            power = (2 * reach + 1).bit_length() - 1
            run = runs[power]
            left, right = radius - reach, radius + reach + 1 - 2**power
            segment = np.maximum(run[:, left : left + width], run[:, right : right + width])
            segment_reach = reach
        if dy == 0:
            np.maximum(out, segment, out=out)
        elif dy < height:
            np.maximum(out[dy:], segment[:-dy], out=out[dy:])
            np.maximum(out[:-dy], segment[dy:], out=out[:-dy])
    return out


def binary_opening(foreground: BoolArray, radius: int) -> BoolArray:
    """Opening by a disk; beyond the image counts as foreground, so cells cut by the border stay."""
    eroded = ~disk_maximum(~foreground, radius)
    return disk_maximum(eroded, radius)


def binary_closing(foreground: BoolArray, radius: int) -> BoolArray:
    """Closing by a disk; beyond the image is background, so that no cell is glued to the border."""
    dilated = disk_maximum(np.pad(foreground, radius), radius)
    closed = ~disk_maximum(~dilated, radius)
    return closed[radius:-radius, radius:-radius]


def clean_mask(
    foreground: BoolArray, *, opening: int, max_hole: int, min_area: int, scale: float = 1.0
) -> BoolArray:
    """Opening by a disk, then enclosed holes of at most ``max_hole`` px filled, then 4-connected
    components below ``min_area`` px dropped.

    (H, W) bool -> (H, W) bool, a new array. ``opening`` is a radius (0 = off; never scaled below
    1). Background that touches the image border is no hole, however small.
    """
    from scipy.ndimage import label

    mask = np.array(foreground, dtype=bool)
    if opening:
        mask = binary_opening(mask, max(1, round(opening * scale)))
    if max_hole:
        gaps, n = label(~mask)
        fill = np.bincount(gaps.ravel(), minlength=n + 1) <= max_hole * scale**2
        for side in (gaps[0], gaps[-1], gaps[:, 0], gaps[:, -1]):
            fill[side] = False
        fill[0] = False
        mask |= fill[gaps]
    if min_area:
        mask = _of_size(label(mask)[0], min_area * scale**2) > 0
    return mask


def _of_size(label_map: LabelMap, pixels: float) -> LabelMap:
    return keep_instances(label_map, np.bincount(label_map.ravel())[1:] >= max(pixels, 1))


def distance_map(foreground: BoolArray, *, sigma: float) -> FloatMap:
    """Euclidean distance to the nearest background pixel, smoothed by a Gaussian of ``sigma`` px.

    (H, W) bool -> (H, W) float32 >= 0, px. The image border is no background, unless there is no
    background at all: then it is, so that an all-foreground mask has a distance map too.
    """
    from scipy.ndimage import distance_transform_edt, gaussian_filter

    if foreground.all():
        distance = distance_transform_edt(np.pad(foreground, 1))[1:-1, 1:-1]
    else:
        distance = distance_transform_edt(foreground)
    distance = distance.astype(np.float32)
    return gaussian_filter(distance, sigma) if sigma > 0 else distance


def local_peaks(
    distance: FloatMap, foreground: BoolArray, *, radius: int, keep_border: bool
) -> BoolArray:
    """Foreground pixels that no foreground pixel within ``radius`` px exceeds.

    (H, W) -> (H, W) bool; the same pixels as scikit-image's ``peak_local_max(distance,
    footprint=disk(radius), labels=foreground, exclude_border=not keep_border)``, 20 times faster.
    Without ``keep_border`` the outermost pixels are left out of the comparison altogether, as
    there.
    """
    peaks = np.zeros(foreground.shape, dtype=bool)
    inside = slice(None) if keep_border else slice(1, -1)
    mask, values = foreground[inside, inside], distance[inside, inside]
    if not mask.any():
        return peaks
    masked = np.where(mask, values, np.float32(-np.inf))
    found = mask & (masked == disk_maximum(masked, radius))
    if found[mask].all():  # a flat map has no peak but its isolated pixels
        from scipy.ndimage import binary_opening as cross_opening

        found = mask & ~cross_opening(mask)
    peaks[inside, inside] = found & (values > distance.min())
    return peaks


def footprint_radius(
    distance: FloatMap, foreground: BoolArray, instances: Instances, *, scale: float
) -> int:
    """Radius of the peak search on an image's distance map (H, W), in its px, at least 1.

    By ``footprint_scale`` "mpp" it is ``footprint`` times ``scale``, "fixed" ``footprint`` as it
    is, "adaptive" the median height of the map's local maxima (radius 1): about the short half-axis
    of its nuclei.
    """
    radius: float = instances.footprint
    if instances.footprint_scale == "mpp":
        radius *= scale
    elif instances.footprint_scale == "adaptive":
        peaks = distance[local_peaks(distance, foreground, radius=1, keep_border=True)]
        radius = float(np.median(peaks)) if len(peaks) else 1
    return max(1, round(radius))


def find_markers(
    distance: FloatMap, foreground: BoolArray, instances: Instances, *, scale: float = 1.0
) -> LabelMap:
    """One marker per peak of the distance map (:func:`local_peaks`, :func:`footprint_radius`).

    (H, W) float32, (H, W) bool -> (H, W) int32; touching (4-connected) peaks make one marker, ids
    run in raster order. With ``keep_border`` every 4-connected component of the foreground has at
    least one (its highest pixel, the first in raster order, where no peak lies); without, peaks on
    the outermost pixels are dropped as the public code does, and a cell that had only those is
    lost.
    """
    from scipy.ndimage import label

    radius = footprint_radius(distance, foreground, instances, scale=scale)
    keep_border = instances.keep_border
    peaks = local_peaks(distance, foreground, radius=radius, keep_border=keep_border)
    if keep_border:
        peaks.ravel()[_missing_peaks(distance, foreground, peaks)] = True
    return label(peaks)[0].astype(np.int32)


def _missing_peaks(
    distance: FloatMap, foreground: BoolArray, markers: BoolArray
) -> NDArray[np.int64]:
    """Flat index of the highest pixel of each 4-connected component without a marker."""
    from scipy.ndimage import label

    parts, n = label(foreground)
    bare = np.ones(n + 1, dtype=bool)
    bare[parts[markers]] = False
    return first_pixels(np.where(bare[parts], parts, 0), -distance)


def split_instances(
    foreground: BoolArray,
    instances: Instances,
    *,
    scale: float = 1.0,
    markers: LabelMap | None = None,
) -> LabelMap:
    """Foreground to instances (COIN Eq. 5): watershed of the distance map, or connected components.

    (H, W) bool -> (H, W) int32, ids 1..N without gaps, same foreground as the mask after an opening
    and then a closing by disks. Their radii, ``sigma`` and the radius of the peak search
    (:func:`footprint_radius`) are px at 0.25 um/px; instances of fewer than ``min_area`` px are
    dropped. ``markers`` (H, W) int32 replace the peaks; a component that they miss gets one of its
    own (with ``keep_border``; without it, it is lost). The method "components" takes the
    4-connected components and uses no marker, "whole" splits nothing.

    >>> from coin_ray.imaging.settings import Instances
    >>> mask = np.zeros((5, 11), dtype=bool)
    >>> mask[1:4, 1:4] = mask[1:4, 6:9] = mask[2, 4:6] = True  # two squares and a bridge
    >>> split_instances(mask, Instances(footprint=2, sigma=0))[2]
    array([0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 0], dtype=int32)
    >>> split_instances(mask, Instances(method="components")).max()
    np.int32(1)
    """
    from scipy.ndimage import label

    mask = np.asarray(foreground, dtype=bool)
    if instances.opening:
        mask = binary_opening(mask, max(1, round(instances.opening * scale)))
    if instances.closing:
        mask = binary_closing(mask, max(1, round(instances.closing * scale)))
    if instances.method == "whole":
        out = mask.astype(np.int32)
    elif instances.method == "components":
        out = label(mask)[0].astype(np.int32)
    else:
        from skimage.segmentation import watershed

        distance = distance_map(mask, sigma=instances.sigma * scale)
        if markers is None:
            markers = find_markers(distance, mask, instances, scale=scale)
        else:
            markers = np.where(mask, markers, 0).astype(np.int32)
            if instances.keep_border:
                extra = np.sort(_missing_peaks(distance, mask, markers > 0))  # in raster order
                markers.ravel()[extra] = markers.max(initial=0) + 1 + np.arange(len(extra))
        out = watershed(-distance, markers=markers, mask=mask).astype(np.int32)
    return _of_size(out, instances.min_area * scale**2)
