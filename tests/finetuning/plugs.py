"""Scorers and a judge that tests name by dotted path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts.protocols import Feedback
from components.rewards.pictures import as_float


class Redness:
    """Mean of the red channel, 0 to 10."""

    error_rate = 0.0
    differentiable = True

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 10 * as_float(images)[:, 0].mean(dim=(1, 2))

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score(images, prompts) > 5


def greenness(images: Tensor, prompts: Sequence[str], *, scale: float = 1.0) -> Tensor:
    """Mean of the green channel, 0 to `scale`, as a plain function."""
    return scale * as_float(images)[:, 1].mean(dim=(1, 2))


class Constant(Redness):
    """The same for all images."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return 1 + 0 * super().score(images, prompts)


class Broken(Redness):
    """Not a number for the last image of each batch, after a while."""

    def __init__(self, good_calls: int) -> None:
        self.good_calls = good_calls

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        rewards = super().score(images, prompts)
        self.good_calls -= 1
        bad = torch.zeros(len(rewards))
        if self.good_calls < 0:
            bad[-1] = torch.nan
        return rewards + bad


def faulty(images: Tensor, prompts: Sequence[str], *, fault: str) -> Tensor:
    """Redness as a plain function, with a fault in what it gives."""
    rewards = Redness().score(images, prompts)
    if fault == "infinite":
        return rewards / 0
    if fault == "the same for all":
        return rewards * 0 + 3
    if fault == "one for all":
        return rewards.mean()
    return rewards[1:]


class Fickle(Redness):
    """A judge that calls everything correct at its first look and nothing later."""

    def __init__(self) -> None:
        self.looks = 0

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.looks += 1
        return torch.full((len(images),), self.looks <= 1)


class RedPeople:
    """People to whom the reddest images of each prompt are good."""

    def __init__(self, good_share: float) -> None:
        self.good_share = good_share

    def label(self, images: Tensor, prompts: Sequence[str], generator: torch.Generator) -> Feedback:
        rank = Redness().score(images, prompts)
        good = torch.zeros(len(prompts), dtype=torch.bool)
        for prompt in set(prompts):
            rows = torch.tensor([other == prompt for other in prompts])
            good[rows] = rank[rows] >= rank[rows].quantile(1 - self.good_share)
        return Feedback(good, rank)


class StepRedness:
    """Redness that counts for more the less noise there is."""

    def score(self, images: Tensor, prompts: Sequence[str], noise: Tensor) -> Tensor:
        return Redness().score(images, prompts) * (1.5 - noise)


class NoJudge:
    """Cannot tell what is correct."""


def redness() -> Redness:
    return Redness()


def constant() -> Constant:
    return Constant()


def broken(good_calls: int) -> Broken:
    return Broken(good_calls)


def fickle() -> Fickle:
    return Fickle()


def labeller(good_share: float) -> RedPeople:
    return RedPeople(good_share)


def step_redness() -> StepRedness:
    return StepRedness()


def no_judge() -> NoJudge:
    return NoJudge()
