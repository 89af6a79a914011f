"""The optimum p_ref(x0 | c) exp(r(x0, c)/τ)/Z of KL-regularised reward maximisation, reached on a
diffusion model of two numbers by the real algorithms, rounds and loop.

tests/support/toy.py has the model and why its optimum is exact. The temperature τ is never fitted:

    DPOK           both terms of its loss are means over D dimensions and over steps, so
                   τ = kl_weight / reward_weight; an advantage that is centred by the mean of G
                   images, its own among them, is (1 - 1/G) of the reward: τ G / (G - 1)
    PRDP           log-ratios are means over D dimensions, and means or sums over T steps: its loss
                   is zero at τ = β / (D T), or β / D
    REBEL          the same against the last round's policy: every round tilts by β / D once more
    Diffusion-DPO  the logit of a pair is 2 β g² u·(x_w - x_l) / D for data moved by u, where g is
                   of the noise level; people choose by r: τ = 2 β g² s² / D for data of variance s²
    CRD            r̂ of a group with one noise is 2 g² u·x / D, so u = D / (2 g² β) times the slope

Draws are compared with the law by the largest Kolmogorov-Smirnov distance of whitened projections.
For n draws of the law itself D √n is above 2 once in 1,500 projections, and there are eight of
them; a training that is off by 0.03 standard deviations adds 0.03 √n / √(2π), half a unit at
n = 2,000. `fits` therefore asks for less than 2.5; half of the wanted tilt gives more than 7.5.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.contracts.seeds import torch_generator
from components.diffusion import NoiseSchedule, Policy, rollout
from components.finetuning.algorithms.crd import CRD, OLD, CRDSettings
from components.finetuning.algorithms.diffusion_dpo import DiffusionDPO, DiffusionDPOSettings
from components.finetuning.algorithms.dpok import DPOKSettings
from components.finetuning.algorithms.prdp import PRDPSettings
from components.finetuning.algorithms.rebel import RebelSettings
from components.finetuning.batches import AdvantageSamples, PreferencePairs
from components.finetuning.checkpoint import CheckpointStore
from components.finetuning.drift import Tripwire
from components.finetuning.fit import Schedule, Surroundings, fit
from components.finetuning.guards import FirstUpdate
from components.finetuning.interfaces import MethodContext
from components.finetuning.interruption import Interruption
from components.finetuning.prompt_pool import PromptPool
from components.finetuning.settings import DriftSettings
from components.finetuning.state import RunState
from tests.support.toy import (
    PROMPTS,
    Law,
    ToyReward,
    World,
    correction_of,
    forgetful,
    law_of,
    set_correction,
    toy_policy,
)

D = 2
STEPS = 4
TEMPERATURE = 0.25
DRAWS = 2000
"""Of each prompt."""
OPTIMUM = 2.5
"""Largest D √n that draws of the law and a good training have."""

# Not round: the tilt Σ·slope points elsewhere than the slope. Prompts want different things.
WORLD = World(
    mean=torch.tensor([[1.0, -0.5], [-0.5, 0.5]]),
    covariance=torch.tensor([[0.5, 0.2], [0.2, 0.8]]),
    slope=torch.tensor([[1.0, 0.5], [-0.4, 0.9]]),
)
ANY_IMAGE = DriftSettings(
    max_brightness_shift=1.0, max_saturation_shift=1.0, min_diversity_ratio=0.0
)
FREE = {"weight_decay": 0.0, "max_grad_norm": 1e6}
"""Nothing but the loss decides where training ends."""


def train(
    policy: Policy, settings: object, rounds: int, folder: Path, *, averaged: int = 1
) -> list[dict[str, float]]:
    """Run the loop on the toy, then take the mean of the last corrections; returns the curves."""
    context = MethodContext(
        policy,
        PromptPool(PROMPTS, ("any",) * len(PROMPTS)),
        ToyReward(WORLD),
        policy.batch_size,
        folder,
        lambda *labels: torch_generator(0, *labels),
    )
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    state = RunState(
        policy,
        settings.build(context),
        torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=0.0),
        Tripwire("training", ANY_IMAGE),
        Tripwire("validation", ANY_IMAGE),
    )
    last: list[Tensor] = []

    def remember(row: dict[str, float]) -> None:
        last.append(correction_of(policy))
        del last[:-averaged]

    schedule = Schedule(
        rounds, settings.learning_rate, settings.warmup_updates, settings.max_grad_norm, 9999, 9999
    )
    around = Surroundings(
        context.generator,
        dict,
        FirstUpdate(policy, PROMPTS[0], torch_generator(0, "first")),
        CheckpointStore(folder / "run"),
        Interruption(),
        remember,
    )
    fit(state, schedule, around)
    assert state.history.stopped_by is None
    set_correction(policy, torch.stack(last).mean(0))
    return state.history.rows[:-1]


def optimum(policy: Policy, temperature: float) -> Law:
    """Of the reward, against the untrained model."""
    return law_of(policy, "reference").tilted(WORLD.slope, temperature)


def drawn(policy: Policy, adapter: str = "train") -> Tensor:
    """Images' latents [p n 2] by the project's own rollout."""
    text = policy.encode_prompts(PROMPTS)
    groups = []
    for prompt in range(len(PROMPTS)):
        seeds = list(range(prompt * DRAWS, (prompt + 1) * DRAWS))
        groups.append(rollout(policy, text[[prompt] * DRAWS], seeds, adapter).x0.flatten(1))
    return torch.stack(groups)


def misfit(samples: Tensor, law: Law) -> float:
    """Largest D √n over prompts and four projections of whitened draws."""
    root = torch.linalg.cholesky(law.covariance)
    centred = samples.double() - law.mean[:, None]
    white = torch.linalg.solve_triangular(root, centred.mT, upper=False).mT
    axes = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, -1.0]]).double()
    axes = axes / axes.norm(dim=1, keepdim=True)
    values = (white @ axes.T).sort(dim=1).values
    expected = 0.5 * (1 + torch.erf(values / math.sqrt(2)))
    count = samples.shape[1]
    above = torch.arange(1, count + 1)[None, :, None] / count
    distance = torch.maximum(above - expected, expected - (above - 1 / count))
    return float(distance.max()) * math.sqrt(count)


def distance(found: Law, law: Law) -> tuple[float, float]:
    """Of the mean in standard deviations, and of the whitened covariance from the identity."""
    root = torch.linalg.cholesky(law.covariance)
    shift = torch.linalg.solve_triangular(root, (found.mean - law.mean)[:, :, None], upper=False)
    half = torch.linalg.solve_triangular(root, found.covariance, upper=False)
    white = torch.linalg.solve_triangular(root, half.mT, upper=False)
    return float(shift.norm(dim=1).max()), float((white - torch.eye(2)).abs().max())


def check_optimum(policy: Policy, law: Law, *, mean: float, covariance: float) -> None:
    """Draws and exact moments of the trained policy are those of `law`."""
    assert misfit(drawn(policy), law) < OPTIMUM
    off_mean, off_covariance = distance(law_of(policy), law)
    assert off_mean < mean
    assert off_covariance < covariance


def check_told_apart(policy: Policy, *others: Law) -> None:
    """The same draws are not those of other laws, by far."""
    samples = drawn(policy)
    for law in others:
        assert misfit(samples, law) > 3 * OPTIMUM


def test_the_check_knows_the_model_that_drew():
    policy = toy_policy(WORLD, forgetful())
    reference = law_of(policy, "reference")
    assert max(distance(law_of(policy), reference)) < 1e-6
    # x0 does not depend on the start noise, and the reference is not far from the data.
    torch.testing.assert_close(reference.mean, math.sqrt(0.97) * WORLD.mean.double())
    samples = drawn(policy)
    assert misfit(samples, reference) < 2.0
    wanted = optimum(policy, TEMPERATURE)
    check_told_apart(policy, wanted, optimum(policy, 2 * TEMPERATURE), optimum(policy, -0.25))
    # Half the tilt is far from the whole.
    half = Law((reference.mean + wanted.mean) / 2, reference.covariance)
    assert misfit(samples, half) > 3 * OPTIMUM
    # And a wrong spread is seen where means are equal.
    assert misfit(samples, Law(reference.mean, 1.3 * reference.covariance)) > OPTIMUM


def test_the_tilted_law_is_what_reweighted_draws_have():
    """The closed form against importance weights, which know nothing of Gaussians."""
    policy = toy_policy(WORLD, forgetful())
    samples = drawn(policy, "reference")
    law = optimum(policy, 1.0)
    for prompt in range(len(PROMPTS)):
        x0 = samples[prompt]
        weight = (x0 @ WORLD.slope[prompt]).softmax(0)[:, None]
        spread = law.covariance[prompt].diagonal().sqrt()
        error = ((weight * x0).sum(0) - law.mean[prompt]) / spread
        # With weights of this spread 2,000 draws count as about 1,200.
        assert float(error.abs().max()) < 4 / math.sqrt(1200)


@pytest.mark.parametrize(
    ("temperature", "reduction"), [(0.25, "mean"), (0.25, "sum"), (0.5, "mean")]
)
def test_prdp_reaches_the_optimum(tmp_path, temperature, reduction):
    policy = toy_policy(WORLD, forgetful())
    settings = PRDPSettings(
        prompts_per_round=2,
        group_size=32,
        inner_epochs=4,
        regression_beta=temperature * D * (STEPS if reduction == "mean" else 1),
        step_reduction=reduction,
        clip_range=0.1,
        learning_rate=0.03,
        **FREE,
    )
    rows = train(policy, settings, 50, tmp_path)
    # A regression without noise: at the optimum its loss is zero.
    assert rows[-1]["explained"] > 0.999
    check_optimum(policy, optimum(policy, temperature), mean=0.02, covariance=0.02)
    others = [optimum(policy, other) for other in (temperature / 2, 2 * temperature, -temperature)]
    check_told_apart(policy, *others, law_of(policy, "reference"))


def prdp_on(schedule: NoiseSchedule, steps: int, folder: Path) -> tuple[Policy, float]:
    """Trained at TEMPERATURE, and the share of reward differences that it explains."""
    policy = toy_policy(WORLD, schedule)
    settings = PRDPSettings(
        prompts_per_round=2,
        group_size=32,
        inner_epochs=4,
        regression_beta=TEMPERATURE * D * steps,
        clip_range=0.1,
        learning_rate=0.03,
        **FREE,
    )
    return policy, train(policy, settings, 50, folder)[-1]["explained"]


def test_prdp_has_no_zero_where_the_sampler_remembers_its_noise(tmp_path):
    """No policy moves the law of x_T: two trajectories that start elsewhere differ by more than
    rewards (the header of prdp.py)."""
    remembering = NoiseSchedule(torch.tensor([0.85, 0.5, 0.3]), 0.97, "v_prediction", "trailing")
    _, explained = prdp_on(remembering, 3, tmp_path)
    assert explained < 0.98


def test_a_step_without_likelihood_is_held_by_nothing(tmp_path):
    """The last step lands on the picture: log-ratios say that all is done, and x0 is elsewhere,
    since the LoRA's shared factor moved that step as well."""
    landing = NoiseSchedule(torch.tensor([0.85, 0.5, 0.2, 0.0]), 1.0, "v_prediction", "trailing")
    policy, explained = prdp_on(landing, 3, tmp_path)
    assert explained > 0.999
    assert misfit(drawn(policy), optimum(policy, TEMPERATURE)) > 2 * OPTIMUM


def test_rebel_tilts_by_the_same_amount_every_round(tmp_path):
    policy = toy_policy(WORLD, forgetful())
    step = 0.5
    settings = RebelSettings(
        prompts_per_round=2,
        group_size=128,
        inner_epochs=200,
        regression_beta=step * D,
        advantage="raw",
        learning_rate=0.03,
        **FREE,
    )
    start = law_of(policy, "reference")
    train(policy, settings, 1, tmp_path / "one")
    once = law_of(policy)
    assert max(distance(once, start.tilted(WORLD.slope, step))) < 0.03
    # From where it stands: nothing pulls back to the pretrained model.
    train(policy, settings, 1, tmp_path / "two")
    check_optimum(policy, start.tilted(WORLD.slope, step / 2), mean=0.03, covariance=0.03)
    check_told_apart(policy, once)


def test_dpok_with_exact_kl_reaches_the_optimum(tmp_path):
    policy = toy_policy(WORLD, forgetful())
    temperature, group_size = 0.5, 64
    settings = DPOKSettings(
        prompts_per_round=2,
        group_size=group_size,
        buffer_size=2 * group_size * STEPS,
        updates_per_round=1,
        transitions_per_update=2 * group_size * STEPS,
        reward_weight=3.0,
        kl_weight=3.0 * temperature * (1 - 1 / group_size),
        kl="exact",
        clip_range=0.2,
        advantage="group_centred",
        value_function=None,
        learning_rate=0.02,
        **FREE,
    )
    # Its gradient is noisy: the optimum is the mean of where it walks.
    train(policy, settings, 400, tmp_path, averaged=250)
    check_optimum(policy, optimum(policy, temperature), mean=0.06, covariance=0.06)
    others = [optimum(policy, other) for other in (temperature / 2, 2 * temperature, -temperature)]
    check_told_apart(policy, *others, law_of(policy, "reference"))


# For methods on finished images: data of variance s² in every direction, and two noise levels of
# the same g, so that they have one temperature.
VARIANCE = 0.36
ROUND_WORLD = World(WORLD.mean, VARIANCE * torch.eye(2), torch.tensor([[1.5, 0.75], [-0.6, 1.35]]))
RATIOS = torch.tensor([0.3, 1.2], dtype=torch.float64)
"""Noise to signal: g = ρ / (s² + ρ²) is 2/3 for both."""
TWINS = NoiseSchedule((1 / (1 + RATIOS**2)).float(), 0.97, "epsilon", "trailing")


def slopes_at(ratio: Tensor) -> Tensor:
    """g of noise levels by their noise-to-signal ratio, for a network that predicts noise.

    The output of the exact denoiser of data moved by u differs by -g·u; and what the data's own
    denoiser leaves unexplained of ε is -g (x0 - m) + a part that is the noise's alone.
    """
    return ratio / (VARIANCE + ratio**2)


def train_on_pairs(
    policy: Policy,
    dpo_beta: float,
    *,
    updates: int = 250,
    averaged: int = 150,
    swapped: bool = False,
) -> Policy:
    """Diffusion-DPO on people's choices between draws of the data."""
    method = DiffusionDPO(DiffusionDPOSettings(noise_levels="training"), dpo_beta)
    generator = torch_generator(0, "pairs")
    text, world, count = policy.encode_prompts(PROMPTS), ROUND_WORLD, policy.batch_size // 2
    optimizer = torch.optim.AdamW(
        [parameter for _, parameter in policy.trainable_parameters()], lr=0.02, weight_decay=0.0
    )
    last: list[Tensor] = []
    for _ in range(updates):
        prompt = torch.randint(len(PROMPTS), (count,), generator=generator)
        noise = torch.randn((2, count, 2), generator=generator)
        first, second = (world.mean[prompt] + math.sqrt(VARIANCE) * noise)[..., None, None]
        # Bradley and Terry: the reward is the logit.
        logit = world.reward(first, prompt) - world.reward(second, prompt)
        wins = torch.rand(count, generator=generator) < logit.sigmoid()
        wins = (wins ^ swapped)[:, None, None, None]
        pairs = PreferencePairs(
            torch.where(wins, first, second), torch.where(wins, second, first), text[prompt]
        )
        optimizer.zero_grad()
        method.loss(policy, pairs, generator).loss.backward()
        optimizer.step()
        last.append(correction_of(policy))
        del last[:-averaged]
    set_correction(policy, torch.stack(last).mean(0))
    return policy


def moved(temperature: float, schedule: NoiseSchedule = TWINS) -> Law:
    """What the exact denoiser of p exp(r/τ)/Z draws with the same sampler."""
    shift = VARIANCE * ROUND_WORLD.slope / temperature
    world = World(ROUND_WORLD.mean + shift, ROUND_WORLD.covariance, ROUND_WORLD.slope)
    return law_of(toy_policy(world, schedule), "reference")


def test_diffusion_dpo_reaches_the_optimum():
    """It becomes the exact denoiser of the tilted data at each level: any sampler draws the same
    from both."""
    temperature = 0.5
    g = float(slopes_at(RATIOS)[0])
    dpo_beta = temperature * D / (2 * g**2 * VARIANCE)
    policy = train_on_pairs(toy_policy(ROUND_WORLD, TWINS, batch_size=8192), dpo_beta)
    check_optimum(policy, moved(temperature), mean=0.06, covariance=0.06)
    check_told_apart(policy, moved(temperature / 2), moved(2 * temperature), moved(-temperature))
    wrong = train_on_pairs(
        toy_policy(ROUND_WORLD, TWINS, batch_size=8192), dpo_beta, updates=100, swapped=True
    )
    check_told_apart(wrong, moved(temperature))


def test_diffusion_dpo_has_a_temperature_of_its_own_at_each_noise_level():
    """Of one β, where g differs: the price of a stand-in for the likelihood that weighs all levels
    alike."""
    ratios = torch.tensor([0.3, 0.6, 2.4], dtype=torch.float64)
    schedule = NoiseSchedule((1 / (1 + ratios**2)).float(), 0.97, "epsilon", "trailing")
    dpo_beta = 4.0
    policy = train_on_pairs(toy_policy(ROUND_WORLD, schedule, batch_size=8192), dpo_beta)
    text, origin = policy.encode_prompts(PROMPTS), ROUND_WORLD.mean
    for timestep, g in enumerate(slopes_at(ratios).tolist()):
        # At the mean of the noisy data, where slopes add nothing.
        level = schedule.level(torch.tensor([timestep] * 2))
        x_t = level.signal * origin[:, :, None, None]
        with torch.no_grad():
            outputs = [
                policy.predict_at(x_t, level, text, adapter).flatten(1)
                for adapter in ("train", "reference")
            ]
        found = -(outputs[0] - outputs[1]) / g
        temperature = 2 * dpo_beta * g**2 * VARIANCE / D
        expected = VARIANCE * ROUND_WORLD.slope / temperature
        assert float((found - expected).norm() / expected.norm()) < 0.05


def regress(settings: CRDSettings) -> Tensor:
    """How far CRD moves the data of each prompt [p 2], from groups that the frozen model drew."""
    policy = toy_policy(ROUND_WORLD, TWINS, "translation", batch_size=4096)
    policy.remember(OLD)
    method, generator = CRD(settings), torch_generator(0, "groups")
    text, world = policy.encode_prompts(PROMPTS), ROUND_WORLD
    optimizer = torch.optim.AdamW(
        [parameter for _, parameter in policy.trainable_parameters()], lr=0.02, weight_decay=0.0
    )
    group = torch.arange(128).repeat_interleave(16)
    prompt = group % 2
    last: list[Tensor] = []
    for _ in range(200):
        noise = torch.randn((len(group), 2), generator=generator)
        x0 = (world.mean[prompt] + math.sqrt(VARIANCE) * noise)[..., None, None]
        advantage = world.reward(x0 - world.mean[prompt][..., None, None], prompt)
        optimizer.zero_grad()
        batch = AdvantageSamples(x0, text[prompt], advantage, group)
        method.loss(policy, batch, generator).loss.backward()
        optimizer.step()
        last.append(correction_of(policy).T)
        del last[:-100]
    return torch.stack(last).mean(0)


@pytest.mark.parametrize("shared_noise", [True, False])
def test_crd_regresses_rewards_and_noise_of_its_own_weakens_it(shared_noise):
    """r̂ is (2/D) g² u·(x - m - κ ε) up to what a group shares, κ = s²/ρ. With one ε for the group
    the regression of q, whose slope is that of A over 2 limits, has no rest. With an ε for each
    image u is only s² / (s² + mean κ²) of that."""
    beta, limit = 1.5, 6.0
    settings = CRDSettings(
        regression_beta=beta,
        advantage_clip=limit,
        levels="training",
        num_levels=2,
        normalise_errors=False,
        shared_noise=shared_noise,
        kl_weight=0.0,
    )
    g = float(slopes_at(RATIOS)[0])
    expected = ROUND_WORLD.slope / (2 * limit) * D / (2 * g**2 * beta)
    if not shared_noise:
        expected = expected * VARIANCE / (VARIANCE + float((VARIANCE / RATIOS).square().mean()))
    found = regress(settings)
    assert float((found - expected).norm() / expected.norm()) < (0.01 if shared_noise else 0.08)
