"""CRD on a real (tiny, random) flow model: whose images, whose errors, held to what."""

from __future__ import annotations

import pytest
import torch

from components.contracts.errors import SettingsError
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings
from components.diffusion import load_policy
from components.finetuning.algorithms.crd import CRD, OLD, SAMPLING, CRDSettings
from components.finetuning.algorithms.forward_process import SnapshotDecay
from components.finetuning.interfaces import MethodContext
from components.finetuning.losses import forward_process, reward_difference
from components.finetuning.losses.kl import prediction_kl
from components.finetuning.noising import noised
from tests.finetuning.conftest import COMPUTE, METHODS, Case
from tests.finetuning.plugs import Redness

PLAIN = {
    "normalise_errors": False,
    "adaptive_kl": False,
    "kl_weight": 0.0,
    "regression_beta": 0.5,
}


@pytest.fixture
def case() -> Case:
    return METHODS["crd"]


def move(policy, seed, size=1.0):
    generator = torch_generator(seed, "B")
    with torch.no_grad():
        for name, parameter in policy.trainable_parameters():
            if "lora_B" in name:
                parameter.copy_(size * torch.randn(parameter.shape, generator=generator))


def first_batch(build, policy, **changes):
    method = build(METHODS["crd"] | changes)
    collected = method.experience.collect(policy, torch_generator(0, "round", 0))
    return method, next(iter(collected.updates))[0]


def moved(build, policy, **changes):
    """A batch, a policy away from its reference, and an `old` elsewhere again."""
    method, batch = first_batch(build, policy, **changes)
    move(policy, 1)
    policy.remember(OLD)
    move(policy, 2)
    return method.algorithm, batch


def test_images_are_drawn_with_the_sampling_snapshot(build, policy, monkeypatch):
    decays = {
        "sampling_decay": {"start": 0.5, "slope": 0.0},
        "old_decay": {"start": 0.25, "slope": 0.0},
    }
    method = build(METHODS["crd"] | decays)
    experience = method.experience
    list(experience.collect(policy, torch_generator(0, "round", 0)).updates)
    move(policy, 1)
    ((batch, *_), *_) = experience.collect(policy, torch_generator(0, "round", 1)).updates
    # Part of the way from the start, where B is 0, to the policy.
    weights = policy.snapshots()
    for name, parameter in policy.trainable_parameters():
        if "lora_B" in name:
            torch.testing.assert_close(weights[f"{SAMPLING}/{name}"], 0.5 * parameter.detach())
            torch.testing.assert_close(weights[f"{OLD}/{name}"], 0.75 * parameter.detach())
    # The same seeds, whichever adapter draws: only the sampling one gives these images.
    drawn = {}
    for adapter in (SAMPLING, OLD, "train"):
        monkeypatch.setattr(experience, "drawn_with", lambda updates, adapter=adapter: adapter)
        monkeypatch.setattr(policy, "remember", lambda *_: None)
        found = experience.collect(policy, torch_generator(0, "round", 1))
        drawn[adapter] = next(iter(found.updates))[0].x0
    assert torch.equal(drawn[SAMPLING], batch.x0)
    assert not torch.equal(drawn[OLD], batch.x0)
    assert not torch.equal(drawn["train"], batch.x0)


def test_decays_start_rise_and_stop():
    decay = SnapshotDecay(start=0.25, slope=0.005, highest=0.999)
    assert [decay.after(updates) for updates in (0, 10, 10_000)] == [0.25, 0.3, 0.999]
    late = SnapshotDecay(flat_updates=75, slope=0.0075, highest=0.999)
    assert [late.after(updates) for updates in (0, 75, 76)] == [0.0, 0.0, 0.0075]


def test_the_loss_is_the_centred_regression_of_errors(build, policy):
    algorithm, batch = moved(build, policy, **PLAIN, group_size=3)
    settings = algorithm.settings
    output = algorithm.loss(policy, batch, torch_generator(5))
    rows = noised(policy, batch, settings, torch_generator(5), shared_in_groups=True)
    with torch.no_grad():
        theta, old = (
            policy.predict_at(rows.x_t, rows.level, rows.conditioning, adapter)
            for adapter in ("train", OLD)
        )
    implicit = prediction_kl(old, rows.target) - prediction_kl(theta, rows.target)
    table = implicit.view(len(batch), 2)
    good = 0.5 + batch.advantage.clamp(-5, 5) / 10
    expected = torch.zeros(())
    for group in batch.group.unique():
        rows_of = batch.group == group
        centred = 0.5 * (table[rows_of] - table[rows_of].mean(0, keepdim=True))
        target = good[rows_of] - good[rows_of].mean()
        expected = expected + (centred - target[:, None]).square().sum() / table.numel()
    torch.testing.assert_close(output.loss.detach(), expected * 5 / 0.5, rtol=1e-4, atol=0)
    assert "kl" not in output.metrics
    torch.testing.assert_close(output.metrics["old_distance"], prediction_kl(theta, old).mean())
    assert float(output.metrics["old_distance"]) > 0


def test_errors_may_be_divided_by_their_size(build, policy):
    algorithm, batch = moved(build, policy, **PLAIN | {"normalise_errors": True})
    settings = algorithm.settings
    output = algorithm.loss(policy, batch, torch_generator(5))
    rows = noised(policy, batch, settings, torch_generator(5), shared_in_groups=True)
    with torch.no_grad():
        errors = [
            forward_process.self_normalised_error(
                policy.predict_at(rows.x_t, rows.level, rows.conditioning, adapter), rows.target
            )
            for adapter in (OLD, "train")
        ]
    good = forward_process.optimality_prob(batch.advantage, 5.0).repeat_interleave(2)
    group = (batch.group[:, None] * 2 + torch.arange(2)).flatten()
    expected = reward_difference.crd_loss(errors[0] - errors[1], good, group, 0.5) * 10
    torch.testing.assert_close(output.loss.detach(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("adaptive", [True, False])
def test_the_policy_is_held_to_the_reference(build, policy, adaptive):
    changes = {"kl_weight": 0.2, "kl_floor": 0.05, "adaptive_kl": adaptive}
    algorithm, batch = moved(build, policy, **PLAIN | changes)
    with_kl = algorithm.loss(policy, batch, torch_generator(5))
    free = CRD(CRDSettings(**METHODS["crd"] | PLAIN)).loss(policy, batch, torch_generator(5))
    rows = noised(policy, batch, algorithm.settings, torch_generator(5), shared_in_groups=True)
    with torch.no_grad():
        theta, reference = (
            policy.predict_at(rows.x_t, rows.level, rows.conditioning, adapter)
            for adapter in ("train", "reference")
        )
    distance = prediction_kl(theta, reference)
    good = rows.per_row(forward_process.optimality_prob(batch.advantage, 5.0))
    weight = 0.05 + good * 0.15 if adaptive else 0.2
    added = with_kl.loss.detach() - free.loss.detach()
    torch.testing.assert_close(added, (weight * distance).mean(), rtol=1e-2, atol=0)
    assert float(distance.mean()) > 1e-3
    torch.testing.assert_close(with_kl.metrics["kl"], distance.mean())


def test_the_reference_may_be_guided(build, policy):
    changes = {"kl_weight": 0.2, "reference_guidance_scale": 3.0}
    algorithm, batch = moved(build, policy, **PLAIN | changes)
    output = algorithm.loss(policy, batch, torch_generator(5))
    rows = noised(policy, batch, algorithm.settings, torch_generator(5), shared_in_groups=True)
    empty = policy.encode_prompts([""])
    with torch.no_grad():
        theta = policy.predict_at(rows.x_t, rows.level, rows.conditioning)
        plain = policy.predict_at(rows.x_t, rows.level, rows.conditioning, "reference")
        without = policy.predict_at(rows.x_t, rows.level, empty[[0] * len(rows.x_t)], "reference")
    guided = without + 3.0 * (plain - without)
    found = output.metrics["reference_distance"]
    torch.testing.assert_close(found, prediction_kl(theta, guided).mean(), rtol=1e-3, atol=0)
    # At the start it is not 0, so that the guard which asks for that must not see it as `kl`.
    assert "kl" not in output.metrics


def test_noise_is_the_groups_or_the_images(build, policy, monkeypatch):
    from components.finetuning import noising

    seen = []
    honest = noising.predict

    def watch(policy, rows, adapter="train"):
        seen.append(rows)
        return honest(policy, rows, adapter)

    monkeypatch.setattr(noising, "predict", watch)
    method, batch = first_batch(build, policy, shared_noise=True)
    method.algorithm.loss(policy, batch, torch_generator(5))
    own = CRD(CRDSettings(**METHODS["crd"] | {"shared_noise": False}))
    own.loss(policy, batch, torch_generator(5))
    noises = []
    for rows in (seen[0], seen[-1]):
        # All images of a group at the same levels, with what the trainer trains on.
        sigma = rows.level.noise.flatten().view(len(batch), 2)
        assert torch.equal(sigma[0], sigma[1])
        noise = (rows.x_t - rows.level.signal * rows.x0) / rows.level.noise
        torch.testing.assert_close(noise - rows.x0, rows.target, rtol=1e-3, atol=1e-3)
        noises.append(noise.view(len(batch), 2, *noise.shape[1:]))
    torch.testing.assert_close(noises[0][0], noises[0][1], rtol=1e-3, atol=1e-3)
    assert float((noises[1][0] - noises[1][1]).abs().mean()) > 0.5


def test_groups_are_compared_level_by_level():
    from components.finetuning.algorithms.crd import _group_at_level

    found = _group_at_level(torch.tensor([7, 7, 2]), 2)
    assert found.tolist() == [2, 3, 2, 3, 0, 1]


def test_a_floor_above_the_weight_is_refused():
    with pytest.raises(ValueError, match="kl_floor is above kl_weight"):
        CRDSettings(kl_weight=1e-5)
    assert CRDSettings(kl_weight=0.0).kl_weight == 0.0


def test_a_guided_base_is_refused(base, pool):
    policy = load_policy(BaseSettings(**base.model_dump() | {"guidance_scale": 2.0}), COMPUTE)
    context = MethodContext(policy, pool, Redness(), 4, None, lambda *_: torch_generator(0))
    with pytest.raises(SettingsError, match="guidance_scale 2 with a method without guidance"):
        CRDSettings().build(context)
