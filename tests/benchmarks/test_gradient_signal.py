"""Cosines of gradients, and settings that can be measured."""

from __future__ import annotations

import pytest
import torch

from benchmarks.gradient_signal import CASES, NUM_PROMPTS, _between, _profile, _with


def test_cosines_of_worked_vectors() -> None:
    one, two, other = (torch.tensor(v) for v in ([3.0, 4.0], [4.0, 3.0], [-4.0, 3.0]))
    # Pairs: 24/25, 0 and -7/25.
    assert _between([one, two, other]) == pytest.approx(17 / 75)
    assert _with([one, other], 10 * two) == pytest.approx([24 / 25, -7 / 25])


@pytest.mark.parametrize(("profile", "base", "method"), CASES)
def test_every_case_is_a_round_of_96_images_of_a_profile(profile, base, method) -> None:
    settings, found = _profile(profile, base, method)
    assert settings.method.name == profile
    assert settings.method.prompts_per_round * settings.method.group_size == NUM_PROMPTS * 8
    assert found.model_dump().items() >= base.items()
    assert settings.method.model_dump().items() >= method.items()
