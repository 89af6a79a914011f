"""The bench of scoring: what it measures is the same thing in every way."""

from __future__ import annotations

import pytest
import torch

from benchmarks.scoring import GROUP, agreement, measure, miniature, scenes, spread
from components.contracts.errors import GuardError


def test_a_spread_by_hand() -> None:
    assert spread([3.0, 1.0, 2.5]) == {"median": 2.5, "low": 1.0, "high": 3.0}


def test_ways_that_differ_are_no_comparison() -> None:
    ours = torch.tensor([0.1, 0.2])
    assert agreement({"in_place": ours, "pil": ours + 0.001}) == pytest.approx(0.001, rel=1e-3)
    for other in (ours + 0.01, ours * torch.nan):
        with pytest.raises(GuardError, match="the ways to score differ by"):
            agreement({"in_place": ours, "pil": other})


def test_pictures_are_those_of_the_world_enlarged() -> None:
    images, prompts = scenes(2 * GROUP, 2)
    assert images.shape == (2 * GROUP, 3, 128, 128) and images.dtype == torch.uint8
    assert prompts == [prompts[0]] * GROUP + [prompts[GROUP]] * GROUP
    assert prompts[0] != prompts[GROUP]
    assert torch.equal(images, scenes(2 * GROUP, 2)[0])


def test_a_measurement_of_the_miniature() -> None:
    found = measure(miniature(torch.device("cpu"), GROUP), repetitions=1)
    usual = {"pil", "pil_and_disk", "pil_in_a_batch"}
    assert set(found["images_per_second"]) == {"in_place", "in_place_known_prompts", *usual}
    assert all(speed["median"] > 0 for speed in found["images_per_second"].values())
    ratio = found["times_the_usual_loop"]["median"]
    speeds = {name: speed["median"] for name, speed in found["images_per_second"].items()}
    assert ratio == pytest.approx(speeds["in_place"] / speeds["pil"], rel=0.01)
    # Nothing is resized here, so that only the order of sums differs.
    assert found["largest_difference_of_a_cosine"] < 1e-4 < found["spread_of_cosines"]
