"""Samples that the pretrained model drew once: what stands in for its pre-training data."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from components.diffusion import Conditioning, Policy, sample_images
from components.finetuning.batches import LabelledSamples
from components.finetuning.interfaces import MethodContext


def draw_from_reference(
    context: MethodContext,
    policy: Policy,
    num_images: int,
    group_size: int,
    generator: torch.Generator,
) -> tuple[UInt8[Tensor, "n 3 H W"], Float[Tensor, "n c h w"], Int64[Tensor, " n"]]:
    """Images, clean latents, and places of their prompts, balanced over categories; on the CPU."""
    places = context.prompts.draw(num_images // group_size, generator)
    prompt = torch.tensor(places).repeat_interleave(group_size)
    seeds = torch.randint(2**62, (len(prompt),), generator=generator).tolist()
    texts = [context.prompts.prompts[place] for place in prompt.tolist()]
    images, x0 = sample_images(
        policy, texts, seeds, adapter="reference", description="drawing the base's images"
    )
    return images, x0, prompt


class ReferenceSamples:
    """Drawn once, offered with weight 1 ever after; nothing is scored."""

    def __init__(self, context: MethodContext, num_images: int, group_size: int) -> None:
        self.context = context
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.num_images, self.group_size = num_images, group_size
        self.samples: dict[str, Tensor] = {}
        """`x0` [n c h w] and `prompt` [n], once drawn."""

    def __len__(self) -> int:
        return len(self.samples["prompt"]) if self.samples else 0

    def draw(self, policy: Policy, generator: torch.Generator) -> None:
        """Draw them from the reference."""
        _, x0, prompt = draw_from_reference(
            self.context, policy, self.num_images, self.group_size, generator
        )
        self.samples = {"x0": x0, "prompt": prompt}

    def batches(self, count: int, generator: torch.Generator) -> list[LabelledSamples]:
        """`count` samples in micro-batches, without replacement until all have been taken."""
        orders: list[Tensor] = []
        while sum(map(len, orders)) < count:
            orders.append(torch.randperm(len(self), generator=generator))
        rows = torch.cat(orders)[:count]
        return [self.batch(part) for part in rows.split(self.context.batch_size)]

    def batch(self, rows: Int64[Tensor, " b"]) -> LabelledSamples:
        """These samples, each with a reward of 1."""
        device = self.context.policy.device
        return LabelledSamples(
            x0=self.samples["x0"][rows].to(device),
            conditioning=self.text[self.samples["prompt"][rows]],
            reward=torch.ones(len(rows), device=device),
        )

    def state(self) -> dict[str, Tensor]:
        """The samples."""
        return self.samples

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.samples = dict(state)
