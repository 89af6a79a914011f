"""Snapshots of the adapter: an old policy without a second network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from components.contracts.errors import SettingsError
from components.diffusion import Policy
from tests.diffusion.conftest import train_a_little


def predictions(policy: Policy, *adapters: str) -> list[torch.Tensor]:
    x_t = torch.randn(4, *policy.latent_shape, generator=torch.Generator().manual_seed(0))
    text = policy.encode_prompts(["a cat"] * 4)
    with torch.no_grad():
        return [policy.predict(x_t, 1, text, adapter) for adapter in adapters]


def move(policy: Policy, amount: float) -> None:
    with torch.no_grad():
        for _, parameter in policy.trainable_parameters():
            parameter.add_(amount)


def test_a_fresh_snapshot_predicts_bit_for_bit_what_the_policy_does(adapted: Policy) -> None:
    adapted.remember("old")
    now, old, reference = predictions(adapted, "train", "old", "reference")
    assert torch.equal(now, old)
    assert not torch.equal(old, reference)


def test_a_snapshot_stays_where_it_was(adapted: Policy) -> None:
    adapted.remember("old")
    (before,) = predictions(adapted, "old")
    move(adapted, 0.05)
    now, old = predictions(adapted, "train", "old")
    assert torch.equal(old, before)
    assert not torch.equal(now, old)


def test_decay_moves_a_part_of_the_way(adapted: Policy) -> None:
    adapted.remember("old")
    name, parameter = adapted.trainable_parameters()[0]
    start = parameter.detach().clone()
    move(adapted, 1.0)
    adapted.remember("old", decay=0.75)
    torch.testing.assert_close(adapted.snapshots()[f"old/{name}"], start + 0.25)


def test_snapshots_come_back(open_policy: Callable[..., Policy]) -> None:
    policy = train_a_little(open_policy())
    policy.remember("old")
    move(policy, 0.05)
    policy.remember("slow")
    saved = {name: tensor.clone() for name, tensor in policy.snapshots().items()}
    wanted = predictions(policy, "old", "slow")
    other = train_a_little(open_policy())
    other.load_snapshots(saved)
    for found, expected in zip(predictions(other, "old", "slow"), wanted, strict=True):
        assert torch.equal(found, expected)


def test_gradients_never_reach_a_snapshot(adapted: Policy) -> None:
    adapted.remember("old")
    x_t = torch.ones(4, *adapted.latent_shape)
    text = adapted.encode_prompts(["a cat"] * 4)
    assert adapted.predict(x_t, 1, text).requires_grad
    assert not adapted.predict(x_t, 1, text, "old").requires_grad


def test_an_unknown_snapshot_lists_the_known_ones(adapted: Policy) -> None:
    adapted.remember("old")
    with pytest.raises(SettingsError, match="adapter 'odl'; allowed: train, reference, old"):
        predictions(adapted, "odl")


def test_features_are_the_frozen_bases_and_pass_gradients_to_the_latent(adapted: Policy) -> None:
    x_t = torch.ones(4, *adapted.latent_shape, requires_grad=True)
    text = adapted.encode_prompts(["a cat"] * 4)
    level = adapted.sampler.level(1, 4)
    found = adapted.features(x_t, level, text)
    (gradient,) = torch.autograd.grad(found.square().sum(), x_t)
    assert bool((gradient != 0).any())
    with torch.no_grad():
        move(adapted, 0.5)
        assert torch.equal(adapted.features(x_t, level, text), found)
