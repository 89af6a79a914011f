"""Scorers and a judge that tests name by dotted path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Redness:
    """Mean of the red channel, 0 to 10."""

    error_rate = 0.0

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return images[:, 0].float().mean(dim=(1, 2)) / 25.5

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return self.score(images, prompts) > 5


class Constant(Redness):
    """The same for all images."""

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.ones(len(images))


class Broken(Redness):
    """Not a number for the last image of each batch, after a while."""

    def __init__(self, good_calls: int) -> None:
        self.good_calls = good_calls

    def score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        rewards = super().score(images, prompts)
        self.good_calls -= 1
        if self.good_calls < 0:
            rewards[-1] = torch.nan
        return rewards


class Fickle(Redness):
    """A judge that calls everything correct at its first look and nothing later."""

    def __init__(self) -> None:
        self.looks = 0

    def correct(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        self.looks += 1
        return torch.full((len(images),), self.looks <= 1)


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


def no_judge() -> NoJudge:
    return NoJudge()
