"""Labelled rounds: images of some prompts, what people say of them, and pairs of their steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.diffusion import Conditioning, Policy
from components.finetuning.batches import StepPairs
from components.finetuning.experience.drawing import Drawn, draw
from components.finetuning.experience.labelling import RewardLabeller
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.labels import build_labeller

if TYPE_CHECKING:
    from components.finetuning.algorithms.d3po import D3POSettings


class Pairs(NamedTuple):
    """Rows of images, the better one first, and how many pairs were a tie."""

    winner: Int64[Tensor, " p"]
    loser: Int64[Tensor, " p"]
    num_ties: int


def pairs_in_order(order: Float[Tensor, " n"], group: Int64[Tensor, " n"]) -> Pairs:
    """All pairs within a group that `order` (higher is better) decides.

    Worked: order (1, 3, 1 | 5, 5) in groups (0, 0, 0 | 1, 1). Image 1 beats images 0 and 2; these
    two are a tie, and so are images 3 and 4: winners (1, 1), losers (0, 2), two ties.
    """
    better = (order[:, None] > order[None, :]) & (group[:, None] == group[None, :])
    winner, loser = better.nonzero(as_tuple=True)
    sizes = torch.bincount(group)
    num_pairs = int((sizes * (sizes - 1) // 2).sum())
    return Pairs(winner, loser, num_pairs - len(winner))


class RankedRollouts:
    """D3PO's loop up to the loss: rollouts, labels, pairs. Only the label count is remembered."""

    def __init__(self, settings: D3POSettings, context: MethodContext) -> None:
        self.settings, self.context = settings, context
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.labeller = build_labeller(settings.labels, context)
        self.num_labels = 0
        """Images that people have looked at so far."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[StepPairs]:
        """Draw a round, have it labelled, and offer its pairs `inner_epochs` times.

        Raises:
            QuarantinedData, GuardError: the reward's scores must not be trained on.
            SettingsError: a labeller's answer has another shape than the request.
        """
        settings = self.settings
        places = self.context.prompts.draw(settings.prompts_per_round, generator)
        drawn = draw(self.context, policy, self.text, places, settings.group_size, generator)
        feedback = self.labeller.label(drawn.images, drawn.texts, generator)
        self.num_labels += len(drawn.images)
        order = feedback.rank if settings.order == "ranking" else feedback.good.float()
        pairs = pairs_in_order(order, drawn.group)
        metrics = {
            "labels": float(self.num_labels),
            "good": float(feedback.good.float().mean()),
            "pairs": float(len(pairs.winner)),
            "ties": float(pairs.num_ties),
        }
        if isinstance(self.labeller, RewardLabeller) and self.labeller.scored:
            metrics |= self.labeller.scored.figures()
        steps = policy.sampler.stochastic_steps
        updates = self._updates(drawn, pairs, steps, generator)
        return Round(updates, len(drawn.images), metrics, drawn.drift())

    def _updates(
        self, drawn: Drawn, pairs: Pairs, steps: Sequence[int], generator: torch.Generator
    ) -> Iterator[list[StepPairs]]:
        settings = self.settings
        decided = drawn.group[pairs.winner].unique()
        # A group is never split: each of its images is then predicted from once a step.
        together = max(1, self.context.batch_size // settings.group_size)
        for _ in range(settings.inner_epochs):
            groups = decided[torch.randperm(len(decided), generator=generator)]
            for part in groups.split(settings.prompts_per_update) if len(groups) else ():
                units = [(group, step) for group in part.tolist() for step in steps]
                yield [
                    self._batch(drawn, pairs, units[first : first + together])
                    for first in range(0, len(units), together)
                ]

    def _batch(self, drawn: Drawn, pairs: Pairs, units: Sequence[tuple[int, int]]) -> StepPairs:
        """The images of some groups, each at one step, with the pairs of these groups."""
        size, device = self.settings.group_size, self.context.policy.device
        images, steps, winners, losers = [], [], [], []
        for place, (group, step) in enumerate(units):
            # The images of a group lie side by side, first `group * size`.
            first = group * size
            images.append(torch.arange(first, first + size))
            steps.append(torch.full((size,), step))
            rows = drawn.group[pairs.winner] == group
            winners.append(pairs.winner[rows] - first + place * size)
            losers.append(pairs.loser[rows] - first + place * size)
        image, at_step = torch.cat(images), torch.cat(steps)
        return StepPairs(
            x_t=drawn.latents[image, at_step].to(device),
            step=at_step.to(device),
            conditioning=self.text[drawn.prompt[image]],
            x_prev=drawn.latents[image, at_step + 1].to(device),
            origin=torch.arange(len(image), device=device),
            winner=torch.cat(winners).to(device),
            loser=torch.cat(losers).to(device),
        )

    def state(self) -> dict[str, Tensor]:
        """The number of labels."""
        return {"labels": torch.tensor(self.num_labels)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.num_labels = int(state["labels"])
