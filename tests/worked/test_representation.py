"""HERO's triplet loss, reward, start noise and encoder against what is known by hand."""

from __future__ import annotations

import math

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from components.contracts.seeds import torch_generator
from components.finetuning.experience.representation import (
    Encoder,
    Head,
    Labelled,
    draw_triplets,
)
from components.finetuning.losses.representation import (
    mixed_noise,
    similarity_reward,
    triplet_margin_loss,
)


def checked(function):
    """The function with its shape annotations enforced."""
    return jaxtyped(typechecker=beartype)(function)


ANCHOR = torch.tensor([[3.0, 4.0]])
POSITIVE = torch.tensor([[4.0, 3.0]])


@pytest.mark.parametrize(
    ("negative", "margin", "expected"),
    [
        ([[1.0, 0.0]], 0.5, 0.02 - 0.2 + 0.5),
        ([[1.0, 0.0]], 0.1, 0.0),
        ([[-3.0, -4.0]], 0.5, 0.0),
        ([[-3.0, -4.0]], 1.0, 0.02),
        ([[6.0, 8.0]], 0.5, 0.52),
    ],
)
def test_a_triplet_by_hand(negative, margin, expected):
    loss = checked(triplet_margin_loss)(ANCHOR, POSITIVE, torch.tensor(negative), margin)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


def test_triplets_are_averaged():
    anchor, positive = ANCHOR.repeat(2, 1), POSITIVE.repeat(2, 1)
    negative = torch.tensor([[1.0, 0.0], [-3.0, -4.0]])
    loss = triplet_margin_loss(anchor, positive, negative, 0.5)
    assert float(loss) == pytest.approx((0.32 + 0.0) / 2, abs=1e-6)


def test_the_released_cosine_is_over_the_batch():
    # Two triplets, two features: the columns of anchor, positive and negative are compared.
    anchor = torch.tensor([[3.0, 1.0], [4.0, 0.0]])
    positive = torch.tensor([[4.0, 0.0], [3.0, 1.0]])
    negative = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    # Feature 0: cos(a, p) = 24/25, cos(a, n) = 3/5; feature 1: 0 and 1.
    expected = ((0.02 - 0.2 + 0.5) + (0.5 - 0.0 + 0.5)) / 2
    loss = triplet_margin_loss(anchor, positive, negative, 0.5, over_batch=True)
    assert float(loss) == pytest.approx(expected, abs=1e-6)
    assert float(triplet_margin_loss(anchor, positive, negative, 0.5)) != pytest.approx(expected)


def test_the_gradient_draws_good_images_to_the_best_and_pushes_bad_ones_away():
    positive = POSITIVE.clone().requires_grad_()
    negative = torch.tensor([[1.0, 0.0]]).requires_grad_()
    triplet_margin_loss(ANCHOR, positive, negative, 0.5).backward()
    nearer, farther = positive - positive.grad, negative - negative.grad
    with torch.no_grad():
        assert similarity_reward(nearer, ANCHOR) > similarity_reward(positive, ANCHOR)
        assert similarity_reward(farther, ANCHOR) < similarity_reward(negative, ANCHOR)


def test_the_reward_is_one_for_the_best_image_and_half_for_an_unlike_one():
    encoding = torch.tensor([[3.0, 4.0], [4.0, 3.0], [-4.0, 3.0], [-6.0, -8.0]])
    reward = checked(similarity_reward)(encoding, ANCHOR.expand(4, -1))
    assert reward.tolist() == pytest.approx([1.0, 0.98, 0.5, 0.0], abs=1e-6)


def test_mixed_noise_by_hand_and_its_variance():
    one, two = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    assert float(checked(mixed_noise)(one, two, 0.6)) == pytest.approx(2.0)
    assert float(mixed_noise(one, two, 0.0)) == 1.0
    assert float(mixed_noise(one, two, 1.0)) == 2.0
    generator = torch_generator(0)
    noise, fresh = torch.randn(2, 4000, 4, 2, 2, generator=generator)
    for share in (0.1, 0.6):
        mixed = mixed_noise(noise, fresh, share)
        assert float(mixed.var()) == pytest.approx(1.0, abs=0.03)
        correlation = float((mixed * noise).mean())
        assert correlation == pytest.approx(math.sqrt(1 - share**2), abs=0.03)


def labelled(good, bad, prompt=(0, 0, 0, 0, 1, 1), known=(True, True)) -> Labelled:
    count = len(prompt)
    rows = torch.tensor(prompt)
    return Labelled(
        torch.zeros(count, 1, 1, 1),
        rows,
        torch.tensor([index in good for index in range(count)]),
        torch.tensor([index in bad for index in range(count)]),
        torch.zeros(len(known), 1, 1, 1),
        torch.tensor(known),
    )


def test_triplets_stay_within_their_prompt_and_take_every_image():
    found = draw_triplets(labelled({0, 1, 4}, {2, 3, 5}), torch_generator(0))
    assert found.anchor.tolist() == [0, 0, 0, 0, 1, 1]
    assert set(found.positive[:4].tolist()) == {0, 1}
    assert set(found.negative[:4].tolist()) == {2, 3}
    assert found.positive[4:].tolist() == [4, 4]
    assert found.negative[4:].tolist() == [5, 5]
    again = draw_triplets(labelled({0, 1, 4}, {2, 3, 5}), torch_generator(1))
    assert again.positive.tolist() != found.positive.tolist()


@pytest.mark.parametrize(
    ("good", "bad", "known"),
    [({4}, {5}, (True, False)), ({0, 4}, {1}, (False, True)), ({0}, {5}, (True, True))],
)
def test_a_prompt_without_best_good_or_bad_images_gives_no_triplet(good, bad, known):
    assert len(draw_triplets(labelled(good, bad, known=known), torch_generator(0)).anchor) == 0


@pytest.mark.parametrize(
    ("latent_shape", "before_linear"),
    [((4, 64, 64), 2048), ((8, 16, 16), 256), ((4, 8, 8), 32), ((4, 2, 3), 32)],
)
def test_the_encoder_takes_the_latents_shape(latent_shape, before_linear):
    encoder = Encoder(latent_shape, 16, torch_generator(0))
    linear = encoder.layers[-2]
    assert (linear.in_features, linear.out_features) == (before_linear, 16)
    encoding = encoder(torch.randn(2, *latent_shape, generator=torch_generator(1)))
    assert encoding.shape == (2, 16)
    assert bool((encoding >= 0).all())


def test_weights_come_from_the_generator_alone():
    torch.manual_seed(0)
    first = Head((8, 6, 4), torch_generator(3))
    torch.manual_seed(1)
    second, third = Head((8, 6, 4), torch_generator(3)), Head((8, 6, 4), torch_generator(4))
    encoding = torch.ones(1, 8)
    assert torch.equal(first(encoding), second(encoding))
    assert not torch.equal(first(encoding), third(encoding))
    # No ReLU at the end: projections have both signs.
    assert bool((first(torch.randn(64, 8, generator=torch_generator(5))) < 0).any())
