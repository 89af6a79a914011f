"""Scorers and a judge that tests name by dotted path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from components.contracts.protocols import Feedback


class Redness:
    """Mean of the red channel, 0 to 10."""

    error_rate = 0.0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, 0].float().mean(dim=(1, 2)) / 25.5

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 10 * pixels[:, 0].mean(dim=(1, 2))

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score(images, prompts) > 5


class Constant(Redness):
    """The same for all images."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(images))

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return 1 + 0 * super().score_pixels(pixels, prompts)


class Broken(Redness):
    """Not a number for the last image of each batch, after a while."""

    def __init__(self, good_calls: int) -> None:
        self.good_calls = good_calls

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.after_a_while(super().score(images, prompts))

    def score_pixels(self, pixels: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.after_a_while(super().score_pixels(pixels, prompts))

    def after_a_while(self, rewards: Tensor) -> Tensor:
        self.good_calls -= 1
        bad = torch.zeros(len(rewards))
        if self.good_calls < 0:
            bad[-1] = torch.nan
        return rewards + bad


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
