"""The forward-process methods where the answer is known: Gaussian data and a linear reward.

Policies are the exact velocities of N(m, I) in two dimensions, of which only m is trained. With
V = (1 - σ)² + σ² a velocity moves with m at the rate -σ/V, and the one of m misses an image x0 that
is noised again by σ/V · (x0 - m) on average. Advantage-weighted matching therefore moves m by
E[A (x0 - m)], which for r = a·x0 is a / |a|: along a and nowhere else. A pull λ (m - m_ref) of the
KL stops it at m_ref + a / (|a| λ).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from components.diffusion import Conditioning, FlowSampler, NoiseLevel
from components.finetuning.algorithms.awm import AWM, AWMSettings
from components.finetuning.algorithms.dgpo import DGPO, DGPOSettings
from components.finetuning.algorithms.nft import NFT, NFTSettings
from components.finetuning.batches import AdvantageSamples
from components.finetuning.losses.advantages import advantages

SLOPE = torch.tensor([0.6, -0.8])
"""a, of length one."""
REFERENCE = torch.tensor([0.3, 0.2])


class GaussianFlow:
    """The velocity field whose samples are N(m, I), and copies of it."""

    batch_size, device = 100_000, torch.device("cpu")

    def __init__(self) -> None:
        self.mean = REFERENCE.clone().requires_grad_()
        self.snapshots = {"reference": REFERENCE}
        self.sampler = FlowSampler(torch.linspace(1, 0, 9), 0.0)

    def remember(self, name: str) -> None:
        self.snapshots[name] = self.mean.detach().clone()

    def predict_at(
        self, x_t: Tensor, level: NoiseLevel, conditioning: Conditioning, adapter: str = "train"
    ) -> Tensor:
        mean = (self.mean if adapter == "train" else self.snapshots[adapter]).view(1, 2, 1, 1)
        variance = level.signal**2 + level.noise**2
        away = (x_t - level.signal * mean) / variance
        return level.noise * away - (mean + level.signal * away)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.mean.detach() + torch.randn((count, 2), generator=generator)


def test_the_policy_is_exact():
    """Its velocity has the smallest error of all constant shifts of it."""
    policy, generator = GaussianFlow(), torch.Generator().manual_seed(0)
    x0 = policy.draw(20_000, generator).view(-1, 2, 1, 1)
    level = policy.sampler.draw_level(20_000, generator, "training")
    noise = torch.randn(x0.shape, generator=generator)
    missed = policy.predict_at(level.add_noise(x0, noise), level, None) - level.target(x0, noise)
    (slope,) = torch.autograd.grad(missed.square().mean(), policy.mean)
    assert float(missed.mean().detach().abs()) < 0.02 and float(slope.abs().max()) < 0.02


def train(
    make: Callable[[], object], rounds: int, step: float, averaged: int = 1
) -> tuple[Tensor, Tensor]:
    """Where m ends, as its way along a and across it; the mean of the last rounds."""
    policy, generator = GaussianFlow(), torch.Generator().manual_seed(1)
    algorithm, optimizer = make(), torch.optim.SGD([policy.mean], lr=step)
    seen = torch.zeros(2)
    for number in range(rounds):
        for name in ("old", "ema"):
            policy.remember(name)
        x0 = policy.draw(512, generator)
        group = torch.arange(512) // 32
        values = advantages(x0 @ SLOPE, group, "group_global_std").values
        text = Conditioning(torch.zeros(1, 1, 1), torch.zeros(512, dtype=torch.long), None, 1.0)
        batch = AdvantageSamples(x0.view(-1, 2, 1, 1), text, values, group)
        optimizer.zero_grad()
        algorithm.loss(policy, batch, generator).loss.backward()
        optimizer.step()
        if number >= rounds - averaged:
            seen += (policy.mean.detach() - REFERENCE) / averaged
    across = torch.tensor([-SLOPE[1], SLOPE[0]])
    return seen @ SLOPE, seen @ across


METHODS = {
    "nft": (lambda: NFT(NFTSettings(kl_weight=0.0)), 0.02),
    "nft, small beta": (lambda: NFT(NFTSettings(kl_weight=0.0, mix_beta=0.1)), 0.02),
    "awm": (lambda: AWM(AWMSettings(kl_weight=0.0, first_step=0)), 0.3),
    "awm, uniform": (lambda: AWM(AWMSettings(weight="uniform", first_step=0)), 0.2),
    "dgpo": (lambda: DGPO(DGPOSettings(kl_weight=0.0, dgpo_beta=1.0, clip_range=None)), 0.04),
}


@pytest.mark.parametrize("name", METHODS)
def test_the_mean_moves_along_the_reward_and_nowhere_else(name: str):
    make, step = METHODS[name]
    along, across = train(make, 40, step)
    assert float(along) > 0.3
    assert float(across.abs()) < 0.15 * float(along)


def test_awm_with_kl_stops_at_the_regularised_optimum():
    """A is divided by its clip of 5 and has the reward's deviation |a| = 1 taken out: m ends
    1 / (5 λ) along a."""
    pull = 0.25
    settings = AWMSettings(
        weight="uniform",
        kl_weight=pull,
        ema_kl_weight=0.0,
        first_step=0,
        step_fraction=1.0,
        num_levels=4,
    )
    along, across = train(lambda: AWM(settings), 160, 0.8, averaged=80)
    assert float(along) == pytest.approx(1 / (5 * pull), abs=0.06)
    assert float(across) == pytest.approx(0.0, abs=0.06)
