"""Images drawn once from the pretrained model and labelled with their rewards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from components.diffusion import Conditioning, Policy, sample_images
from components.finetuning.batches import LabelledSamples
from components.finetuning.experience.scoring import score
from components.finetuning.interfaces import MethodContext, Round

if TYPE_CHECKING:
    from components.finetuning.algorithms.supervised import SupervisedSettings


class DrawnOnce:
    """The supervised baseline's data: drawn in the first round, trained on in all of them."""

    def __init__(self, settings: SupervisedSettings, context: MethodContext) -> None:
        self.settings = settings
        self.context = context
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.samples: dict[str, Tensor] = {}
        """`x0` [n c h w], `prompt` [n] and `reward` [n] (as scored), once drawn."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[LabelledSamples]:
        """Batches drawn without replacement within an update.

        Raises:
            QuarantinedData, GuardError: the scorer's rewards must not be trained on.
        """
        num_drawn = 0
        if not self.samples:
            self.samples = self._draw(policy, generator)
            num_drawn = len(self.samples["reward"])
        metrics = {
            "reward": float(self.samples["reward"].mean()),
            "reward_std": float(self.samples["reward"].std(correction=0)),
        }
        return Round(self._updates(generator), num_drawn, metrics)

    def _draw(self, policy: Policy, generator: torch.Generator) -> dict[str, Tensor]:
        settings = self.settings
        pool = self.context.prompts
        places = pool.draw(settings.num_images // settings.group_size, generator)
        prompt = torch.tensor(places).repeat_interleave(settings.group_size)
        seeds = torch.randint(2**62, (len(prompt),), generator=generator).tolist()
        texts = [pool.prompts[place] for place in prompt.tolist()]
        images, x0 = sample_images(
            policy, texts, seeds, adapter="reference", description="drawing the base's images"
        )
        reward = score(self.context.scorer, images, texts, self.context.batch_size)
        return {"x0": x0, "prompt": prompt, "reward": reward}

    def _updates(self, generator: torch.Generator) -> Iterator[list[LabelledSamples]]:
        for _ in range(self.settings.updates_per_round):
            order = torch.randperm(len(self.samples["reward"]), generator=generator)
            rows = order[: self.settings.samples_per_update]
            yield [self._batch(part) for part in rows.split(self.context.batch_size)]

    def _batch(self, rows: Tensor) -> LabelledSamples:
        device = self.context.policy.device
        reward = self.samples["reward"]
        if self.settings.reward_transform == "non_negative":
            reward = reward - reward.min()
        return LabelledSamples(
            x0=self.samples["x0"][rows].to(device),
            conditioning=self.text[self.samples["prompt"][rows]],
            reward=reward[rows].to(device),
        )

    def state(self) -> dict[str, Tensor]:
        """The labelled samples."""
        return self.samples

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.samples = dict(state)
