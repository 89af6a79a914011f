"""Several rewards in real runs: what a method learns from, and what the curves tell."""

from __future__ import annotations

import csv
import json
import math
from typing import Any

import pytest
import torch

from components.contracts.errors import GuardError, QuarantinedData, SettingsError
from components.contracts.seeds import torch_generator
from components.finetuning.experience.scoring import (
    restored,
    score,
    score_to_learn,
    score_with_gradient,
    stored,
)
from components.finetuning.settings import Settings
from components.finetuning.stage import run
from components.rewards.scorers.several import SeveralScorer
from tests.finetuning.conftest import METHODS, Case, block, checkpoints, outs
from tests.finetuning.plugs import Redness, greenness

PLUGS = "tests.finetuning.plugs"


def plug(name: str, **arguments: Any) -> dict[str, Any]:
    return {
        "name": "python",
        "callable": f"{PLUGS}:{name}",
        "arguments": arguments,
        "differentiable": True,
    }


def several(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"name": "several", "scorers": list(parts)}


RED = {"label": "red", "scorer": plug("redness")}
GREEN = {"label": "green", "weight": -0.5, "scorer": plug("greenness", scale=100.0)}


class Greenness(Redness):
    def score(self, images: torch.Tensor, prompts: list[str]) -> torch.Tensor:
        return greenness(images, prompts, scale=100.0)


SCORER = SeveralScorer([Redness(), Greenness()], ["red", "green"], [1.0, -0.5])
IMAGES = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
# Red 1, 3 | 5, 5 and green 10, 20 | 20, 10 on their own scales.
IMAGES[:, 0] = torch.tensor([25.5, 76.5, 127.5, 127.5]).round().byte()[:, None, None]
IMAGES[:, 1] = torch.tensor([25.5, 51.0, 51.0, 25.5]).round().byte()[:, None, None]
PROMPTS = ["fox", "fox", "cow", "cow"]


def test_what_is_learnt_from_and_what_is_told() -> None:
    found = score_to_learn(SCORER, IMAGES, PROMPTS, batch_size=3)
    # Red is (-1, 1 | 0, 0) and green (-1, 1 | 1, -1) once normalised.
    assert found.reward.tolist() == pytest.approx([-0.5, 0.5, -0.5, 0.5], abs=1e-6)
    red = (IMAGES[:, 0, 0, 0].float() / 25.5).tolist()
    green = (IMAGES[:, 1, 0, 0].float() / 2.55).tolist()
    raw = [a - 0.5 * b for a, b in zip(red, green, strict=True)]
    assert found.raw.tolist() == pytest.approx(raw, rel=1e-5)
    assert found.figures() == pytest.approx(
        {
            "reward": sum(raw) / 4,
            "reward_std": float(torch.tensor(raw).std(correction=0)),
            "reward/red": sum(red) / 4,
            "reward/green": sum(green) / 4,
            "flat_groups/red": 1.0,
            "flat_groups/green": 0.0,
        },
        rel=1e-5,
    )
    assert restored({"x0": torch.zeros(1), **stored(found.figures())}) == found.figures()
    looked = score(SCORER, IMAGES, PROMPTS, batch_size=3)
    assert torch.equal(looked.reward, looked.raw) and torch.equal(looked.raw, found.raw)


def test_gradients_are_those_of_the_standardised_sum() -> None:
    pixels = (IMAGES.float() / 255).requires_grad_()
    found = score_with_gradient(SCORER, pixels, PROMPTS)
    (slope,) = torch.autograd.grad(found.reward.sum(), pixels)
    red, green = (found.parts[name].std(correction=0) for name in ("red", "green"))
    # Means over 2 x 2 pixels of ten times red, and of a hundred times green.
    torch.testing.assert_close(slope[:, 0], (10 / 4 / red).expand(4, 2, 2))
    torch.testing.assert_close(slope[:, 1], (-0.5 * 100 / 4 / green).expand(4, 2, 2))
    assert not slope[:, 2].any()
    assert not found.raw.requires_grad


def test_one_image_of_each_prompt_cannot_be_normalised() -> None:
    with pytest.raises(SettingsError, match="one image of each; allowed: a group_size of 2"):
        score_to_learn(SCORER, IMAGES, ["a", "b", "c", "d"], 4)
    with pytest.raises(SettingsError, match="this one has a single image"):
        score_with_gradient(SCORER, IMAGES[:1].float() / 255, ["a"])


def test_parts_that_are_all_flat_stop_the_run() -> None:
    flat = IMAGES[:1].expand(4, -1, -1, -1)
    with pytest.raises(GuardError, match="all 4 rewards of a round are 0"):
        score_to_learn(SCORER, flat, PROMPTS, 4)
    with pytest.raises(GuardError, match="all 4 rewards of a round are 0"):
        score_with_gradient(SCORER, (flat.float() / 255).requires_grad_(), PROMPTS)


ONE_OF_EACH_EXPERIENCE = [
    "d3po",
    "ddpo",
    "dpok",
    "draft",
    "hero",
    "lee2023",
    "ncp_dpo",
    "nft",
    "prdp",
    "self_rewarding",
    "spo",
    "supervised",
]


@pytest.mark.parametrize(
    "method", map(METHODS.__getitem__, ONE_OF_EACH_EXPERIENCE), ids=ONE_OF_EACH_EXPERIENCE
)
def test_every_kind_of_method_takes_several_rewards_or_says_what_it_lacks(
    project: Any, method: Case
) -> None:
    settings, context = project(method, reward=several(RED, GREEN), rounds=1)
    group = method.get("group_size", method.get("images_per_prompt", 2))
    gradient = settings.method.requires().differentiable_reward
    try:
        metrics = run(settings, context)
    except SettingsError as refused:
        words = str(refused)
        assert (group == 1 and "one image of each" in words) or "prompt_classification" in words
        return
    assert gradient or group > 1 or method["name"] == "spo"
    with (context.root / "reports/curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["validation_reward/red"] and rows[0]["validation_reward/green"]
    if "reward/red" in rows[0]:
        # The curve is of the rewards as they are, which nothing has centred.
        first = {name: float(rows[0][f"reward/{name}"]) for name in ("red", "green")}
        assert 0 < first["red"] < 10 < first["green"] < 100
        if method["name"] != "hero":
            together = first["red"] - 0.5 * first["green"]
            assert float(rows[0]["reward"]) == pytest.approx(together, rel=1e-3)
        assert metrics.get("flat_groups/red", 0.0) == 0.0
        assert metrics["reward/green_first"] == pytest.approx(first["green"], rel=1e-5)


def test_a_run_learns_from_the_part_that_another_would_drown(build: Any, policy: Any) -> None:
    """Of a reward a thousand times as large, the advantages keep as much as of the other."""
    large = SeveralScorer([Redness(), Greenness()], ["red", "green"], [1.0, 1.0])
    large._scorers[1].score = lambda images, prompts: greenness(images, prompts, scale=1e4)
    method = METHODS["dpok"] | {"prompts_per_round": 4, "group_size": 8, "value_function": None}
    experience = build(method, large).experience
    experience.collect(policy, torch_generator(0, "round", 0))
    from components.finetuning.experience.drawing import draw, reward_of

    drawn = draw(experience.context, policy, experience.text, [0, 1, 2, 3], 8, torch_generator(1))
    found = reward_of(experience.context, drawn)
    for part in found.parts.values():
        centred = part - part.view(4, 8).mean(1).repeat_interleave(8)
        alike = torch.corrcoef(torch.stack([found.reward, centred]))[0, 1]
        assert abs(float(alike)) > 0.3


def test_a_part_that_is_no_number_is_named(project: Any) -> None:
    broken = {"label": "eye", "scorer": plug("broken", good_calls=0)}
    settings, context = project(METHODS["dpok"], reward=several(RED, broken))
    with pytest.raises(QuarantinedData, match=r"reward part 'eye': 1 of .* rewards are not finite"):
        run(settings, context)
    assert not outs(context.root) and not checkpoints(context)


def test_a_run_with_several_rewards_goes_on_to_the_same_bytes(project: Any) -> None:
    from components.contracts.errors import TransientError
    from components.finetuning import fit as loop

    rewards = several(RED, GREEN)
    # One method that draws its images once, so that their figures come from the checkpoint.
    settings, whole = project(METHODS["supervised"], name="whole", reward=rewards)
    run(settings, whole)
    settings, parts = project(METHODS["supervised"], name="parts", reward=rewards)
    honest = loop._collect

    def away(state: Any, around: Any) -> Any:
        if state.history.rounds == 2:
            raise TransientError("away")
        return honest(state, around)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_collect", away)
        with pytest.raises(TransientError):
            run(settings, parts)
    run(settings, parts)
    assert outs(parts.root) == outs(whole.root)


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (several(), "at least 1 item"),
        (several({"weight": 0.0, "scorer": plug("redness")}), "leave the part out"),
        (several(RED, RED), "two parts are called red: give each a label of its own"),
        (several({"scorer": plug("redness")}, {"scorer": plug("greenness")}), "called python"),
        (several({"scorer": several(RED)}), "does not match any of the expected tags"),
        (several({"weight": math.nan, "scorer": plug("redness")}), "finite number"),
    ],
)
def test_settings_that_make_no_sense(reward: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Settings.model_validate_json(json.dumps(block(METHODS["dpok"], reward=reward)))


def test_a_gradient_needs_every_part() -> None:
    black_box = {"label": "eye", "scorer": plug("redness") | {"differentiable": False}}
    for parts, flows in (((RED, GREEN), True), ((RED, black_box), False)):
        settings = Settings.model_validate_json(
            json.dumps(block(METHODS["draft"], reward=several(*parts)))
        )
        assert settings.reward.differentiable is flows
