"""DPOK where the answer is known: DDPO without KL and critic, and the optimum with KL."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from components.diffusion import LatentGaussian
from components.finetuning.algorithms.dpok import DPOK, DPOKSettings
from components.finetuning.batches import Transitions


class GaussianSampler:
    """One step whose mean is the model's output and whose spread is fixed."""

    num_steps = 1
    stochastic_steps = (0,)

    def transition(self, model_output: Tensor, x_t: Tensor, step: Tensor) -> LatentGaussian:
        return LatentGaussian(model_output, torch.ones(len(x_t), 1, 1, 1))


class GaussianPolicy:
    """A policy over two numbers, N(mean, I), whose reference is N(0, I)."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean.view(1, 2, 1, 1).requires_grad_()
        self.sampler = GaussianSampler()

    def predict(
        self, x_t: Tensor, step: Tensor, conditioning: object, adapter: str = "train"
    ) -> Tensor:
        mean = self.mean if adapter == "train" else torch.zeros_like(self.mean)
        return mean.expand_as(x_t)


def drawn(policy: GaussianPolicy, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples [count, 2, 1, 1] and their log-probabilities per dimension."""
    with torch.no_grad():
        step = policy.sampler.transition(
            policy.mean.expand(count, -1, -1, -1), torch.zeros(count, 2, 1, 1), torch.zeros(0)
        )
        x = step.sample(torch.randn(count, 2, 1, 1, generator=generator))
        return x, step.log_prob_per_dim(x)


def transitions(x: Tensor, log_prob_old: Tensor, advantage: Tensor) -> Transitions:
    return Transitions(
        x_t=torch.zeros_like(x),
        x_prev=x,
        step=torch.zeros(len(x), dtype=torch.long),
        conditioning=None,  # type: ignore[arg-type]  # two numbers need no prompt
        log_prob_old=log_prob_old,
        advantage=advantage,
    )


def test_without_kl_and_critic_and_with_ppos_clip_dpok_is_ddpo():
    generator = torch.Generator().manual_seed(0)
    x, log_prob_old = drawn(GaussianPolicy(torch.tensor([0.0, 0.0])), 64, generator)
    reward = torch.randn(64, generator=generator)
    # DDPO, equation by equation: standardised rewards, and PPO's loss on the ratio of each step.
    advantage = (reward - reward.mean()) / reward.std(correction=0)
    moved = GaussianPolicy(torch.tensor([0.1, -0.2]))
    normal = torch.distributions.Normal(moved.mean.flatten(), 1.0)
    ratio = torch.exp(normal.log_prob(x.flatten(1)).mean(1) - log_prob_old)
    ddpo = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 0.05, 1 + 0.05)).mean()
    (expected,) = torch.autograd.grad(ddpo, moved.mean)

    settings = DPOKSettings(
        kl_weight=0.0, reward_weight=1.0, clip="ppo", clip_range=0.05, value_function=None
    )
    output = DPOK(settings).loss(moved, transitions(x, log_prob_old, advantage), generator)
    (found,) = torch.autograd.grad(output.loss, moved.mean)
    torch.testing.assert_close(output.loss, ddpo)
    torch.testing.assert_close(found, expected)
    assert 0 < float(output.metrics["clip_fraction"]) < 1
    assert "kl" not in output.metrics


@pytest.mark.parametrize("clip", ["clamp", "ppo"])
def test_with_exact_kl_dpok_reaches_the_regularised_optimum(clip):
    """For r(x) = a·x the optimum p_ref · exp(r/τ)/Z is N(a/τ, I), τ = kl_weight / reward_weight.

    Both terms of the loss are divided by the number of dimensions, so that τ stays what it is.
    """
    slope = torch.tensor([0.6, -0.3])
    temperature = 0.5
    settings = DPOKSettings(
        reward_weight=1.0,
        kl_weight=temperature,
        kl="exact",
        clip=clip,
        clip_range=0.2,
        value_function=None,
    )
    policy = GaussianPolicy(torch.zeros(2))
    optimizer = torch.optim.SGD([policy.mean], lr=0.2)
    generator = torch.Generator().manual_seed(1)
    averaged = torch.zeros(2)
    for update in range(300):
        x, log_prob_old = drawn(policy, 512, generator)
        reward = x.flatten(1) @ slope
        batch = transitions(x, log_prob_old, reward - reward.mean())
        optimizer.zero_grad()
        DPOK(settings).loss(policy, batch, generator).loss.backward()
        optimizer.step()
        if update >= 200:
            averaged += policy.mean.detach().flatten() / 100
    torch.testing.assert_close(averaged, slope / temperature, atol=0.05, rtol=0)
