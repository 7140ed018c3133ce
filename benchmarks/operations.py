"""Operations of the full-size networks, counted on the meta device: no weights, no GPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.document import table
from benchmarks.published_plan import published_attention
from stages.networks import presets
from stages.networks.windows import windows_of

WINDOW, OVERLAP, STEPS, FRAMES, LATENT = 16, 4, 25, 96, 64


@dataclass(frozen=True)
class Counts:
    """GFLOP (matrix products and convolutions, a multiplication and an addition are two) of the parts at 512 pixels.

    Attributes:
        reference: AppearanceNet, one picture. project: its features to keys and values, once. encoder: ImageEncoder, one picture.
        encode, decode: VAE, one picture. pose: PoseGuider, one frame.
        guided, unguided: this project's DenoisingNet, a window of 16 frames.
        published: the same window in the published plan; published_pose: its PoseGuider, for every window and step.
    """

    reference: float
    project: float
    encoder: float
    encode: float
    decode: float
    pose: float
    guided: float
    unguided: float
    published: float
    published_pose: float

    def ours(self, share_guided: float = 1.0) -> float:
        """A video of ``FRAMES`` frames, guidance on in a share of the steps."""
        window = share_guided * self.guided + (1 - share_guided) * self.unguided
        per_source = self.reference + self.project + self.encoder + self.encode
        per_frame = self.pose * _held() / FRAMES + self.encode + self.decode
        return per_source + FRAMES * per_frame + STEPS * _windows() * window

    def theirs(self) -> float:
        """The same video in the published plan (which has no background to encode)."""
        per_source = 2 * self.reference + self.encoder + self.encode
        return per_source + FRAMES * self.decode + STEPS * _windows() * (self.published + self.published_pose)


def _windows() -> int:
    return len(windows_of(range(FRAMES), WINDOW, OVERLAP))


def _held() -> int:
    """Frames over all windows, each as often as it is held."""
    return sum(len(window) for window in windows_of(range(FRAMES), WINDOW, OVERLAP))


def giga(call: Callable[[], object]) -> float:
    """Operations of a call, in thousands of millions."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def count() -> Counts:
    """Count them all. The DenoisingNet is counted without its background channels, which published ones lack."""
    with torch.device("meta"), torch.no_grad():
        preset = replace(presets.FULL, background=False)
        network, appearance, guider = presets.denoising_net(preset), presets.appearance_net(preset), presets.pose_guider(preset)
        vae, encoder = presets.vae(preset), presets.image_encoder(preset)
        one, token = torch.zeros(1, 4, LATENT, LATENT), torch.zeros(1, 1, 768)
        features, _ = appearance(one, token)
        projected = network.project_reference(features)
        both = {place: feature.expand(2, *feature.shape[1:]) for place, feature in features.items()}
        window, tokens = torch.zeros(2, 4, WINDOW, LATENT, LATENT), torch.zeros(2, 1, 768)
        picture = torch.zeros(1, 3, 8 * LATENT, 8 * LATENT)
        drawings = torch.zeros(1, 3, WINDOW, 8 * LATENT, 8 * LATENT)
        with published_attention():
            published = giga(lambda: network(window, 5, tokens, (), both))
        pose = giga(lambda: guider(drawings)) / WINDOW
        return Counts(
            reference=giga(lambda: appearance(one, token)),
            project=giga(lambda: network.project_reference(features)),
            encoder=giga(lambda: encoder(torch.zeros(1, 3, 224, 224))),
            encode=giga(lambda: vae.encode(picture)),
            decode=giga(lambda: vae.decode(one)),
            pose=pose,
            guided=giga(lambda: network(window, 5, tokens, (), projected)),
            unguided=giga(lambda: network(window[:1], 5, tokens[:1], (), projected)),
            published=published,
            published_pose=2 * WINDOW * pose,
        )


def operations() -> str:
    """The table of operations, and what is left of the published plan's waste."""
    counts = count()
    parts: list[tuple[str, float, str]] = [
        ("AppearanceNet, one reference", counts.reference, "once a source (published: twice)"),
        ("its keys and values", counts.project, "once a source (published: for every frame of every window and step)"),
        ("ImageEncoder, one picture", counts.encoder, "once a source"),
        ("VAE, encoding a picture", counts.encode, "once a source, once a frame for its background"),
        ("VAE, decoding a picture", counts.decode, "once a frame"),
        ("PoseGuider, a frame", counts.pose, "once a window that holds the frame"),
        ("DenoisingNet, a guided window of 16 frames", counts.guided, "every step"),
        ("the same without guidance", counts.unguided, "steps outside the guidance interval"),
        ("a guided window in the published plan", counts.published, "every step"),
        ("its PoseGuider, 32 frames", counts.published_pose, "every window and step"),
    ]
    rows = [[name, f"{value:,.1f}", when] for name, value, when in parts]
    videos = [
        ("published plan", counts.theirs()),
        ("this project's", counts.ours()),
        ("this project's, guidance on in half of the steps", counts.ours(0.5)),
    ]
    plans = [[name, f"{value / 1e3:,.0f}", f"{counts.theirs() / value:.2f}"] for name, value in videos]
    return (
        "## Diffusion: operations at 512 pixels, `full` preset\n\n"
        "GFLOP of matrix products and convolutions, counted with `torch.utils.flop_counter` on the meta device.\n\n"
        + table(["part", "GFLOP", "computed"], rows)
        + f"\n\n{FRAMES} frames, {STEPS} steps, guidance, windows of {WINDOW} with overlap {OVERLAP} ({_windows()} windows):\n\n"
        + table(["plan", "TFLOP", "published / this"], plans)
        + "\n\nThe published plan is AniPortrait's scripts', rebuilt on these networks (`benchmarks/published_plan.py`). "
        "Less arithmetic alone does not make the goal of three times its throughput; the rest must come from how fast the "
        "arithmetic is done."
    )
