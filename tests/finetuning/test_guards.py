"""Each guard, by planting the fault that it is there for."""

from __future__ import annotations

import json

import pytest
import torch

from components.contracts.errors import DataError, GuardError, QuarantinedData, SettingsError
from components.contracts.seeds import torch_generator
from components.finetuning.drift import Tripwire, drift_figures
from components.finetuning.guards import (
    FirstUpdate,
    check_finite,
    check_reached,
    check_rewards,
    check_start,
)
from components.finetuning.settings import DriftSettings
from components.finetuning.stage import run
from tests.finetuning.conftest import METHODS, checkpoints, every_method, outs

PLUGS = "tests.finetuning.plugs"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_rewards_that_are_not_finite_are_quarantined(value):
    reward = torch.tensor([1.0, value, 2.0])
    with pytest.raises(QuarantinedData, match=r"1 of 3 rewards are not finite.*'two cats'"):
        check_rewards(reward, ["a fox", "two cats", "a cow"])


def test_constant_rewards_stop_the_run_and_one_reward_does_not():
    with pytest.raises(GuardError, match="all 3 rewards of a round are 2"):
        check_rewards(torch.full((3,), 2.0), ["a"] * 3)
    check_rewards(torch.tensor([2.0]), ["a"])


def test_a_lora_that_reached_nothing_is_refused():
    with pytest.raises(GuardError, match=r"reached 0 modules.*to_x"):
        check_reached([], ["to_x"])
    check_reached(["unet.to_q"], None)


def test_the_smallest_deviation_of_the_ratio_is_too_large():
    with pytest.raises(GuardError, match=r"largest \|ratio - 1\| is 1.19e-07"):
        check_start({"ratio_deviation_max": 2.0**-23, "kl": 0.0})
    with pytest.raises(GuardError, match="KL is 1e-12"):
        check_start({"ratio_deviation_max": 0.0, "kl": 1e-12})
    with pytest.raises(GuardError, match="nan"):
        check_start({"ratio_deviation_max": float("nan")})
    check_start({"ratio_deviation_max": 0.0, "kl": 0.0})


@pytest.mark.parametrize("pair", [(float("nan"), 1.0), (1.0, float("inf"))])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_step(pair):
    with pytest.raises(GuardError, match=r"update 3: .*stopped before the step"):
        check_finite(*pair, "update 3")


def test_a_rollout_that_disagrees_with_its_replay_refuses_to_start(project, monkeypatch):
    settings, context = project(METHODS["dpok"])
    from components.finetuning.experience import drawing

    honest = drawing.rollout

    def rounded(*arguments, **keywords):
        drawn = honest(*arguments, **keywords)
        # The log-probs are of latents before rounding: what a half-precision store does.
        return type(drawn)(drawn.latents.bfloat16().float(), drawn.log_probs)

    monkeypatch.setattr(drawing, "rollout", rounded)
    with pytest.raises(GuardError, match="rollout and training disagree before the first update"):
        run(settings, context)
    assert not outs(context.root)
    assert not checkpoints(context)


def probe(policy) -> FirstUpdate:
    return FirstUpdate(policy, "a red fox", torch_generator(0, "probe"))


def test_an_update_without_effect_is_noticed(policy):
    with pytest.raises(GuardError, match="left the policy's output as it was"), probe(policy):
        pass


@pytest.mark.parametrize("part", ["U-Net", "decoder", "text encoder"])
def test_an_update_of_something_frozen_is_noticed(policy, part):
    module = {
        "U-Net": policy._network.module,
        "decoder": policy._vae.decoder,
        "text encoder": policy._encoder.encoders.modules[0],
    }[part]
    frozen = [p for name, p in module.named_parameters() if ".policy." not in name]
    message = f"changed what is frozen: .*{part}"
    with pytest.raises(GuardError, match=message), probe(policy), torch.no_grad():
        frozen[-1].add_(0.1)


def test_an_error_inside_of_the_first_update_is_not_hidden(policy):
    with pytest.raises(ZeroDivisionError), probe(policy):
        raise ZeroDivisionError


@every_method
def test_a_reward_that_breaks_stops_before_the_step(project, method):
    scorer = {
        "name": "python",
        "callable": f"{PLUGS}:broken",
        # The monitor's first look is one call; then each method's first scores are bad.
        "arguments": {"good_calls": 1},
        "differentiable": True,
    }
    settings, context = project(method, reward=scorer)
    with pytest.raises(QuarantinedData):
        run(settings, context)
    assert not outs(context.root)


def test_a_scorer_that_ignores_its_images_is_refused(project):
    scorer = {"name": "python", "callable": f"{PLUGS}:constant"}
    settings, context = project(METHODS["dpok"], reward=scorer)
    with pytest.raises(GuardError, match="does not tell its images apart"):
        run(settings, context)


FAULTS = {
    "infinite": (QuarantinedData, "4 of 4 rewards are not finite, the first is inf"),
    "the same for all": (GuardError, "all 4 rewards of a round are 3"),
    "one for all": (GuardError, r"scored 4 images with numbers of shape \[\]"),
    "one too few": (GuardError, r"scored 4 images with numbers of shape \[3\]"),
}


@pytest.mark.parametrize("differentiable", [False, True])
@pytest.mark.parametrize("fault", FAULTS)
def test_rewards_that_are_none_stop_before_any_update(project, fault, differentiable):
    kind, message = FAULTS[fault]
    scorer = {
        "name": "python",
        "callable": f"{PLUGS}:faulty",
        "arguments": {"fault": fault},
        "differentiable": differentiable,
    }
    settings, context = project(METHODS["draft" if differentiable else "dpok"], reward=scorer)
    with pytest.raises(kind, match=message):
        run(settings, context)
    assert not outs(context.root)
    assert not checkpoints(context)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pixels: pixels * 2 - 1, "image values from -"),
        (lambda pixels: pixels * 255, r"image values from .* to [12]\d\d"),
        (lambda pixels: pixels.movedim(1, -1), r"images of shape \[4, 32, 32, 3\]"),
        (lambda pixels: (pixels * 255).int(), r"images of type torch\.int32"),
    ],
)
def test_images_of_another_range_or_shape_stop_before_any_update(
    project, monkeypatch, change, message
):
    from components.diffusion import Policy

    monkeypatch.setattr(Policy, "decode", lambda policy, x0: change(policy.pixels(x0).detach()))
    settings, context = project(METHODS["dpok"])
    with pytest.raises(DataError, match=f"^reward {PLUGS}:redness: {message}"):
        run(settings, context)
    assert not outs(context.root)
    assert not checkpoints(context)


def test_a_judge_without_a_verdict_is_refused(project):
    monitor = {"judge": {"callable": f"{PLUGS}:no_judge"}}
    settings, context = project(METHODS["dpok"], monitor=monitor)
    with pytest.raises(SettingsError, match="NoJudge without a method 'correct'"):
        run(settings, context)


def test_a_judge_that_refuses_its_arguments_is_named(project):
    monitor = {"judge": {"callable": f"{PLUGS}:redness", "arguments": {"size": 3}}}
    settings, context = project(METHODS["dpok"], monitor=monitor)
    with pytest.raises(SettingsError, match="plugs:redness' refuses its arguments"):
        run(settings, context)


def test_an_unknown_lora_target_is_refused(project):
    settings, context = project(METHODS["dpok"], lora={"rank": 2, "alpha": 2, "targets": ["to_x"]})
    with pytest.raises(SettingsError, match="to_x"):
        run(settings, context)


FIGURES = {"brightness": 0.5, "saturation": 0.5, "diversity": 0.2, "judge": 0.6}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("brightness", 0.66),
        ("brightness", 0.34),
        ("saturation", 0.71),
        ("saturation", 0.29),
        ("diversity", 0.09),
        ("judge", 0.49),
        ("brightness", float("nan")),
    ],
)
def test_each_tripwire_trips_on_its_own_figure(name, value):
    tripwire = Tripwire("training", DriftSettings())
    assert tripwire.check(FIGURES, {"a": torch.zeros(1)}) is None
    reason = tripwire.check(FIGURES | {name: value}, {"a": torch.ones(1)})
    assert reason is not None
    assert reason.startswith(f"{name} of the training images is")
    assert tripwire.good["a"].item() == 0.0


def test_drift_within_the_limits_passes_and_is_the_new_good():
    tripwire = Tripwire("training", DriftSettings())
    adapter = {"a": torch.zeros(1)}
    tripwire.check(FIGURES, adapter)
    adapter["a"] += 1
    passing = {"brightness": 0.64, "saturation": 0.31, "diversity": 0.11, "judge": 0.51}
    assert tripwire.check(passing, adapter) is None
    adapter["a"] += 1
    assert tripwire.good["a"].item() == 1.0
    # The baseline is still the base model's, or drift in small steps would pass.
    assert tripwire.baseline == FIGURES
    assert tripwire.check({}, adapter) is None


def test_figures_of_single_images_have_no_diversity():
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    assert set(drift_figures(images, torch.tensor([0, 1]))) == {"brightness", "saturation"}
    assert drift_figures(images, torch.tensor([0, 0]))["diversity"] == 0.0


def test_a_judge_that_turns_away_stops_the_run_at_the_good_adapter(project, capsys):
    monitor = {"every": 1, "prompts_per_category": 1, "samples_per_prompt": 2}
    judge = {"callable": f"{PLUGS}:fickle"}
    settings, context = project(METHODS["dpok"], monitor=monitor | {"judge": judge})
    metrics = run(settings, context)
    report = json.loads((context.root / "reports/finetuning.json").read_text())
    assert report["stopped_by"].startswith("judge of the validation images is 0.000, 1.000")
    assert metrics["rounds"] == 1.0
    assert "rolled back to the last good adapter" in capsys.readouterr().err
    # The good adapter is the untrained one: what it saw before the first round.
    from components.contracts.artifacts import read_safetensors

    lora = read_safetensors(context.root / "models/lora/pytorch_lora_weights.safetensors")
    assert not any(tensor.any() for name, tensor in lora.items() if "lora_B" in name)
    assert not checkpoints(context)


def test_drifting_training_images_stop_the_run(project):
    limits = {"max_brightness_shift": 1e-9}
    settings, context = project(METHODS["dpok"], drift=limits, rounds=4)
    run(settings, context)
    report = json.loads((context.root / "reports/finetuning.json").read_text())
    assert report["stopped_by"].startswith("brightness of the ")
    assert report["rounds"] < 4
