"""Segment Anything (Kirillov et al., ICCV 2023) as a prompt segmenter, through segment-anything."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PilImage
from torch import Tensor

from coin_ray.confidence.frame import Frame
from coin_ray.confidence.prompts import Prompts
from coin_ray.labels import InstanceMasks


class SamSegmenter:
    """Of one positive point an instance three candidate masks, the one of highest predicted IoU; of
    a box, a mask and its point, or a point and others outside, SAM's one mask.

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
        self, embedding: dict[str, NDArray[Any]], prompts: Prompts, shape: tuple[int, int]
    ) -> InstanceMasks:
        """Masks at the image's ``shape`` (H, W); see :meth:`Frame.draw`."""
        features = torch.from_numpy(embedding["embedding"]).to(self.device, torch.float32)[None]
        low = 4 * features.shape[-1]
        frame = Frame(shape, self._input_size(shape), self.side, low)
        place = self._exactly(self.sam.prompt_encoder.get_dense_pe)

        def decode(part: Prompts) -> tuple[Tensor, Tensor]:
            points = boxes = masks = None
            inside, outside = frame.points(part), frame.negatives(part)
            if part.boxes_yxyx is not None:
                boxes, inside = frame.boxes(part).to(self.device).flatten(1), inside[:, :0]
            xy = torch.cat([inside, outside], dim=1).to(self.device)
            if xy.shape[1]:
                labels = torch.arange(xy.shape[1], device=self.device) < inside.shape[1]
                points = xy, labels.int().expand(len(xy), -1)
            if part.masks is not None:
                masks = frame.logits(part.masks).to(self.device)
            sparse, dense = self._exactly(self.sam.prompt_encoder, points, boxes, masks)
            logits, iou = self.sam.mask_decoder(
                image_embeddings=features,
                image_pe=place,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=part.ambiguous,
            )
            return logits, iou

        threshold = float(self.sam.mask_threshold)
        return frame.draw(prompts, decode, batch=self.batch, threshold=threshold)

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
