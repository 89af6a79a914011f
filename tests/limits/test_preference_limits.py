"""Methods on preferences where they must coincide, and what holds before the first update."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import Policy, load_policy
from components.diffusion.noise import NoiseSchedule
from components.finetuning.algorithms.dco import DCO, DCOSettings
from components.finetuning.algorithms.diffusion_dpo import DiffusionDPO, DiffusionDPOSettings
from components.finetuning.batches import DesirableSamples, PreferencePairs
from components.finetuning.denoising_errors import (
    errors,
    errors_in_parts,
    measure,
    noised,
    noised_pairs,
    policy_error,
)
from components.finetuning.losses.preference import dco_loss, dpo_loss
from tests.support.tiny import LATENT_SHAPE, tiny_base


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Policy:
    base = tiny_base(tmp_path_factory.mktemp("base"))
    policy = load_policy(
        BaseSettings(path=str(base), num_steps=4, batch_size=4),
        ComputeSettings(device="cpu", threads=1),
    )
    policy.add_adapter(2, 2, generator=torch_generator(0, "lora"))
    return policy


@contextmanager
def away(policy: Policy) -> Iterator[Policy]:
    """The policy away from its reference, and put back afterwards."""
    generator = torch_generator(0, "moved")
    before = {name: parameter.detach().clone() for name, parameter in policy.trainable_parameters()}
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    yield policy
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            parameter.copy_(before[name])
            parameter.grad = None


@pytest.fixture
def moved(policy):
    """The policy away from its reference."""
    with away(policy):
        yield policy


def latents(count: int) -> Tensor:
    return torch.randn((count, *LATENT_SHAPE), generator=torch_generator(1, "latents", count))


def pairs(policy, count: int = 2) -> PreferencePairs:
    x0 = latents(2 * count)
    text = policy.encode_prompts([f"prompt {number}" for number in range(count)])
    return PreferencePairs(x0[:count], x0[count:], text)


def test_a_pair_shares_level_noise_and_the_noise_of_the_step(policy):
    batch = pairs(policy, 3)
    found = noised_pairs(policy, batch, torch_generator(0), "training")
    assert len(found) == 6
    assert torch.equal(found.level.timestep[:3], found.level.timestep[3:])
    assert torch.equal(found.target[:3], found.target[3:])  # ε, where the base predicts it
    assert torch.equal(found.z[:3], found.z[3:])
    assert not torch.equal(found.target[0], found.target[1])
    # Winners first, each with its prompt.
    expected = found.level.add_noise(torch.cat([batch.x0_w, batch.x0_l]), found.target)
    assert torch.equal(found.x_t, expected)
    assert found.conditioning.prompt_of_row.tolist() == [0, 1, 2, 0, 1, 2]
    assert len(set(found.level.timestep.tolist())) > 1


def test_noise_levels_are_those_of_training_or_of_the_sampler(policy):
    text = policy.encode_prompts(["x"])[torch.zeros(200, dtype=torch.long)]
    visited = set(policy.sampler.timestep(torch.arange(4)).tolist())
    for source in ("sampler", "training"):
        found = noised(policy, latents(200), text, torch_generator(0), source=source)
        timesteps = set(found.level.timestep.tolist())
        assert (timesteps == visited) == (source == "sampler")
        assert max(timesteps) <= 999


def test_errors_are_without_guidance(tmp_path):
    base = tiny_base(tmp_path)
    found = []
    for guidance_scale in (1.0, 5.0):
        policy = load_policy(
            BaseSettings(path=str(base), batch_size=4, guidance_scale=guidance_scale),
            ComputeSettings(device="cpu", threads=1),
        )
        rows = noised_pairs(policy, pairs(policy), torch_generator(0), "training")
        found.append(policy_error(policy, rows, "latent"))
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.parametrize("error", ["latent", "perceptual"])
def test_at_the_start_policy_and_reference_are_wrong_by_the_same(policy, error):
    rows = noised_pairs(policy, pairs(policy), torch_generator(2), "training")
    found = errors(policy, rows, error)
    assert bool((found.reference > 0).all())
    assert torch.equal(found.policy, found.reference)
    assert found.kl.tolist() == [0.0] * 4
    algorithm = DiffusionDPO(DiffusionDPOSettings(error=error), 2500.0)
    output = algorithm.loss(policy, pairs(policy), torch_generator(2))
    assert output.loss.item() == pytest.approx(math.log(2))
    assert float(output.metrics["implicit_acc"]) == 0.5


@pytest.mark.parametrize("error", ["latent", "perceptual"])
@pytest.mark.parametrize("function", [errors, errors_in_parts])
def test_the_reference_is_the_base_and_a_snapshot_where_it_is_named(policy, error, function):
    rows = noised_pairs(policy, pairs(policy, 3), torch_generator(2), "training")
    with torch.no_grad():
        base = policy_error(policy, rows, error)
    with away(policy):
        policy.remember("anchor")
        found = function(policy, rows, error)
        anchored = function(policy, rows, error, "anchor")
    assert torch.equal(found.reference, base)
    assert not torch.equal(found.policy, base)
    assert bool((found.kl > 0).all())
    # The policy is its own anchor, to the bit.
    assert torch.equal(anchored.reference, found.policy)
    assert anchored.kl.tolist() == [0.0] * 6


class IdentityFeatures:
    """A policy whose feature map gives back what it is shown."""

    def __init__(self, policy: Policy) -> None:
        self.policy, self.told = policy, []

    def __getattr__(self, name: str) -> object:
        return getattr(self.policy, name)

    def features(self, x_t: Tensor, level: object, conditioning: object) -> Tensor:
        self.told.append(level.timestep.tolist())
        return x_t


def test_perceptual_with_an_identity_feature_map_is_latent_up_to_a_known_factor(moved):
    """ε enters x_{t-1} with the coefficient β_t / (√α_t √(1 - ᾱ_t)), whose square is the factor."""
    identity = IdentityFeatures(moved)
    rows = noised_pairs(moved, pairs(moved), torch_generator(3), "training")
    # The coefficients are small: in double precision, so that the ratio has digits.
    rows = replace(rows, x_t=rows.x_t.double(), target=rows.target.double(), z=rows.z.double())
    with torch.no_grad():
        latent = policy_error(moved, rows, "latent")
        perceptual = policy_error(identity, rows, "perceptual")
    alphas = moved.sampler.schedule.alphas_cumprod.double()
    t = rows.level.timestep
    alpha = alphas[t] / alphas[t - 1]
    factor = (1 - alpha) ** 2 / (alpha * (1 - alphas[t]))
    torch.testing.assert_close(perceptual.double(), latent.double() * factor, rtol=1e-3, atol=0)
    assert identity.told == [(t - 1).tolist()] * 2  # the truth's, then the prediction's


def test_the_noise_of_the_step_is_shared_by_prediction_and_truth(moved):
    rows = noised_pairs(moved, pairs(moved), torch_generator(3), "training")
    with torch.no_grad():
        first = policy_error(IdentityFeatures(moved), rows, "perceptual")
        other = policy_error(IdentityFeatures(moved), replace(rows, z=10 * rows.z), "perceptual")
        here = policy_error(moved, rows, "perceptual")
        there = policy_error(moved, replace(rows, z=10 * rows.z), "perceptual")
    # In the difference of two latents it cancels; features are read at another place.
    torch.testing.assert_close(first, other, rtol=1e-2, atol=0)
    assert bool(((here - there).abs() > 0.02 * here).any())


def test_at_timestep_zero_the_perceptual_error_is_zero(policy):
    rows = noised_pairs(policy, pairs(policy), torch_generator(0), "training")
    rows = replace(rows, level=policy.sampler.schedule.level(torch.zeros(4, dtype=torch.long)))
    assert policy_error(policy, rows, "perceptual").tolist() == [0.0] * 4


def test_the_step_of_features_is_on_the_schedule_of_training(moved):
    """Between neighbours of the schedule, also where the sampler's own steps are far apart."""
    rows = noised_pairs(moved, pairs(moved), torch_generator(3), "sampler")
    identity = IdentityFeatures(moved)
    with torch.no_grad():
        policy_error(identity, rows, "perceptual")
    assert identity.told[0] == (rows.level.timestep - 1).clamp_min(0).tolist()


def test_the_training_step_is_diffusers_ddpm():
    from diffusers import DDPMScheduler

    from components.finetuning.denoising_errors import training_step

    scheduler = DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False
    )
    scheduler.set_timesteps(1000)
    schedule = NoiseSchedule(scheduler.alphas_cumprod, float(scheduler.alphas_cumprod[0]))
    x_t, output = latents(1), latents(2)[1:]
    for timestep in (1, 400, 999):
        level = schedule.level(torch.tensor([timestep]))
        step = training_step(schedule, level, output, x_t)
        theirs = scheduler.step(output, timestep, x_t, generator=torch.Generator().manual_seed(5))
        z = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(5))
        torch.testing.assert_close(step.sample(z), theirs.prev_sample, rtol=0, atol=5e-5)


@pytest.mark.parametrize("error", ["latent", "perceptual"])
def test_dco_is_dpo_without_losers(moved, error):
    """One gate a sample, and the gain of losers replaced by that of the reference: nothing."""
    x0 = latents(3)
    text = moved.encode_prompts(["a", "b", "c"])
    batch = DesirableSamples(x0, text, torch.ones(3, dtype=torch.bool))
    settings = DCOSettings(error=error, dpo_beta=50.0)
    output = DCO(settings).loss(moved, batch, torch_generator(4))
    gain = errors(moved, noised(moved, x0, text, torch_generator(4), source="training"), error).gain
    expected = dpo_loss(gain, torch.zeros(3), 50.0)
    torch.testing.assert_close(output.loss, expected)
    parameters = [parameter for _, parameter in moved.trainable_parameters()]
    for found, wanted in zip(
        torch.autograd.grad(output.loss, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_a_loss_over_more_rows_than_a_batch_has_the_gradient_of_the_whole(moved):
    x0 = latents(7)
    text = moved.encode_prompts([f"prompt {number}" for number in range(7)])
    rows = noised(moved, x0, text, torch_generator(4), source="training")
    parameters = [parameter for _, parameter in moved.trainable_parameters()]
    found = []
    for function in (errors, errors_in_parts):
        gain = function(moved, rows, "perceptual").gain
        loss = dco_loss(gain, 1.0e4, "before_sigmoid")
        found.append((gain.detach(), torch.autograd.grad(loss, parameters)))
    assert torch.equal(found[0][0], found[1][0])
    for whole, parts in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(whole, parts)
    assert any(float(gradient.abs().max()) > 0 for gradient in found[0][1])


def test_gradients_reach_the_adapter_through_the_frozen_features(moved):
    rows = noised_pairs(moved, pairs(moved), torch_generator(3), "training")
    names, parameters = zip(*moved.trainable_parameters(), strict=True)
    gradients = torch.autograd.grad(policy_error(moved, rows, "perceptual").sum(), parameters)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients), names


def test_measuring_a_perfect_prediction_gives_zero(policy):
    rows = noised_pairs(policy, pairs(policy), torch_generator(3), "training")
    for error in ("latent", "perceptual"):
        assert measure(policy, rows, error)(rows.target).tolist() == [0.0] * 4
