"""Trajectory methods where one becomes the other: real losses on a tiny policy that has moved."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import Policy, load_policy, rollout
from components.diffusion.flow_sampler import FlowSampler
from components.finetuning.algorithms.dance_grpo import DanceGRPOSettings
from components.finetuning.algorithms.ddpo import DDPOSettings
from components.finetuning.algorithms.dpok import DPOKSettings
from components.finetuning.algorithms.flow_dppo import FlowDPPO, FlowDPPOSettings
from components.finetuning.algorithms.flow_grpo import FlowGRPO, FlowGRPOSettings
from components.finetuning.algorithms.grpo_guard import GRPOGuard, GRPOGuardSettings
from components.finetuning.algorithms.mix_grpo import MixGRPOSettings
from components.finetuning.batches import Transitions
from components.finetuning.interfaces import Algorithm, Method, MethodContext
from components.finetuning.prompt_pool import PromptPool
from tests.finetuning.plugs import Redness
from tests.support.schedules import normal
from tests.support.tiny import tiny_base
from tests.support.tiny_flow import tiny_flow_base

GENERATOR = torch.Generator()
ROUND: dict[str, Any] = {"prompts_per_round": 2, "group_size": 2}
Open = Callable[[str], MethodContext]


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "unet": tiny_base(tmp_path_factory.mktemp("unet")),
        "flow": tiny_flow_base(tmp_path_factory.mktemp("flow")),
    }


@pytest.fixture
def open_context(bases: dict[str, Path], tmp_path: Path) -> Open:
    """What methods are built upon: a policy of this family with an adapter that learned a bit."""

    def open_it(family: str) -> MethodContext:
        base = BaseSettings(path=str(bases[family]), num_steps=4, batch_size=4)
        policy = load_policy(base, ComputeSettings(device="cpu", threads=1))
        policy.add_adapter(2, 2, generator=torch_generator(0, "lora"))
        move(policy, "start")
        pool = PromptPool(["a red fox", "two cats"], ["colour", "count"])

        def generator(*labels: object) -> torch.Generator:
            return torch_generator(0, *labels)

        return MethodContext(policy, pool, Redness(), 4, tmp_path, generator)

    return open_it


def move(policy: Policy, label: str) -> None:
    """A step of the adapter in a random direction."""
    generator = torch_generator(1, label)
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def updates(method: Method, policy: Policy) -> list[list[Transitions]]:
    """The updates of the first round."""
    collected = method.experience.collect(policy, torch_generator(0, "round", 0))
    return [list(batches) for batches in collected.updates]


def outcome(
    loss: Algorithm[Transitions], policy: Policy, batch: Transitions
) -> tuple[Tensor, Tensor]:
    """Loss and its gradient with respect to the adapter, all parameters in a row."""
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    found = loss.loss(policy, batch, GENERATOR).loss
    gradients = torch.autograd.grad(found, parameters)
    return found.detach(), torch.cat([gradient.flatten() for gradient in gradients])


def assert_same(
    one: Algorithm[Transitions],
    other: Algorithm[Transitions],
    policy: Policy,
    batch: Transitions,
) -> None:
    for ours, theirs in zip(
        outcome(one, policy, batch), outcome(other, policy, batch), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
        assert bool((theirs != 0).any())


def assert_other(
    one: Algorithm[Transitions],
    other: Algorithm[Transitions],
    policy: Policy,
    batch: Transitions,
) -> None:
    ours, theirs = outcome(one, policy, batch)[1], outcome(other, policy, batch)[1]
    assert float((ours - theirs).norm()) > 1e-3 * float(theirs.norm())


def band(policy: Policy, batch: Transitions) -> float:
    """A clip range that half of the ratios have left."""
    taken = policy.transition(batch.x_t, batch.step, batch.conditioning)
    log_ratio = (taken.log_prob_per_dim(batch.x_prev) - batch.log_prob_old).detach()
    clip_range = float((log_ratio.exp() - 1).abs().median())
    assert clip_range > 1e-5
    return clip_range


def equal(one: Transitions, other: Transitions) -> bool:
    columns = ("x_t", "x_prev", "step", "log_prob_old", "advantage")
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in columns)


def test_dpok_without_kl_and_critic_is_ddpo(open_context: Open) -> None:
    context = open_context("unet")
    policy = context.policy
    settings = DDPOSettings(**ROUND, updates_per_epoch=1)
    ((batch, *_),) = updates(settings.build(context), policy)
    move(policy, "update")
    clip_range = band(policy, batch)
    ddpo = DDPOSettings(clip_range=clip_range).build(context).algorithm

    def dpok(**settings: Any) -> Algorithm[Transitions]:
        plain = {"reward_weight": 1.0, "kl_weight": 0.0, "clip": "ppo", "clip_range": clip_range}
        return DPOKSettings(value_function=None, **plain | settings).build(context).algorithm

    assert 0 < float(ddpo.loss(policy, batch, GENERATOR).metrics["clip_fraction"]) < 1
    assert_same(ddpo, dpok(), policy, batch)
    assert_other(ddpo, dpok(kl_weight=1.0), policy, batch)
    assert_other(ddpo, dpok(reward_weight=2.0), policy, batch)


def test_the_score_function_is_the_first_update_of_importance_sampling(open_context: Open) -> None:
    context = open_context("unet")
    policy = context.policy
    sampling = DDPOSettings(**ROUND, updates_per_epoch=1).build(context)
    once = {"updates_per_epoch": 1, "estimator": "score_function"}
    score = DDPOSettings(**ROUND, **once).build(context)
    ((batch, *_),) = updates(sampling, policy)
    ours, theirs = (outcome(made.algorithm, policy, batch)[1] for made in (score, sampling))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)
    move(policy, "update")
    assert_other(score.algorithm, sampling.algorithm, policy, batch)


def test_a_window_of_all_steps_is_flow_grpo(open_context: Open) -> None:
    context = open_context("flow")
    policy = context.policy
    shared = ROUND | {"updates_per_epoch": 2}
    flow = FlowGRPOSettings(**shared, kl_weight=0.0, advantage="group_standardised").build(context)
    mixed = {"shared_noise": False, "rounds_per_window": 1}
    mix = MixGRPOSettings(**shared, **mixed, window_size=3).build(context)
    narrow = MixGRPOSettings(**shared, **mixed, window_size=2).build(context)
    rounds = {name: updates(made, policy) for name, made in (("flow", flow), ("mix", mix))}
    for ours, theirs in zip(rounds["mix"], rounds["flow"], strict=True):
        assert all(equal(one, other) for one, other in zip(ours, theirs, strict=True))
    assert {int(step) for batch in rounds["mix"][0] for step in batch.step} == {0, 1, 2}
    # The window stands still: there is no other place for it.
    assert not equal(updates(narrow, policy)[0][0], rounds["flow"][0][0])
    move(policy, "update")
    assert_same(mix.algorithm, flow.algorithm, policy, rounds["flow"][0][0])


def test_dance_grpo_on_all_steps_of_its_own_noise_is_flow_grpo(open_context: Open) -> None:
    context = open_context("flow")
    policy = context.policy
    shared = ROUND | {"updates_per_epoch": 1}
    flow = FlowGRPOSettings(**shared, kl_weight=0.0, advantage="group_standardised").build(context)
    dance = DanceGRPOSettings(**shared, train_fraction=1.0, shared_noise=False).build(context)
    (theirs,) = updates(flow, policy)
    (ours,) = updates(dance, policy)
    # The steps of an image come in another order: the batches hold the same rows.
    for name in ("log_prob_old", "advantage"):
        found = torch.cat([getattr(batch, name) for batch in ours]).sort().values
        assert torch.equal(
            found, torch.cat([getattr(batch, name) for batch in theirs]).sort().values
        )
    move(policy, "update")
    assert_same(dance.algorithm, flow.algorithm, policy, theirs[0])


def test_grpo_guard_with_its_terms_off_is_flow_grpo(open_context: Open) -> None:
    context = open_context("flow")
    policy = context.policy
    ((batch, *_), *_) = updates(GRPOGuardSettings(**ROUND).build(context), policy)
    move(policy, "update")
    clip_range = band(policy, batch)
    plain = {"ratio_norm": False, "reweight_steps": False, "kl_weight": 0.04}
    plain["clip_range"] = clip_range
    settings = GRPOGuardSettings(**plain)
    flow = FlowGRPO(clip_range, 0.04, "step_weighted")
    metrics = flow.loss(policy, batch, GENERATOR).metrics
    assert 0 < float(metrics["clip_fraction"]) < 1 and float(metrics["kl"]) > 0
    assert_same(GRPOGuard(settings), flow, policy, batch)
    for term in ("ratio_norm", "reweight_steps"):
        guarded = GRPOGuardSettings(**plain | {term: True})
        assert_other(GRPOGuard(guarded), flow, policy, batch)
    assert_other(GRPOGuard(settings), FlowGRPO(clip_range, 0.04, "exact"), policy, batch)


def test_without_a_limit_flow_dppo_is_flow_grpo_without_a_clip(open_context: Open) -> None:
    context = open_context("flow")
    policy = context.policy
    ((batch, *_), *_) = updates(FlowDPPOSettings(**ROUND).build(context), policy)
    move(policy, "update")
    unclipped = FlowGRPO(0.999)
    assert float(unclipped.loss(policy, batch, GENERATOR).metrics["clip_fraction"]) == 0
    assert_same(FlowDPPO(1e9), unclipped, policy, batch)
    # Half of the steps are further than their median, and of those some go on in their direction.
    near = FlowDPPO(1e9).loss(policy, batch, GENERATOR).metrics
    limited = FlowDPPO(float(near["divergence"]))
    assert 0 < float(limited.loss(policy, batch, GENERATOR).metrics["masked_fraction"]) < 1
    assert_other(limited, unclipped, policy, batch)


def test_a_masked_step_of_flow_dppo_moves_nothing(open_context: Open) -> None:
    context = open_context("flow")
    policy = context.policy
    ((batch, *_), *_) = updates(FlowDPPOSettings(**ROUND).build(context), policy)
    move(policy, "update")
    taken = policy.transition(batch.x_t, batch.step, batch.conditioning)
    away = (taken.log_prob_per_dim(batch.x_prev) - batch.log_prob_old).detach().sign()
    assert set(away.tolist()) <= {-1.0, 1.0}
    leaving, returning = replace(batch, advantage=away), replace(batch, advantage=-away)
    assert not bool(outcome(FlowDPPO(1e-12), policy, leaving)[1].any())
    assert_same(FlowDPPO(1e-12), FlowDPPO(1e9), policy, returning)


@pytest.mark.parametrize("sde", ["flow_grpo", "dance", "cps"])
def test_a_flow_without_noise_is_eulers(bases: dict[str, Path], sde: Any) -> None:
    sigmas = torch.tensor([1.0, 0.7, 0.2, 0.0])
    sampler = FlowSampler(sigmas, 0.0, sde)
    velocity, x_t = normal(1, 2, 4, 8, 8), normal(2, 2, 4, 8, 8)
    for step, dt in enumerate((-0.3, -0.5, -0.2)):
        taken = sampler.transition(velocity, x_t, step)
        torch.testing.assert_close(taken.mean, x_t + dt * velocity)
        assert not bool(taken.std.any())
    # With little noise there is little difference, of the order of the noise.
    quiet = FlowSampler(sigmas, 1e-3, sde).transition(velocity, x_t, 1)
    torch.testing.assert_close(quiet.mean, x_t - 0.5 * velocity, atol=1e-4, rtol=0)
    assert 0 < float(quiet.std.max()) < 3e-3
    # And whole trajectories are the same for every way to put no noise in.
    base = BaseSettings(path=str(bases["flow"]), num_steps=3, noise_level=0.0, batch_size=4)
    policy = load_policy(base, ComputeSettings(device="cpu", threads=1))
    text = policy.encode_prompts(["a red fox"] * 4)
    expected = rollout(policy, text, range(4)).x0
    other = copy.copy(policy)
    other.sampler = FlowSampler(policy.sampler.sigmas, 0.0, sde)  # type: ignore[attr-defined]
    torch.testing.assert_close(rollout(other, text, range(4)).x0, expected)
