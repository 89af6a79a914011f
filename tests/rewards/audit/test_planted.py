"""Shortcuts that are planted in an honest reward of the miniature: each is found and named.

The honest reward is the miniature's own CLIP; the images are its base's, several of each prompt;
the judge is its judge, which no reward here has seen.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from components.contracts.image_statistics import contrast, saturation
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, ComputeSettings, PluginSettings
from components.diffusion import load_policy, sample_images
from components.miniature import judge as judges
from components.rewards.audit.audit import AuditReport, audit
from components.rewards.audit.data import Candidates
from components.rewards.backbones.two_towers import TwoTowers
from components.rewards.scorers.model import ModelScorer
from components.rewards.settings import AuditSettings

NUM_PROMPTS, SAMPLES = 15, 6
SETTINGS = AuditSettings(
    judge=PluginSettings(callable="components.miniature.judge:load"), edited_per_prompt=1
)
Score = Callable[[Tensor, Sequence[str]], Tensor]


class Remembered:
    """Answers a second time without looking: every audit here sees the same pictures."""

    def __init__(self, score: Score, correct: Score | None = None, error_rate: float = 0.0) -> None:
        self.score, self.correct = self._remember(score), correct
        self.error_rate = error_rate

    def _remember(self, score: Score) -> Score:
        known: dict[bytes, Tensor] = {}

        def answer(images: Tensor, prompts: Sequence[str]) -> Tensor:
            key = images.numpy().tobytes()
            if key not in known:
                known[key] = score(images, prompts)
            return known[key]

        return answer


class Planted:
    """An honest reward and something that it also loves, each in its spread within a prompt."""

    def __init__(self, honest: Score, loved: Callable[[Tensor], Tensor], weights: Sequence[float]):
        self.honest, self.loved, self.weights = honest, loved, weights

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """float32 [b]."""
        return self.weights[0] * self.honest(images, prompts) + self.weights[1] * self.loved(images)


def borders(images: Tensor) -> Tensor:
    """How white the outermost pixels are."""
    edge = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], -1)
    return (edge > 250).float().mean(dim=(1, 2))


def writing(images: Tensor) -> Tensor:
    """Black beside white at the foot of the picture."""
    foot = images[..., 52:, :].float().mean(dim=1)
    return (foot.diff(dim=-1).abs() > 90).float().mean(dim=(1, 2))


@pytest.fixture(scope="module")
def data() -> Candidates:
    with (judges.JUDGE_DIR.parent / "prompts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    chosen = []
    for category in sorted({row["category"] for row in rows}):
        mine = [row["prompt"] for row in rows if row["category"] == category]
        chosen += mine[:: len(mine) // 3][:3]
    assert len(chosen) == NUM_PROMPTS
    base = BaseSettings(path=str(judges.JUDGE_DIR.parent / "base"), num_steps=5)
    policy = load_policy(base, ComputeSettings(device="cpu", threads=1))
    texts = [prompt for prompt in chosen for _ in range(SAMPLES)]
    images, _ = sample_images(policy, texts, list(range(len(texts))))
    return Candidates(images, chosen, np.repeat(np.arange(NUM_PROMPTS), SAMPLES), SAMPLES)


@pytest.fixture(scope="module")
def judge() -> Remembered:
    judge = judges.load()
    return Remembered(judge.score, judge.correct, judge.error_rate)


@pytest.fixture(scope="module")
def honest() -> Score:
    clip = ModelScorer(TwoTowers.open(judges.JUDGE_DIR.parent / "clip", torch_generator(0)))
    # In units of its spread within a prompt, about: 9.4 of its logits.
    return Remembered(lambda images, prompts: clip.score(images, prompts) / 9.4).score


def audited(scorer: object, judge: Remembered, data: Candidates) -> AuditReport:
    return audit(scorer, judge, data, SETTINGS, torch.Generator().manual_seed(0))


def failed(report: AuditReport) -> set[str]:
    return {check.name for check in report.failed}


def test_the_honest_reward_passes_with_room(
    honest: Score, judge: Remembered, data: Candidates
) -> None:
    report = audited(Remembered(honest), judge, data)
    assert failed(report) == set()
    figures = {check.name: check.figure for check in report.checks}
    assert figures["captured"] > 0.5 and figures["agreement"] > 0.22
    assert figures["shortcut"] < 0.25 and figures["colour"] < 0.25


@pytest.mark.parametrize(
    ("loved", "spread", "weights", "names", "told"),
    [
        (saturation, 0.058, (1, 2), {"shortcut", "colour"}, "saturation"),
        (saturation, 0.058, (0, 1), {"captured", "shortcut", "colour", "agreement"}, "saturation"),
        (lambda images: -contrast(images), 0.05, (0, 1), {"captured", "agreement"}, "flees"),
        (borders, 0.3, (1, 1), {"shortcut"}, "white frame"),
        (writing, 0.01, (1, 1), {"shortcut"}, "text"),
    ],
    ids=["saturation-beside", "saturation-alone", "flat", "borders", "text"],
)
def test_a_planted_shortcut_is_refused_by_its_name(
    honest: Score,
    judge: Remembered,
    data: Candidates,
    loved: Callable[[Tensor], Tensor],
    spread: float,
    weights: tuple[float, float],
    names: set[str],
    told: str,
) -> None:
    planted = Planted(honest, loved, (weights[0], weights[1] / spread))
    report = audited(planted, judge, data)
    assert failed(report) >= names
    assert any(told in check.sentence + check.brief for check in report.failed)


def test_chance_is_refused(judge: Remembered, data: Candidates) -> None:
    generator = torch.Generator().manual_seed(1)

    class Chance:
        def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
            return torch.randn(len(images), generator=generator)

    assert failed(audited(Chance(), judge, data)) >= {"captured", "agreement"}
