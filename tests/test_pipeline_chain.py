"""Keys: what belongs to a result changes them, what only makes it faster does not."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_args

import pytest

from coin_ray.pipeline.chain import CellKeys
from coin_ray.pipeline.plan import cell_stages
from coin_ray.pipeline.settings import Cell, dotted_fields, is_runtime


@dataclass(frozen=True)
class FakeImage:
    name: str
    mpp: float | None = None

    def digest(self) -> str:
        return f"content of {self.name}"


IMAGES = (FakeImage("a"), FakeImage("b"))
FULL = {
    "crf.enabled": True,
    "score.kind": "combined",
    "labels.missed": "ignore",
    "infer.stain_weight": 4.0,
    "student.later_iterations": 100,
    "student.later_lr": 0.5,
    "rounds.count": 2,
}
"""Every optional part switched on, so that each of its settings must count."""
ONLY_WHEN = {"ot.threshold": {"ot.enabled": False}, "ucis.path": {"ucis.model": "files"}}
OTHER: dict[str, Any] = {
    "ucis.model": "files",
    "ucis.path": "elsewhere",
    "uss.window": 512,
    "ot.foreground_mass": 0.3,
    "ot.threshold": "mean",
    "student.later_iterations": 50,
    "student.scale": (0.9, 1.1),
    "infer.scales": (1.0,),
    "infer.tile": 512,
}


def build(values: dict[str, Any]) -> Cell:
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, name = key.split(".")
        nested.setdefault(section, {})[name] = value
    if nested.get("ucis", {}).get("model") == "files":
        nested["ucis"].setdefault("path", "somewhere")
    return Cell.model_validate(nested)


def all_keys(values: dict[str, Any], images: tuple[FakeImage, ...] = IMAGES, seed: int = 0):
    keys = CellKeys(
        build(values),
        seed,
        images,
        lambda name: f"weights of {name}",
        lambda folder, name: f"{folder}/{name}",
    )
    samples = [
        SimpleNamespace(image=i, has_truth=True, truth_digest=lambda i=i: i.name) for i in images
    ]
    return {k.digest for k in cell_stages(keys, SimpleNamespace(train=images, samples=samples))}


def another(key: str, field: Any, now: Any) -> Any:
    if key in OTHER:
        return OTHER[key]
    if isinstance(now, bool):
        return not now
    if isinstance(now, str):
        return next(v for v in get_args(field.annotation) if v != now)
    return now + 1 if isinstance(now, int) else now * 0.5 + 0.15


@pytest.mark.parametrize(("key", "field"), list(dotted_fields()), ids=lambda v: str(v)[:30])
def test_identity_fields_change_a_key_and_runtime_fields_none(key: str, field: Any):
    base = FULL | ONLY_WHEN.get(key, {})
    section, name = key.split(".")
    now = getattr(getattr(build(base), section), "lambda_" if name == "lambda" else name)
    changed = all_keys(base | {key: another(key, field, now)})
    assert (changed != all_keys(base)) is not is_runtime(field)


def test_a_threshold_leaves_everything_before_the_selection_alone():
    before = all_keys({"rounds.count": 1})
    after = all_keys({"rounds.count": 1, "select.rule": "fixed"})
    images = len(IMAGES)
    # select (2), the round, predict (2), score of the prediction (2), evaluate of two steps (2 x 2)
    assert len(after - before) == images + 1 + images + images + 2 * images


def test_a_shorter_study_is_a_prefix_of_a_longer_one():
    assert all_keys({"rounds.count": 1}) <= all_keys({"rounds.count": 3})


def test_seed_changes_the_rounds_only():
    one, two = all_keys({"rounds.count": 0}), all_keys({"rounds.count": 0}, seed=1)
    assert one == two
    assert all_keys({}) != all_keys({}, seed=1)


def test_image_scope_makes_images_independent():
    scope = {"uss.centroid_scope": "image", "rounds.count": 0}
    alone = all_keys(scope, IMAGES[:1])
    assert alone <= all_keys(scope)
    del scope["uss.centroid_scope"]
    assert not all_keys(scope, IMAGES[:1]) <= all_keys(scope)
