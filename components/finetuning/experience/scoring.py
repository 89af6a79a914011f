"""Rewards of images, batch by batch, and checked before anybody computes with them.

Of several rewards a method learns from one: each part is normalised among the images of a prompt
before the weights apply, and the curves tell the parts as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.protocols import Scorer, SeveralScorers
from components.finetuning.guards import check_rewards
from components.finetuning.losses.several import combined_in_groups, combined_with_gradient
from components.finetuning.requirements import DIFFERENTIABLE
from components.rewards.scorers.several import score_with_parts, weighted_sum

FIGURE = "figure."


@dataclass(frozen=True)
class Scored:
    """Rewards of n images."""

    reward: Float[Tensor, " n"]
    """What a method learns from."""
    raw: Float[Tensor, " n"]
    """As the scorer gives them: of several rewards the weighted sum."""
    parts: Mapping[str, Float[Tensor, " n"]] = field(default_factory=dict)
    """Of several rewards each one, not weighted, by its label."""
    flat: Mapping[str, int] = field(default_factory=dict)
    """Of several rewards the groups in which each tells no two images apart."""

    def figures(self) -> dict[str, float]:
        """For the curves: mean and deviation of the raw reward, and what `part_figures` tells."""
        return {**reward_figures(self.raw), **self.part_figures()}

    def part_figures(self) -> dict[str, float]:
        """Mean of each part, and its flat groups; nothing for a single reward."""
        means = {f"reward/{label}": float(part.mean()) for label, part in self.parts.items()}
        return means | {f"flat_groups/{label}": float(n) for label, n in self.flat.items()}


def reward_figures(reward: Float[Tensor, " n"]) -> dict[str, float]:
    """Mean and standard deviation of a round's rewards, for the curves."""
    return {"reward": float(reward.mean()), "reward_std": float(reward.std(correction=0))}


def stored(figures: Mapping[str, float]) -> dict[str, Float64[Tensor, ""]]:
    """Figures as tensors, to be saved with images that are drawn once."""
    return {
        f"{FIGURE}{name}": torch.tensor(value, dtype=torch.float64)
        for name, value in figures.items()
    }


def restored(tensors: Mapping[str, Tensor]) -> dict[str, float]:
    """The figures among saved tensors."""
    return {
        name.removeprefix(FIGURE): float(tensor)
        for name, tensor in tensors.items()
        if name.startswith(FIGURE)
    }


def score(
    scorer: Scorer, images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], batch_size: int
) -> Scored:
    """Rewards on the CPU, as the scorer gives them: what a look at the policy tells.

    Raises:
        QuarantinedData: a reward is not finite.
        GuardError: all of them are the same.
    """
    found = _score(scorer, images, prompts, batch_size)
    check_rewards(found.raw, prompts)
    return found


def score_to_learn(
    scorer: Scorer, images: UInt8[Tensor, "n 3 h w"], prompts: Sequence[str], batch_size: int
) -> Scored:
    """Rewards on the CPU, of which several are normalised among the images of the same prompt.

    Raises:
        QuarantinedData: a reward is not finite.
        GuardError: all of them are the same.
        SettingsError: several rewards, and one image of every prompt.
    """
    found = _score(scorer, images, prompts, batch_size)
    if isinstance(scorer, SeveralScorers):
        group = groups_of(prompts)
        if int(group.max()) + 1 == len(group):
            raise SettingsError(
                "several rewards are normalised among the images of a prompt, and there is one "
                "image of each",
                allowed="a group_size of 2 or more, or a single reward",
            )
        parts = torch.stack(list(found.parts.values()))
        combined = combined_in_groups(parts, scorer.weights, group)
        flat = dict(zip(scorer.labels, combined.num_flat_groups.tolist(), strict=True))
        found = Scored(combined.reward, found.raw, found.parts, flat)
    check_rewards(found.reward, prompts)
    return found


def groups_of(prompts: Sequence[str]) -> Int64[Tensor, " n"]:
    """The number of each prompt, in the order in which they first come.

    Worked: (fox, fox, cow, fox) gives (0, 0, 1, 0).
    """
    numbers = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    return torch.tensor([numbers[prompt] for prompt in prompts], dtype=torch.long)


def _score(scorer: Scorer, images: Tensor, prompts: Sequence[str], batch_size: int) -> Scored:
    scores, parts = [], []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        found, of_parts = score_with_parts(scorer, images[rows], prompts[rows])
        scores.append(found)
        parts.append(of_parts)
    joined = {
        label: torch.cat([of_parts[label] for of_parts in parts]).cpu()
        for label in (parts[0] if parts else ())
    }
    raw = torch.cat(scores).cpu()
    return Scored(raw, raw, joined)


def differentiable(scorer: Scorer) -> Scorer:
    """The scorer itself, if gradients flow through it.

    Raises:
        SettingsError: it is a black box.
    """
    if not scorer.differentiable:
        raise SettingsError("no gradient flows through this reward", allowed=DIFFERENTIABLE)
    return scorer


def score_with_gradient(
    scorer: Scorer, pixels: Float[Tensor, "b 3 h w"], prompts: Sequence[str]
) -> Scored:
    """Rewards of pixels in [0, 1], with the graph of what is learnt from.

    Several rewards are put on one scale by the statistics of this batch.

    Raises:
        QuarantinedData: a reward is not finite.
        GuardError: all of them are the same.
        SettingsError: several rewards, and a single image.
    """
    if not isinstance(scorer, SeveralScorers):
        reward = scorer.score(pixels, prompts)
        found = Scored(reward, reward.detach())
    else:
        if len(pixels) == 1:
            raise SettingsError(
                "several rewards are normalised within a batch, and this one has a single image",
                allowed="prompts_per_update · group_size and base.batch_size that leave no image "
                "alone, or a single reward",
            )
        parts = scorer.score_parts(pixels, prompts)
        combined = combined_with_gradient(parts, scorer.weights)
        seen = parts.detach()
        found = Scored(
            combined.reward,
            weighted_sum(seen, scorer.weights),
            dict(zip(scorer.labels, seen, strict=True)),
            dict(zip(scorer.labels, combined.num_flat_groups.tolist(), strict=True)),
        )
    check_rewards(found.reward.detach().cpu(), prompts)
    return found
