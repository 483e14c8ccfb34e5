"""Keys: what belongs to a result changes them, what only makes it faster does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from coin_ray.data.dataset import DataSet
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.needs import needed_weights, round_schedule
from coin_ray.pipeline.settings import Cell, nest
from coin_ray.pipeline.stage import Ref
from coin_ray.pipeline.stages import STAGES
from coin_ray.planning.asked import cell_stages
from tests.computing import FakeImage

IMAGES = (FakeImage("a"), FakeImage("b"))


def build(values: dict[str, Any]) -> Cell:
    nested = nest(values)
    if nested.get("ucis", {}).get("model") == "files":
        nested["ucis"].setdefault("path", "somewhere")
    return Cell.model_validate(nested)


def all_keys(values: dict[str, Any], images: tuple[FakeImage, ...] = IMAGES, seed: int = 0):
    keys = Chain(
        build(values),
        seed,
        images,
        lambda name: f"weights of {name}",
        lambda folder, name: f"{folder}/{name}",
    )
    samples = [
        SimpleNamespace(image=i, has_truth=True, truth_digest=lambda i=i: i.name) for i in images
    ]
    return {k.digest for k in cell_stages(keys, DataSet(train=images, samples=samples))}


def changed_stages(values: dict[str, Any], key: str, value: Any) -> list[str]:
    """Stages of Step 1, in order, whose keys a change of one setting changes."""
    found = []
    for changed in (values, values | {key: value}):
        keys = Chain(build(changed), 0, IMAGES, str, str)
        data = DataSet(train=IMAGES, samples=[])
        stages: dict[str, set[str]] = {}
        for made in cell_stages(keys, data):
            stages.setdefault(made.stage, set()).add(made.digest)
        found.append(stages)
    return [stage for stage in STAGES if found[0].get(stage) != found[1].get(stage)]


@pytest.mark.parametrize(
    ("key", "value", "stage"),
    [
        ("uss.weights", "fit3d", "features"),
        ("uss.layer", -2, "features"),
        ("uss.zoom", 4, "features"),
        ("uss.normalise", "whiten", "centroids"),
        ("uss.centroid_weight", "image", "similarity"),
        ("uss.percentile", 1.0, "similarity"),
        ("uss.relu", True, "similarity"),
        ("ot.enabled", False, "similarity"),
        ("ot.solver", "pot", "transport"),
        ("crf.enabled", True, "refine"),
        ("instances.footprint_scale", "adaptive", "instances"),
        ("instances.closing", 2, "instances"),
    ],
)
def test_a_setting_of_step_1_enters_at_its_stage(key: str, value: Any, stage: str):
    assert changed_stages({"rounds.count": 0}, key, value)[0] == stage


def test_settings_without_effect_change_no_key():
    off = {"rounds.count": 0, "ot.enabled": False}
    for key, value in (("uss.minmax", False), ("uss.percentile", 2.0), ("ot.solver", "pot")):
        assert changed_stages(off, key, value) == []
    own = {"rounds.count": 0, "uss.centroid_scope": "image"}
    assert changed_stages(own, "uss.centroid_weight", "image") == []


def test_lists_of_zooms_share_the_features_they_have_in_common():
    keys = {}
    for zooms in ([6.0], [4.0, 6.0]):
        one = Chain(build({"uss.zoom": zooms}), 0, IMAGES, str, str)
        keys[len(zooms)] = [
            made
            for made in cell_stages(one, DataSet(train=IMAGES, samples=[]))
            if made.stage in ("features", "centroids")
        ]
    assert len(keys[2]) == 2 * len(keys[1]) == 4 * len(IMAGES)
    assert set(keys[1]) <= set(keys[2])
    assert changed_stages({"rounds.count": 0}, "uss.zoom", [4.0, 6.0])[:3] == [
        "features",
        "centroids",
        "similarity",
    ]


def test_fine_tuned_weights_are_needed_under_their_own_name():
    assert "mae_base" in needed_weights(build({}))
    names = needed_weights(build({"uss.weights": "fit3d"}))
    assert "mae_base_fit3d" in names and "mae_base" not in names
    assert "mae_base_fit3d" not in needed_weights(build({"uss.family": "none"}))


def test_a_threshold_leaves_everything_before_the_selection_alone():
    before = all_keys({"rounds.count": 1})
    after = all_keys({"rounds.count": 1, "select.rule": "fixed"})
    images = len(IMAGES)
    # select, the round, predict, the segmenter's masks of the prediction and their score, evaluate
    # of two steps
    assert len(after - before) == images + 1 + images + 2 * images + 2 * images


def test_epochs_take_the_place_of_iterations():
    config = build({"student.epochs": 100, "student.later_iterations": 5, "student.batch": 16})
    # 231 whole batches in an epoch of 37 images, as in the public code.
    assert [round_schedule(config, r, 37)["iterations"] for r in (1, 2)] == [23100, 23100]
    one = build({"student.epochs": 3, "student.batch": 128})  # more than an epoch of one image
    assert round_schedule(one, 1, 1)["iterations"] == 3
    epochs = {"student.epochs": 2, "rounds.count": 2}
    assert all_keys(epochs) == all_keys(epochs | {"student.iterations": 7})


def test_labels_anew_each_epoch_are_as_many_rounds_of_one_training():
    said = {"rounds.schedule": "continuous", "rounds.count": 1, "student.epochs": 6}
    each = build(said | {"rounds.refresh": "2 epochs"})
    assert each == build(said | {"rounds.count": 3, "student.epochs": 2})
    assert Cell.model_validate(each.model_dump(mode="json", by_alias=True)) == each
    steps = {"rounds.count": 2, "student.iterations": 40, "student.later_iterations": 20}
    steps |= {"rounds.schedule": "continuous", "rounds.refresh": "15 steps"}
    schedule = [round_schedule(build(steps), r, 37) for r in (1, 4)]
    assert [(s["iterations"], s["before"], s["total"]) for s in schedule] == [
        (15, 0, 60), (15, 45, 60),
    ]  # fmt: skip
    for wrong, words in (
        ({"rounds.schedule": "restart"}, "needs rounds.schedule: continuous"),
        ({"rounds.refresh": "1 epoch"}, "take the unit of that"),
        ({"rounds.refresh": "7 steps"}, "no 1 to 1000 whole rounds of 60"),
        ({"rounds.refresh": "1 day"}, "match pattern"),
        ({"student.later_lr": 1e-4}, "student.later_lr: 0.0001 begins with the second round"),
    ):
        with pytest.raises(ValidationError, match=words):
            build(steps | wrong)


def test_the_key_of_a_part_says_how_long_the_whole_training_is():
    first = set()
    for rounds in (
        {"rounds.count": 2},
        {"rounds.count": 2, "rounds.schedule": "continuous"},
        {"rounds.count": 3, "rounds.schedule": "continuous"},
    ):
        chain = Chain(build(rounds), 0, IMAGES, str, lambda folder, name: name)
        first.add(chain.key(Ref("round", round=1)).digest)
    assert len(first) == 3


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
