"""On-policy rounds: draw images, turn rewards into advantages, and train on this round alone.

What differs between methods is handed in, one small piece each:

    baseline    what a reward is compared with      RoundBaseline, PromptTracker
    choose      which denoising steps are trained   every_step, random_steps, random_fraction
    sampler     of each round                       MixGRPO's window
    reward      of the images of a round            HERO's encoder
    start       latents that trajectories start in  shared in a group (DanceGRPO), HERO's pool
    recall      earlier rounds to train on as well  relabelled ones (relabelling.py)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.diffusion import Conditioning, Policy, Sampler
from components.finetuning.algorithms.on_policy import GroupSettings, OnPolicySettings
from components.finetuning.batches import Transitions
from components.finetuning.experience.drawing import Drawn, draw, reward_of
from components.finetuning.experience.scoring import Scored
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.losses.advantages import (
    AdvantageKind,
    Advantages,
    advantages,
    clipped,
    remembered,
    tracked_advantages,
)


class Baseline(Protocol):
    """What the rewards of a round are compared with, and what it remembers for the next one."""

    def advantages(self, reward: Float[Tensor, " n"], drawn: Drawn) -> Advantages:
        """Advantages of a round's images, not clipped yet."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Everything that later rounds depend on, by name."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        ...


@dataclass(frozen=True)
class RoundBaseline:
    """The round's own rewards, all of them or those of the same prompt: nothing is remembered."""

    kind: AdvantageKind

    def advantages(self, reward: Float[Tensor, " n"], drawn: Drawn) -> Advantages:
        """As `losses.advantages.advantages` of this kind."""
        return advantages(reward, drawn.group, self.kind)

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""


class PromptTracker:
    """DDPO's memory: the newest rewards of each prompt, over rounds."""

    def __init__(self, num_prompts: int, buffer_size: int, min_count: int) -> None:
        self.min_count = min_count
        self.history: Tensor = torch.full((num_prompts, buffer_size), torch.nan)

    def advantages(self, reward: Float[Tensor, " n"], drawn: Drawn) -> Advantages:
        """Against the prompt's own rewards, or the round's while too few are remembered."""
        self.history = remembered(self.history, reward, drawn.prompt)
        values = tracked_advantages(reward, drawn.prompt, self.history, self.min_count)
        return Advantages(values, torch.ones_like(drawn.prompt, dtype=torch.bool), 0)

    def state(self) -> dict[str, Tensor]:
        """What is remembered."""
        return {"history": self.history}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.history = state["history"].clone()


StepChoice = Callable[[Sequence[int], int, torch.Generator], Int64[Tensor, "n k"]]
"""The denoising steps to train on, k of those that have a density, for each of n images."""


def every_step(
    steps: Sequence[int], num_images: int, generator: torch.Generator
) -> Int64[Tensor, "n k"]:
    """All of them, in order."""
    return torch.tensor(steps).expand(num_images, -1)


def random_steps(count: int) -> StepChoice:
    """`count` of them (all when there are fewer), drawn anew for each image and each pass."""

    def choose(
        steps: Sequence[int], num_images: int, generator: torch.Generator
    ) -> Int64[Tensor, "n k"]:
        order = torch.rand((num_images, len(steps)), generator=generator).argsort(1)
        return torch.tensor(steps)[order[:, :count]]

    return choose


def random_fraction(fraction: float) -> StepChoice:
    """This share of them, rounded down but at least one, drawn as by `random_steps`."""

    def choose(
        steps: Sequence[int], num_images: int, generator: torch.Generator
    ) -> Int64[Tensor, "n k"]:
        count = max(1, int(fraction * len(steps)))
        return random_steps(count)(steps, num_images, generator)

    return choose


StartLatents = Callable[[Sequence[int], torch.Generator], Float[Tensor, "n c h w"]]
"""Start latents of a round, `group_size` side by side for each of the prompts at these places."""


def shared_noise(latent_shape: tuple[int, int, int], group_size: int) -> StartLatents:
    """One N(0, I) latent for all images of a prompt (DanceGRPO)."""

    def start(places: Sequence[int], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        noise = torch.randn((len(places), *latent_shape), generator=generator)
        return noise.repeat_interleave(group_size, dim=0)

    return start


class GroupPieces(TypedDict):
    """What the members of the GRPO family hand to `OnPolicy`, all of them the same."""

    baseline: Baseline
    start: StartLatents | None


def group_pieces(settings: GroupSettings, context: MethodContext) -> GroupPieces:
    """Advantages within groups, and shared start noise where it is asked for."""
    shape = context.policy.latent_shape
    start = shared_noise(shape, settings.group_size) if settings.shared_noise else None
    return {"baseline": RoundBaseline(settings.advantage), "start": start}


Recall = Callable[[Drawn, Float[Tensor, " n"]], tuple[Drawn, Float[Tensor, " m"]]]
"""What is trained on in the place of a round and its rewards."""


class OnPolicy:
    """Rounds of the policy's own images; no update sees another round's, unless recalled."""

    def __init__(
        self,
        settings: OnPolicySettings,
        context: MethodContext,
        baseline: Baseline,
        *,
        choose: StepChoice = every_step,
        sampler: Callable[[int], Sampler] | None = None,
        reward: Callable[[Drawn, torch.Generator], Scored] | None = None,
        start: StartLatents | None = None,
        recall: Recall | None = None,
        keep_means: bool = False,
    ) -> None:
        """Put a method's round together.

        Args:
            settings: how many images and updates.
            context: of the method.
            baseline: turns rewards into advantages.
            choose: the denoising steps to train on.
            sampler: of a round, given its number from 0; None is the policy's own. It must have
                the policy's noise levels, and its std where it is stochastic.
            reward: of a round's images; None is the context's.
            start: latents to start from; None is N(0, I) of every image.
            recall: adds earlier rounds to each round; None trains on the round alone.
            keep_means: with the means of the policy that drew, for losses that compare with it.
        """
        self.settings, self.context, self.baseline = settings, context, baseline
        self.choose, self.sampler, self.start, self.recall = choose, sampler, start, recall
        self.reward = reward or (lambda drawn, generator: reward_of(context, drawn))
        self.keep_means = keep_means
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.num_rounds = 0
        """Rounds collected so far."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[Transitions]:
        """Draw a round and offer its transitions, `inner_epochs` times.

        Raises:
            QuarantinedData, GuardError: the rewards must not be trained on.
        """
        settings = self.settings
        sampler = self.sampler(self.num_rounds) if self.sampler else policy.sampler
        places = self.context.prompts.draw(settings.prompts_per_round, generator)
        drawn = draw(
            self.context,
            policy,
            self.text,
            places,
            settings.group_size,
            generator,
            sampler=sampler,
            start=self.start(places, generator) if self.start else None,
            keep_means=self.keep_means,
        )
        scored = self.reward(drawn, generator)
        reward = scored.reward
        trained, rewards = self.recall(drawn, reward) if self.recall else (drawn, reward)
        found = self.baseline.advantages(rewards, trained)
        values = clipped(found.values, settings.advantage_clip)
        self.num_rounds += 1
        metrics = {
            **scored.figures(),
            "dropped_groups": float(found.num_dropped_groups),
        }
        if self.sampler:
            metrics["first_noisy_step"] = float(sampler.stochastic_steps[0])
        kept = found.kept.nonzero().flatten()
        updates = self._updates(trained, values, kept, sampler.stochastic_steps, generator)
        collected = Round(updates, len(reward), metrics, drawn.drift())
        # From one start noise, images differ by as much as the round's noisy steps let them.
        alike = self.sampler is not None and self.start is not None
        return collected.unwatched("diversity") if alike else collected

    def _updates(
        self,
        drawn: Drawn,
        advantage: Tensor,
        kept: Tensor,
        steps: Sequence[int],
        generator: torch.Generator,
    ) -> Iterator[list[Transitions]]:
        settings, size = self.settings, self.context.batch_size
        for _ in range(settings.inner_epochs):
            images = kept[torch.randperm(len(kept), generator=generator)]
            chosen = self.choose(steps, len(images), generator)
            parts = torch.arange(len(images)).tensor_split(settings.updates_per_epoch)
            for part in parts:
                # One row a transition: the steps of an image side by side.
                image = images[part].repeat_interleave(chosen.shape[1])
                step = chosen[part].flatten()
                rows = torch.arange(len(step)).split(size)
                if len(step):
                    yield [
                        self._batch(drawn, advantage, image[which], step[which]) for which in rows
                    ]

    def _batch(self, drawn: Drawn, advantage: Tensor, image: Tensor, step: Tensor) -> Transitions:
        device = self.context.policy.device
        means = drawn.means
        return Transitions(
            x_t=drawn.latents[image, step].to(device),
            x_prev=drawn.latents[image, step + 1].to(device),
            step=step.to(device),
            conditioning=self.text[drawn.prompt[image]],
            log_prob_old=drawn.log_probs[image, step].to(device),
            advantage=advantage[image].to(device),
            mean_old=None if means is None else means[image, step].to(device),
        )

    def state(self) -> dict[str, Tensor]:
        """The number of rounds, and what the baseline remembers."""
        rounds = torch.tensor(self.num_rounds)
        baseline = self.baseline.state()
        return {"rounds": rounds} | {f"baseline.{name}": part for name, part in baseline.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        self.num_rounds = int(state["rounds"])
        self.baseline.load_state(
            {
                name.removeprefix("baseline."): tensor
                for name, tensor in state.items()
                if name.startswith("baseline.")
            }
        )
