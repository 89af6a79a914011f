"""Simulated people: annotators who compare two pictures of one prompt, each with an own taste.

An annotator's utility of a picture is a sum of how well the judge finds the prompt fulfilled and of
the picture's looks. The preference follows Bradley-Terry with a temperature; near equals are called
a tie, and now and then a label is flipped, as real people do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from components.contracts.protocols import Feedback
from components.miniature import judge as judges
from components.miniature.judge import Judge

A_WINS, B_WINS, TIE = 0, 1, 2
"""The three labels of a comparison."""

LOG_SCORE_FLOOR: Final = -4.0
"""Below this the judge's log-score tells nothing more: wrong is wrong."""


@dataclass(frozen=True)
class Taste:
    """What one annotator cares about; each weight multiplies a term in [0, 1].

    Attributes:
        prompt: weight of the prompt being fulfilled.
        colour: weight of lively but not glaring colour.
        sharpness: weight of clear outlines.
        cleanness: weight of smooth areas without specks.
    """

    prompt: float
    colour: float
    sharpness: float
    cleanness: float


@dataclass(frozen=True)
class People:
    """A group of annotators. All chance comes from the generator given to `compare`.

    Attributes:
        judge: the eyes of all of them.
        tastes: one per annotator.
        temperature: of the Bradley-Terry choice, in units of utility; above 0.
        tie_threshold: utilities nearer than this are a tie.
        flip_probability: how often a decided label is turned round, in [0, 0.5].
    """

    judge: Judge
    tastes: tuple[Taste, ...]
    temperature: float
    tie_threshold: float
    flip_probability: float

    @property
    def names(self) -> tuple[str, ...]:
        """One name per annotator."""
        return tuple(f"simulated-{i:02d}" for i in range(len(self.tastes)))

    def utility(self, images: Tensor, prompts: Sequence[str], annotator: int) -> Tensor:
        """Return how much `annotator` likes each picture.

        Args:
            images: uint8 [n, 3, h, w]; resized to the judge's 64 pixels if need be.
            prompts: n captions of the miniature world.
            annotator: index into `names`.

        Returns:
            float32 [n], between 0 and the sum of the annotator's weights.

        Raises:
            IndexError: there is no such annotator.
            ValueError: a prompt is not of this world, or the lengths differ.
        """
        if not 0 <= annotator < len(self.tastes):
            raise IndexError(f"annotator {annotator} of {len(self.tastes)}")
        taste = self.tastes[annotator]
        images = _at_judge_size(images)
        fulfilled = self.judge.log_score(images, prompts).clamp(min=LOG_SCORE_FLOOR)
        looks = aesthetics(images)
        return (
            taste.prompt * (1 - fulfilled / LOG_SCORE_FLOOR)
            + taste.colour * looks[:, 0]
            + taste.sharpness * looks[:, 1]
            + taste.cleanness * looks[:, 2]
        )

    def compare(
        self,
        images_a: Tensor,
        images_b: Tensor,
        prompts: Sequence[str],
        annotator: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Return which picture of each pair `annotator` prefers.

        Args:
            images_a: uint8 [n, 3, h, w].
            images_b: uint8 [n, 3, h, w].
            prompts: n captions of the miniature world, one per pair.
            annotator: index into `names`.
            generator: the only source of chance, on the CPU.

        Returns:
            int64 [n]: 0 where a wins, 1 where b wins, 2 for a tie.

        Raises:
            IndexError: there is no such annotator.
            ValueError: a prompt is not of this world, or the lengths differ.
        """
        gap = self.utility(images_a, prompts, annotator) - self.utility(
            images_b, prompts, annotator
        )
        prefers_a = torch.sigmoid(gap / self.temperature)
        chance = torch.rand((2, len(prompts)), generator=generator)
        label = torch.where(chance[0] < prefers_a, A_WINS, B_WINS)
        label = torch.where(chance[1] < self.flip_probability, 1 - label, label)
        return torch.where(gap.abs() < self.tie_threshold, TIE, label)


def build(
    num_annotators: int = 5,
    temperature: float = 0.15,
    tie_threshold: float = 0.03,
    flip_probability: float = 0.03,
    *,
    seed: int = 0,
    prompt_weight: float = 1.0,
    aesthetic_weight: float = 0.3,
    judge: Judge | None = None,
) -> People:
    """Return a group of annotators with tastes drawn from `seed`.

    Args:
        num_annotators: at least 1.
        temperature: above 0; small means decided.
        tie_threshold: at least 0, in units of utility.
        flip_probability: in [0, 0.5].
        seed: of the tastes only.
        prompt_weight: mean weight of the prompt in a taste.
        aesthetic_weight: mean weight of the looks, spread over their three terms.
        judge: the eyes; the shipped judge when None.

    Raises:
        ValueError: a number is out of its range; the message names it.
    """
    if num_annotators < 1:
        raise ValueError(f"num_annotators must be at least 1, not {num_annotators}")
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature}")
    if tie_threshold < 0:
        raise ValueError(f"tie_threshold must be at least 0, not {tie_threshold}")
    if not 0 <= flip_probability <= 0.5:
        raise ValueError(f"flip_probability must be in [0, 0.5], not {flip_probability}")
    rng = np.random.default_rng(seed)
    tastes = []
    for _ in range(num_annotators):
        prompt = prompt_weight * float(rng.uniform(0.7, 1.3))
        parts = aesthetic_weight * rng.uniform(0.5, 1.5) * rng.dirichlet((3.0, 3.0, 3.0))
        tastes.append(Taste(prompt, *(float(part) for part in parts)))
    return People(
        judge if judge is not None else judges.load(),
        tuple(tastes),
        temperature,
        tie_threshold,
        flip_probability,
    )


@dataclass(frozen=True)
class PatientLabeller:
    """Somebody who looks at every image of a round, good or bad, and orders those of a prompt.

    Attributes:
        judge: the eyes.
        flip_probability: how often good and bad are taken for each other, in [0, 1].
    """

    judge: Judge
    flip_probability: float

    def label(self, images: Tensor, prompts: Sequence[str], generator: torch.Generator) -> Feedback:
        """Return what is good, and how good each image is.

        Good is what the judge calls correct, but for the flips. The rank is the judge's log-score,
        floored like that of the people who compare; whatever was called good, by mistake or not,
        ranks before whatever was called bad.

        Args:
            images: uint8 [n, 3, h, w]; resized to the judge's 64 pixels if need be.
            prompts: n captions of the miniature world.
            generator: the only source of chance, on the CPU.

        Raises:
            ValueError: a prompt is not of this world, or the lengths differ.
        """
        images = _at_judge_size(images)
        correct = self.judge.correct(images, prompts)
        flipped = torch.rand(len(correct), generator=generator) < self.flip_probability
        good = correct ^ flipped
        rank = self.judge.log_score(images, prompts).clamp(min=LOG_SCORE_FLOOR)
        return Feedback(good, rank + torch.where(good, 1 - LOG_SCORE_FLOOR, 0.0))


def build_labeller(
    flip_probability: float = 0.05, *, judge: Judge | None = None
) -> PatientLabeller:
    """Return somebody who labels rounds of images (protocol `Labeller`).

    This person sees with the judge: what is trained on such labels must not be evaluated by it as
    if it were held out.

    Args:
        flip_probability: in [0, 1].
        judge: the eyes; the shipped judge when None.

    Raises:
        ValueError: a number is out of its range; the message names it.
    """
    if not 0 <= flip_probability <= 1:
        raise ValueError(f"flip_probability must be in [0, 1], not {flip_probability}")
    return PatientLabeller(judge if judge is not None else judges.load(), flip_probability)


def aesthetics(images: Tensor) -> Tensor:
    """Return three looks of each picture, each in [0, 1]: colour, sharpness, cleanness.

    Colour is best at a middle chroma of the most colourful third of the picture; sharpness is the
    contrast of the strongest edges; cleanness is the stillness of the smoother half.

    Args:
        images: uint8 [n, 3, h, w].

    Returns:
        float32 [n, 3].
    """
    x = images.float() / 255
    chroma = (x.amax(1) - x.amin(1)).flatten(1)
    lively = chroma.topk(max(1, chroma.shape[1] // 3), dim=1).values.mean(1)
    colour = (1 - (lively - 0.55).abs() / 0.55).clamp(0, 1)
    grey = x.mean(1)
    dx = (grey[:, :, 1:] - grey[:, :, :-1]).abs().flatten(1)
    dy = (grey[:, 1:] - grey[:, :-1]).abs().flatten(1)
    edges = torch.cat((dx, dy), 1)
    sharpness = (edges.quantile(0.97, dim=1) / 0.5).clamp(0, 1)
    cleanness = (1 - edges.quantile(0.4, dim=1) / 0.04).clamp(0, 1)
    return torch.stack((colour, sharpness, cleanness), 1)


def _at_judge_size(images: Tensor) -> Tensor:
    if images.shape[-2:] == (64, 64):
        return images
    resized = functional.interpolate(images.float(), (64, 64), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
