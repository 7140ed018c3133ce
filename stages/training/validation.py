"""What the networks make of held-out samples: numbers, and a picture that shows each beside the truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from stages.networks import vae as autoencoder
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.sampling import SamplingOptions
from stages.training.batches import planes
from stages.training.losses import psnr
from stages.training.samples import TrainingSample
from stages.training.sheets import mosaic

Pixels = NDArray[np.uint8]


def generate(
    pipeline: HeadSwapPipeline, sample: TrainingSample, options: SamplingOptions, dtype: torch.dtype = torch.float32
) -> Pixels:
    """The sample's window as the pipeline generates it from its reference, drawings and condition images.

    Args:
        pipeline: on its device. sample: of the pipeline's size. options: of the sampler. dtype: precision of the arithmetic.

    Returns:
        uint8 [frames, size, size, 3].
    """
    with torch.autocast(pipeline.device.type, dtype, enabled=dtype != torch.float32):
        return pipeline(sample.reference, sample.drawing, sample.background, options)


def head_psnr(pictures: Pixels, sample: TrainingSample) -> float:
    """Decibels over the head against the truth. ``pictures``: uint8 [frames, size, size, 3]."""
    return psnr(planes(pictures).float() / 255, planes(sample.target).float() / 255, torch.from_numpy(sample.head))


def _write(rows: Sequence[Sequence[Pixels]], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(".png", mosaic(rows)[..., ::-1])
    if not encoded:
        raise RuntimeError(f"the sheet of {len(rows)} rows could not be encoded as PNG")
    path.write_bytes(data.tobytes())


def validate_diffusion(
    pipeline: HeadSwapPipeline, samples: Sequence[TrainingSample], options: SamplingOptions, dtype: torch.dtype, path: Path
) -> dict[str, float]:
    """Generate held-out samples; writes rows of reference, drawing, condition image, generated, truth (the middle frame).

    Returns:
        ``head_psnr``: mean over the samples, decibels.
    """
    networks = (pipeline.appearance_net, pipeline.denoising_net, pipeline.pose_guider, pipeline.image_encoder)
    training = [network for network in networks if network.training]
    for network in training:
        network.eval()
    rows, found = [], []
    for sample in samples:
        pictures = generate(pipeline, sample, options, dtype)
        middle = len(pictures) // 2
        shown = (sample.drawing, sample.background, pictures, sample.target)
        rows.append([sample.reference, *(frames[middle] for frames in shown)])
        found.append(head_psnr(pictures, sample))
    _write(rows, path)
    for network in training:
        network.train()
    return {"head_psnr": float(np.mean(found))}


@torch.no_grad()
def validate_autoencoder(
    vae: autoencoder.VAE, samples: Sequence[TrainingSample], dtype: torch.dtype, path: Path
) -> dict[str, float]:
    """Pass held-out targets and references through the autoencoder; writes rows of target, its copy, reference, its copy.

    Returns:
        ``psnr`` of whole targets, ``head_psnr`` of the heads in them; means over the samples, decibels.
    """
    rows, whole, heads = [], [], []
    for sample in samples:
        pictures = planes(np.stack([sample.target[0], sample.reference])).to(vae.device).float() / 255
        with torch.autocast(vae.device.type, dtype, enabled=dtype != torch.float32):
            copies = autoencoder.decode(vae, autoencoder.encode(vae, pictures)).cpu()
        target = pictures[:1].cpu()
        whole.append(psnr(copies[:1], target))
        heads.append(psnr(copies[:1], target, torch.from_numpy(sample.head[:1])))
        shown = (copies * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        rows.append([sample.target[0], shown[0], sample.reference, shown[1]])
    _write(rows, path)
    return {"psnr": float(np.mean(whole)), "head_psnr": float(np.mean(heads))}
