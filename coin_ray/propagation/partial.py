"""Entropic partial transport of the pixels to the two classes: COIN's Eq. 4 with slack.

A pixel that looks like neither class has to go somewhere in Eq. 4, and the balance of the masses
moves all others for it. Here the masses are upper bounds, and a share s of the whole stays where it
is. Over plans T (M pixels, classes k) with cost C = 1 - S, foreground mass v:

    minimise  <T, C> - lambda H(T)   with   T 1 <= 1/M,   T^t 1 <= (1 - v, v),   sum T = 1 - s.

With multipliers of the three constraints its optimality conditions give

    M T_ik = p_ik r_i,    z_i = log sum_k exp(S_ik / lambda + u_k),
    p_ik = exp(S_ik / lambda + u_k - z_i),    r_i = min(1, exp(z_i)),

so r_i in [0, 1] is the share of pixel i that is transported, and p_i how that is split. Both u_k
are equal while no class is full. A full class has the smaller u, so at most one is: both could only
be if 1 - s were all. Write u_0 = t, u_1 = t + b, d_i = (S_i1 - S_i0) / lambda. What is left is

    mean r = 1 - s                     one equation for t where no class is full (b = 0), and
    mean r p_1 = the full class's mass (of the other: 1 - s minus that)      one for b beside it.

Either mean is monotone in its unknown, the second also along the t(b) of the first: they are the
slopes of the convex dual and of its minimum over t. Newton inside brackets solves both, b outside.
s = 0 makes all r_i = 1, and is Eq. 4.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coin_ray.propagation.roots import logistic, root

Float64 = NDArray[np.float64]


def partial_plan(maps: Float64, lambda_: float, mass: float, slack: float) -> Float64:
    """(2, H, W) float64 plan T of similarities ``maps`` (2, H, W), row 0 background, row 1
    foreground: its sum is 1 - ``slack``, no pixel has more than its share of 1, foreground at most
    ``mass`` and background at most 1 - ``mass``. ``slack`` and ``mass`` in (0, 1).

    >>> maps = np.array([[[0.9, 0.1, 0.1]], [[0.1, 0.9, 0.1]]])  # the last pixel is like neither
    >>> (3 * partial_plan(maps, 0.05, mass=0.5, slack=1 / 3)).round(3)
    array([[[1., 0., 0.]],
    <BLANKLINE>
           [[0., 1., 0.]]])
    """
    low, high = (channel.ravel() / lambda_ for channel in maps)
    d, moved = high - low, 1 - slack
    level = _Level(low, d, moved)
    b = 0.0
    foreground = level.at(b)[0]
    if foreground > mass:
        full = mass
    elif moved - foreground > 1 - mass:
        full = moved - (1 - mass)
    else:
        return level.plan(b).reshape(maps.shape)
    odds = float(np.log(full) - np.log(moved - full))

    def excess(b: float) -> tuple[float, float]:
        foreground, slope = level.at(b)
        return foreground - full, slope

    bracket = odds - float(d.max()), odds - float(d.min())
    # Not as exact as t, whose rounding it feels; the last step of Newton is far smaller yet.
    b = root(excess, bracket, odds - float(d.mean()), within=1e-9)
    return level.plan(b).reshape(maps.shape)


class _Level:
    """The t that lets the share ``moved`` of all mass be transported, for any b."""

    def __init__(self, low: Float64, d: Float64, moved: float) -> None:
        self._low, self._d, self._moved = low, d, moved
        self._t: float | None = None

    def at(self, b: float) -> tuple[float, float]:
        """The foreground's mass, and its slope in b along t(b)."""
        z, p = self._solved(b)
        r, loose = np.exp(np.minimum(z, 0)), z < 0
        partly = np.where(loose, r, 0)
        grown, lost = float((partly * p * p).mean()), float((partly * p).mean())
        slope = grown + float((r * p * (1 - p)).mean())
        loosely = float(partly.mean())
        return float((r * p).mean()), slope - (lost**2 / loosely if loosely > 0 else 0.0)

    def plan(self, b: float) -> Float64:
        z, p = self._solved(b)
        r = np.exp(np.minimum(z, 0))
        return np.stack([r * logistic(-self._d - b), r * p]) / p.size  # 1 - p, exact where p is 1

    def _solved(self, b: float) -> tuple[Float64, Float64]:
        """z at t(b), and p of the foreground."""
        rest = np.logaddexp(self._low, self._low + self._d + b)

        def excess(t: float) -> tuple[float, float]:
            r = np.exp(np.minimum(rest + t, 0))
            slope = float(r[rest + t < 0].sum()) / r.size
            return float(r.mean()) - self._moved, slope

        most = float(rest.max())
        least, last = float(np.log(self._moved)) - most, -float(rest.min())
        start = self._t if self._t is not None and least < self._t < last else least
        self._t = root(excess, (least, last), start, within=1e-12)
        return rest + self._t, logistic(self._d + b)
