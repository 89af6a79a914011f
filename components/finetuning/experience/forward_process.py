"""Rounds of finished images for the forward-process methods: only their clean latents are kept.

A round begins by moving the snapshots, then draws, and then trains on this round alone. Snapshots
move here and not after a round's last update because checkpoints are taken between rounds: what is
saved is then the adapter and the snapshots as the round left them, and a run that goes on from
there moves them with the same numbers as one that never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from components.contracts.errors import SettingsError
from components.diffusion import Adapter, Conditioning, Policy
from components.finetuning.algorithms.forward_process import (
    ForwardProcessSettings,
    SnapshotDecay,
)
from components.finetuning.batches import AdvantageSamples
from components.finetuning.experience.drawing import Drawn, draw, reward_of
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.losses.advantages import advantages, clipped


class ForwardProcess:
    """Draws, scores, and offers each pass's images with their advantages."""

    def __init__(
        self,
        settings: ForwardProcessSettings,
        context: MethodContext,
        snapshots: Mapping[str, SnapshotDecay | None],
        *,
        drawn_with: Callable[[int], Adapter] = lambda updates: "train",
        whole_groups: bool = False,
    ) -> None:
        """Put a method's round together.

        Args:
            settings: how many images and updates.
            context: of the method.
            snapshots: name of each, and how it follows the adapter; None is a copy, made as each
                round begins.
            drawn_with: whose images a round has, given the updates before it.
            whole_groups: no micro-batch splits a group.

        Raises:
            SettingsError: the base draws with guidance, for a method that is defined without.
        """
        self.settings, self.context = settings, context
        self.snapshots, self.drawn_with = snapshots, drawn_with
        self.unit = settings.group_size if whole_groups else 1
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        if settings.requires().guidance_free and self.text.unconditional is not None:
            # A hub model's family is not known when settings load, so that this is asked here too.
            raise SettingsError(
                f"base.guidance_scale {self.text.guidance_scale:g} with a method without guidance",
                allowed="guidance_scale 1",
            )
        self.num_updates = 0
        """Optimizer steps of the rounds collected so far."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[AdvantageSamples]:
        """Move the snapshots, draw a round, and offer its images.

        Raises:
            QuarantinedData, GuardError: the rewards must not be trained on.
        """
        settings = self.settings
        for name, decay in self.snapshots.items():
            policy.remember(name, decay.after(self.num_updates) if decay else 0.0)
        places = self.context.prompts.draw(settings.prompts_per_round, generator)
        drawn = draw(
            self.context,
            policy,
            self.text,
            places,
            settings.group_size,
            generator,
            adapter=self.drawn_with(self.num_updates),
            keep_trajectories=False,
        )
        scored = reward_of(self.context, drawn)
        found = advantages(scored.reward, drawn.group, settings.advantage)
        values = clipped(found.values, settings.advantage_clip)
        plan = self._plan(found.kept, generator)
        self.num_updates += len(plan)
        metrics = {**scored.figures(), "dropped_groups": float(found.num_dropped_groups)}
        return Round(self._updates(drawn, values, plan), len(values), metrics, drawn.drift())

    def _plan(self, kept: Tensor, generator: torch.Generator) -> list[Int64[Tensor, "u k"]]:
        """The images of each update of the round, u units of k that stay together."""
        settings = self.settings
        # The images of a group stand side by side and are kept or dropped together.
        units = kept.nonzero().view(-1, self.unit)
        plan: list[Tensor] = []
        for _ in range(settings.inner_epochs):
            order = torch.randperm(len(units), generator=generator)
            plan += units[order].tensor_split(settings.updates_per_epoch)
        return [part for part in plan if len(part)]

    def _updates(
        self, drawn: Drawn, advantage: Tensor, plan: Sequence[Tensor]
    ) -> Iterator[list[AdvantageSamples]]:
        rows_of_unit = self.unit * self.settings.num_levels
        size = max(1, self.context.batch_size // rows_of_unit)
        for units in plan:
            yield [self._batch(drawn, advantage, part.flatten()) for part in units.split(size)]

    def _batch(self, drawn: Drawn, advantage: Tensor, rows: Tensor) -> AdvantageSamples:
        device = self.context.policy.device
        return AdvantageSamples(
            x0=drawn.x0[rows].to(device),
            conditioning=self.text[drawn.prompt[rows]],
            advantage=advantage[rows].to(device),
            group=drawn.group[rows].to(device),
        )

    def state(self) -> dict[str, Tensor]:
        """The updates so far, on which the snapshots' decay depends; the run saves snapshots."""
        return {"updates": torch.tensor(self.num_updates)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.num_updates = int(state["updates"])
