"""A diffusion model of two numbers whose optimum under a reward is known exactly.

Data are N(m_c, Σ), c one of two prompts; the frozen network is their exact denoiser, a table that
adds to its output is what a LoRA trains. Everything around them is the project's own: `Policy`, its
adapter, samplers, rollouts, images. An image is 1 x 2 pixels whose red, green and blue are the
digits of a latent's two numbers in base 256, so that a scorer sees what the policy drew.

Why Gaussian data and rewards linear in x0: the optimum p_ref(x̄) exp(r/τ)/Z over trajectories then
shifts the mean of each step and leaves its spread, so that it is a policy too. Any other reward
would need steps of another spread or shape, which no few-step sampler has, and the best policy
would be something else than this formula says.

Why the noise is forgotten: p_ref exp(r/τ)/Z is the law of x0 only if x0 does not depend on the
start noise, whose law no policy can change. The schedules of `forgetful` begin at a signal of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Literal

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.loaders import PeftAdapterMixin
from torch import Tensor, nn

from components.diffusion import DDIMSampler, NoiseSchedule, Policy
from components.diffusion.conditioning import PromptEncoder
from components.diffusion.networks import Network

PROMPTS = ("north", "south")
RANGE = 64.0
"""Latents in ± this can be read back from an image, to 8e-6."""

Correction = Literal["affine", "translation"]


@dataclass(frozen=True)
class World:
    """The data of each prompt, and what is wanted of them."""

    mean: Tensor
    """[p 2], of each prompt."""
    covariance: Tensor
    """[2 2], of all of them."""
    slope: Tensor
    """[p 2]: the reward of x0 is `slope[prompt] · x0`."""

    def reward(self, x0: Tensor, prompt: Tensor) -> Tensor:
        """[b], of latents [b 2 1 1]."""
        return (self.slope[prompt] * x0.flatten(1)).sum(1)


def forgetful(prediction_type: str = "v_prediction") -> NoiseSchedule:
    """Four levels, the first without signal; the last step still has a spread, so that none of the
    steps is without a likelihood."""
    return NoiseSchedule(torch.tensor([0.85, 0.5, 0.2, 0.0]), 0.97, prediction_type, "trailing")


class ToyNetwork(ModelMixin, ConfigMixin, PeftAdapterMixin):
    """The exact denoiser, plus a linear table that starts at zero.

    The table of `affine` has a matrix and an offset of its own for each prompt and noise level: any
    policy whose steps have affine means. That of `translation` has one offset for each prompt and
    is the exact denoiser of data moved by it.
    """

    @register_to_config
    def __init__(self, in_channels: int = 2, sample_size: int = 1) -> None:
        super().__init__()

    def fill(self, world: World, schedule: NoiseSchedule, correction: Correction) -> ToyNetwork:
        """Compute the tables."""
        self.correction = correction
        num_levels = len(schedule.alphas_cumprod)
        level = schedule.level(torch.arange(num_levels))
        signal, noise = (part.double().view(-1, 1, 1) for part in (level.signal, level.noise))
        covariance, mean = world.covariance.double(), world.mean.double()
        identity = torch.eye(2, dtype=torch.float64)
        # E[x0 | x_t] = m + gain (x_t - signal m)
        total = signal**2 * covariance + noise**2 * identity
        gain = signal * covariance @ torch.linalg.inv(total)

        def output(x0: Tensor, x_t: Tensor) -> Tensor:
            """What a network that means x0 at x_t says; maps of x_t or offsets, columns last."""
            epsilon = (x_t - signal * x0) / noise
            if level.prediction_type == "epsilon":
                return epsilon
            return signal * epsilon - noise * x0

        zero = torch.zeros(num_levels, 2, len(PROMPTS), dtype=torch.float64)
        offset = output((identity - signal * gain) @ mean.T, zero)
        self.register_buffer("matrix", output(gain, identity.expand_as(gain)).float())
        self.register_buffer("offset", offset.mT.float())
        self.register_buffer("centre", (signal * mean).float())
        # What moving the data by one does to the output; the same in both directions if Σ is round.
        moved = output(identity - signal * gain, torch.zeros_like(gain)).float()
        self.register_buffer("moved", moved[:, 0, 0])
        size = len(PROMPTS) * (3 * num_levels if correction == "affine" else 1)
        self.table = nn.Linear(size, 2, bias=False)
        nn.init.zeros_(self.table.weight)
        return self

    def forward(
        self, x_t: Tensor, timestep: Tensor, states: Tensor, return_dict: bool = False
    ) -> tuple[Tensor]:
        """The output [b 2 1 1]."""
        x, prompt = x_t.flatten(1), states[:, 0]
        output = (self.matrix[timestep] @ x[:, :, None])[:, :, 0]
        output = output + torch.einsum("bp,bpi->bi", prompt, self.offset[timestep])
        if self.correction == "affine":
            # Around the mean of the data, so that matrices and offsets are learned apart.
            centred = x - torch.einsum("bp,bpi->bi", prompt, self.centre[timestep])
            at = nn.functional.one_hot(timestep, len(self.matrix)).to(x)
            with_one = nn.functional.pad(centred, (0, 1), value=1.0)
            features = torch.einsum("bp,bt,bk->bptk", prompt, at, with_one)
        else:
            features = self.moved[timestep][:, None] * prompt
        return ((output + self.table(features.flatten(1)))[:, :, None, None],)


class ToyText:
    """Prompts as unit vectors."""

    modules: Sequence[nn.Module] = ()

    def __call__(self, texts: Sequence[str], batch_size: int) -> tuple[Tensor, None]:
        rows = torch.tensor([PROMPTS.index(text) for text in texts])
        return torch.eye(len(PROMPTS))[rows][:, None], None


class ToyDecoder(nn.Module):
    """Latents as images: three digits in base 256 for each number."""

    config = SimpleNamespace(scaling_factor=1.0, shift_factor=None)

    def decode(self, latents: Tensor, return_dict: bool = False) -> tuple[Tensor]:
        steps = ((latents.double() / RANGE + 1) / 2 * 256**3).round().clamp(0, 256**3 - 1)
        digits = torch.stack([steps // 256**2, steps // 256 % 256, steps % 256], dim=1)
        return ((digits.flatten(2)[:, :, None] / 255 * 2 - 1).float(),)


@dataclass(frozen=True)
class ToyReward:
    """The reward, read from images."""

    world: World

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """[b]"""
        digits = images[:, :, 0].double()
        steps = digits[:, 0] * 256**2 + digits[:, 1] * 256 + digits[:, 2]
        x0 = (steps / 256**3 * 2 - 1) * RANGE
        prompt = torch.tensor([PROMPTS.index(text) for text in prompts])
        return self.world.reward(x0.float()[:, :, None, None], prompt)


def toy_policy(
    world: World,
    schedule: NoiseSchedule,
    correction: Correction = "affine",
    *,
    num_steps: int | None = None,
    eta: float = 1.0,
    batch_size: int = 512,
) -> Policy:
    """The exact model with a fresh LoRA on its table, of full rank."""
    network = ToyNetwork().fill(world, schedule, correction)
    policy = Policy(
        network=Network(network, "toy", ("table",)),
        vae=ToyDecoder(),
        encoder=PromptEncoder(ToyText(), 1.0, len(PROMPTS)),
        sampler=DDIMSampler(schedule, num_steps or len(schedule.alphas_cumprod), eta),
        batch_size=batch_size,
        device=torch.device("cpu"),
    )
    policy.add_adapter(2, 2, generator=torch.Generator().manual_seed(0))
    return policy


def correction_of(policy: Policy) -> Tensor:
    """What the LoRA adds to the table, [2 features]."""
    first, second = (parameter.detach() for _, parameter in policy.trainable_parameters())
    return second @ first


def set_correction(policy: Policy, correction: Tensor) -> None:
    """Make the LoRA add this."""
    (_, first), (_, second) = policy.trainable_parameters()
    with torch.no_grad():
        first.copy_(correction)
        second.copy_(torch.eye(2))


@dataclass(frozen=True)
class Law:
    """A Gaussian for each prompt."""

    mean: Tensor
    """[p 2]"""
    covariance: Tensor
    """[p 2 2]"""

    def tilted(self, slope: Tensor, temperature: float) -> Law:
        """p exp(slope·x / temperature) / Z, which is a Gaussian moved by Σ·slope / temperature."""
        shift = (self.covariance @ slope.double()[:, :, None])[:, :, 0] / temperature
        return Law(self.mean + shift, self.covariance)


@torch.no_grad()
def law_of(policy: Policy, adapter: str = "train") -> Law:
    """The exact law of the x0 that a policy of affine steps draws, by asking it for three points.

    A step x -> N(M x + b, σ² I) takes N(m, C) to N(M m + b, M C Mᵀ + σ² I).
    """
    mean = torch.zeros(len(PROMPTS), 2, dtype=torch.float64)
    covariance = torch.eye(2, dtype=torch.float64).expand(len(PROMPTS), 2, 2)
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])[:, :, None, None]
    text = policy.encode_prompts(PROMPTS)
    for step in range(policy.sampler.num_steps):
        offsets, matrices = [], []
        for prompt in range(len(PROMPTS)):
            found = policy.transition(points, step, text[[prompt] * 3], adapter)
            reached = found.mean.double().flatten(1)
            offsets.append(reached[0])
            matrices.append((reached[1:] - reached[0]).T)
        matrix = torch.stack(matrices)
        noise = float(found.std[0]) ** 2 * torch.eye(2, dtype=torch.float64)
        mean = (matrix @ mean[:, :, None])[:, :, 0] + torch.stack(offsets)
        covariance = matrix @ covariance @ matrix.mT + noise
    return Law(mean, covariance)
