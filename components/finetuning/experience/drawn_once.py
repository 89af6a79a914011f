"""Images drawn once from the pretrained model and labelled with their rewards.

What differs between methods is handed in, one small piece each:

    weigh         from rewards to how much each image counts    reward_transform, HIVE's weights
    factor        by what this weight is multiplied             Lee et al.'s prompt classification
    describe      what is added to the prompts                  HIVE's quality phrases
    pretraining   samples without rewards beside them           Lee et al.'s second term
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from components.contracts.errors import GuardError
from components.diffusion import Conditioning, Policy
from components.finetuning.batches import LabelledSamples
from components.finetuning.experience.reference_samples import (
    ReferenceSamples,
    draw_from_reference,
)
from components.finetuning.experience.scoring import restored, score_to_learn, stored
from components.finetuning.interfaces import MethodContext, Round

Weigh = Callable[[Float[Tensor, " n"]], Float[Tensor, " n"]]
"""From the rewards of all images to their weights."""
Factor = Callable[
    [UInt8[Tensor, "n 3 H W"], Sequence[int], Float[Tensor, " n"], torch.Generator],
    Float[Tensor, " n"],
]
"""From images, places of their prompts, and rewards, while the images are at hand."""
Describe = Callable[[Sequence[str], Float[Tensor, " n"]], Sequence[str]]
"""From the prompts and rewards of all images to the texts that the policy is trained with."""


class DrawnOnceSettings(Protocol):
    """What a method's settings say of images that are drawn once."""

    @property
    def num_images(self) -> int:
        """Images drawn once, balanced over categories; all of them before the first update."""
        ...

    @property
    def group_size(self) -> int:
        """Images of one prompt among them."""
        ...

    @property
    def updates_per_round(self) -> int:
        """Optimizer steps between two checkpoints."""
        ...

    @property
    def samples_per_update(self) -> int:
        """Samples whose gradients one step accumulates."""
        ...


class DrawnOnce:
    """Offline data: drawn in the first round, trained on in all of them."""

    def __init__(
        self,
        settings: DrawnOnceSettings,
        context: MethodContext,
        *,
        weigh: Weigh,
        factor: Factor | None = None,
        describe: Describe | None = None,
        pretraining: ReferenceSamples | None = None,
    ) -> None:
        """Args:
        settings: how many images and updates.
        context: of the method.
        weigh: becomes the `reward` of the batches.
        factor: multiplies it; None is 1.
        describe: None takes the prompts as they are.
        pretraining: as many samples of it come with each batch; None is none.
        """
        self.settings, self.context = settings, context
        self.weigh, self.factor, self.describe = weigh, factor, describe
        self.pretraining = pretraining
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.samples: dict[str, Tensor] = {}
        """`x0` [n c h w], `prompt` [n], `reward` [n], where one is wanted `factor` [n], and the
        figures of the rewards, once drawn."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[LabelledSamples]:
        """Batches drawn without replacement within an update.

        Raises:
            QuarantinedData, GuardError: the scorer's rewards must not be trained on, or no image
                has a weight other than zero.
        """
        num_drawn = 0
        if not self.samples:
            self.samples = self._draw(policy, generator)
            num_drawn = len(self.samples["reward"])
            if self.pretraining is not None:
                self.pretraining.draw(policy, generator)
                num_drawn += len(self.pretraining)
        metrics = restored(self.samples)
        if "factor" in self.samples:
            metrics["factor"] = float(self.samples["factor"].mean())
        return Round(self._updates(generator), num_drawn, metrics)

    def weights(self) -> Float[Tensor, " n"]:
        """How much each of the drawn images counts.

        Raises:
            GuardError: none of them does.
        """
        weights = self.weigh(self.samples["reward"])
        if "factor" in self.samples:
            weights = weights * self.samples["factor"]
        if not bool((weights != 0).any()):
            raise GuardError(
                f"all {len(weights)} images have weight 0: there is nothing to learn from them"
            )
        return weights

    def texts(self) -> list[str]:
        """What the policy is told of each of the drawn images."""
        texts = [self.context.prompts.prompts[place] for place in self.samples["prompt"].tolist()]
        return list(self.describe(texts, self.samples["reward"])) if self.describe else texts

    def _draw(self, policy: Policy, generator: torch.Generator) -> dict[str, Tensor]:
        settings, context = self.settings, self.context
        images, x0, prompt = draw_from_reference(
            context, policy, settings.num_images, settings.group_size, generator
        )
        places = prompt.tolist()
        texts = [context.prompts.prompts[place] for place in places]
        scored = score_to_learn(context.scorer, images, texts, context.batch_size)
        reward = scored.reward
        samples = {"x0": x0, "prompt": prompt, "reward": reward, **stored(scored.figures())}
        if self.factor:
            samples["factor"] = self.factor(images, places, reward, generator)
        return samples

    def _updates(self, generator: torch.Generator) -> Iterator[list[LabelledSamples]]:
        weights, texts = self.weights(), self.texts() if self.describe else None
        for _ in range(self.settings.updates_per_round):
            order = torch.randperm(len(weights), generator=generator)
            rows = order[: self.settings.samples_per_update]
            parts = rows.split(self.context.batch_size)
            beside = (
                self.pretraining.batches(len(rows), generator)
                if self.pretraining is not None
                else []
            )
            yield [
                self._batch(part, weights, texts, beside[number] if beside else None)
                for number, part in enumerate(parts)
            ]

    def _batch(
        self,
        rows: Tensor,
        weights: Tensor,
        texts: Sequence[str] | None,
        pretraining: LabelledSamples | None,
    ) -> LabelledSamples:
        policy = self.context.policy
        if texts is None:
            conditioning = self.text[self.samples["prompt"][rows]]
        else:
            conditioning = policy.encode_prompts([texts[row] for row in rows.tolist()])
        return LabelledSamples(
            x0=self.samples["x0"][rows].to(policy.device),
            conditioning=conditioning,
            reward=weights[rows].to(policy.device),
            pretraining=pretraining,
        )

    def state(self) -> dict[str, Tensor]:
        """The labelled samples, and those of the pre-training term."""
        beside = self.pretraining.state() if self.pretraining is not None else {}
        return self.samples | {f"pretraining.{name}": part for name, part in beside.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        prefix = "pretraining."
        self.samples = {
            name: tensor for name, tensor in state.items() if not name.startswith(prefix)
        }
        if self.pretraining is not None:
            self.pretraining.load_state(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in state.items()
                    if name.startswith(prefix)
                }
            )
