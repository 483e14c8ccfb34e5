"""The terms of the score as a stage: each alone, several by rank, nothing that is not asked for."""

from __future__ import annotations

import json
from typing import Any, get_args

import numpy as np
import pytest

from coin_ray.confidence import consistency
from coin_ray.confidence.settings import Term
from coin_ray.imaging.stain import evidence_maps
from coin_ray.labels import InstanceMasks
from coin_ray.pipeline.chain import Chain
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref
from tests.computing import FakeImage, compute
from tests.test_imaging_stain import field

IMAGE, TRUTH = field(size=120)
EXPENSIVE = {
    "stain_jitter": "stain_jitter_agreement",
    "regrowth": "regrowth_agreement",
    "ring_contrast": "ring_contrast",
    "ellipse": "ellipse_fit",
}


def cell(*terms: str, **ucis: Any) -> Cell:
    return Cell.model_validate(
        {"score": {"terms": terms}, "instances": {"footprint": 9}, "ucis": ucis}
    )


@pytest.fixture(scope="module")
def drawn() -> tuple[np.ndarray, InstanceMasks]:
    """A label map, and masks of it: one pixel to the right, each as sure as its number."""
    labels = compute("instances", cell("ellipse"), {"mask": TRUTH, "scale": 1.0}).arrays["array"]
    masks = InstanceMasks.from_label_map(np.roll(labels, 1, axis=1))
    sure = np.linspace(0.2, 0.9, len(masks), dtype=np.float32)
    return labels, InstanceMasks(masks.boxes, masks.crops, sure)


def score(config: Cell, drawn: tuple[np.ndarray, InstanceMasks]) -> dict[str, np.ndarray]:
    labels, masks = drawn
    inputs = {"image": IMAGE, "instances": labels, "masks": masks, "scale": 1.0}
    return compute("score", config, inputs).arrays


def test_each_term_alone_is_its_function(drawn: tuple[np.ndarray, InstanceMasks]) -> None:
    labels, masks = drawn
    evidence = evidence_maps(IMAGE, sigma=2.0, contrast_sigma=12.0, scale=1.0).evidence
    expected = {
        "predicted_iou": masks.predicted_iou,
        "regrowth": consistency.regrowth_agreement(evidence, labels),
        "ring_contrast": consistency.mean_rank([consistency.ring_contrast(evidence, labels)]),
        "ellipse": consistency.ellipse_fit(labels),
    }
    for term, values in expected.items():
        found = score(cell(term, sigma=2.0), drawn)  # the evidence follows the settings
        np.testing.assert_array_equal(found["scores"], values)
        assert found["scores"].min() >= 0 and found["scores"].max() <= 1
        assert found["agreement"].shape == values.shape
    found = score(cell("segmenter"), drawn)
    np.testing.assert_array_equal(found["scores"], found["agreement"])


def test_jitter_segments_with_the_settings_of_the_cell(
    drawn: tuple[np.ndarray, InstanceMasks],
) -> None:
    config = cell("stain_jitter", opening=0)

    def segmented(image: np.ndarray) -> np.ndarray:
        mask = compute("ucis", config, {"image": image, "scale": 1.0}).arrays["array"]
        return compute("instances", config, {"mask": mask, "scale": 1.0}).arrays["array"]

    expected = consistency.stain_jitter_agreement(
        IMAGE, drawn[0], segmented, np.random.default_rng(0)
    )
    found = score(config, drawn)["scores"]
    np.testing.assert_array_equal(found, expected)
    assert (found != score(cell("stain_jitter"), drawn)["scores"]).any()
    # Coarse masks from files say nothing about a stained image: the stain's own are taken.
    files = cell("stain_jitter", opening=0, model="files", path="elsewhere")
    np.testing.assert_array_equal(found, score(files, drawn)["scores"])


def test_several_terms_are_their_mean_rank(drawn: tuple[np.ndarray, InstanceMasks]) -> None:
    terms = ("predicted_iou", "ellipse", "segmenter")
    alone = [score(cell(t), drawn)["scores"] for t in terms]
    together = score(cell(*terms), drawn)["scores"]
    np.testing.assert_array_equal(together, consistency.mean_rank(alone))
    assert together.min() > 0 and together.max() < 1


@pytest.mark.parametrize("term", get_args(Term))
def test_only_what_is_asked_for_is_computed(
    term: str, drawn: tuple[np.ndarray, InstanceMasks], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("nobody asked for this term")

    for other, name in EXPENSIVE.items():
        if other != term:
            monkeypatch.setattr(consistency, name, refuse)
    if term != "ring_contrast":
        monkeypatch.setattr(consistency, "mean_rank", refuse)
    assert len(score(cell(term), drawn)["scores"]) == len(drawn[1])


@pytest.mark.parametrize(
    ("term", "inputs", "settings"),
    [
        ("segmenter", set(), set()),
        ("predicted_iou", set(), set()),
        ("ellipse", set(), set()),
        ("regrowth", {"image", "scale"}, {"evidence"}),
        ("ring_contrast", {"image", "scale"}, {"evidence", "ranked"}),
        ("stain_jitter", {"image", "scale"}, {"coarse", "split"}),
    ],
)
def test_the_key_holds_what_the_term_needs(term: str, inputs: set[str], settings: set[str]) -> None:
    image = FakeImage("a")
    keys = Chain(cell(term), 0, (image,), lambda name: name, lambda folder, name: name)
    fields = json.loads(keys.key(Ref("score", image, 1)).fields)
    assert set(fields["inputs"]) == {"instances", "masks"} | inputs
    assert set(fields["settings"]) == {"terms"} | settings
