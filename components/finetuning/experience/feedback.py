"""HERO's rounds: labels of people, the encoder that learns them, start noise that they liked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.protocols import Feedback
from components.diffusion import Policy
from components.finetuning.batches import Transitions
from components.finetuning.experience.drawing import Drawn
from components.finetuning.experience.labelling import RewardLabeller
from components.finetuning.experience.on_policy import OnPolicy, random_steps
from components.finetuning.experience.relabelling import RelabelledRounds
from components.finetuning.experience.representation import Labelled, Representation
from components.finetuning.experience.scoring import Scored, reward_figures
from components.finetuning.guards import check_rewards
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.labels import build_labeller
from components.finetuning.losses.advantages import AdvantageKind, Advantages, advantages
from components.finetuning.losses.representation import mixed_noise, similarity_reward
from components.finetuning.prompt_pool import PromptPool

if TYPE_CHECKING:
    from components.finetuning.algorithms.hero import HEROSettings


class Liked:
    """Of each prompt: the best image so far, and the start noise of the newest round's good ones.

    The best image is no good one: it has a share of the start noise of its own.
    """

    def __init__(self, num_prompts: int, latent_shape: tuple[int, int, int]) -> None:
        self.known = torch.zeros(num_prompts, dtype=torch.bool)
        """Prompts that have a best image."""
        self.best_x0 = torch.zeros(num_prompts, *latent_shape)
        self.best_noise = torch.zeros(num_prompts, *latent_shape)
        self.best_image: Tensor | None = None
        """uint8 [u 3 H W], None before the first round."""
        self.good_noise = torch.zeros(0, *latent_shape)
        self.good_prompt = torch.zeros(0, dtype=torch.long)

    def learn(
        self, drawn: Drawn, good: Bool[Tensor, " n"], rank: Float[Tensor, " n"], before: Tensor
    ) -> Bool[Tensor, " n"]:
        """Take over a round's labels.

        A good image that outranks all others and the best one so far becomes the best; at a tie the
        old one stays.

        Args:
            drawn: the round.
            good: labels of its images.
            rank: of its images, comparable with `before` within a prompt.
            before: [u], rank of the best image so far of each prompt; not used where there is none.

        Returns:
            The good images that did not become the best of their prompt.
        """
        if self.best_image is None:
            self.best_image = torch.zeros(len(self.known), *drawn.images.shape[1:]).byte()
        rest = good.clone()
        for place in range(len(self.known)):
            rows = (good & (drawn.prompt == place)).nonzero().flatten()
            if not len(rows):
                continue
            first = rows[rank[rows].argmax()]
            if not self.known[place] or rank[first] > before[place]:
                self.known[place] = True
                self.best_x0[place] = drawn.x0[first]
                self.best_noise[place] = drawn.latents[first, 0]
                self.best_image[place] = drawn.images[first]
                rest[first] = False
        self.good_noise, self.good_prompt = drawn.latents[rest, 0], drawn.prompt[rest]
        return rest

    def noise(
        self, place: int, group_size: int, best_share: float, generator: torch.Generator
    ) -> Float[Tensor, "k c h w"] | None:
        """Noise of liked images to start a prompt's images near; None before there are any.

        The first images get the best one's; with a share of 0 it is one of the good ones.
        """
        if not self.known[place]:
            return None
        best = self.best_noise[place][None]
        good = self.good_noise[self.good_prompt == place]
        num_best = math.ceil(best_share * group_size)
        if num_best == 0:
            good = torch.cat([good, best])
        elif not len(good):
            good = best
        picked = torch.randint(len(good), (group_size - num_best,), generator=generator)
        return torch.cat([best.expand(num_best, -1, -1, -1), good[picked]])

    def state(self) -> dict[str, Tensor]:
        """All of it."""
        image = {} if self.best_image is None else {"best_image": self.best_image}
        return image | {
            "known": self.known,
            "best_x0": self.best_x0,
            "best_noise": self.best_noise,
            "good_noise": self.good_noise,
            "good_prompt": self.good_prompt,
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        found = state.get("best_image")
        self.best_image = None if found is None else found.clone()
        for name in ("known", "best_x0", "best_noise", "good_noise", "good_prompt"):
            setattr(self, name, state[name].clone())


@dataclass(frozen=True)
class KnownBaseline:
    """Rewards of the prompts that have a best image, compared with each other; others are kept out
    of the training: nothing is known of them."""

    liked: Liked
    kind: AdvantageKind

    def advantages(self, reward: Float[Tensor, " n"], drawn: Drawn) -> Advantages:
        """Of a round, or of several."""
        known = self.liked.known[drawn.prompt]
        values = torch.zeros_like(reward)
        if not bool(known.any()):
            return Advantages(values, known, 0)
        group = drawn.prompt[known].unique(return_inverse=True)[1]
        found = advantages(reward[known], group, self.kind)
        values[known], kept = found.values, known.clone()
        kept[known] = found.kept
        return Advantages(values, kept, found.num_dropped_groups)

    def state(self) -> dict[str, Tensor]:
        """Nothing of its own."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""


class FeedbackRounds:
    """HERO's loop up to the loss, on top of on-policy rounds: prompts that stay, labels, encoder,
    learned reward, refined start noise."""

    def __init__(self, settings: HEROSettings, context: MethodContext) -> None:
        """Raises:
        SettingsError: more prompts than there are, or a labeller that does not fit.
        """
        self.settings = settings
        self.context = replace(context, prompts=_chosen(settings.prompts_per_round, context))
        prompts, policy = self.context.prompts.prompts, context.policy
        self.labeller = build_labeller(settings.labels, self.context)
        self.num_labels = 0
        """Images that people have looked at so far; the best one, shown again, is not counted."""
        self.liked = Liked(len(prompts), policy.latent_shape)
        self.representation = Representation(
            settings.representation,
            policy.latent_shape,
            policy.device,
            context.generator("representation"),
        )
        self.replay = RelabelledRounds(settings.replay_rounds, prompts, self._similarity)
        self.rounds = OnPolicy(
            settings,
            self.context,
            KnownBaseline(self.liked, settings.advantage),
            choose=random_steps(settings.train_steps),
            reward=self._reward,
            start=self._start,
            recall=self.replay.recall,
        )
        self.figures: dict[str, float] = {}
        """Of the round that is being collected."""

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[Transitions]:
        """Draw a round near what was liked, have it labelled, learn from that, and offer updates.

        Raises:
            QuarantinedData, GuardError: scores or rewards that must not be trained on.
            SettingsError: a labeller's answer has another shape than the request.
        """
        # Images from neighbouring start noise are alike by design: no tripwire watches that.
        found = self.rounds.collect(policy, generator).unwatched("diversity")
        return replace(found, metrics={**found.metrics, **self.figures})

    def _start(self, places: Sequence[int], generator: torch.Generator) -> Float[Tensor, "n c h w"]:
        """Noise near that of liked images, N(0, I) for prompts without any."""
        settings, size = self.settings, self.settings.group_size
        starts = []
        for place in places:
            near = self.liked.noise(place, size, settings.best_share, generator)
            fresh = torch.randn((size, *self.liked.best_noise.shape[1:]), generator=generator)
            starts.append(fresh if near is None else mixed_noise(near, fresh, settings.fresh_noise))
        return torch.cat(starts)

    def _reward(self, drawn: Drawn, generator: torch.Generator) -> Scored:
        """Labels, the encoder's training, and its verdict; 0 where a prompt has no best image."""
        feedback, before = self._asked(drawn, generator)
        old = self.liked.known.clone(), self.liked.best_noise.clone()
        rest = self.liked.learn(drawn, feedback.good, feedback.rank, before)
        labelled = Labelled(
            drawn.x0,
            drawn.prompt,
            rest,
            ~feedback.good,
            self.liked.best_x0,
            self.liked.known,
        )
        loss = self.representation.train(labelled, generator)
        known = self.liked.known[drawn.prompt]
        reward = torch.where(known, self._rewarded(drawn, feedback, rest), 0.0)
        if self.settings.reward != "labels" and bool(known.any()):
            texts = [text for text, row in zip(drawn.texts, known.tolist(), strict=True) if row]
            check_rewards(reward[known], texts)
        changed = (self.liked.known != old[0]) | (self.liked.best_noise != old[1]).flatten(1).any(1)
        self.num_labels += len(drawn.images)
        self.figures = {
            **(reward_figures(reward[known]) if bool(known.any()) else {}),
            "labels": float(self.num_labels),
            "good": float(feedback.good.float().mean()),
            "new_bests": float(changed.sum()),
            "prompts_without_best": float((~self.liked.known).sum()),
            **({} if loss is None else {"encoder_loss": loss}),
            "replayed_images": float(sum(len(kept.images) for kept in self.replay.rounds)),
        }
        if isinstance(self.labeller, RewardLabeller) and self.labeller.scored:
            self.figures |= self.labeller.scored.part_figures()
        return Scored(reward, reward)

    def _asked(
        self, drawn: Drawn, generator: torch.Generator
    ) -> tuple[Feedback, Float[Tensor, " u"]]:
        """Labels of the round, and the rank of each prompt's best image so far beside them."""
        rows = self.liked.known.nonzero().flatten()
        images, texts = drawn.images, list(drawn.texts)
        if len(rows) and self.liked.best_image is not None:
            images = torch.cat([images, self.liked.best_image[rows]])
            texts += [self.context.prompts.prompts[row] for row in rows.tolist()]
        found = self.labeller.label(images, texts, generator)
        count = len(drawn.images)
        before = torch.zeros(len(self.liked.known))
        before[rows] = found.rank[count:]
        return Feedback(found.good[:count], found.rank[:count]), before

    def _rewarded(
        self, drawn: Drawn, feedback: Feedback, rest: Bool[Tensor, " n"]
    ) -> Float[Tensor, " n"]:
        if self.settings.reward == "labels":
            return feedback.good.float()
        if self.settings.reward == "good":
            return self._similarity_to_good(drawn, rest)
        return self._similarity(drawn)

    def _similarity(self, drawn: Drawn) -> Float[Tensor, " n"]:
        """To the best image of the prompt, by the encoder as it is now."""
        count = len(drawn.prompt)
        # Together, so that the best image among them meets its own encoding.
        encoding = self.representation.encode(torch.cat([drawn.x0, self.liked.best_x0]))
        return similarity_reward(encoding[:count], encoding[count + drawn.prompt])

    def _similarity_to_good(self, drawn: Drawn, good: Bool[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Mean over the prompt's good images but the best; to the best where there is no other."""
        encoding = self.representation.encode(drawn.x0)
        reward = self._similarity(drawn)
        for place in drawn.prompt[good].unique().tolist():
            rows = (drawn.prompt == place).nonzero().flatten()
            wanted = encoding[rows[good[rows]]]
            pairs = torch.cartesian_prod(rows, torch.arange(len(wanted)))
            each = similarity_reward(encoding[pairs[:, 0]], wanted[pairs[:, 1]])
            reward[rows] = each.view(len(rows), len(wanted)).mean(1)
        return reward

    def state(self) -> dict[str, Tensor]:
        """Labels so far, what was liked, encoder, head and their Adam, and the kept rounds."""
        parts = {
            "rounds": self.rounds.state(),
            "liked": self.liked.state(),
            "representation": self.representation.state(),
            "replay": self.replay.state(),
        }
        return {"labels": torch.tensor(self.num_labels)} | {
            f"{part}/{name}": tensor
            for part, tensors in parts.items()
            for name, tensor in tensors.items()
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        parts: dict[str, dict[str, Tensor]] = {}
        for path, tensor in state.items():
            part, _, name = path.partition("/")
            parts.setdefault(part, {})[name] = tensor
        self.num_labels = int(state["labels"])
        self.rounds.load_state(parts["rounds"])
        self.liked.load_state(parts["liked"])
        self.representation.load_state(parts["representation"])
        self.replay.load_state(parts.get("replay", {}))


def _chosen(count: int, context: MethodContext) -> PromptPool:
    """The prompts of the run, balanced over categories: the same ones when it is resumed."""
    pool = context.prompts
    if count > len(pool.prompts):
        raise SettingsError(
            f"finetuning: prompts_per_round {count} of method hero, which keeps its prompts, and "
            f"there are {len(pool.prompts)}",
            allowed=f"1 to {len(pool.prompts)}",
        )
    places = list(dict.fromkeys(pool.draw(count, context.generator("prompts"))))
    # A category with fewer prompts than its share would give some of them twice.
    places += [place for place in range(len(pool.prompts)) if place not in places]
    return PromptPool([pool.prompts[place] for place in places[:count]], ("",) * count)
