"""Entropic optimal transport of the pixels to the two classes (COIN Eq. 4), in closed form.

The plan minimises <T, 1 - S> - lambda H(T) with row sums 1/M (M pixels) and column sums
(1 - v, v), v = foreground mass. With two classes the row scaling can be eliminated: with
d = (S_fg - S_bg) / lambda and the logistic function s,

    M T_fg = s(d + b),   M T_bg = 1 - s(d + b),   b the root of  mean s(d + b) = v,

one scalar equation instead of Sinkhorn iterations. The public code stops Sinkhorn after two
iterations (its tolerance is absolute, the scalings are of size 1/M); that has a closed form too:
b1 = log(v pi_bg / ((1 - v) pi_fg)), pi = mean of softmax(S / lambda), and each column then scaled
to its mass.

Both plans can be had from the POT library's Sinkhorn instead, as a check; they agree to 1e-8.

Weak features need the coarse mask M0 as more than the source of two centroids: -H(T) is the
relative entropy to a uniform plan, and with the plan of M0 instead, whose odds are e^prior for M0's
class, d gains +prior inside M0 and -prior outside. 0 is the paper; a large prior gives M0 back.

With slack the masses are upper bounds, and part of the pixels stays untransported: ``partial.py``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.errors import UserError
from coin_ray.labels import BoolArray
from coin_ray.propagation.partial import partial_plan
from coin_ray.propagation.roots import logistic, root
from coin_ray.propagation.settings import Ot
from coin_ray.propagation.similarity import with_complement

Float64 = NDArray[np.float64]
POT_ITERATIONS = 10_000


def two_class_plan(
    similarity: NDArray[np.floating], ot: Ot, coarse: BoolArray | None = None
) -> Float64:
    """(2, H, W) float64 plan T of ``similarity`` (2, H, W), row 0 background, row 1 foreground; its
    sum is 1, or 1 - ``ot.slack``.

    ``ot.mode`` "converged" meets both marginals, "one_step" is the public code's plan (columns
    exact, rows not). ``ot.prior`` is the log-odds that the plan starts from in favour of the mask
    ``coarse`` (H, W) bool, whose share of the pixels may be the foreground mass, too.
    ``ot.solver`` "exact" is the closed form, "pot" the library's log-domain Sinkhorn: two
    iterations for "one_step", else as many as it takes; UserError when 10 000 do not suffice. With
    ``ot.slack`` these are :func:`partial_plan`, and the library's solver of the same problem.

    >>> from coin_ray.propagation.settings import Ot
    >>> maps = np.array([[[0.2, 0.8]], [[0.8, 0.2]]])  # the left pixel looks like foreground
    >>> (2 * two_class_plan(maps, Ot(foreground_mass=0.5, lambda_=0.6))[1]).round(3)
    array([[0.731, 0.269]])
    """
    if coarse is None and (ot.prior or ot.foreground_mass == "coarse"):
        raise ValueError("the foreground mass, or a prior, needs the coarse mask")
    mass = ot.foreground_mass
    if coarse is not None and mass == "coarse":
        # A transport needs some mass on either side, also for an image without a cell.
        mass = float(np.clip(coarse.mean(), 1e-3, 1 - 1e-3))
    assert not isinstance(mass, str)
    maps = np.asarray(similarity, dtype=np.float64)
    if coarse is not None and ot.prior:
        # lambda KL(T | R) is lambda H and a cost of -lambda log R beside 1 - S.
        maps = maps + ot.lambda_ * ot.prior * np.stack([~coarse, coarse])
    if ot.solver == "pot":
        if ot.slack:
            return _pot_partial_plan(maps, ot.lambda_, mass, ot.slack)
        return _pot_plan(maps, ot.lambda_, mass, ot.mode)
    if ot.slack:
        return partial_plan(maps, ot.lambda_, mass, ot.slack)
    d = (maps[1] - maps[0]) / ot.lambda_
    if ot.mode == "converged":
        share = logistic(d + _balance(d.ravel(), mass))
        return np.stack([1 - share, share]) / d.size
    pi = logistic(d).mean()
    odds = np.log(mass) - np.log1p(-mass)
    b1 = odds + np.log(logistic(-d).mean()) - np.log(pi)
    columns = np.stack([logistic(-d - b1), logistic(d + b1)])
    return columns * (np.array([1 - mass, mass]) / columns.sum(axis=(1, 2)))[:, None, None]


def transport(
    similarity: NDArray[np.floating], ot: Ot, coarse: BoolArray | None = None, *, complement: bool
) -> NDArray[np.float32]:
    """The refined maps S^OT (2, H, W) float32 in [0, 1]; the mask is their arg-max.

    ``ot.output`` "product" is the paper's: the plan, each column to [0, 1], times the similarity,
    each channel to [0, 1], and with ``complement`` (that of ``uss``) background = max(background,
    1 - foreground); the scale of the plan cancels. "plan" is the plan alone, each pixel's row to
    sum 1: the product counts the similarity twice. The rest: see :func:`two_class_plan`.

    What ``ot.slack`` leaves of a pixel is background: maps are mixed with (1, 0) by the share of it
    that stays, so that a pixel of which less than half is transported is background in both.

    >>> from coin_ray.propagation.settings import Ot
    >>> maps = np.array([[[0.2, 0.8, 0.9]], [[0.8, 0.3, 0.1]]])
    >>> mask = np.array([[True, False, False]])  # its share is the foreground mass
    >>> background, foreground = transport(maps, Ot(), mask, complement=True)
    >>> foreground > background
    array([[ True, False, False]])
    """
    plan = two_class_plan(similarity, ot, coarse)
    if ot.output == "plan":
        maps = (plan / _positive(plan.sum(axis=0))).astype(np.float32)
    else:
        refined = np.asarray(similarity, dtype=np.float64) * _unit(plan)
        maps = _unit(refined).astype(np.float32)
        maps = with_complement(maps) if complement else maps
    return _staying(maps, plan) if ot.slack else maps


def without_transport(
    similarity: NDArray[np.floating], threshold: float | str
) -> NDArray[np.float32]:
    """The paper's ablation (2, H, W) float32: background is a constant, foreground as it is.

    ``threshold`` is that constant, or "mean", the mean of the foreground similarity.
    """
    foreground = np.asarray(similarity[1], dtype=np.float32)
    level = float(foreground.mean()) if threshold == "mean" else float(threshold)
    return np.stack([np.full_like(foreground, level), foreground])


def _staying(maps: NDArray[np.float32], plan: Float64) -> NDArray[np.float32]:
    moved = np.clip(plan.sum(axis=0) * plan[0].size, 0, 1).astype(np.float32)
    return np.stack([1 - moved + moved * maps[0], moved * maps[1]])


def _pot_plan(maps: Float64, lambda_: float, mass: float, mode: str) -> Float64:
    import ot

    size = maps[0].size
    one_step = mode == "one_step"
    # Classes first in POT's words: its iterations then begin with the pixels and end with the
    # classes, as the public code's do. Its error is the norm of the pixels' marginal, whose entries
    # are 1 / size.
    plan = ot.sinkhorn(
        [1 - mass, mass],
        np.full(size, 1 / size),
        1 - maps.reshape(2, -1),
        reg=lambda_,
        method="sinkhorn_log",
        numItermax=2 if one_step else POT_ITERATIONS,
        stopThr=0.0 if one_step else 1e-12 / np.sqrt(size),
        warn=False,
    )
    off = float(np.abs(plan.sum(axis=0) * size - 1).max())
    if off > 1e-9 and not one_step:
        raise _unconverged("every pixel's mass within 1e-9 of its share", off)
    return plan.reshape(maps.shape)


def _pot_partial_plan(maps: Float64, lambda_: float, mass: float, slack: float) -> Float64:
    from ot.partial import entropic_partial_wasserstein

    size = maps[0].size
    bounds = np.full(size, 1 / size), np.array([1 - mass, mass])
    plan = entropic_partial_wasserstein(
        *bounds, 1 - maps.reshape(2, -1).T, reg=lambda_, m=1 - slack,
        numItermax=POT_ITERATIONS, stopThr=1e-13 / np.sqrt(size),
    )  # fmt: skip
    over = max(float((plan.sum(axis=1) * size).max()), *(plan.sum(axis=0) / bounds[1])) - 1
    if not over < 1e-6:  # NaN where its kernel is nothing in double precision
        raise _unconverged("no more than its mass for a pixel or a class, within 1e-6", over)
    return plan.T.reshape(maps.shape)


def _unconverged(expected: str, found: float) -> UserError:
    return UserError(
        "the Sinkhorn iterations of POT do not converge",
        where="ot.solver: pot",
        expected=f"{expected} after {POT_ITERATIONS} of them",
        found=f"{found:.1g}",
        do="`ot.solver: exact`, which needs no iterations, or a larger ot.lambda",
    )


def _positive(values: Float64) -> Float64:
    return np.where(values > 0, values, 1)


def _unit(maps: Float64) -> Float64:
    # Any range is stretched, however small (the plan's entries are of size 1/M); constants give 0.
    low = maps.min(axis=(1, 2), keepdims=True)
    span = maps.max(axis=(1, 2), keepdims=True) - low
    return (maps - low) / _positive(span)


def _balance(d: Float64, mass: float) -> float:
    """The b with mean logistic(d + b) = mass, which is monotone in b."""
    odds = float(np.log(mass) - np.log1p(-mass))

    def excess(b: float) -> tuple[float, float]:
        share = logistic(d + b)
        return float(share.mean()) - mass, float((share * (1 - share)).mean())

    bracket = odds - float(d.max()), odds - float(d.min())
    return root(excess, bracket, odds - float(d.mean()), within=1e-12)
