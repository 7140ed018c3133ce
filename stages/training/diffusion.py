"""Training of the method's networks: stage one on single frames, stage two the motion modules on windows."""

from __future__ import annotations

from collections.abc import Callable

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from schemas.problems import UsageError
from stages.networks.image_encoder import reference_tokens
from stages.networks.pipeline import HeadSwapPipeline
from stages.networks.schedulers import with_betas
from stages.networks.windows import mixed_noise
from stages.training import losses
from stages.training.batches import Batch, SampleEncoder, chance, coming_numbers, sample_numbers, stack
from stages.training.identity_network import OnnxNetwork, aligned_faces
from stages.training.recipe import DiffusionPhase
from stages.training.samples import SampleSource

_MOTION = "motion_modules"


class Networks(nn.Module):
    """The networks of the method as one module, whose forward pass is that of training.

    Args:
        pipeline: whose networks they are.
        trained: names of parts (``recipe.Part``); all others are frozen.
    """

    def __init__(self, pipeline: HeadSwapPipeline, trained: tuple[str, ...]) -> None:
        super().__init__()
        self.appearance_net = pipeline.appearance_net
        self.denoising_net = pipeline.denoising_net
        self.pose_guider = pipeline.pose_guider
        self.image_encoder = pipeline.image_encoder
        self.requires_grad_(False)
        self._trained = trained
        for parameter in self.parts().values():
            parameter.requires_grad_(True)

    def parts(self) -> dict[str, nn.Parameter]:
        """Trained parameters by name."""
        return {name: parameter for name, parameter in self.named_parameters() if self._part(name) in self._trained}

    def train(self, mode: bool = True) -> Networks:
        """Frozen networks stay as they are at inference: their statistics must not move either."""
        super().train(mode)
        for name, network in self.named_children():
            if name not in self._trained and not (name == "denoising_net" and _MOTION in self._trained):
                network.eval()
        return self

    def forward(self, batch: Batch, noisy: Tensor, timesteps: Tensor, dropped: int) -> Tensor:
        """Predictions.

        Args:
            batch: the conditions.
            noisy: [rows, 4, frames, h, w], latents with noise.
            timesteps: int64 [rows].
            dropped: of the rows, so many from the first on see no reference.

        Returns:
            [rows, 4, frames, h, w].
        """
        nothing = noisy.new_zeros(len(noisy), 1, self.denoising_net.config.token_channels)
        tokens, features = nothing, None
        if dropped < len(noisy):
            seen = reference_tokens(self.image_encoder, batch.reference_picture[dropped:].float() / 255)
            tokens = torch.cat([nothing[:dropped], seen.to(nothing.dtype)])
            features, _ = self.appearance_net(batch.reference[dropped:], seen)
        low, high = self.pose_guider.value_range
        pose = self.pose_guider(batch.drawing.float() / 255 * (high - low) + low)
        given = noisy if self.denoising_net.config.in_channels == noisy.shape[1] else torch.cat([noisy, batch.background], 1)
        return self.denoising_net(given, timesteps, tokens, pose, features, motion=noisy.shape[2] > 1)

    @staticmethod
    def _part(name: str) -> str:
        return _MOTION if _MOTION in name else name.partition(".")[0]


class DiffusionTask:
    """A phase of kind ``diffusion``: a ``stages.training.loop.Task``.

    Args:
        pipeline: its networks are trained in place; its scheduler says the noise schedule and what is predicted, and gets the
            schedule of the phase where that names one, so that it is saved with the weights.
        phase: of the recipe.
        source: of the samples.
        seed: of noise, time steps and dropped references.
        accelerator: device, precision, processes.
        identity: network of the identity term, or None for none.
        validate: called with the step; returns metrics.

    Raises:
        UsageError: the recipe asks for parts, or the schedule for a prediction, that there is not.
    """

    def __init__(
        self,
        pipeline: HeadSwapPipeline,
        phase: DiffusionPhase,
        source: SampleSource,
        seed: int,
        accelerator: Accelerator,
        identity: OnnxNetwork | None,
        validate: Callable[[int], dict[str, float]],
    ) -> None:
        if phase.schedule is not None:
            pipeline.register_modules(scheduler=with_betas(pipeline.scheduler, phase.schedule))
        config = pipeline.scheduler.config
        if config.prediction_type not in ("epsilon", "v_prediction"):
            raise UsageError([f"The scheduler predicts {config.prediction_type!r}; training knows epsilon and v_prediction."])
        self._prediction: losses.Prediction = config.prediction_type
        device = accelerator.device
        pipeline.to(device)
        pipeline.vae.requires_grad_(False).eval()
        self._alphas = pipeline.scheduler.alphas_cumprod.to(device, torch.float32)
        self._vae, self._phase, self._seed, self._accelerator = pipeline.vae, phase, seed, accelerator
        self._identity = None if identity is None else identity.to(device)
        self.module = Networks(pipeline, phase.trains)
        self.trained = self.module.parts()
        if not self.trained:
            raise UsageError([f"Phase {phase.name}: these networks have no {', '.join(phase.trains)}."])
        # The autoencoder's too: the gradient of a judged picture goes through its decoder.
        for network in (pipeline.appearance_net, pipeline.denoising_net, pipeline.vae):
            if phase.optimisation.gradient_checkpointing:
                network.enable_gradient_checkpointing()
            else:
                network.disable_gradient_checkpointing()
        precision = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[phase.optimisation.precision]
        self._encoded = SampleEncoder(source, pipeline.vae, phase.size, phase.frames, phase.cached_samples, precision)
        self.validate = validate

    def losses(self, module: nn.Module, batch: int) -> dict[str, Tensor]:
        """L_LDM, L_id and their sum ``loss`` for the batch with this number.

        L_id is that of the rows with the least noise among those that see a reference, and is missing where none does; of a
        window it sees one frame, drawn by chance like the noise.
        """
        phase, accelerator = self._phase, self._accelerator
        process, processes = accelerator.process_index, accelerator.num_processes
        random = chance(self._seed, phase.name, "noise", batch, process)
        encoded = self._encoded
        encoded.announce(coming_numbers(batch, phase.batches, phase.batch, process, processes, encoded.workers))
        samples = [encoded(number) for number in sample_numbers(batch, phase.batch, process, processes)]
        # Rows without a reference must come first (DenoisingNet); which rows these are is chance all the same.
        dropped = int((torch.rand(len(samples), generator=random) < phase.reference_drop).sum())
        order = torch.randperm(len(samples), generator=random).tolist()
        rows = stack([samples[place] for place in order], accelerator.device)
        timesteps = torch.randint(len(self._alphas), (len(samples),), generator=random)
        noise = torch.randn(rows.target.shape, generator=random)
        if phase.shared_noise:
            noise = mixed_noise(noise, torch.randn(*noise.shape[:2], 1, *noise.shape[3:], generator=random), phase.shared_noise)
        offset = torch.randn(*rows.target.shape[:2], 1, 1, 1, generator=random)
        noise = losses.offset_noise(noise, offset, phase.noise_offset).to(accelerator.device)
        shown = torch.randint(rows.target.shape[2], (len(samples),), generator=random).to(accelerator.device)
        timesteps = timesteps.to(accelerator.device)
        alphas = self._alphas[timesteps]
        noisy = losses.add_noise(rows.target, noise, alphas)
        predicted = module(rows, noisy, timesteps, dropped).float()
        target = losses.training_target(rows.target, noise, alphas, self._prediction)
        found = {"ldm": losses.diffusion_loss(predicted, target, losses.min_snr_weights(alphas, phase.min_snr, self._prediction))}
        found["loss"] = found["ldm"]
        if phase.judged and (phase.head or (phase.identity and self._identity is not None)):
            # What cannot know whose head it is must not be drawn towards it: that is the branch that guidance leads away from.
            chosen = dropped + timesteps[dropped:].argsort(stable=True)[: phase.judged]
            if len(chosen):
                self._judge(found, rows, noisy, predicted, alphas, chosen, shown[chosen])
        return found

    def _judge(
        self,
        found: dict[str, Tensor],
        rows: Batch,
        noisy: Tensor,
        predicted: Tensor,
        alphas: Tensor,
        chosen: Tensor,
        frames: Tensor,
    ) -> None:
        """Add L_id on one frame of each of some rows: decoding costs far more than a prediction.

        Weighted by ``a``, the share of signal: at ``a = 0`` one step cannot tell a picture.

        Args:
            found: losses, to which ``head`` and ``identity`` are added.
            rows, noisy, predicted, alphas: of the batch.
            chosen: int64 [n], the rows. frames: int64 [n], a frame of each.
        """
        weights = alphas[chosen]
        noisy, predicted = noisy[chosen, :, frames], predicted[chosen, :, frames]
        scaled = losses.one_step_reconstruction(noisy, predicted, weights, self._prediction) / self._vae.config.scaling_factor
        with self._accelerator.autocast():
            decoded = self._vae.decode(scaled).sample
        pictures = decoded.float()
        truth = rows.picture[chosen, :, frames].float() / 127.5 - 1
        found["head"] = losses.head_loss(pictures, truth, rows.head[chosen, frames], weights)
        found["loss"] = found["loss"] + self._phase.head * found["head"]
        if self._identity is None or not self._phase.identity:
            return
        points = rows.face_points[chosen, frames]
        with torch.no_grad():
            known = self._identity.embed(aligned_faces(truth, points))
        embedded = self._identity.embed(aligned_faces(pictures, points))
        found["identity"] = losses.identity_loss(embedded, known, weights)
        found["loss"] = found["loss"] + self._phase.identity * found["identity"]
