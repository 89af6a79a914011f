"""Losses and figures of methods on single steps, put together by hand from what the policies say.

The adapter is moved away from the policy that drew: no ratio is 1 and no KL is 0.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from components.contracts.seeds import torch_generator
from components.diffusion import Policy
from components.diffusion.flow_sampler import flow_sampler
from components.finetuning.batches import Transitions
from components.finetuning.interfaces import Method
from tests.finetuning.conftest import METHODS
from tests.finetuning.test_step_pairs import move

BAND = 1.0e-3
"""Which some ratios leave and others do not."""


class Steps(NamedTuple):
    """What policy and reference say of a batch's steps."""

    prediction: Tensor
    reference: Tensor
    log_ratio: Tensor
    """To the policy that drew, per dimension."""
    exact: Tensor
    """KL of each step to the reference's, per dimension."""


def after_moving(made: Method, policy: Policy, scale: float = 1.0) -> tuple[Transitions, Steps]:
    """The first batch of the first round, drawn before the adapter moved by `scale`."""
    collected = made.experience.collect(policy, torch_generator(0, "round"))
    batch = next(iter(collected.updates))[0]
    assert len(batch) > 2
    move(policy, scale)
    said = []
    with torch.no_grad():
        for adapter in ("train", "reference"):
            said.append(policy.predict(batch.x_t, batch.step, batch.conditioning, adapter=adapter))
    ours, base = (policy.sampler.transition(one, batch.x_t, batch.step) for one in said)
    std = ours.std.flatten()
    log_prob = -((batch.x_prev - ours.mean) ** 2).mean(dim=(1, 2, 3)) / (2 * std**2)
    log_prob = log_prob - std.log() - 0.5 * torch.tensor(2 * torch.pi).log()
    exact = ((ours.mean - base.mean) ** 2).mean(dim=(1, 2, 3)) / (2 * std**2)
    return batch, Steps(said[0], said[1], log_prob - batch.log_prob_old, exact)


def ppo(ratio: Tensor, advantage: Tensor) -> float:
    """The larger of two losses, one of the ratio within the band."""
    held = ratio.clamp(1 - BAND, 1 + BAND)
    return float(torch.maximum(-advantage * ratio, -advantage * held).mean())


def ratio_figures(ratio: Tensor) -> dict[str, float]:
    outside = (ratio < 1 - BAND) | (ratio > 1 + BAND)
    assert 0 < int(outside.sum()) < len(ratio)
    return {
        "ratio_mean": float(ratio.mean()),
        "ratio_deviation_max": float((ratio - 1).abs().max()),
        "clip_fraction": float(outside.float().mean()),
    }


def check(made: Method, policy: Policy, batch: Transitions, expected: dict[str, float]) -> None:
    output = made.algorithm.loss(policy, batch, torch_generator(0, "none"))
    found = {"loss": output.loss.item()} | {k: float(v) for k, v in output.metrics.items()}
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-6)


@pytest.mark.parametrize("kl", ["prediction", "exact"])
@pytest.mark.parametrize("method", [METHODS["dpok"]], ids=["dpok"])
def test_figures_of_dpok(build, policy, method, kl):
    settings = {"clip": "ppo", "kl": kl, "kl_weight": 0.3, "reward_weight": 2.0, "clip_range": BAND}
    made = build(method | settings)
    batch, steps = after_moving(made, policy, 0.1)
    ratio = steps.log_ratio.exp()
    apart = {
        "prediction": ((steps.prediction - steps.reference) ** 2).mean(),
        "exact": steps.exact.mean(),
    }
    assert float(apart["exact"]) != pytest.approx(float(apart["prediction"]), rel=0.1)
    loss = 2.0 * ppo(ratio, batch.advantage) + 0.3 * float(apart[kl])
    expected = {"loss": loss, "kl": float(apart[kl]), **ratio_figures(ratio)}
    check(made, policy, batch, expected)


@pytest.mark.parametrize("kl", ["step_weighted", "exact"])
@pytest.mark.parametrize("method", [METHODS["flow_grpo"]], ids=["flow_grpo"])
def test_figures_of_flow_grpo(build, policy, method, kl):
    made = build(method | {"kl": kl, "kl_weight": 0.3, "clip_range": BAND})
    batch, steps = after_moving(made, policy)
    length = flow_sampler(policy.sampler).step_size(batch.step, len(batch)).flatten()
    apart = float((steps.exact * (length if kl == "step_weighted" else 1)).mean())
    ratio = steps.log_ratio.exp()
    expected = {"loss": ppo(ratio, batch.advantage) + 0.3 * apart, "kl": apart}
    check(made, policy, batch, expected | ratio_figures(ratio))


@pytest.mark.parametrize("method", [METHODS["grpo_guard"]], ids=["grpo_guard"])
def test_grpo_guard_divides_by_the_length_of_a_step(build, policy, method):
    made = build(method | {"kl_weight": 0.0, "ratio_norm": False, "clip_range": BAND})
    batch, steps = after_moving(made, policy)
    length = flow_sampler(policy.sampler).step_size(batch.step, len(batch)).flatten()
    ratio = steps.log_ratio.exp()
    loss = ppo(ratio, batch.advantage / length)
    check(made, policy, batch, {"loss": loss, **ratio_figures(ratio)})


@pytest.mark.parametrize("method", [METHODS["flow_dppo"]], ids=["flow_dppo"])
def test_figures_of_flow_dppo(build, policy, method):
    made = build(method | {"max_divergence": 1.0e-6})
    batch, steps = after_moving(made, policy)
    ratio = steps.log_ratio.exp()
    far = steps.exact > 1.0e-6  # the reference drew the first round
    leaving = far & ((ratio - 1) * batch.advantage > 0)
    assert 0 < int(leaving.sum()) < len(batch)
    figures = ratio_figures(ratio)
    del figures["clip_fraction"]
    expected = {
        "loss": -float((ratio * batch.advantage * ~leaving).mean()),
        "divergence": float(steps.exact.mean()),
        "masked_fraction": float(leaving.float().mean()),
    }
    check(made, policy, batch, expected | figures)
