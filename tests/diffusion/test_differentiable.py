"""Denoising with a graph: the numbers of a rollout, the gradients of plain autograd."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components.diffusion import (
    Policy,
    denoise_with_gradient,
    last_steps,
    pixels_with_gradient,
    predict_with_gradient,
    renoised_step_with_gradient,
    rollout,
)
from components.diffusion.rollout import draw_noise
from tests.diffusion.conftest import train_a_little
from tests.support.tiny_consistency import tiny_consistency_base
from tests.support.tiny_flow import tiny_flow_base

PROMPTS = ["a cat", "two dogs", "a red bird"]
SEEDS = [5, 6, 7]
ALL = torch.ones(3, 4, dtype=torch.bool)
# Step 1 and the last one: a gap, which the last K steps never have.
GAP = torch.tensor([False, True, False, True]).expand(3, -1)


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "flow": tiny_flow_base(tmp_path_factory.mktemp("flow")),
        "consistency": tiny_consistency_base(tmp_path_factory.mktemp("consistency")),
    }


def gradient(policy: Policy, value: Tensor) -> Tensor:
    """Of a sum that weighs every number differently."""
    weight = torch.linspace(-1, 1, value.numel()).view(value.shape)
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    found = torch.autograd.grad((weight * value).sum(), parameters)
    return torch.cat([part.flatten() for part in found])


def by_hand(policy: Policy, cut: Callable[[int, Tensor], Tensor], first: int = 0) -> Tensor:
    """The sampler's steps from a rollout's latent at `first` on; `cut` sees each output."""
    conditioning = policy.encode_prompts(PROMPTS)
    x_t = rollout(policy, conditioning, SEEDS).latents[:, first]
    _, noises = draw_noise(policy, SEEDS)
    for step in range(first, policy.sampler.num_steps):
        output = cut(step, policy.predict(x_t, step, conditioning))
        x_t = policy.sampler.transition(output, x_t, step).sample(noises[:, step])
    return x_t


def denoised(policy: Policy, kept: Tensor, **keywords: Any) -> Tensor:
    return denoise_with_gradient(policy, policy.encode_prompts(PROMPTS), SEEDS, kept, **keywords)


def test_the_last_steps_of_each_row() -> None:
    expected = [[False, False, False, True], [False, True, True, True], [True] * 4]
    assert last_steps(torch.tensor([1, 3, 4]), 4).tolist() == expected


@pytest.mark.parametrize(
    "settings",
    [{"eta": 1.0}, {"eta": 0.0, "guidance_scale": 3.0}, {"family": "flow"},
     {"family": "consistency", "num_steps": 2}],
    ids=["stochastic", "guided", "flow", "consistency"],
)  # fmt: skip
@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_numbers_are_those_of_the_rollout(
    open_policy: Callable[..., Policy],
    families: dict[str, Path],
    settings: dict[str, Any],
    checkpointing: bool,
) -> None:
    family = settings.get("family")
    others = {name: value for name, value in settings.items() if name != "family"}
    if family:
        others["path"] = str(families[family])
    policy = train_a_little(open_policy(**others))
    x0 = rollout(policy, policy.encode_prompts(PROMPTS), SEEDS).x0
    num_steps = policy.sampler.num_steps
    for steps in ([num_steps] * 3, [1, 2, num_steps]):
        kept = last_steps(torch.tensor(steps), num_steps)
        found = denoised(policy, kept, checkpointing=checkpointing)
        assert found.requires_grad
        assert torch.equal(found, x0)
        assert float(gradient(policy, found).norm()) > 0
    assert torch.equal(denoised(policy, GAP[:, -num_steps:], cut="latent"), x0)


def test_all_steps_are_plain_autograd_through_the_sampler(adapted: Policy) -> None:
    expected = gradient(adapted, by_hand(adapted, lambda _, output: output))
    found = gradient(adapted, denoised(adapted, ALL))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("checkpointing", [True, False])
def test_the_last_steps_start_from_a_latent_without_history(
    adapted: Policy, checkpointing: bool
) -> None:
    expected = gradient(adapted, by_hand(adapted, lambda _, output: output, first=2))
    kept = last_steps(torch.tensor([2] * 3), 4)
    for cut in ("output", "latent"):
        found = gradient(adapted, denoised(adapted, kept, cut=cut, checkpointing=checkpointing))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # And one step more or less is another gradient.
    other = gradient(adapted, denoised(adapted, last_steps(torch.tensor([3] * 3), 4)))
    assert float((other - expected).norm()) > 0.01 * float(expected.norm())


def test_a_gradient_passes_a_detached_output_along_the_latents(adapted: Policy) -> None:
    kept = GAP[0].tolist()
    expected = gradient(
        adapted, by_hand(adapted, lambda step, out: out if kept[step] else out.detach())
    )
    found = gradient(adapted, denoised(adapted, GAP, cut="output"))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    # Where the latent is cut instead, step 1 is out of reach: only the last one is left.
    cut = gradient(adapted, denoised(adapted, GAP, cut="latent"))
    last = gradient(adapted, denoised(adapted, last_steps(torch.tensor([1] * 3), 4)))
    torch.testing.assert_close(cut, last, rtol=1e-5, atol=1e-6)
    assert float((found - cut).norm()) > 0.01 * float(cut.norm())


def test_every_row_has_its_own_number_of_steps(adapted: Policy) -> None:
    steps = torch.tensor([1, 4, 2])
    together = denoised(adapted, last_steps(steps, 4))
    for row, grad_steps in enumerate(steps.tolist()):
        alone = denoised(adapted, last_steps(torch.full((3,), grad_steps), 4))
        found = gradient(adapted, together[row : row + 1])
        expected = gradient(adapted, alone[row : row + 1])
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
        together = denoised(adapted, last_steps(steps, 4))


def test_a_look_at_one_step(adapted: Policy) -> None:
    conditioning = adapted.encode_prompts(PROMPTS)
    step = torch.tensor([3, 0, 2])
    x_t = rollout(adapted, conditioning, SEEDS).latents[torch.arange(3), step]
    output = adapted.predict(x_t, step, conditioning)
    expected = adapted.sampler.level(step, 3).predict(output, x_t)[0]
    found = predict_with_gradient(adapted, conditioning, SEEDS, step)
    assert torch.equal(found, expected)
    torch.testing.assert_close(
        gradient(adapted, found), gradient(adapted, expected), rtol=1e-5, atol=1e-6
    )


def test_the_last_step_from_another_noise(adapted: Policy) -> None:
    conditioning = adapted.encode_prompts(PROMPTS)
    noise = torch.randn(3, *adapted.latent_shape, generator=torch.Generator().manual_seed(9))
    x0 = denoised(adapted, ALL)
    x_t = adapted.sampler.level(3, 3).add_noise(x0.detach(), noise)
    expected = adapted.transition(x_t, 3, conditioning).mean
    found = renoised_step_with_gradient(adapted, conditioning, x0, noise)
    assert torch.equal(found, expected)
    # Nothing flows through the sample that was noised again.
    torch.testing.assert_close(
        gradient(adapted, found), gradient(adapted, expected), rtol=1e-5, atol=1e-6
    )


def test_pixels_are_decoded_again_for_the_same_gradient(adapted: Policy) -> None:
    gradients = []
    for checkpointing in (True, False):
        latents = torch.full((2, *adapted.latent_shape), 0.3, requires_grad=True)
        pixels = pixels_with_gradient(adapted, latents, checkpointing=checkpointing)
        assert torch.equal(pixels, adapted.pixels(latents))
        gradients.append(torch.autograd.grad(pixels.square().sum(), latents)[0])
    assert float(gradients[0].norm()) > 0
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-7)


def test_what_does_not_fit_together_is_refused(adapted: Policy) -> None:
    conditioning = adapted.encode_prompts(PROMPTS)
    with pytest.raises(ValueError, match="2 seeds for 3 prompts"):
        denoise_with_gradient(adapted, conditioning, [1, 2], ALL[:2])
    with pytest.raises(ValueError, match=r"kept \(3, 3\), steps 4"):
        denoise_with_gradient(adapted, conditioning, SEEDS, ALL[:, :3])
    for step in (-1, 4):
        with pytest.raises(ValueError, match="steps"):
            predict_with_gradient(adapted, conditioning, SEEDS, torch.tensor([0, step, 1]))
