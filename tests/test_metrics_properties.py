"""Properties of the metrics on random maps, and a slow evaluator as an oracle."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.labels import relabel
from coin_ray.metrics.contingency import contingency
from coin_ray.metrics.evaluate import evaluate
from coin_ray.metrics.settings import Evaluate

NAMES = ("aji", "aji_plus", "pq", "sq", "dq", "dice", "iou", "miou", "fn", "fp")
few = settings(max_examples=40, deadline=None, derandomize=True)


def discs(rng, n, size=32):
    y, x = np.mgrid[:size, :size]
    out = np.zeros((size, size), dtype=np.int32)
    for i in range(n):
        cy, cx, r = rng.uniform(0, size), rng.uniform(0, size), rng.uniform(2, 6)
        out[(y - cy) ** 2 + (x - cx) ** 2 <= r * r] = i + 1
    return relabel(out)


def edited(rng, label_map):
    """Split, merged, eroded, shifted or dropped instances."""
    out = np.roll(label_map, tuple(rng.integers(-2, 3, 2)), (0, 1)).copy()
    n = int(out.max(initial=0))
    for i in range(1, n + 1):
        y, x = np.nonzero(out == i)
        kind = rng.integers(5)
        if not len(y):
            continue
        if kind == 0:
            out[y[x > np.median(x)], x[x > np.median(x)]] = n + i
        elif kind == 1:
            out[y, x] = rng.integers(1, n + 1)
        elif kind == 2:
            out[y[y == y.min()], x[y == y.min()]] = 0
        elif kind == 3:
            out[y, x] = 0
    return relabel(out)


@st.composite
def pairs(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["edited", "independent", "noise"]))
    if kind == "noise":
        shape = tuple(rng.integers(1, 9, 2))
        return tuple(relabel(rng.integers(0, rng.integers(1, 7), shape)) for _ in range(2))
    true = discs(rng, draw(st.integers(0, 9)))
    other = edited(rng, true) if kind == "edited" else discs(rng, draw(st.integers(0, 9)))
    return true, other


def same(a, b):
    assert [a[k] for k in NAMES] == pytest.approx([b[k] for k in NAMES], abs=1e-9, nan_ok=True)


def values(true, predicted):
    return evaluate(true, predicted, Evaluate(), official=False)


def oracle(true, predicted):
    """The definitions, one full-image mask at a time."""
    t = [true == i for i in range(1, int(true.max(initial=0)) + 1)]
    p = [predicted == i for i in range(1, int(predicted.max(initial=0)) + 1)]
    if not t and not p:
        return dict.fromkeys(NAMES, float("nan"))
    inter = np.array([[(a & b).sum() for b in p] for a in t]).reshape(len(t), len(p))
    union = np.array([[(a | b).sum() for b in p] for a in t]).reshape(len(t), len(p))
    jaccard = inter / np.maximum(union, 1)
    above = below = 0
    used = set()
    for i in range(len(t)):
        if len(p) and jaccard[i].max() > 0:
            j = int(jaccard[i].argmax())
            above, below = above + inter[i, j], below + union[i, j]
            used.add(j)
        else:
            below += t[i].sum()
    below += sum(p[j].sum() for j in range(len(p)) if j not in used)
    tp = [(i, j) for i in range(len(t)) for j in range(len(p)) if jaccard[i, j] > 0.5]
    dq = len(tp) / (len(t) / 2 + len(p) / 2)
    sq = sum(jaccard[i, j] for i, j in tp) / len(tp) if tp else 0.0
    f, g = true > 0, predicted > 0
    back = (~f & ~g).sum() / (~f | ~g).sum() if (~f | ~g).any() else 1.0
    iou = (f & g).sum() / (f | g).sum()
    return {
        "aji": above / below, "aji_plus": best_assignment(t, p, inter, union, jaccard),
        "dq": dq, "sq": sq, "pq": dq * sq, "dice": 2 * (f & g).sum() / (f.sum() + g.sum()),
        "iou": iou, "miou": (iou + back) / 2, "fn": (f & ~g).sum() / (f | g).sum(),
        "fp": (g & ~f).sum() / (f | g).sum(),
    }  # fmt: skip


def best_assignment(t, p, inter, union, jaccard):
    """AJI+ by SciPy's assignment on the whole matrix; every permutation where that is few."""
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(jaccard, maximize=True)
    if 0 < len(t) <= len(p) <= 5:
        best = max(sum(jaccard[range(len(t)), q]) for q in permutations(range(len(p)), len(t)))
        assert jaccard[rows, columns].sum() == pytest.approx(best)
    hit = [(i, j) for i, j in zip(rows, columns, strict=True) if inter[i, j]]
    below = sum(union[i, j] for i, j in hit)
    below += sum(m.sum() for i, m in enumerate(t) if i not in {a for a, _ in hit})
    below += sum(m.sum() for j, m in enumerate(p) if j not in {b for _, b in hit})
    return sum(inter[i, j] for i, j in hit) / below


@few
@given(pairs())
def test_equals_the_slow_oracle(pair):
    same(values(*pair), oracle(*pair))


@few
@given(pairs())
def test_bounds_and_order(pair):
    v = values(*pair)
    if np.isnan(v["aji"]):
        return
    assert all(0 <= v[k] <= 1 for k in NAMES)
    e = 1e-12
    assert v["aji"] <= v["iou"] + e
    assert v["iou"] <= v["dice"] + e
    assert v["aji_plus"] <= v["iou"] + e
    assert v["pq"] <= min(v["dq"], v["sq"]) + e
    assert v["iou"] + v["fn"] + v["fp"] == pytest.approx(1)


@few
@given(pairs())
def test_identity_is_one(pair):
    v = values(pair[0], pair[0])
    if pair[0].any():
        assert all(v[k] == pytest.approx(1) for k in NAMES if k not in ("fn", "fp"))
        assert v["fn"] == v["fp"] == 0


@few
@given(pairs(), st.integers(0, 2**32 - 1), st.sampled_from([1, 7, 70_000, 10**9]))
def test_ids_do_not_matter(pair, seed, step):
    rng = np.random.default_rng(seed)
    spread = [np.where(m > 0, m.astype(np.int64) * step + 5, 0) for m in pair]
    same(values(*spread), values(*pair))
    shuffled = []
    for labels in pair:
        order = rng.permutation(int(labels.max(initial=0)))
        shuffled.append(np.concatenate([[0], order * step + 1])[labels])
    # on an exact tie AJI takes the lower id, so a permutation may choose another pair
    a, b = values(*pair), values(*shuffled)
    names = [n for n in NAMES if "aji" not in n or not tied(*pair)]
    assert [a[n] for n in names] == pytest.approx([b[n] for n in names], nan_ok=True)


def tied(true, predicted):
    """True where an instance overlaps two of the other side equally well."""
    table = contingency(true, predicted)
    jaccard = table.jaccard.round(9)
    sides = [set(zip(i, jaccard, strict=True)) for i in (table.true_index, table.predicted_index)]
    return any(len(side) < len(jaccard) for side in sides)


@pytest.mark.parametrize(
    "dtype", ["uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_dtypes(dtype):
    rng = np.random.default_rng(3)
    true = discs(rng, 8)
    other = edited(rng, true)
    same(values(true.astype(dtype), other), values(true, other))


@few
@given(pairs())
def test_geometry_does_not_matter(pair):
    a = values(*pair)
    for move in (np.transpose, np.flipud, np.rot90, lambda m: np.repeat(np.repeat(m, 3, 0), 3, 1)):
        same(values(*(move(m) for m in pair)), a)
    padded = values(*(np.pad(m, 3) for m in pair))
    names = [n for n in NAMES if n != "miou"]
    assert [padded[n] for n in names] == pytest.approx([a[n] for n in names], nan_ok=True)


@few
@given(pairs())
def test_symmetry(pair):
    a, b = values(*pair), values(*pair[::-1])
    assert a["pq"] == pytest.approx(b["pq"], nan_ok=True)
    assert a["fn"] == pytest.approx(b["fp"], nan_ok=True)


@few
@given(pairs())
def test_an_extra_prediction_costs(pair):
    true, predicted = (np.pad(m, ((0, 3), (0, 0))) for m in pair)
    more = predicted.copy()
    more[-2:] = predicted.max(initial=0) + 1
    a, b = values(true, predicted), values(true, more)
    if not true.any():
        return
    for name in ("aji", "aji_plus", "pq"):
        assert b[name] < a[name] or a[name] == b[name] == 0


@few
@given(pairs())
def test_deleting_a_match_never_helps(pair):
    true, predicted = pair
    table = contingency(true, predicted)
    matched = table.predicted_index[table.jaccard > 0.5]
    if len(matched):
        a = values(true, predicted)
        b = values(true, np.where(predicted == matched[0] + 1, 0, predicted))
        assert all(b[n] <= a[n] + 1e-12 for n in ("aji", "aji_plus", "pq"))


@few
@given(pairs())
def test_dense_equals_sparse(pair):
    dense, sparse = contingency(*pair), contingency(*pair, dense_cells=0)
    for name in ("true_areas", "predicted_areas", "true_index", "predicted_index", "intersection"):
        np.testing.assert_array_equal(getattr(dense, name), getattr(sparse, name))


def test_counts_add_up_to_pooled_counts():
    from coin_ray.metrics.panoptic import panoptic

    rng = np.random.default_rng(5)
    true = [discs(rng, 6) for _ in range(4)]
    predicted = [edited(rng, m) for m in true]

    def matches(t, p):
        table = contingency(t, p)
        return panoptic(table).dq * (len(table.true_areas) + len(table.predicted_areas)) / 2

    def side_by_side(maps):
        starts = np.cumsum([0, *(m.max() for m in maps)])[:-1]
        return np.hstack([np.where(m > 0, m + s, 0) for m, s in zip(maps, starts, strict=True)])

    each = [matches(t, p) for t, p in zip(true, predicted, strict=True)]
    assert sum(each) == pytest.approx(matches(side_by_side(true), side_by_side(predicted)))
    assert sum(each) == pytest.approx(round(sum(each))) and sum(each) > 1
