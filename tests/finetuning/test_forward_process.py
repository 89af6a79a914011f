"""Rounds of finished images: whose they are, which belong together, what follows the adapter."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError

from components.contracts.errors import SettingsError
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings
from components.diffusion import load_policy
from components.finetuning.algorithms.awm import AWM, AWMSettings
from components.finetuning.algorithms.dgpo import DGPOSettings
from components.finetuning.algorithms.nft import NFTSettings
from components.finetuning.experience.drawing import draw
from components.finetuning.losses.kl import prediction_kl
from components.finetuning.noising import noised, predict
from tests.finetuning.conftest import COMPUTE, METHODS
from tests.finetuning.plugs import Redness

flow = pytest.mark.parametrize("method", [METHODS["nft"]], ids=["flow"])


class EqualForCats(Redness):
    """Says nothing about one of the prompts."""

    def score(self, images, prompts):
        cats = torch.tensor([prompt == "two cats" for prompt in prompts])
        return torch.where(cats, 3.0, super().score(images, prompts))


def move(policy, seed: int, size: float = 0.1) -> dict[str, torch.Tensor]:
    """Give the adapter other weights; returns them."""
    generator = torch_generator(seed, "weights")
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return {name: p.detach().clone() for name, p in policy.trainable_parameters()}


def snapshot(policy, name: str) -> dict[str, torch.Tensor]:
    """Its weights by parameter."""
    found = policy.snapshots()
    return {path.partition("/")[2]: t for path, t in found.items() if path.startswith(f"{name}/")}


def collected(made, policy, number: int):
    """All batches of a round."""
    found = made.experience.collect(policy, torch_generator(0, "round", number))
    return found, [batch for update in found.updates for batch in update]


@flow
def test_old_follows_the_adapter_and_draws_the_next_round(build, policy, pool, method):
    made = build(method)
    first, _ = {n: p.detach().clone() for n, p in policy.trainable_parameters()}, None
    collected(made, policy, 0)
    assert all(torch.equal(t, first[n]) for n, t in snapshot(policy, "old").items())
    second = move(policy, 1)
    _, batches = collected(made, policy, 1)
    # Two updates lie behind: d = 0.2.
    for name, tensor in snapshot(policy, "old").items():
        torch.testing.assert_close(tensor, 0.2 * first[name] + 0.8 * second[name])

    generator = torch_generator(0, "round", 1)
    places = pool.draw(2, generator)
    experience = made.experience
    again = {
        adapter: draw(
            experience.context,
            policy,
            experience.text,
            places,
            2,
            torch.Generator().set_state(generator.get_state()),
            adapter=adapter,
        ).x0
        for adapter in ("old", "train")
    }
    found = {tuple(row.flatten().tolist()) for batch in batches for row in batch.x0}
    assert found == {tuple(row.flatten().tolist()) for row in again["old"]}
    assert not torch.equal(again["old"], again["train"])


@flow
def test_a_run_that_goes_on_moves_its_snapshots_as_one_that_never_stopped(build, policy, method):
    made = build(method)
    collected(made, policy, 0)
    move(policy, 1)
    saved, state = policy.snapshots(), made.experience.state()
    collected(made, policy, 1)
    whole = policy.snapshots()
    policy.load_snapshots(saved)
    resumed = build(method)
    resumed.experience.load_state(state)
    collected(resumed, policy, 1)
    assert policy.snapshots().keys() == whole.keys()
    assert all(torch.equal(t, whole[name]) for name, t in policy.snapshots().items())
    assert not torch.equal(
        torch.cat([t.flatten() for t in whole.values()]),
        torch.cat([t.flatten() for t in saved.values()]),
    )


@flow
def test_every_pass_holds_each_image_once_and_equal_groups_are_dropped(build, policy, method):
    settings = method | {
        "prompts_per_round": 4,
        "inner_epochs": 2,
        "updates_per_epoch": 4,
        "num_levels": 1,
    }
    made = build(settings, EqualForCats())
    found, _ = collected(made, policy, 0)
    assert found.metrics["dropped_groups"] == 1.0
    assert made.experience.num_updates == 8

    found = made.experience.collect(policy, torch_generator(0, "round", 1))
    updates = list(found.updates)
    # Three groups of two: six images in four updates a pass.
    sizes = [sum(len(batch) for batch in update) for update in updates]
    assert sizes == [2, 2, 1, 1] * 2
    passes = (updates[:4], updates[4:])
    images = [
        sorted(float(row.sum()) for update in part for batch in update for row in batch.x0)
        for part in passes
    ]
    assert images[0] == images[1] and len(set(images[0])) == 6
    # Centred in each group, whatever the order.
    total = sum(float(batch.advantage.sum()) for update in passes[0] for batch in update)
    assert total == pytest.approx(0.0, abs=1e-4)


@pytest.mark.parametrize("method", [METHODS["dgpo"]], ids=["flow"])
def test_groups_stay_together_and_share_what_they_are_noised_with(build, policy, method):
    made = build(method)
    _, batches = collected(made, policy, 0)
    assert [batch.group.bincount().max().item() for batch in batches] == [3, 3]
    assert [len(batch.group.unique()) for batch in batches] == [1, 1]
    both = replace(
        batches[0],
        x0=torch.cat([batches[0].x0, batches[1].x0]),
        conditioning=batches[0].conditioning[[0] * 6],
        advantage=torch.cat([batches[0].advantage, batches[1].advantage]),
        group=torch.tensor([5, 2, 5, 2, 2, 5]),
    )
    settings = DGPOSettings.model_validate({"num_levels": 2, "step_fraction": 1.0, "group_size": 3})
    for shared in (True, False):
        rows = noised(policy, both, settings, torch_generator(0), shared_in_groups=shared)
        noise = (rows.x_t - rows.level.signal * rows.x0) / rows.level.noise
        noise = noise.view(6, 2, -1)
        share = rows.level.noise.view(6, 2)
        assert torch.equal(rows.x0.view(6, 2, -1)[:, 1], both.x0.flatten(1))
        assert not torch.allclose(noise[0, 0], noise[0, 1], atol=1e-3)
        assert bool((share[:, 0] != share[:, 1]).all())
        same = torch.allclose(noise[0], noise[2], atol=1e-4) and torch.equal(share[0], share[5])
        assert same == shared
        assert not torch.allclose(noise[0], noise[1], atol=1e-3)


@pytest.mark.parametrize("method", [METHODS["dgpo"]], ids=["flow"])
def test_what_is_computed_again_in_the_backward_pass_is_the_same(build, policy, method):
    made = build(method)
    move(policy, 1)
    _, batches = collected(made, policy, 0)
    rows = noised(policy, batches[0], made.algorithm.settings, torch_generator(0))
    assert len(rows.x_t) == 6 > policy.batch_size
    gradients = []
    for output in (
        predict(policy, rows),
        policy.predict_at(rows.x_t, rows.level, rows.conditioning),
    ):
        parameters = [p for _, p in policy.trainable_parameters()]
        gradients.append((output, torch.autograd.grad(output.square().sum(), parameters)))
    assert torch.equal(gradients[0][0], gradients[1][0])
    for again, once in zip(gradients[0][1], gradients[1][1], strict=True):
        torch.testing.assert_close(again, once)


@pytest.mark.parametrize("method", [METHODS["awm"]], ids=["flow"])
def test_an_images_ratio_is_that_of_its_mean_over_levels(build, policy, method):
    made = build(method)
    _, batches = collected(made, policy, 0)
    move(policy, 1, size=1.0)
    batch = batches[0]
    common = {"num_levels": 2, "step_fraction": 1.0, "weight": "uniform", "kl_weight": 0.0}
    common |= {"clip_range": 0.001, "ema_kl_weight": 0.0}
    found = {}
    for ratio in ("per_level", "per_image"):
        settings = AWMSettings.model_validate(common | {"ratio": ratio})
        found[ratio] = AWM(settings).loss(policy, batch, torch_generator(3))
    rows = noised(policy, batch, settings, torch_generator(3))
    errors = {
        name: prediction_kl(predict(policy, rows, name).detach(), rows.target)
        for name in ("train", "old")
    }
    log_ratio = (errors["old"] - errors["train"]).view(-1, 2)
    scaled = batch.advantage / 5.0

    def ppo(ratio: torch.Tensor, advantage: torch.Tensor) -> float:
        terms = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.999, 1.001))
        return float(terms.mean())

    expected = {
        "per_level": ppo(log_ratio.exp(), scaled[:, None].expand(-1, 2)),
        "per_image": ppo(log_ratio.mean(1).exp(), scaled),
    }
    for ratio, output in found.items():
        assert float(output.loss.detach()) == pytest.approx(expected[ratio], rel=1e-5)
    assert expected["per_level"] != pytest.approx(expected["per_image"], rel=1e-4)


def moved_rows(made, policy, **keywords):
    """A batch of the first round, the rows of the next loss, and what the policies say of them,
    with the adapter far from all of them and every snapshot elsewhere."""
    _, batches = collected(made, policy, 0)
    move(policy, 1, size=0.5)
    for name in made.experience.snapshots:
        policy.remember(name, 0.5)
    move(policy, 2, size=1.0)
    # Good and bad ones in any batch.
    batch = replace(batches[0], advantage=torch.linspace(1.2, -0.7, len(batches[0])))
    rows = noised(policy, batch, made.algorithm.settings, torch_generator(3), **keywords)
    said = {
        name: policy.predict_at(rows.x_t, rows.level, rows.conditioning, name)
        for name in ("train", "old", "ema", "reference")
        if name in ("train", "reference") or name in made.experience.snapshots
    }
    return batch, rows, {n: v if n == "train" else v.detach() for n, v in said.items()}


def check(made, policy, batch, expected) -> dict[str, float]:
    """The method's loss and its gradient are those expected; returns its metrics."""
    output = made.algorithm.loss(policy, batch, torch_generator(3))
    torch.testing.assert_close(output.loss, expected, rtol=1e-4, atol=1e-6)
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    found = torch.autograd.grad(output.loss, parameters)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-3, atol=1e-5)
    return {name: float(value) for name, value in output.metrics.items()}


def squared(one, other):
    return (one - other).square().mean(dim=(1, 2, 3))


@flow
def test_nft_in_the_space_of_velocities(build, policy, method):
    """As its paper has it, for a flow; the code mixes clean latents."""
    made = build(method | {"kl_weight": 0.3, "mix_beta": 0.4, "advantage_clip": 1.5})
    batch, rows, said = moved_rows(made, policy)
    good = (0.5 + (batch.advantage / 1.5).clamp(-1, 1) / 2).repeat_interleave(2)
    errors = []
    for velocity in (
        0.4 * said["train"] + 0.6 * said["old"],
        1.4 * said["old"] - 0.4 * said["train"],
    ):
        miss = rows.x_t - rows.level.noise * velocity - rows.x0
        size = miss.detach().abs().mean(dim=(1, 2, 3))
        errors.append(miss.square().mean(dim=(1, 2, 3)) / size)
    expected = 1.5 * ((good * errors[0] + (1 - good) * errors[1]) / 0.4).mean()
    kl = squared(said["train"], said["reference"]).mean()
    metrics = check(made, policy, batch, expected + 0.3 * kl)
    assert metrics["kl"] == pytest.approx(float(kl.detach()), rel=1e-4)
    distance = float(squared(said["train"].detach(), said["old"]).mean())
    assert metrics["old_distance"] == pytest.approx(distance, rel=1e-4)
    clean = rows.x_t - rows.level.noise * said["train"].detach()
    assert metrics["clean_error"] == pytest.approx(float(squared(clean, rows.x0).mean()), rel=1e-4)
    assert 0.0 < float(good.min()) < 0.5 < float(good.max()) < 1.0


@pytest.mark.parametrize("method", [METHODS["awm"]], ids=["flow"])
def test_awm_is_put_together_as_its_header_says(build, policy, method):
    settings = {"kl_weight": 0.3, "ema_kl_weight": 0.7, "clip_range": 0.05, "advantage_clip": 2.0}
    made = build(method | settings)
    batch, rows, said = moved_rows(made, policy)
    policy.remember("ema", 0.7)
    said["ema"] = policy.predict_at(rows.x_t, rows.level, rows.conditioning, "ema").detach()

    def log_prob(velocity):
        error = squared(velocity, rows.target)
        return -4 * rows.level.noise.flatten() * ((error + 1e-10) ** 0.25 - 10**-2.5)

    ratio = (log_prob(said["train"]) - log_prob(said["old"])).exp()
    advantage = (batch.advantage / 2).repeat_interleave(2)
    terms = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.95, 1.05))
    kl = squared(said["train"], said["reference"]).mean()
    ema_kl = squared(said["train"], said["ema"]).mean()
    metrics = check(made, policy, batch, terms.mean() + 0.3 * kl + 0.7 * ema_kl)
    assert metrics["ema_kl"] == pytest.approx(float(ema_kl.detach()), rel=1e-4)
    assert metrics["ema_kl"] != pytest.approx(metrics["kl"], rel=1e-2)
    off = float((ratio.detach() - 1).abs().max())
    assert metrics["ratio_deviation_max"] == pytest.approx(off, rel=1e-3)
    assert off > 0.05


@pytest.mark.parametrize("kl_weight", [0.3, 0.0])
@pytest.mark.parametrize("compare_with", ["reference", "old"])
@pytest.mark.parametrize("method", [METHODS["dgpo"]], ids=["flow"])
def test_dgpo_is_put_together_as_its_header_says(build, policy, method, compare_with, kl_weight):
    made = build(
        method
        | {"dgpo_beta": 3.0, "clip_range": 0.01}
        | {"kl_weight": kl_weight, "compare_with": compare_with}
    )
    batch, rows, said = moved_rows(made, policy, shared_in_groups=True)
    error = {name: squared(velocity, rows.target).view(3, 2) for name, velocity in said.items()}
    ratio = (error["old"] - error["train"]).exp().detach()
    up = (batch.advantage > 0)[:, None]
    far = (up & (ratio > 1.01)) | (~up & (ratio < 0.99))
    held = torch.where(far, error["train"].detach(), error["train"])
    scores = (batch.advantage[:, None] * 3.0 * (held - error[compare_with])).sum(0) / 3
    expected = -torch.nn.functional.logsigmoid(-scores).mean() / 3.0
    kl = squared(said["train"], said["reference"]).mean()
    metrics = check(made, policy, batch, expected + kl_weight * kl)
    assert metrics["clip_fraction"] == pytest.approx(float(far.float().mean()))
    assert metrics["implicit_acc"] == float((scores.detach() < 0).float().mean())
    assert metrics["ratio_mean"] == pytest.approx(float(ratio.mean()), rel=1e-4)
    off = float((ratio - 1).abs().max())
    assert metrics["ratio_deviation_max"] == pytest.approx(off, rel=1e-3)
    assert 0 < float(far.float().mean()) < 1


@pytest.mark.parametrize("method", [METHODS["awm_unet"]], ids=["unet"])
def test_off_policy_awm_draws_with_its_average_and_has_no_other_snapshot(build, policy, method):
    made = build(method)
    assert list(made.experience.snapshots) == ["ema"]
    assert made.experience.drawn_with(0) == "ema"
    collected(made, policy, 0)
    move(policy, 1)
    _, batches = collected(made, policy, 1)
    metrics = made.algorithm.loss(policy, batches[0], torch_generator(0)).metrics
    # The average is two updates behind, at a decay of 0.002: the ratio is near one and not one.
    assert 0 < float(metrics["ratio_deviation_max"]) < 0.1
    assert float(metrics["ema_kl"]) > 0 and float(metrics["kl"]) > 0


def test_dgpo_changes_who_draws_after_so_many_updates(build):
    made = build(METHODS["dgpo"] | {"draw_with_old_after": 2})
    assert [made.experience.drawn_with(updates) for updates in (0, 2, 3)] == [
        "train",
        "train",
        "old",
    ]
    never = build(METHODS["dgpo"] | {"draw_with_old_after": None})
    assert never.experience.drawn_with(10_000) == "train"


def test_awm_without_any_trust_region_is_refused():
    with pytest.raises(ValidationError, match="nothing that holds the policy"):
        AWMSettings.model_validate({"clip_range": None, "ema_kl_weight": 0.0})
    AWMSettings.model_validate({"clip_range": None, "ema_kl_weight": 0.1})
    AWMSettings.model_validate({"ema_kl_weight": 0.0})


def test_without_a_clip_the_ratio_may_go_anywhere(build, policy):
    made = build(METHODS["awm_unet"] | {"clip_range": None, "ratio": "per_level"})
    _, batches = collected(made, policy, 0)
    move(policy, 1)
    output = made.algorithm.loss(policy, batches[0], torch_generator(0))
    assert math.isfinite(float(output.loss.detach()))
    assert float(output.metrics["clip_fraction"]) == 0.0
    assert float(output.metrics["ratio_deviation_max"]) > 0.0


@pytest.mark.parametrize("settings", [NFTSettings(), AWMSettings(first_step=0)])
def test_guidance_is_refused_where_the_method_knows_none(base_folders, pool, tmp_path, settings):
    from components.finetuning.interfaces import MethodContext
    from components.finetuning.requirements import refusals
    from components.finetuning.settings import Settings

    base = BaseSettings(
        path=str(base_folders("flow")), num_steps=2, batch_size=4, guidance_scale=3.0
    )
    block = Settings(rounds=1, method=settings)
    (refusal,) = refusals(block, base)
    assert "without guidance, and base.guidance_scale is 3" in refusal.reason
    assert not list(refusals(block, base.model_copy(update={"guidance_scale": 1.0})))
    # A hub model is asked again once it is open.
    policy = load_policy(base, COMPUTE)
    context = MethodContext(policy, pool, Redness(), 4, tmp_path, torch_generator)
    with pytest.raises(SettingsError, match="guidance_scale 3 with a method without guidance"):
        settings.build(context)


def test_dgpo_draws_with_guidance_and_trains_without(base_folders, build, pool, tmp_path):
    from components.finetuning.interfaces import MethodContext

    base = BaseSettings(
        path=str(base_folders("flow")), num_steps=2, batch_size=4, guidance_scale=3.0
    )
    policy = load_policy(base, COMPUTE)
    policy.add_adapter(2, 2, generator=torch_generator(0, "lora"))
    context = MethodContext(policy, pool, Redness(), 4, tmp_path, torch_generator)
    settings = DGPOSettings(prompts_per_round=1, group_size=2, num_levels=1)
    made = settings.build(context)
    assert made.experience.text.unconditional is not None
    _, (batch,) = collected(made, policy, 0)
    rows = noised(policy, batch, settings, torch_generator(0), shared_in_groups=True)
    assert rows.conditioning.unconditional is None and rows.conditioning.guidance_scale == 1.0
    with torch.no_grad():
        guided = policy.predict_at(rows.x_t, rows.level, batch.conditioning)
    assert not torch.allclose(guided, predict(policy, rows, "reference"))
