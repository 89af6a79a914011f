"""What an ensemble makes of labels, and labels that learn, on numbers worked by hand."""

import math

import pytest
import torch

from components.rewards.losses.smoothing import smoothed_labels
from components.rewards.losses.strength import preference_strength, relabel

NAN = float("nan")


def test_strength_by_hand() -> None:
    margin = torch.tensor([[1.0, 1.0, 1.0, 4.0], [2.0, 2.0, NAN, NAN], [NAN, NAN, NAN, NAN]])
    mean, std = preference_strength(margin, torch.tensor([1.0, 0.0, 0.5, 0.2]))
    assert mean.tolist() == pytest.approx([1.5, -1.5, 0.0, -4.0])
    assert std[:2].tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert std[2:].isnan().all()


def test_a_pair_that_nobody_may_be_asked_about_has_no_strength() -> None:
    mean, std = preference_strength(torch.full((3, 1), NAN), torch.tensor([1.0]))
    assert mean.tolist() == [0.0]
    assert std.isnan().all()


def test_labels_by_hand() -> None:
    found = relabel(
        torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0]),
        torch.tensor([-2.0, 0.1, 1.0, 2.0, 3.0]),
        flip_fraction=0.2,
        soften_fraction=0.2,
        smooth_fraction=0.2,
        smoothing=0.1,
    )
    assert found.preference.tolist() == pytest.approx([0.0, 0.5, 0.0, 1.0, 0.95])
    assert found.adaptive_margin.tolist() == pytest.approx([-2.0, 0.0, -1.0, 2.0, 3.0])
    assert found.flipped.tolist() == [True, False, False, False, False]
    assert found.softened.tolist() == [False, True, False, False, False]
    assert found.smoothed.tolist() == [False, False, False, False, True]


def test_a_label_that_the_ensemble_shares_is_not_flipped_however_weak() -> None:
    found = relabel(torch.ones(4), torch.tensor([0.1, 0.2, 0.3, 0.4]), flip_fraction=0.5)
    assert not found.flipped.any()
    assert (found.preference >= 0.5).all()


def test_ties_stay_and_do_not_count() -> None:
    preference = torch.tensor([0.5, 1.0, 0.5, 0.0, 0.5])
    strength = torch.tensor([0.0, -1.0, 0.0, 2.0, 0.0])
    found = relabel(preference, strength, flip_fraction=0.5, soften_fraction=0.0)
    # Half of the two decided pairs is one.
    assert found.preference.tolist() == pytest.approx([0.5, 0.0, 0.5, 0.0, 0.5])
    assert found.adaptive_margin.tolist() == pytest.approx([0.0, -1.0, 0.0, -2.0, 0.0])


def test_a_soft_label_is_flipped_to_its_mirror() -> None:
    found = relabel(torch.tensor([0.7, 1.0]), torch.tensor([-1.0, 1.0]), flip_fraction=0.5)
    assert found.preference[0] == pytest.approx(0.3)
    assert found.adaptive_margin[0] == -1.0


def test_a_contradicted_label_that_was_not_flipped_asks_for_no_margin() -> None:
    found = relabel(
        torch.ones(4),
        torch.tensor([-3.0, -2.0, -1.0, 1.0]),
        flip_fraction=0.25,
        soften_fraction=0.25,
        smooth_fraction=0.0,
    )
    assert found.preference.tolist() == [0.0, 0.5, 1.0, 1.0]
    assert found.adaptive_margin.tolist() == [-3.0, 0.0, 0.0, 1.0]


def test_smoothed_labels_by_hand() -> None:
    margin = torch.tensor([0.0, math.log(3), -math.log(3)])
    found = smoothed_labels(torch.tensor([1.0, 1.0, 0.5]), margin, 0.4)
    assert found.tolist() == pytest.approx([0.8, 0.9, 0.4])


def test_a_label_drifts_to_what_the_model_believes() -> None:
    label, margin = torch.tensor([1.0]), torch.tensor([-1.0])
    for _ in range(200):
        label = smoothed_labels(label, margin, 0.1)
    assert float(label) == pytest.approx(1 / (1 + math.e), rel=1e-4)
