"""Which stage of a cell stands behind a name that the steps use: the mask that Step 1 ends with,
the label map that a round scores, a row of the table.
"""

from __future__ import annotations

from collections.abc import Sequence

from coin_ray.data.sample import Image
from coin_ray.pipeline.settings import Cell
from coin_ray.pipeline.stage import Ref, Scope

STEPS = {"coarse": "ucis", "step 1": "step1", "pseudo labels": "pseudo_labels"}
"""What people call the steps before the first round."""
FINAL = "final"
"""The row of a result that is not simply the last of the chain's steps."""


def step_named(words: str) -> str:
    """A step as people call it (``round 2``) as it stands in tables of values (``round_2``)."""
    return STEPS.get(words, words.replace(" ", "_"))


def refined(chain: Scope, image: Image) -> Ref:
    """The propagated mask; the coarse mask itself when nothing is propagated."""
    return Ref("ucis" if chain.config.uss.family == "none" else "refine", image)


def zooms(config: Cell) -> tuple[float, ...]:
    """At which zooms there are features; the segmenter has seen an image once, at none of ours."""
    return (0.0,) if config.uss.family == "sam" else config.uss.zoom


def step1(image: Image) -> Ref:
    """Instances of Step 1."""
    return Ref("instances", image)


def coarse(image: Image) -> Ref:
    """Instances of the coarse mask."""
    return Ref("instances", image, step="ucis")


def current(chain: Scope, ref: Ref) -> Ref:
    """The label map that the round of ``ref`` scores: Step 1 for round 1, then the last prediction.

    Where labels have settings of their own (``relabel``), ``step`` tells their predictions from
    those that are a result: of the last round, and what is redrawn (``ref.step`` "result").
    """
    if ref.round == 1:
        return step1(ref.image)
    config = chain.config
    own = config.relabel.of(config.infer) != config.infer
    own = own and ref.step != "result" and ref.round <= config.rounds.count
    return Ref("predict", ref.image, ref.round - 1, step="labels" if own else "")


def result(chain: Scope, image: Image, round_: int) -> Ref:
    """What the student of ``round_`` is measured by: its prediction, redrawn if asked for.

    The next round scores the prediction itself: a mask of the segmenter would agree with the
    segmenter whatever the student saw. What was mined beside it is added.
    """
    found = drawn(chain, image, round_)
    return found._replace(stage="complete") if mines(chain, found) else found


def drawn(chain: Scope, image: Image, round_: int) -> Ref:
    """The same without what was mined."""
    return Ref("redraw" if chain.config.infer.redraw else "predict", image, round_)


def candidates(chain: Scope, ref: Ref) -> Sequence[Ref]:
    """The masks that mining chooses from beside the instances of ``ref``; those of the student's
    probability where a student predicted these."""
    points = chain.config.mine.points
    found = [Ref("candidates", ref.image, step=term) for term in points if term != "student"]
    if "student" in points and ref.round:
        found.append(Ref("candidates", ref.image, ref.round, step=ref.step))
    return found


def mines(chain: Scope, ref: Ref) -> bool:
    """True if there are any."""
    return bool(candidates(chain, ref))


def refresh(chain: Scope, round_: int) -> int:
    """The round in which the labels that ``round_`` trains on were made."""
    return round_ - (round_ - 1) % _every(chain)


def previous_refresh(chain: Scope, round_: int) -> int | None:
    """The round whose labels were replaced by those of ``round_``."""
    previous = refresh(chain, round_) - _every(chain)
    return previous if previous > 0 else None


def _every(chain: Scope) -> int:
    rounds = chain.config.rounds.refresh
    assert isinstance(rounds, int)  # a cell has turned epochs and steps into rounds
    return rounds


def labels(chain: Scope, image: Image, round_: int) -> Ref:
    """The pseudo labels that ``round_`` trains on."""
    return Ref("select", image, refresh(chain, round_))


def elsewhere(chain: Scope) -> bool:
    """True for a cell whose result was made elsewhere: it has no step but its end."""
    return chain.config.predictions.path is not None


def behind(chain: Scope, image: Image, step: str) -> Ref:
    """The label map behind a row of the table; ``step`` is one of ``steps()``."""
    if step == "ucis":
        return coarse(image)
    if step == "step1":
        return step1(image)
    if step == "pseudo_labels":
        return labels(chain, image, 1)
    return result(chain, image, int(step.removeprefix("round_")))


def steps(chain: Scope, image: Image) -> tuple[str, ...]:
    """``ucis``, ``step1``, ``pseudo_labels``, ``round_1`` .. ``round_R``.

    Only an image that is trained on has pseudo labels. ``final`` alone where the result was made
    elsewhere, of images that have one.
    """
    if elsewhere(chain):
        return (FINAL,) if chain.prediction(image) else ()
    made = ("pseudo_labels",) if image in chain.train else ()
    rounds = (f"round_{r + 1}" for r in range(chain.config.rounds.count))
    return ("ucis", "step1", *made, *rounds)


def final_step(chain: Scope) -> str:
    """The step whose label maps are the cell's result."""
    result = chain.config.evaluate.result
    if elsewhere(chain):
        return FINAL
    return step_named(result) if result in STEPS else last_step(chain)


def last_step(chain: Scope) -> str:
    """The last step that the cell comes to."""
    rounds = chain.config.rounds.count
    return f"round_{rounds}" if rounds else "step1"


def all_centroids(chain: Scope, round_: int) -> Sequence[Ref]:
    """The class sums of all training images, of each zoom."""
    own = zooms(chain.config)
    return [Ref("centroids", image, zoom=zoom) for image in chain.train for zoom in own]


def all_scores(chain: Scope, round_: int) -> Sequence[Ref]:
    """The scores of all training images in a round."""
    return [Ref("score", image, round_) for image in chain.train]
