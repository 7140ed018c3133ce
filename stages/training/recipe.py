"""What a training run does, as a person writes it down: one YAML file that is read from top to bottom.

A recipe is a list of phases. Each names everything that matters to it; nothing is inherited from the phase before.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_validator

from schemas.parameters import Precision

Part = Literal["appearance_net", "denoising_net", "pose_guider", "image_encoder", "motion_modules"]
Schedule = Literal["linear", "scaled_linear"]
"""``stages.networks.schedulers.Betas``, without the seconds that PyTorch takes to load."""
NAME = r"^[a-z0-9][a-z0-9-]*$"
"""Of a phase: it is also the name of folders."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Optimisation(_Model):
    """How weights are changed.

    Attributes:
        learning_rate: the highest. warmup: steps over which it rises from zero. decay: ``constant``, or ``cosine`` down to
            ``final_share`` of it at the last step.
        weight_decay: of AdamW. betas: of AdamW. eight_bit: bitsandbytes' 8-bit AdamW where that package is installed.
        clip: largest norm of the gradient; larger ones are scaled down to it.
        accumulate: batches whose gradients are averaged before a step.
        ema: decay of the running mean of the weights, which is what a phase hands on; null for none.
        precision: of the arithmetic; weights are float32. ``auto``: bfloat16 where the machine computes it, else float32
            (``settled``). gradient_checkpointing: less memory, a third more time.
    """

    learning_rate: float = Field(gt=0)
    warmup: int = Field(ge=0)
    decay: Literal["constant", "cosine"]
    final_share: float = Field(0.02, ge=0, le=1)
    weight_decay: float = Field(0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eight_bit: bool = False
    clip: float = Field(1.0, gt=0)
    accumulate: int = Field(1, ge=1)
    ema: float | None = Field(0.999, gt=0, lt=1)
    precision: Precision
    gradient_checkpointing: bool = False


class Keeping(_Model):
    """What is written down on the way, in steps.

    Attributes:
        log_every: a line of metrics. save_every: a checkpoint. keep: how many of these. validate_every: pictures and metrics of
            held-out samples.
    """

    log_every: int = Field(10, ge=1)
    save_every: int = Field(ge=1)
    keep: int = Field(2, ge=1)
    validate_every: int = Field(ge=1)


class AutoencoderPhase(_Model):
    """The autoencoder, on single pictures; afterwards it is frozen and its ``scaling_factor`` is measured.

    Attributes:
        size: pixels of a side of the samples. crop: of the pieces that it is trained on, a multiple of 8.
        batch: pieces in a step. steps: of the optimiser.
        cached_samples: a sample is made this many times and then used again, cut elsewhere; null: always new ones.
        edges, tint: weights beside that of colours, of edges and of tints (``losses.tint_loss``).
        divergence: weight of the Kullback-Leibler divergence. noise: deviation of the noise that the latents of an autoencoder
            without a posterior get; one with a posterior has a deviation of its own.
        recoloured: share of the pieces whose colour channels change places, so that few rooms and clothes teach all colours.
    """

    kind: Literal["autoencoder"]
    name: str = Field(pattern=NAME)
    size: int = Field(ge=32, multiple_of=8)
    crop: int = Field(ge=16, multiple_of=8)
    batch: int = Field(ge=1)
    steps: int = Field(ge=1)
    cached_samples: int | None = Field(None, ge=1)
    edges: float = Field(ge=0)
    tint: float = Field(0.0, ge=0)
    divergence: float = Field(ge=0)
    noise: float = Field(0.0, ge=0)
    recoloured: float = Field(0.0, ge=0, le=1)
    optimisation: Optimisation
    keeping: Keeping

    @property
    def batches(self) -> int:
        """Batches of the whole phase."""
        return self.steps * self.optimisation.accumulate

    @model_validator(mode="after")
    def _crop_fits(self) -> AutoencoderPhase:
        if self.crop > self.size:
            raise ValueError(f"pieces of {self.crop} pixels cannot be cut from samples of {self.size}")
        return self


class DiffusionPhase(_Model):
    """The networks of the method: stage one on single frames, stage two the motion modules on windows.

    Attributes:
        size: pixels of a side; samples of another size are resized. frames: of a window; 1 in stage one.
        trains: the parts whose weights change. ``denoising_net`` means all of it but its motion modules.
        batch: windows in a step. steps: of the optimiser.
        cached_samples: only so many different samples, whose latents are computed once; null: always new ones.
        reference_drop: share of samples without the reference, for guidance. noise_offset: see ``losses.offset_noise``.
        shared_noise: share of the noise that all frames of a window have in common (``stages.networks.windows.mixed_noise``).
            Saved with the pipeline, so that sampling follows.
        min_snr: gamma of min-SNR weights, or null. head: weight of the L2 over the head in L_id. identity: weight of its
            identity term. judged: samples of a batch that L_id decodes, those with the least noise among those with the
            reference, one frame of each; 0: no L_id.
        schedule: how noise grows with the time step; null: as in the pipeline that the run begins with. Saved with the pipeline,
            so that sampling follows.
    """

    kind: Literal["diffusion"]
    name: str = Field(pattern=NAME)
    size: int = Field(ge=32, multiple_of=32)
    frames: int = Field(ge=1, le=32)
    trains: tuple[Part, ...] = Field(min_length=1)
    batch: int = Field(ge=1)
    steps: int = Field(ge=1)
    cached_samples: int | None = Field(None, ge=1)
    reference_drop: float = Field(0.1, ge=0, lt=1)
    noise_offset: float = Field(0.05, ge=0)
    shared_noise: float = Field(0.0, ge=0, le=1)
    min_snr: float | None = Field(5.0, gt=0)
    head: float = Field(ge=0)
    identity: float = Field(ge=0)
    judged: int = Field(ge=0)
    schedule: Schedule | None = None
    optimisation: Optimisation
    keeping: Keeping

    @property
    def batches(self) -> int:
        """Batches of the whole phase."""
        return self.steps * self.optimisation.accumulate

    @model_validator(mode="after")
    def _parts_fit(self) -> DiffusionPhase:
        if len(set(self.trains)) != len(self.trains):
            raise ValueError("trains names a part twice")
        if "motion_modules" in self.trains and self.frames < 2:
            raise ValueError("motion modules need windows of two frames or more")
        if "motion_modules" not in self.trains and self.frames > 1:
            raise ValueError("windows of several frames are for motion modules; give frames: 1")
        if self.shared_noise and self.frames < 2:
            raise ValueError("a single frame shares its noise with none; leave shared_noise out")
        return self


Phase: TypeAlias = Annotated[AutoencoderPhase | DiffusionPhase, Field(discriminator="kind")]


class Recipe(_Model):
    """A whole training run.

    Attributes:
        name: of the recipe. preset: sizes of the networks (``stages.networks.presets``).
        seed: of weights, order of samples, noise.
        start: ``random`` weights, or ``published``: those of a saved pipeline that the command is given (its VAE and ImageEncoder
            stay as they are).
        validation_samples: held-out samples that are generated at every validation. validation_steps: of the sampler.
            validation_guidance: its guidance scale.
        phases: in order.
    """

    name: str
    preset: Literal["demo", "full", "tiny"]
    seed: int = Field(ge=0)
    start: Literal["random", "published"]
    validation_samples: int = Field(6, ge=1)
    validation_steps: int = Field(12, ge=1, le=1000)
    validation_guidance: float = Field(2.0, ge=1, le=50)
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _phases_fit(self) -> Recipe:
        names = [phase.name for phase in self.phases]
        if len(set(names)) != len(names):
            raise ValueError("two phases have one name")
        autoencoders = [number for number, phase in enumerate(self.phases) if isinstance(phase, AutoencoderPhase)]
        if self.start == "random" and autoencoders[:1] != [0]:
            raise ValueError("a run from random weights begins with a phase of kind autoencoder")
        if any(isinstance(phase, DiffusionPhase) for phase in self.phases[: max(autoencoders, default=0)]):
            raise ValueError("the autoencoder is frozen in phases of kind diffusion and cannot be trained after them")
        if len({phase.schedule for phase in self.phases if isinstance(phase, DiffusionPhase)}) > 1:
            raise ValueError("phases of kind diffusion have different schedules: networks know the noise by its time step only")
        if len({phase.shared_noise for phase in self.phases if isinstance(phase, DiffusionPhase) and phase.frames > 1}) > 1:
            raise ValueError("phases with windows have different shared_noise: the result is sampled in one way")
        return self

    @property
    def longest_window(self) -> int:
        """Frames of the longest window that a phase asks for."""
        return max(phase.frames if isinstance(phase, DiffusionPhase) else 1 for phase in self.phases)

    @property
    def sampling(self) -> dict[str, Any]:
        """How the result is sampled by default: steps and guidance of the validations, windows as long as in training."""
        found: dict[str, Any] = {"steps": self.validation_steps, "guidance_scale": self.validation_guidance}
        if self.longest_window > 1:
            found |= {"window": self.longest_window, "overlap": self.longest_window // 4, "shared_noise": self._shared_noise}
        return found

    @property
    def _shared_noise(self) -> float:
        """That of the phases with windows."""
        return next(phase.shared_noise for phase in self.phases if isinstance(phase, DiffusionPhase) and phase.frames > 1)

    @property
    def largest_size(self) -> int:
        """Pixels of a side of the samples: those of the largest phase; smaller phases shrink them."""
        return max(phase.size for phase in self.phases)


def settled(recipe: Recipe, *, bfloat16: bool) -> Recipe:
    """The recipe with every precision ``auto`` settled, so that what is written down is what ran.

    Args:
        bfloat16: whether the machine computes it. Where it is emulated, it takes longer than float32.
    """
    chosen: Precision = "bfloat16" if bfloat16 else "float32"

    def of(phase: Phase) -> Phase:
        if phase.optimisation.precision != "auto":
            return phase
        return phase.model_copy(update={"optimisation": phase.optimisation.model_copy(update={"precision": chosen})})

    return recipe.model_copy(update={"phases": tuple(of(phase) for phase in recipe.phases)})
