"""Somebody who labels whole rounds of the miniature's images, for HERO and D3PO."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from components.contracts.seeds import torch_generator
from components.finetuning.experience.labelling import PluggedLabeller
from components.finetuning.labels import PluggedLabels
from components.miniature import judge as judges
from components.miniature import people
from components.miniature.scenes import parse_prompt, render

PROMPTS = ["a green rabbit", "four wolves", "a dog on the moon", "a cat and a dog"]


@pytest.fixture(scope="module")
def judge() -> judges.Judge:
    return judges.load()


def pictures(prompts: list[str]) -> torch.Tensor:
    rng = np.random.default_rng(3)
    images = np.stack([render(parse_prompt(prompt), rng) for prompt in prompts])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


def test_good_is_what_the_judge_calls_correct_and_rank_how_sure_it_is(judge):
    right = PROMPTS * 6
    wrong = (PROMPTS[1:] + PROMPTS[:1]) * 6
    images = pictures(right)
    honest = people.build_labeller(0.0, judge=judge)
    seen = honest.label(images, right, torch_generator(0))
    assert torch.equal(seen.good, judge.correct(images, right))
    assert seen.good.float().mean() > 0.8
    denied = honest.label(images, wrong, torch_generator(0))
    assert denied.good.float().mean() < 0.1
    assert bool((seen.rank > denied.rank).float().mean() > 0.9)
    assert float(denied.rank.min()) == people.LOG_SCORE_FLOOR
    assert float(seen.rank.max()) <= 1 - people.LOG_SCORE_FLOOR


def test_flips_turn_the_verdict_and_what_is_called_good_ranks_first(judge):
    right = PROMPTS * 4
    images = pictures(right)
    prompts = right[:8] + right[9:] + right[8:9]
    honest = people.build_labeller(0.0, judge=judge).label(images, prompts, torch_generator(0))
    liar = people.build_labeller(1.0, judge=judge).label(images, prompts, torch_generator(0))
    assert torch.equal(liar.good, ~honest.good)
    for seen in (honest, liar):
        assert float(seen.rank[seen.good].min()) > float(seen.rank[~seen.good].max())
    # Within what is called good, and within what is called bad, the judge's order stays.
    score = judge.log_score(images, prompts).clamp(min=people.LOG_SCORE_FLOOR)
    for rows in (liar.good, ~liar.good):
        assert torch.equal(liar.rank[rows].argsort(stable=True), score[rows].argsort(stable=True))
    careless = people.build_labeller(0.3, judge=judge)
    differs = [
        (careless.label(images, prompts, torch_generator(seed)).good != honest.good).float().mean()
        for seed in range(20)
    ]
    assert 0.2 < float(torch.stack(differs).mean()) < 0.4


def test_it_is_a_plug(judge):
    plug = PluggedLabels(callable="components.miniature.people:build_labeller")
    feedback = PluggedLabeller.build(plug).label(pictures(PROMPTS), PROMPTS, torch_generator(0))
    assert feedback.good.shape == feedback.rank.shape == (4,)


def test_a_probability_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r"flip_probability must be in \[0, 1\], not 1\.5"):
        people.build_labeller(1.5)
