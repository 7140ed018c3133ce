"""The model card: what a checkpoint is, how it came about, how good it was measured to be, and what it must not be used for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from stages.networks.presets import PRESETS
from stages.training.recipe import DiffusionPhase, Recipe
from stages.training.run_record import Change
from stages.training.terms import Ingredient, together


@dataclass(frozen=True)
class Provenance:
    """What a training run knows about itself.

    Attributes:
        data: what it was trained on, in words. start: where the first weights came from.
        steps: done in each phase. identity: digest of the network of the identity term; None: the term was off.
        measured: the last validation of each phase: metrics by phase.
        version: of headswap.
        sampling: how it wants to be sampled, by names of ``schemas.parameters.DiffusionParameters``.
        ingredients: what else has a say in how the weights may be used.
        changes: of the recipe on the way.
    """

    data: str
    start: str
    steps: Mapping[str, int]
    identity: str | None
    measured: Mapping[str, Mapping[str, float]]
    version: str
    sampling: Mapping[str, object]
    ingredients: Sequence[Ingredient] = ()
    changes: Sequence[Change] = ()


def untrained_size(recipe: Recipe) -> str:
    """That the pipeline will draw pictures of a size which no phase trains at, in words; empty where one does."""
    drawn = PRESETS[recipe.preset].picture_size
    sizes = sorted({phase.size for phase in recipe.phases if isinstance(phase, DiffusionPhase)})
    if not sizes or drawn in sizes:
        return ""
    told = f"only at {', '.join(map(str, sizes))}"
    return f"Pictures are drawn at {drawn} pixels (preset {recipe.preset}), which no phase of kind diffusion trains at: {told}."


def model_card(recipe: Recipe, made: Provenance, recipe_text: str) -> str:
    """The card as Markdown with a header that hubs read."""
    return "\n".join(
        [*_header(recipe, made), *_how(recipe, made), *_quality(recipe, made), *_limits(made), *_recipe(recipe_text)]
    )


def _header(recipe: Recipe, made: Provenance) -> list[str]:
    licence, commercial = together(made.ingredients)
    # Licences are others' words, colons and all. `headswap models add` reads both of the first lines.
    facts = {"license": licence, "commercial": commercial, "library_name": "diffusers", "tags": ["video", "head-swapping"]}
    return [
        "---",
        yaml.safe_dump(facts, sort_keys=False, allow_unicode=True, width=1000).strip(),
        "---",
        f"# headswap, preset `{recipe.preset}`, recipe `{recipe.name}`",
        "",
        "Replaces the head of a person in a video by that of a reference picture: AppearanceNet, DenoisingNet with motion",
        "modules, PoseGuider, ImageEncoder, autoencoder and noise schedule as a `HeadSwapPipeline` (headswap "
        + made.version
        + ").",
        "",
    ]


def _how(recipe: Recipe, made: Provenance) -> list[str]:
    identity = "off: no identity network was registered" if made.identity is None else f"on, network {made.identity}"
    sampled = ", ".join(f"{name} {value}" for name, value in made.sampling.items())
    lines = [
        f"Sampled with {sampled}, unless the job says otherwise (`sampling.json`).",
        "",
        "## How it was trained",
        "",
        f"- Data: {made.data}",
        f"- First weights: {made.start}",
        f"- Identity term: {identity}",
    ]
    lines += ["", "| phase | what | size | frames | batch | steps done |", "|---|---|---|---|---|---|"]
    for phase in recipe.phases:
        if isinstance(phase, DiffusionPhase):
            what, frames, size = ", ".join(phase.trains), phase.frames, f"{phase.size}"
        else:
            what, frames, size = "vae", 1, f"{phase.size}, pieces of {phase.crop}"
        batch, done = phase.batch * phase.optimisation.accumulate, made.steps.get(phase.name, 0)
        lines.append(f"| {phase.name} | {what} | {size} | {frames} | {batch} | {done} of {phase.steps} |")
    lines.append("")
    if told := untrained_size(recipe):
        lines += [f"**{told}** What is measured below is measured at the sizes of the phases.", ""]
    if made.changes:
        lines += ["The recipe below is the one that the run ended with. It was changed on the way:", ""]
        lines += [
            f"- {change.phase}, after step {change.after_step}: {change.field} {change.before:g} became {change.now:g}"
            for change in made.changes
        ]
        lines.append("")
    return lines


def _quality(recipe: Recipe, made: Provenance) -> list[str]:
    lines = [
        "## Measured",
        "",
        f"On {recipe.validation_samples} held-out samples, not trained on, at the end of each phase"
        f" ({recipe.validation_steps} steps, guidance {recipe.validation_guidance:g}):",
        "",
    ]
    for phase, metrics in made.measured.items():
        told = ", ".join(f"{name} {value:.2f} dB" if "psnr" in name else f"{name} {value:.4g}" for name, value in metrics.items())
        lines.append(f"- {phase}: {told}")
    return [*lines, ""]


def _limits(made: Provenance) -> list[str]:
    return [
        "## What it must not be used for",
        "",
        "Putting a real person's head into a video without that person's consent, and without a right to the target video;",
        "deception, impersonation, harassment, sexual content, forged evidence or identity documents. Results must be marked",
        "as synthetic.",
        "",
        "It was measured only on data of the kind that is named above; on anything else its quality is unknown.",
        "",
        *_licence(made),
    ]


def _licence(made: Provenance) -> list[str]:
    licence, commercial = together(made.ingredients)
    allowed = "Commercial use is allowed." if commercial else "Commercial use is NOT allowed."
    lines = ["## Licence", "", f"{licence}. {allowed}", ""]
    if made.ingredients:
        lines += ["It follows from what went into the weights:", ""]
        for one in made.ingredients:
            lines.append(f"- {one.what}: {one.licence}, {'' if one.commercial else 'NOT '}for commercial use")
        lines.append("")
    return [*lines, "Terms of the training data and of the first weights apply besides.", ""]


def _recipe(text: str) -> Sequence[str]:
    return ["## Recipe", "", "```yaml", text.strip(), "```", ""]
