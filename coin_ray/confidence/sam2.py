"""SAM 2.1 (Ravi et al., 2024, arXiv 2408.00714) as a prompt segmenter, through the package sam2.

What COIN's public code redraws instances with. Of the video model its image part alone is used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from coin_ray.confidence.frame import Frame
from coin_ray.confidence.prompts import Prompts
from coin_ray.errors import UserError
from coin_ray.labels import InstanceMasks
from coin_ray.weights.modules import normalise

LEVELS = ("quarter", "half", "embedding")
"""Features that the decoder takes, by their size beside the finest one's 256 px."""


OUTSIDE, POINT, CORNERS = 0, [1], [2, 3]
"""The package's kinds of points: off the object, on it, the corners of a box."""


class Sam2Segmenter:
    """As :class:`coin_ray.confidence.sam.SamSegmenter`; of a mask that is unstable the best of the
    three candidates takes its place, as the package builds the model.

    ``sam`` is a ``sam2`` SAM2Base module. The image is squeezed into the encoder's square, as SAM
    2's own predictor does.
    """

    def __init__(self, sam: Any, *, batch: int, device: str = "cpu") -> None:
        self.sam = sam.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)
        self.batch = 1 if self.device.type == "cpu" else batch
        self.side = int(sam.image_size)

    @torch.inference_mode()
    def encode(self, image: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """(H, W, 3) uint8 RGB -> float16 ``embedding`` (256, 64, 64), ``half`` (64, 128, 128) and
        ``quarter`` (32, 256, 256): 8 MB."""
        pixels = torch.from_numpy(np.array(image)).to(self.device).permute(2, 0, 1)[None].float()
        square = functional.interpolate(
            pixels, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True
        )
        levels = self.sam.forward_image(normalise(square))["backbone_fpn"][-3:]
        if self.sam.directly_add_no_mem_embed:  # an image is a video's first frame: no memory
            levels[-1] = levels[-1] + self.sam.no_mem_embed.reshape(1, -1, 1, 1)
        return {
            name: level[0].to(torch.float16).cpu().numpy()
            for name, level in zip(LEVELS, levels, strict=True)
        }

    @torch.inference_mode()
    def decode(
        self, embedding: dict[str, NDArray[Any]], prompts: Prompts, shape: tuple[int, int]
    ) -> InstanceMasks:
        """Masks at the image's ``shape`` (H, W); see :meth:`Frame.draw`."""
        *fine, features = (
            torch.from_numpy(embedding[name]).to(self.device, torch.float32)[None]
            for name in LEVELS
        )
        square = (self.side, self.side)
        frame = Frame(shape, square, self.side, 4 * features.shape[-1], direct=True)
        encoder = self.sam.sam_prompt_encoder
        place = self._exactly(encoder.get_dense_pe)

        def decode(part: Prompts) -> tuple[Tensor, Tensor]:
            masks = None
            if part.boxes_yxyx is not None:
                xy, kinds = frame.boxes(part), CORNERS
            else:
                xy, kinds = frame.points(part), POINT
            outside = frame.negatives(part)
            xy = torch.cat([xy, outside], dim=1)
            labels = torch.full(xy.shape[:2], OUTSIDE, dtype=torch.int)
            labels[:, : len(kinds)] = torch.tensor(kinds, dtype=torch.int)
            if part.masks is not None:
                masks = frame.logits(part.masks).to(self.device)
            asked = (xy.to(self.device), labels.to(self.device))
            sparse, dense = self._exactly(encoder, asked, None, masks)
            logits, iou, _, _ = self.sam.sam_mask_decoder(
                image_embeddings=features,
                image_pe=place,
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=part.ambiguous,
                repeat_image=True,
                high_res_features=fine,
            )
            return logits, iou

        return frame.draw(prompts, decode, batch=self.batch, threshold=0.0)

    def _exactly(self, function: Any, *arguments: Any) -> Any:
        """In fp32 whatever the rest computes in: sines of positions need more than 8 bits."""
        with torch.autocast(self.device.type, enabled=False):
            return function(*arguments)


def load_builder() -> Any:
    """``build_sam2`` of the package; UserError that names the extra where it is missing."""
    from coin_ray.compat import ensure_torchvision

    ensure_torchvision()
    try:
        from sam2.build_sam import build_sam2
    except ImportError as error:
        raise UserError(
            "SAM 2.1 is not installed",
            expected="the package sam2",
            found=str(error),
            do="`pip install coin-ray[sam2]`, or a segmenter that needs no more, such as "
            "`sam.model: vit_h`",
        ) from error
    return build_sam2


def load_sam2(name: str) -> Any:
    """The SAM2Base module of registered weights (``sam2_hiera_l``, ...), on the CPU.

    UserError if the package or the file is missing, or the file is damaged or another model's.
    """
    from coin_ray.weights.modules import fill
    from coin_ray.weights.registry import entry, locate

    build = load_builder()
    locate(name)
    kind = entry(name).build["model"]
    sam = build(f"configs/sam2.1/{kind}.yaml", None, device="cpu")
    fill(sam, name, f"a checkpoint of {kind}, in the format of SAM 2.1")
    return sam
