"""Labels of a round: what is good, what is flipped, and plugs that answer with something else."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from components.contracts.errors import QuarantinedData, SettingsError
from components.contracts.protocols import Feedback
from components.contracts.seeds import torch_generator
from components.finetuning.experience.labelling import PluggedLabeller, RewardLabeller
from components.finetuning.interfaces import MethodContext
from components.finetuning.labels import PluggedLabels, RewardLabels, build_labeller
from tests.finetuning.plugs import Broken, Redness

PROMPTS = ["a", "b", "a", "b", "a", "a"]
REDNESS = [10, 200, 20, 250, 30, 40]


@pytest.fixture
def context(policy, pool, tmp_path):
    def _context(scorer=None):
        return MethodContext(policy, pool, scorer or Redness(), 4, tmp_path, torch_generator)

    return _context


def images() -> torch.Tensor:
    """One flat red image for each of `REDNESS`."""
    shade = torch.tensor(REDNESS, dtype=torch.uint8).view(-1, 1, 1, 1)
    return torch.cat([shade, torch.zeros_like(shade), torch.zeros_like(shade)], 1).expand(
        -1, -1, 2, 2
    )


def label(settings, context, seed=0) -> Feedback:
    labeller = build_labeller(settings, context)
    return labeller.label(images(), PROMPTS, torch_generator(seed))


def test_a_quantile_is_that_of_the_prompt(context):
    feedback = label(RewardLabels(good_above=0.5), context())
    # The median of prompt a is 25, that of prompt b 225.
    assert feedback.good.tolist() == [False, False, False, True, True, True]
    torch.testing.assert_close(feedback.rank, torch.tensor(REDNESS) / 25.5)
    assert label(RewardLabels(good_above=0.0), context()).good.all()
    assert label(RewardLabels(good_above=1.0), context()).good.tolist() == [
        False, False, False, True, False, True,
    ]  # fmt: skip


def test_a_score_is_the_same_standard_for_all_and_its_edge_is_good(context):
    settings = RewardLabels(unit="score", good_above=200 / 25.5)
    assert label(settings, context()).good.tolist() == [False, True, False, True, False, False]


def test_flips_turn_labels_and_never_ranks(context):
    honest = label(RewardLabels(), context())
    turned = label(RewardLabels(flip_probability=1.0), context())
    assert torch.equal(turned.good, ~honest.good)
    assert torch.equal(turned.rank, honest.rank)
    settings, differences = RewardLabels(flip_probability=0.25), 0
    for seed in range(100):
        differences += int((label(settings, context(), seed).good != honest.good).sum())
    assert 0.2 < differences / 600 < 0.3
    # All chance comes from the generator that is passed.
    assert torch.equal(label(settings, context(), 3).good, label(settings, context(), 3).good)


def test_a_reward_that_breaks_labels_nothing(context):
    with pytest.raises(QuarantinedData, match="not finite"):
        RewardLabeller(RewardLabels(), context(Broken(0))).label(
            images(), PROMPTS, torch_generator(0)
        )


@pytest.mark.parametrize(
    "wrong",
    [{"good_above": 1.5}, {"flip_probability": 1.5}, {"unit": "rank"}, {"goodabove": 0.5}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        RewardLabels(**wrong)
    RewardLabels(unit="score", good_above=7.0)


class Answers:
    """A plug that gives the same answer to every request."""

    def __init__(self, good: torch.Tensor, rank: torch.Tensor) -> None:
        self.answer = Feedback(good, rank)

    def label(self, images, prompts, generator) -> Feedback:
        return self.answer


@pytest.mark.parametrize(
    ("good", "rank", "message"),
    [
        (torch.ones(5, dtype=torch.bool), torch.zeros(6), r"labelled 6 images with good \(5,\)"),
        (torch.ones(6, dtype=torch.bool), torch.zeros(6, 1), r"rank \(6, 1\)"),
        (torch.ones(6), torch.zeros(6), r"good \(6,\) of torch\.float32"),
        (torch.ones(6, dtype=torch.bool), torch.full((6,), torch.nan), "not finite"),
    ],
)
def test_a_plug_that_answers_something_else_is_refused(good, rank, message):
    labeller = PluggedLabeller(Answers(good, rank), "my.people:build")
    with pytest.raises(SettingsError, match=message) as refused:
        labeller.label(images(), PROMPTS, torch_generator(0))
    assert "my.people:build" in str(refused.value)


def test_a_plug_that_cannot_label_is_refused_when_the_method_is_built(context):
    plug = PluggedLabels(callable="tests.finetuning.plugs:redness")
    with pytest.raises(SettingsError, match="a Redness without a method 'label'"):
        build_labeller(plug, context())
