"""The networks compute what their published relatives compute, with the same weights.

Recorded outputs of AniPortrait's and AnimateAnyone's own classes, tiny and with random weights. They were computed in single
precision, whose rounding differs from processor to processor. So predictions and features are compared in double precision:
what is left is the recordings' own rounding, the same on every machine. Single precision, in which people render, is then held
to double precision, and to the recordings along whole trajectories.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stages.networks import presets
from stages.networks.appearance_net import AppearanceNet
from stages.networks.conditions import FrameConditions, FrameInputs, Predictor, SourceFeatures
from stages.networks.convert import convert_appearance_net, convert_denoising_net, convert_pose_guider
from stages.networks.denoising_net import DenoisingNet
from stages.networks.pose_guider import PoseGuider, SingleScalePoseGuider
from stages.networks.presets import PosePreset, Preset, UNetPreset
from stages.networks.sampling import SamplingOptions, denoise
from stages.networks.schedulers import make_scheduler

PREDICTION = 1e-5
TRAJECTORY = 5e-5
LAYOUTS = ("aniportrait", "animateanyone")


@dataclass
class Relative:
    """A relative's weights in our networks, and what its own networks made of the same inputs."""

    preset: Preset
    weights: dict[str, dict[str, Tensor]]
    appearance_net: AppearanceNet
    denoising_net: DenoisingNet
    pose_guider: PoseGuider | SingleScalePoseGuider
    cases: dict[str, Tensor]
    trajectory: dict[str, Tensor]
    schedule: dict[str, Any]
    windows: list[tuple[int, ...]]

    @property
    def dtype(self) -> torch.dtype:
        return self.cases["in.ref_latents"].dtype

    def double(self) -> Relative:
        """The same networks and inputs in double precision."""
        for network in (self.appearance_net, self.denoising_net, self.pose_guider):
            network.double()
        self.cases = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in self.cases.items()}
        return self

    def guider(self, normalisation: str) -> PoseGuider | SingleScalePoseGuider:
        preset = replace(self.preset, pose=replace(self.preset.pose, normalisation=normalisation))
        guider = convert_pose_guider(self.weights["pose_guider"], preset)
        return guider.double() if self.dtype == torch.float64 else guider


def load(folder: Path, layout: str) -> Relative:
    tiny = folder / f"{layout}_tiny"
    config = json.loads((tiny / "config.json").read_text())
    unet = config["unet_3d"]
    sizes = UNetPreset(
        tuple(unet["block_out_channels"]),
        unet["layers_per_block"],
        heads=unet["attention_head_dim"],
        token_channels=unet["cross_attention_dim"],
        groups=unet["norm_num_groups"],
    )
    pose = PosePreset(heads=2, head_channels=8, channels=tuple(config["pose_guider"].get("block_out_channels", ())))
    preset = Preset(layout, unet=sizes, pose=pose, background=False)
    weights = {name: load_file(tiny / f"{name}.safetensors") for name in ("reference_unet", "denoising_unet", "pose_guider")}
    plans = json.loads((folder / "context_windows.json").read_text())
    plan = next(
        p for p in plans if (p["num_frames"], p["context_size"], p["context_overlap"]) == (40, 16, 4) and p["used_by_pipeline"]
    )
    return Relative(
        preset,
        weights,
        convert_appearance_net(weights["reference_unet"], preset),
        convert_denoising_net(weights["denoising_unet"], None, preset),
        convert_pose_guider(weights["pose_guider"], preset),
        load_file(tiny / "cases.safetensors"),
        load_file(folder / "trajectory" / f"{layout}.safetensors"),
        json.loads((folder / "scheduler.json").read_text())["kwargs"],
        [tuple(window) for window in plan["windows"]],
    )


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def relative(layout: str, shared: Path) -> Relative:
    return load(shared / "parity", layout)


@pytest.fixture(scope="module")
def exact(layout: str, shared: Path) -> Relative:
    return load(shared / "parity", layout).double()


def drawings(relative: Relative) -> Tensor:
    low, high = relative.pose_guider.value_range
    return relative.cases["in.pose_images_u8"].to(relative.dtype) / 255 * (high - low) + low


def difference(actual: Tensor, expected: Tensor) -> float:
    assert actual.shape == expected.shape
    return float((actual - expected).abs().max())


@torch.no_grad()
def predict(relative: Relative, case: str, net: DenoisingNet | None = None, guider: Any = None) -> Tensor:
    """Our prediction for a recorded case, whose name says what it is of."""
    parts = case.split("_")
    frames = int(next(part for part in parts if part[0] == "f" and part[1:].isdigit())[1:])
    timestep = int(next(part for part in parts if part[0] == "t" and part[1:].isdigit())[1:])
    batch = "_b2" if "b2" in parts else ""
    cases = relative.cases
    latents, tokens = cases[f"in.latents{batch}_f{frames}"], cases[f"in.clip{batch}"]
    pose: tuple[Tensor, ...] = ()
    if "nopose" not in parts and (parts[0] != "plain" or "pose" in parts):
        pose = (guider or relative.pose_guider)(drawings(relative))
        pose = tuple(torch.cat([tap, tap.flip(2)], 2) if frames == 16 else tap[:, :, :frames] for tap in pose)
    reference = None
    if parts[0] != "plain":
        features, _ = relative.appearance_net(cases[f"in.ref_latents{batch}"], tokens)
        if "bankfp16" in parts:
            features = {place: feature.half().to(feature.dtype) for place, feature in features.items()}
        reference = relative.denoising_net.project_reference(features)
    if parts[0] == "cfg":
        latents, tokens = latents.repeat(2, 1, 1, 1, 1), torch.cat([torch.zeros_like(tokens), tokens])
    motion = "off" not in parts
    return (net or relative.denoising_net)(latents, timestep, tokens, pose, reference, motion=motion)


CASES = (
    "nocfg_f8_t481",
    "nocfg_f8_t481_bankfp16",
    "nocfg_f8_t481_motion_off",
    "nocfg_nopose_f8_t481",
    "nocfg_b2_f8_t999",
    "nocfg_f1_t241_motion_on",
    "nocfg_f1_t241_motion_off",
    "plain_f8_t481",
    "plain_pose_f8_t481",
    "plain_off_f8_t481",
    "cfg_f8_t481",
    "cfg_f16_t39",
    "cfg_b2_f8_t999",
    "cfg_f1_t241_motion_on",
    "cfg_f1_t241_motion_off",
)


@pytest.mark.parametrize("case", CASES)
def test_predictions_are_the_recorded_ones(exact: Relative, case: str) -> None:
    if f"{case}.out" not in exact.cases:
        pytest.skip("not recorded for this layout")
    assert difference(predict(exact, case), exact.cases[f"{case}.out"]) < PREDICTION


@pytest.mark.parametrize("case", CASES)
def test_predictions_in_single_precision_differ_by_rounding_alone(relative: Relative, exact: Relative, case: str) -> None:
    if f"{case}.out" not in exact.cases:
        pytest.skip("not recorded for this layout")
    assert difference(predict(relative, case), predict(exact, case)) < 2 * PREDICTION


def test_background_channels_of_a_converted_network_change_nothing(exact: Relative) -> None:
    preset = replace(exact.preset, background=True)
    net = convert_denoising_net(exact.weights["denoising_unet"], None, preset).double()
    case = "nocfg_f8_t481_motion_off"
    latents = exact.cases["in.latents_f8"]
    background = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0), dtype=latents.dtype)
    features, _ = exact.appearance_net(exact.cases["in.ref_latents"], exact.cases["in.clip"])
    with torch.no_grad():
        pose = exact.pose_guider(drawings(exact))
        made = net(torch.cat([latents, background], 1), 481, exact.cases["in.clip"], pose, features, motion=False)
    assert difference(made, exact.cases[f"{case}.out"]) < PREDICTION


def test_motion_modules_in_a_file_of_their_own_give_the_same_network(exact: Relative) -> None:
    weights = exact.weights["denoising_unet"]
    motion = {name: tensor for name, tensor in weights.items() if "motion_modules" in name}
    spatial = {name: tensor for name, tensor in weights.items() if name not in motion}
    together = convert_denoising_net(spatial, motion, exact.preset).double()
    assert difference(predict(exact, "nocfg_f8_t481", together), exact.cases["nocfg_f8_t481.out"]) < PREDICTION
    without = convert_denoising_net(spatial, None, exact.preset).double()
    assert difference(predict(exact, "plain_off_f8_t481", without), exact.cases["plain_off_f8_t481.out"]) < PREDICTION


@torch.no_grad()
@pytest.mark.parametrize("case", ["nocfg_f8_t481", "cfg_f8_t481"])
def test_reference_features_are_the_recorded_ones(exact: Relative, case: str) -> None:
    latents, tokens = exact.cases["in.ref_latents"], exact.cases["in.clip"]
    if case.startswith("cfg"):  # rows without and with the reference's token, as the published pipelines read it
        latents, tokens = latents.repeat(2, 1, 1, 1), torch.cat([torch.zeros_like(tokens), tokens])
    features, last = exact.appearance_net(latents, tokens)
    prefix = f"{case}.bank."
    recorded = {name.removeprefix(prefix): bank for name, bank in exact.cases.items() if name.startswith(prefix)}
    assert {f"{place}.transformer_blocks.0" for place in features} == set(recorded)
    for place, feature in features.items():
        bank = recorded[f"{place}.transformer_blocks.0"]
        assert difference(feature[-1:], bank[-1:]) < PREDICTION
        # Nobody uses the row without a token. In it places with little contrast are divided by next to nothing, the recording's
        # rounding with them: 1.6e-5 at one place.
        assert difference(feature, bank) < 2 * PREDICTION
    # The last map's values reach 20: the tolerance is relative to them.
    of_last = {f"{case}.ref_sample": last, "ref_plain_t0.out": last[-1:]}
    for name, map in of_last.items():
        if name in exact.cases:  # the first for one layout alone
            assert difference(map, exact.cases[name]) < PREDICTION * float(map.abs().max())


@torch.no_grad()
def test_the_motion_module_normalises_every_frame_alone(shared: Path) -> None:
    relative = load(shared / "parity", "animateanyone").double()
    module = relative.denoising_net.get_submodule("down_blocks.0.motion_modules.0")
    given = relative.cases["in.motion_in"]
    made = module(given.transpose(1, 2).flatten(0, 1), 8)[None].transpose(1, 2)
    assert difference(made, relative.cases["motion.down0_0.out"]) < PREDICTION


@torch.no_grad()
def test_pose_features_are_the_recorded_ones(exact: Relative) -> None:
    given, cases = drawings(exact), exact.cases
    if isinstance(exact.pose_guider, SingleScalePoseGuider):
        (feature,) = exact.pose_guider(given)
        assert difference(feature, cases["pose_guider.out"]) < PREDICTION
        return
    raw = cases["in.pose_images_u8"].to(exact.dtype) * 2 - 1
    window = exact.guider("window")
    # Deep features reach 6: tolerances are relative to them. Statistics of a window divide by its deviations, so the recordings'
    # own rounding grows: they are up to 2.2e-5 from double precision, and so is single precision, differently on each processor.
    for made, name, tolerance in (
        (exact.pose_guider(given), "eval", PREDICTION),
        (window(given), "train_bn", 2.5 * PREDICTION),
        (window(raw), "train_bn_raw255", 2.5 * PREDICTION),
    ):
        assert len(made) == 5
        for tap, feature in enumerate(made):
            recorded = cases[f"pose_guider.{name}.out{tap}"]
            assert difference(feature, recorded) < tolerance * max(float(recorded.abs().max()), 1), (name, tap)


def test_pose_features_by_the_window_statistics_of_the_published_scripts(shared: Path) -> None:
    relative = load(shared / "parity", "aniportrait").double()
    made = predict(relative, "cfg_f8_t481_train_bn", guider=relative.guider("window"))
    assert difference(made, relative.cases["cfg_f8_t481_train_bn_pose.out"]) < PREDICTION


def networks_of_a_trajectory(relative: Relative, variant: str) -> tuple[Any, SourceFeatures, FrameInputs]:
    guider = relative.pose_guider
    if "trainbn" in variant:
        guider = relative.guider("window")
        guider.value_range = (-1.0, 509.0)  # the published script passes bytes where -1..1 is meant
    scheduler = make_scheduler("ddim", relative.schedule)
    scheduler.set_timesteps(5)
    networks = SimpleNamespace(denoising_net=relative.denoising_net, pose_guider=guider, scheduler=scheduler)
    recorded = relative.trajectory
    with torch.no_grad():
        # Two rows, as in the published pipeline, of which it uses the second: where features are rounded to half precision, as
        # few as possible shall fall on the other side.
        tokens = recorded["in.clip"].to(relative.dtype)
        rows, _ = relative.appearance_net(
            recorded["in.ref_latents"].to(relative.dtype).repeat(2, 1, 1, 1), torch.cat([torch.zeros_like(tokens), tokens])
        )
        features = {place: feature[1:] for place, feature in rows.items()}
        if variant.endswith("fp16"):
            features = {place: feature.half().to(feature.dtype) for place, feature in features.items()}
        source = SourceFeatures(tokens, relative.denoising_net.project_reference(features))
    pictures = recorded["in.pose_u8_fhwc"].numpy()
    conditions = (FrameConditions(frame, picture, picture) for frame, picture in enumerate(pictures))
    return networks, source, FrameInputs(presets.vae(presets.TINY), relative.denoising_net, conditions, 4)


@pytest.mark.parametrize(
    "variant",
    ["pil_eval_bankfp32", pytest.param("pil_eval_bankfp16", marks=pytest.mark.slow), "script_np_trainbn_bankfp32"],
)
def test_our_sampler_with_their_windows_walks_the_recorded_trajectory(exact: Relative, variant: str) -> None:
    if f"{variant}.latents_steps" not in exact.trajectory:
        pytest.skip("the single-scale layout has no such variant: it has no normalisation")
    assert_recorded_trajectory(exact, variant)


def test_our_sampler_walks_the_recorded_trajectory_in_single_precision(relative: Relative) -> None:
    assert_recorded_trajectory(relative, "pil_eval_bankfp32")


@torch.no_grad()
def assert_recorded_trajectory(relative: Relative, variant: str) -> None:
    networks, source, inputs = networks_of_a_trajectory(relative, variant)
    predictor = Predictor(networks, source, inputs, SamplingOptions(steps=5, guidance_scale=3.5))
    noise = relative.trajectory["in.noise"][0]
    steps = torch.full((5, *noise.shape), float("nan"))

    def keep(frames: tuple[int, ...], taken: int, latents: Tensor) -> None:
        steps[taken - 1][:, list(frames)] = latents

    finished = dict(
        denoise(relative.windows, predictor, networks.scheduler, lambda frame: noise[:, frame], ramp=False, on_step=keep)
    )
    recorded = relative.trajectory[f"{variant}.latents_steps"][:, 0]
    assert difference(steps, recorded) < TRAJECTORY
    assert difference(torch.stack([finished[frame] for frame in range(40)], 1), recorded[-1]) < TRAJECTORY


@torch.no_grad()
@pytest.mark.parametrize("variant", ["pil_eval_bankfp32", "script_np_trainbn_bankfp32"])
def test_rows_of_the_first_step_are_the_recorded_ones(exact: Relative, variant: str) -> None:
    if f"{variant}.unet_out_step0_windows" not in exact.trajectory:
        pytest.skip("the single-scale layout has no such variant: it has no normalisation")
    networks, source, inputs = networks_of_a_trajectory(exact, variant)
    tokens = torch.cat([torch.zeros_like(source.tokens), source.tokens])
    low, high = networks.pose_guider.value_range
    for window, recorded in zip(exact.windows, exact.trajectory[f"{variant}.unet_out_step0_windows"], strict=True):
        latents = exact.trajectory["in.noise"][:, :, list(window)].to(exact.dtype).repeat(2, 1, 1, 1, 1)
        pose = networks.pose_guider(inputs.drawings(window).to(exact.dtype) * (high - low) + low)
        made = exact.denoising_net(latents, 999, tokens, pose, source.reference)
        assert difference(made, recorded) < PREDICTION


def test_the_noise_schedule_and_its_steps_are_the_recorded_ones(shared: Path) -> None:
    recorded = load_file(shared / "parity" / "scheduler_cases.safetensors")
    description = json.loads((shared / "parity" / "scheduler.json").read_text())
    scheduler = make_scheduler("ddim")
    assert difference(scheduler.alphas_cumprod, recorded["alphas_cumprod"]) < 1e-6
    for steps, timesteps in description["timesteps"].items():
        scheduler.set_timesteps(int(steps))
        assert scheduler.timesteps.tolist() == timesteps
    scheduler.set_timesteps(5)
    for timestep in (999, 799, 599, 399, 199):
        step = scheduler.step(recorded["in.model_output"], timestep, recorded["in.sample"])
        assert difference(step.prev_sample, recorded[f"step5.t{timestep}.prev_sample"]) < 1e-6


def test_full_size_checkpoints_have_exactly_the_keys_of_the_full_preset(shared: Path) -> None:
    keys = json.loads((shared / "parity" / "full_size_keys.json").read_text())
    with torch.device("meta"):
        networks = {
            "reference_unet": presets.appearance_net(presets.FULL),
            "denoising_unet": presets.denoising_net(replace(presets.FULL, background=False)),
            "pose_guider_aniportrait": presets.pose_guider(presets.FULL),
            "pose_guider_animateanyone": presets.pose_guider(replace(presets.FULL, pose=PosePreset(scales="single"))),
        }
    for name, network in networks.items():
        assert {key: list(tensor.shape) for key, tensor in network.state_dict().items()} == keys[name], name
