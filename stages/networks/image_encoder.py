"""ImageEncoder: one token that describes the whole reference, for the cross-attention of both UNets (as in the paper).

It is transformers' ``CLIPVisionModelWithProjection``; here are the picture's way into it and the token's way out.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPVisionModelWithProjection

ImageEncoder = CLIPVisionModelWithProjection

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)


def clip_pixels(pictures: Tensor, size: int) -> Tensor:
    """Pictures [n, 3, height, width] in 0..1 as CLIP wants them: squashed to ``size`` squared (bicubic), normalised."""
    resized = F.interpolate(pictures.float(), (size, size), mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    mean = torch.tensor(_MEAN, device=pictures.device)[:, None, None]
    return (resized - mean) / torch.tensor(_DEVIATION, device=pictures.device)[:, None, None]


def reference_tokens(encoder: CLIPVisionModelWithProjection, pictures: Tensor) -> Tensor:
    """Tokens [n, 1, token_channels] of reference pictures [n, 3, height, width] in 0..1; differentiable."""
    pixels = clip_pixels(pictures, encoder.config.image_size)
    embedded: Tensor = encoder(pixels.to(encoder.dtype)).image_embeds
    return embedded[:, None]


def to_unit_range(pictures: NDArray[np.uint8], device: torch.device) -> Tensor:
    """uint8 RGB [n, height, width, 3] -> float32 [n, 3, height, width] in 0..1.

    Contiguous: PyTorch sums the statistics of a BatchNorm less exactly (by 1e-4) over a tensor in another layout.
    """
    return torch.from_numpy(np.ascontiguousarray(pictures)).to(device).permute(0, 3, 1, 2).contiguous().float() / 255
