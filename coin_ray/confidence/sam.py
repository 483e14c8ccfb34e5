"""Segment Anything (Kirillov et al., ICCV 2023) as a prompt segmenter, through segment-anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage
from torch.nn import functional

from coin_ray.labels import BoolArray, InstanceMasks


class SamSegmenter:
    """One positive point per instance, three candidate masks, the one of highest predicted IoU.

    ``sam`` is a ``segment_anything`` Sam module. The image is resized as SAM's own predictor does
    (long side to the encoder's size, padded below and right). On a GPU ``batch`` prompts are
    decoded at a time. On a CPU it is one: more only fill the memory, 40 MB each, and the caches.
    """

    def __init__(self, sam: Any, *, batch: int, device: str = "cpu") -> None:
        self.sam = sam.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.batch = 1 if self.device.type == "cpu" else batch
        self.side = int(sam.image_encoder.img_size)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(H, W, 3) uint8 RGB -> {"embedding": (C, h, w) float16} (256 x 64 x 64, 2 MB)."""
        height, width = self._input_size(image.shape[:2])
        resized = PilImage.fromarray(image).resize((width, height), PilImage.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).to(self.device).permute(2, 0, 1)[None]
        embedding = self.sam.image_encoder(self.sam.preprocess(pixels))
        return {"embedding": embedding[0].to(torch.float16).cpu().numpy()}

    @torch.inference_mode()
    def decode(
        self,
        embedding: dict[str, NDArray[Any]],
        points_yx: NDArray[np.float64],
        shape: tuple[int, int],
    ) -> InstanceMasks:
        """Masks at the image's ``shape`` (H, W) of the points (N, 2), pixel positions (y, x).

        The choice among the three candidates comes before the upsampling, and only the part of a
        mask's box is upsampled, so memory does not grow with N and little with the image.
        """
        features = torch.from_numpy(embedding["embedding"]).to(self.device, torch.float32)[None]
        height, width = self._input_size(shape)
        ratio = np.array([width / shape[1], height / shape[0]])
        points = torch.from_numpy(np.asarray(points_yx, dtype=np.float64)[:, ::-1] * ratio)
        place = self._exactly(self.sam.prompt_encoder.get_dense_pe)
        rows: NDArray[np.float32] | None = None
        boxes, crops, predicted = [], [], [np.zeros(0, dtype=np.float32)]
        for start in range(0, len(points), self.batch):
            xy = points[start : start + self.batch, None].to(self.device, torch.float32)
            labels = torch.ones(xy.shape[:2], dtype=torch.int, device=self.device)
            sparse, dense = self._exactly(self.sam.prompt_encoder, (xy, labels), None, None)
            logits, iou = self.sam.mask_decoder(
                image_embeddings=features,
                image_pe=place,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=True,
            )
            best = iou.argmax(dim=1)
            which = torch.arange(len(best), device=self.device)
            chosen = logits[which, best].float().cpu().numpy()
            predicted.append(iou[which, best].float().cpu().numpy())
            if rows is None:
                rows = _upsampling(chosen.shape[1], self.side, height, shape[0])
                columns = _upsampling(chosen.shape[2], self.side, width, shape[1])
            for low in chosen - self.sam.mask_threshold:
                box, crop = _cut(low, rows, columns)
                boxes.append(box)
                crops.append(crop)
        return InstanceMasks(
            np.array(boxes, dtype=np.int64).reshape(-1, 4),
            crops,
            np.clip(np.concatenate(predicted), 0, 1),
        )

    def _exactly(self, function: Any, *arguments: Any) -> Any:
        """In fp32 whatever the rest computes in: sines of positions need more than 8 bits."""
        with torch.autocast(self.device.type, enabled=False):
            return function(*arguments)

    def _input_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        ratio = self.side / max(shape)
        return max(1, int(shape[0] * ratio + 0.5)), max(1, int(shape[1] * ratio + 0.5))


def load_sam(name: str) -> Any:
    """The Sam module of registered weights (``sam_vit_b``, ...), on the CPU.

    UserError if the file is missing, damaged or another model's.
    """
    from coin_ray.compat import ensure_torchvision
    from coin_ray.weights.modules import fill
    from coin_ray.weights.registry import entry

    ensure_torchvision()
    from segment_anything import sam_model_registry

    kind = entry(name).build["model"]
    with torch.device("meta"):  # initialising 600 M parameters takes longer than reading them
        sam = sam_model_registry[kind]()
    fill(sam, name, f"a segment-anything checkpoint of {kind}", assign=True)
    return sam


def _upsampling(low: int, side: int, used: int, full: int) -> NDArray[np.float32]:
    """(full, low) matrix of SAM's two linear interpolations along an axis with the cut between.

    Logits of ``low`` px are resized to the encoder's ``side``, the padding beyond ``used`` is cut
    off, and the rest is resized to the image's ``full`` px. Bilinear is separable, so a mask is
    rows @ logits @ columns.T, and any box of it costs only that box.
    """
    basis = torch.eye(low)[None]
    wide = functional.interpolate(basis, size=side, mode="linear", align_corners=False)
    out = functional.interpolate(wide[..., :used], size=full, mode="linear", align_corners=False)
    return np.ascontiguousarray(out[0].numpy().T)


def _cut(
    low: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> tuple[tuple[int, int, int, int], BoolArray]:
    """Box (half-open) and crop of the upsampled ``low`` > 0; all zero and (0, 0) if empty.

    An interpolated value is positive only where a positive one takes part in it.
    """
    positive = low > 0
    spans, nothing = [], ((0, 0, 0, 0), np.zeros((0, 0), dtype=bool))
    for matrix, hit in ((rows, positive.any(axis=1)), (columns, positive.any(axis=0))):
        reached = np.flatnonzero((matrix[:, hit] > 0).any(axis=1))
        if not len(reached):
            return nothing
        full = slice(reached[0], reached[-1] + 1)
        used = np.flatnonzero((matrix[full] > 0).any(axis=0))
        spans.append((full, slice(used[0], used[-1] + 1)))
    (y, ly), (x, lx) = spans
    mask = rows[y, ly] @ low[ly, lx] @ columns[x, lx].T > 0
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return nothing
    crop = np.ascontiguousarray(mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1])
    y0, x0 = int(y.start + ys[0]), int(x.start + xs[0])
    return (y0, x0, y0 + crop.shape[0], x0 + crop.shape[1]), crop
