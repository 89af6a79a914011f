"""Methods that differentiate rewards, or weigh samples by them, where one is another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.contracts.settings import BaseSettings, ComputeSettings
from components.diffusion import Policy, load_policy, rollout
from components.diffusion.rollout import draw_noise
from components.finetuning.algorithms.alignprop import AlignProp, AlignPropSettings
from components.finetuning.algorithms.draft import DRaFT, DRaFTSettings
from components.finetuning.algorithms.hive import HIVE, HIVESettings
from components.finetuning.algorithms.lee2023 import Lee2023, Lee2023Settings
from components.finetuning.algorithms.refl import ReFL, ReFLSettings
from components.finetuning.algorithms.supervised import Supervised, SupervisedSettings
from components.finetuning.batches import LabelledSamples, Prompts
from components.finetuning.interfaces import LossOutput
from components.rewards.pictures import as_float
from tests.support.tiny import tiny_base
from tests.support.tiny_flow import tiny_flow_base

TEXTS = ["a red fox", "two cats", "a blue car", "four cows"]
SEEDS = [3, 1, 4, 1]
NUM_STEPS = 3


class Contrast:
    """A reward in which every pixel has a part, and prompts have another sign."""

    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        pixels = as_float(images)
        sign = torch.tensor([1.0 if "a " in prompt else -2.0 for prompt in prompts])
        return sign * ((pixels[:, 0] - pixels[:, 2]).square().mean(dim=(1, 2)) * 9)


SCORER = Contrast()


@pytest.fixture(scope="module")
def open_policy(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Policy]:
    """A tiny policy whose adapter has moved, batches of 4."""
    folders: dict[str, Path] = {}
    makers = {"unet": tiny_base, "flow": tiny_flow_base}

    def open_it(family: str = "unet", **settings: Any) -> Policy:
        if family not in folders:
            folders[family] = makers[family](tmp_path_factory.mktemp(family))
        base = BaseSettings(
            path=str(folders[family]), num_steps=NUM_STEPS, batch_size=4, **settings
        )
        policy = load_policy(base, ComputeSettings(device="cpu", threads=1))
        generator = torch.Generator().manual_seed(0)
        policy.add_adapter(2, 4, generator=generator)
        with torch.no_grad():
            for _, parameter in policy.trainable_parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        return policy

    return open_it


def prompts(policy: Policy) -> Prompts:
    return Prompts(TEXTS, policy.encode_prompts(TEXTS), SEEDS)


def gradient(policy: Policy, loss: Tensor) -> Tensor:
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, parameters)])


def ran(policy: Policy, algorithm: Any, batch: Any, seed: int = 0) -> tuple[LossOutput, Tensor]:
    """The output of a loss, and its gradient."""
    output = algorithm.loss(policy, batch, torch.Generator().manual_seed(seed))
    return output, gradient(policy, output.loss)


def equal(found: Tensor, expected: Tensor) -> None:
    assert float(expected.norm()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.norm()))


@pytest.mark.parametrize("grad_steps", [1, 2])
def test_alignprop_with_a_fixed_k_is_draft_k(open_policy, grad_steps):
    policy = open_policy()
    align = AlignPropSettings(
        truncation={"kind": "fixed", "grad_steps": grad_steps}, reward_weight=1.0
    )
    output, found = ran(policy, AlignProp(align, SCORER), prompts(policy))
    draft, expected = ran(
        policy, DRaFT(DRaFTSettings(grad_steps=grad_steps), SCORER), prompts(policy)
    )
    assert torch.equal(output.loss, draft.loss)
    assert torch.equal(output.metrics["reward"], draft.metrics["reward"])
    assert float(output.metrics["grad_steps"]) == grad_steps
    equal(found, expected)


def test_alignprop_far_from_its_target_is_plain_reward(open_policy):
    policy = open_policy()
    fixed = {"truncation": {"kind": "fixed"}}
    plain = AlignPropSettings(reward_weight=1.0, **fixed)
    output, expected = ran(policy, AlignProp(plain, SCORER), prompts(policy))
    for target, sign in ((1000.0, 1.0), (-1000.0, -1.0)):
        margin = AlignPropSettings(loss="margin", target=target, reward_weight=0.25, **fixed)
        found, slope = ran(policy, AlignProp(margin, SCORER), prompts(policy))
        # |target - r| is target - r below it and r - target above.
        torch.testing.assert_close(found.loss, 0.25 * (1000 + sign * output.loss))
        equal(slope, 0.25 * sign * expected)


def test_draft_with_all_steps_is_plain_autograd_through_the_sampler(open_policy):
    policy = open_policy()
    conditioning = policy.encode_prompts(TEXTS)
    x_t, noises = draw_noise(policy, SEEDS)
    for step in range(NUM_STEPS):
        x_t = policy.transition(x_t, step, conditioning).sample(noises[:, step])
    reward = SCORER.score(policy.pixels(x_t), TEXTS)
    expected = gradient(policy, -reward.mean())
    for grad_steps in (None, NUM_STEPS):
        output, found = ran(
            policy, DRaFT(DRaFTSettings(grad_steps=grad_steps), SCORER), prompts(policy)
        )
        assert float(output.loss.detach()) == pytest.approx(-float(reward.detach().mean()))
        equal(found, expected)


def test_draft_lv_averages_the_last_step_over_noises(open_policy):
    policy = open_policy()
    conditioning = policy.encode_prompts(TEXTS)
    x0 = rollout(policy, conditioning, SEEDS).x0
    generator = torch.Generator().manual_seed(7)
    rewards = []
    for _ in range(2):
        noise = torch.randn(x0.shape, generator=generator)
        x_t = policy.sampler.level(NUM_STEPS - 1, 4).add_noise(x0, noise)
        again = policy.transition(x_t, NUM_STEPS - 1, conditioning).mean
        rewards.append(SCORER.score(policy.pixels(again), TEXTS))
    first = gradient(policy, -rewards[0].mean())
    second = gradient(policy, -rewards[1].mean())
    assert float((first - second).norm()) > 1e-3 * float(first.norm())

    def lowered(**low_variance):
        settings = DRaFTSettings(low_variance=low_variance)
        return ran(policy, DRaFT(settings, SCORER), prompts(policy), seed=7)

    output, found = lowered(copies=1)
    equal(found, first)
    # What is reported as the reward is that of the images as they are drawn.
    own = SCORER.score(policy.pixels(x0), TEXTS)
    assert float(output.metrics["reward"]) == pytest.approx(float(own.mean()))
    assert float(output.metrics["copy_reward"]) == pytest.approx(float(rewards[0].mean().detach()))
    equal(lowered(copies=2)[1], (first + second) / 2)
    _, draft_1 = ran(policy, DRaFT(DRaFTSettings(), SCORER), prompts(policy))
    equal(lowered(copies=2, with_sample=True)[1], (first + second + draft_1) / 3)


def test_refl_at_a_last_step_that_lands_on_x0_is_draft_1(open_policy):
    # Euler's last step of a flow ends where the network sees the clean image.
    policy = open_policy("flow")
    settings = ReFLSettings(
        window={"first": 1, "last": 1, "counted_from": "image"}, target=1000.0, reward_weight=0.5
    )
    output, found = ran(policy, ReFL(settings, SCORER), prompts(policy))
    draft, expected = ran(policy, DRaFT(DRaFTSettings(), SCORER), prompts(policy))
    torch.testing.assert_close(output.loss, 0.5 * (1000 + draft.loss))
    equal(found, 0.5 * expected)
    # With every image past the target there is nothing to do.
    done = ReFLSettings(window={"first": 2, "last": 2}, target=-1000.0)
    output, nothing = ran(policy, ReFL(done, SCORER), prompts(policy))
    assert float(output.metrics["reached_target"]) == 1.0
    assert not nothing.any()


def samples(policy: Policy, reward: Sequence[float], **others: Any) -> LabelledSamples:
    x0 = torch.randn(4, *policy.latent_shape, generator=torch.Generator().manual_seed(5))
    return LabelledSamples(x0, policy.encode_prompts(TEXTS), torch.tensor(reward), **others)


def test_lee_et_al_without_a_second_term_is_the_supervised_baseline(open_policy):
    policy = open_policy()
    batch = samples(policy, [0.5, 2.0, -1.0, 0.0])
    lee = Lee2023Settings(pretraining=None, levels="sampler")
    output, found = ran(policy, Lee2023(lee), batch)
    baseline, expected = ran(policy, Supervised(SupervisedSettings(kl="none")), batch)
    torch.testing.assert_close(output.loss, baseline.loss)
    equal(found, expected)


def test_lee_et_al_adds_beta_times_plain_denoising(open_policy):
    policy = open_policy()
    beside = samples(policy, [1.0] * 4)
    batch = samples(policy, [0.5, 2.0, -1.0, 0.0], pretraining=beside)
    gradients = {}
    for weight in (0.5, 2.0):
        settings = Lee2023Settings(pretraining={"num_images": 4, "weight": weight})
        output, gradients[weight] = ran(policy, Lee2023(settings), batch)
        alone = output.loss - weight * output.metrics["pretraining_error"]
        first, rewarded = ran(
            policy, Lee2023(Lee2023Settings(pretraining=None)), samples(policy, [0.5, 2, -1, 0])
        )
        torch.testing.assert_close(alone, first.loss)
    equal(gradients[2.0] - rewarded, 4 * (gradients[0.5] - rewarded))


def test_hive_with_weights_of_one_is_plain_denoising(open_policy):
    policy = open_policy()
    hot = HIVESettings(temperature=1.0e9).weights(torch.tensor([1.0, 5.0, -2.0, 0.0]))
    batch = samples(policy, hot.tolist())
    _, found = ran(policy, HIVE(HIVESettings(levels="sampler")), batch)
    plain = SupervisedSettings(kl="none")
    _, expected = ran(policy, Supervised(plain), samples(policy, [1.0] * 4))
    equal(found, expected)


def test_denoising_leaves_guidance_out(open_policy):
    losses = []
    for guidance_scale in (1.0, 4.0):
        policy = open_policy(guidance_scale=guidance_scale)
        output, _ = ran(policy, HIVE(HIVESettings()), samples(policy, [1.0, 2.0, 0.5, 1.0]))
        losses.append(output.loss)
    assert torch.equal(losses[0], losses[1])
