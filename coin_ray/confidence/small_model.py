"""The small promptable segmenter: segment-anything's own modules at the size of a nucleus.

The image encoder sees a 256-px window at the image's own resolution. The mask decoder sees the 10 x
10 tokens (80 px) around a point, so that its cost does not grow with the window.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from coin_ray.confidence.settings import SMALL_WINDOW as WINDOW
from coin_ray.weights.small_encoder import PATCH, encoder_input, small_encoder

REACH = 5  # tokens on each side of the prompt that the decoder sees
SIDE = 2 * REACH * PATCH  # px, side of a decoded mask


class SmallSam(nn.Module):
    """Image encoder, prompt encoder and mask decoder of segment-anything, joined window-wise."""

    def __init__(
        self, *, dim: int = 128, depth: int = 4, heads: int = 4, decoder_dim: int = 128
    ) -> None:
        """Without weights; the defaults are the sizes of ``sam_mini``."""
        super().__init__()
        self.image_encoder = small_encoder(WINDOW, dim, depth, heads, decoder_dim)
        from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

        side = 2 * REACH
        self.prompt_encoder = PromptEncoder(
            decoder_dim, (side, side), (SIDE, SIDE), mask_in_chans=16
        )
        self.mask_decoder = MaskDecoder(
            transformer_dim=decoder_dim,
            transformer=TwoWayTransformer(
                depth=2, embedding_dim=decoder_dim, num_heads=4, mlp_dim=2 * decoder_dim
            ),
            iou_head_hidden_dim=decoder_dim,
        )

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, 256, 256) RGB in [0, 1] -> (B, C, 32, 32)."""
        return self.image_encoder(encoder_input(images))

    def neighbourhoods(
        self, embedding: torch.Tensor, which: torch.Tensor, points_yx: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Tokens around each point, where they start, and the point inside them.

        ``embedding`` (B, C, h, w), ``which`` (N,) its row for each point, ``points_yx`` (N, 2) px
        in the window. Returns (N, C, 10, 10), origin (N, 2) yx px (may be negative), point (N, 2)
        xy px.
        """
        padded = functional.pad(embedding, (REACH, REACH, REACH, REACH)).permute(0, 2, 3, 1)
        token = (points_yx / PATCH).floor().long()
        height, width = embedding.shape[-2:]
        row, column = token[:, 0].clamp(0, height - 1), token[:, 1].clamp(0, width - 1)
        token = torch.stack([row, column], dim=1)
        steps = torch.arange(2 * REACH, device=token.device)
        rows, columns = token[:, :1] + steps, token[:, 1:] + steps
        tokens = padded[which[:, None, None], rows[:, :, None], columns[:, None, :]]
        origin = (token - REACH) * PATCH
        return tokens.permute(0, 3, 1, 2), origin, (points_yx - origin).flip(-1)

    def predict(
        self, tokens: torch.Tensor, points_xy: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Three masks a point: logits (N, 3, 40, 40), 2 px each, and predicted IoU (N, 3)."""
        with torch.autocast(tokens.device.type, enabled=False):  # sines need more than 8 bits
            # What the encoder does for a point on an object, without the masks by which it tells
            # points apart: a GPU would be waited for.
            encoder = self.prompt_encoder
            points = points_xy.float()[:, None] + 0.5
            point = encoder.pe_layer.forward_with_coords(points, encoder.input_image_size)
            point = point + encoder.point_embeddings[1].weight
            none = encoder.not_a_point_embed.weight.expand(len(points), 1, -1)
            sparse = torch.cat([point, none], dim=1)
            dense = encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
            place = encoder.get_dense_pe()
        # The decoder repeats one image for all prompts; here each prompt has its own tokens, which
        # the dense prompt carries, and the repeated image is zero.
        return self.mask_decoder(
            image_embeddings=torch.zeros_like(tokens[:1]), image_pe=place,
            sparse_prompt_embeddings=sparse, dense_prompt_embeddings=tokens + dense,
            multimask_output=True,
        )  # fmt: skip
