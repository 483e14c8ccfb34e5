from __future__ import annotations

import torch

from coin_ray.compat import ensure_torchvision, nms


def test_torchvision_imports_and_says_the_same_twice() -> None:
    assert ensure_torchvision() == ensure_torchvision()
    import torchvision.ops

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [20, 20, 30, 30]])
    kept = torchvision.ops.nms(boxes, torch.tensor([0.5, 0.9, 0.1]), 0.5)
    assert kept.tolist() == [1, 2]


def test_nms_keeps_the_best_of_each_pile() -> None:
    # IoU of the first two is 9/11, of the second and third 8/12
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [3, 0, 13, 10], [50, 50, 60, 60]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.95])
    assert nms(boxes, scores, 0.6).tolist() == [3, 0, 2]
    assert nms(boxes, scores, 0.9).tolist() == [3, 0, 1, 2]
    assert nms(boxes, scores, 0.1).tolist() == [3, 0]
    assert nms(boxes[:0], scores[:0], 0.5).tolist() == []
