"""Prompts and seeds: what methods that differentiate through sampling are given to draw."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.diffusion import Conditioning, Policy
from components.finetuning.batches import LabelledSamples, Prompts
from components.finetuning.experience.drawing import draw
from components.finetuning.experience.reference_samples import ReferenceSamples
from components.finetuning.interfaces import MethodContext, Round

if TYPE_CHECKING:
    from components.finetuning.algorithms.sampling_gradient import SamplingGradientSettings


class PromptRounds:
    """Prompts of a round, balanced over categories; every image is drawn by the loss, once.

    The reward of a round is therefore the loss's to tell. Drift is watched on images of fixed
    prompts and fixed noise, one batch of the policy, drawn without a graph before the updates: the
    differences from round to round are the policy's. They are trained on by nobody, and
    `num_images` does not count them.
    """

    def __init__(
        self,
        settings: SamplingGradientSettings,
        context: MethodContext,
        *,
        pretraining: ReferenceSamples | None = None,
    ) -> None:
        """Args:
        settings: how many prompts and images.
        context: of the method.
        pretraining: offered in updates of their own, one after each update on prompts.
        """
        self.settings, self.context, self.pretraining = settings, context, pretraining
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        watched = max(1, context.policy.batch_size // 2)
        self.watched = context.prompts.draw(watched, context.generator("drift"))
        """Places of the prompts whose images are watched, two images of each."""

    def collect(
        self, policy: Policy, generator: torch.Generator
    ) -> Round[Prompts | LabelledSamples]:
        """One round; samples for a pre-training term are drawn in the first."""
        settings = self.settings
        seen = draw(
            self.context,
            policy,
            self.text,
            self.watched,
            2,
            self.context.generator("drift", "noise"),
            keep_trajectories=False,
        )
        size = settings.prompts_per_update * settings.group_size
        num_images = size * settings.updates_per_round
        if self.pretraining is not None and not len(self.pretraining):
            self.pretraining.draw(policy, generator)
            num_images += len(self.pretraining)
        return Round(self._updates(generator), num_images, {}, seen.drift())

    def _updates(
        self, generator: torch.Generator
    ) -> Iterator[list[Prompts] | list[LabelledSamples]]:
        settings = self.settings
        for _ in range(settings.updates_per_round):
            places = self.context.prompts.draw(settings.prompts_per_update, generator)
            prompt = torch.tensor(places).repeat_interleave(settings.group_size)
            seeds = torch.randint(2**62, (len(prompt),), generator=generator)
            rows = torch.arange(len(prompt)).split(self.context.batch_size)
            yield [self._batch(prompt[part], seeds[part]) for part in rows]
            if self.pretraining is not None:
                yield self.pretraining.batches(len(prompt), generator)

    def _batch(self, prompt: Tensor, seeds: Tensor) -> Prompts:
        texts = [self.context.prompts.prompts[place] for place in prompt.tolist()]
        return Prompts(texts, self.text[prompt], seeds.tolist())

    def state(self) -> dict[str, Tensor]:
        """The samples of the pre-training term."""
        return self.pretraining.state() if self.pretraining is not None else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        if self.pretraining is not None:
            self.pretraining.load_state(state)
