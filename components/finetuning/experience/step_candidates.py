"""SPO's rounds: several next latents from each latent, scored by the image that they lead to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from components.contracts.errors import SettingsError
from components.contracts.plugins import build_plug
from components.contracts.protocols import StepScorer
from components.contracts.settings import PluginSettings
from components.diffusion import Conditioning, Policy
from components.finetuning.batches import StepPairs
from components.finetuning.drift import drift_figures
from components.finetuning.experience.scoring import score, score_to_learn
from components.finetuning.guards import check_rewards
from components.finetuning.interfaces import MethodContext, Round
from components.finetuning.losses.step_preference import preferred

if TYPE_CHECKING:
    from components.finetuning.algorithms.spo import SPOSettings


@dataclass(frozen=True)
class FoundPairs:
    """Two steps from the same latent each, on the CPU."""

    x_t: Float[Tensor, "p c h w"]
    x_prev_w: Float[Tensor, "p c h w"]
    x_prev_l: Float[Tensor, "p c h w"]
    step: Int64[Tensor, " p"]
    prompt: Int64[Tensor, " p"]

    def __len__(self) -> int:
        return len(self.step)

    @staticmethod
    def joined(parts: Sequence[FoundPairs]) -> FoundPairs:
        """All of them."""
        names = [field.name for field in fields(FoundPairs)]
        return FoundPairs(*(torch.cat([getattr(part, name) for part in parts]) for name in names))


class StepCandidates:
    """Rounds of SPO. Nothing is remembered between them."""

    def __init__(self, settings: SPOSettings, context: MethodContext) -> None:
        self.settings, self.context = settings, context
        self.text: Conditioning = context.policy.encode_prompts(context.prompts.prompts)
        self.steps = [
            step for step in context.policy.sampler.stochastic_steps if step >= settings.start_step
        ]
        """Those with candidates."""
        if not self.steps:
            raise SettingsError(
                f"finetuning: start_step {settings.start_step} leaves no step with a density",
                allowed=f"0 to {max(context.policy.sampler.stochastic_steps)}",
            )
        self.scorer: StepScorer = (
            RewardOfPrediction(context)
            if settings.step_scorer is None
            else PluggedStepScorer.build(settings.step_scorer, context)
        )

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[StepPairs]:
        """Draw a round, and offer the pairs that are told apart `inner_epochs` times.

        Raises:
            QuarantinedData, GuardError: scores that must not be trained on.
            SettingsError: a plug's answer has another shape than the question.
        """
        settings, context = self.settings, self.context
        places = context.prompts.draw(settings.prompts_per_round, generator)
        prompt = torch.tensor(places).repeat_interleave(settings.group_size)
        seeds = torch.randint(2**62, (len(prompt),), generator=generator).tolist()
        found, images = [], []
        for rows in torch.arange(len(prompt)).split(context.batch_size):
            chains = self._chains(policy, prompt[rows], [seeds[row] for row in rows.tolist()])
            found.append(chains[0])
            images.append(chains[1])
        pairs, finished = FoundPairs.joined(found), torch.cat(images)
        texts = [context.prompts.prompts[place] for place in prompt.tolist()]
        finished_scored = score(context.scorer, finished, texts, context.batch_size)
        num_questions = len(prompt) * len(self.steps)
        metrics = {
            **finished_scored.figures(),
            "pairs": float(len(pairs)),
            "told_apart": len(pairs) / num_questions,
            "scored_images": float(num_questions * settings.num_candidates),
        }
        group = torch.arange(len(places)).repeat_interleave(settings.group_size)
        drift = drift_figures(finished, group)
        return Round(self._updates(pairs, generator), len(prompt), metrics, drift)

    @torch.no_grad()
    def _chains(
        self, policy: Policy, prompt: Int64[Tensor, " n"], seeds: Sequence[int]
    ) -> tuple[FoundPairs, UInt8[Tensor, "n 3 H W"]]:
        """Pairs found on the way, and the finished images.

        All chance of a chain comes from a CPU generator of its own seed.
        """
        sampler, device = policy.sampler, policy.device
        chance = [torch.Generator().manual_seed(seed) for seed in seeds]
        text = self.text[prompt]

        def noise(count: int) -> Float[Tensor, "n k c h w"]:
            shape = (count, *policy.latent_shape)
            return torch.stack([torch.randn(shape, generator=one) for one in chance]).to(device)

        found = []
        x_t = noise(1)[:, 0]
        output = policy.predict(x_t, 0, text)
        for step in range(sampler.num_steps):
            taken = sampler.transition(output, x_t, step)
            last = step + 1 == sampler.num_steps
            if step not in self.steps:
                x_t = taken.sample(noise(1)[:, 0])
                output = output if last else policy.predict(x_t, step + 1, text)
                continue
            drawn = noise(self.settings.num_candidates)
            candidates = taken.mean[:, None] + taken.std[:, None] * drawn
            outputs, scores = self._judged(policy, candidates, step, prompt)
            found.append(self._pairs(x_t, candidates, scores, step, prompt))
            count = self.settings.num_candidates
            chosen = [int(torch.randint(count, (1,), generator=one)) for one in chance]
            rows, choice = torch.arange(len(prompt), device=device), torch.tensor(chosen)
            x_t = candidates[rows, choice.to(device)]
            # The next step starts from what the candidate was judged by.
            output = outputs[rows, choice.to(device)]
        return FoundPairs.joined(found), policy.decode(x_t).cpu()

    def _judged(
        self,
        policy: Policy,
        candidates: Float[Tensor, "n k c h w"],
        step: int,
        prompt: Int64[Tensor, " n"],
    ) -> tuple[Float[Tensor, "n k c h w"], Float[Tensor, "n k"]]:
        """What the network says of each candidate, and the score of the image that this means."""
        shape, flat = candidates.shape, candidates.flatten(0, 1)
        prompts = prompt.repeat_interleave(shape[1])
        following = step + 1
        if following == policy.sampler.num_steps:
            # Nothing is left to predict.
            output, x0, share = flat, flat, torch.zeros(len(flat))
        else:
            output = policy.predict(flat, following, self.text[prompts])
            level = policy.sampler.level(following, len(flat))
            x0, share = level.predict(output, flat)[0], level.noise.flatten()
        texts = [self.context.prompts.prompts[place] for place in prompts.tolist()]
        scores = self.scorer.score(policy.decode(x0).cpu(), texts, share.cpu())
        check_rewards(scores, texts)
        return output.view(shape), scores.view(shape[:2])

    def _pairs(
        self,
        x_t: Float[Tensor, "n c h w"],
        candidates: Float[Tensor, "n k c h w"],
        scores: Float[Tensor, "n k"],
        step: int,
        prompt: Int64[Tensor, " n"],
    ) -> FoundPairs:
        settings = self.settings
        best, worst, apart = preferred(settings.score_scale * scores, settings.threshold)
        rows = apart.nonzero().flatten()
        stored = candidates.cpu()
        return FoundPairs(
            x_t=x_t.cpu()[rows],
            x_prev_w=stored[rows, best[rows]],
            x_prev_l=stored[rows, worst[rows]],
            step=torch.full((len(rows),), step),
            prompt=prompt[rows],
        )

    def _updates(self, pairs: FoundPairs, generator: torch.Generator) -> Iterator[list[StepPairs]]:
        settings = self.settings
        for _ in range(settings.inner_epochs if len(pairs) else 0):
            order = torch.randperm(len(pairs), generator=generator)
            for rows in order.split(settings.pairs_per_update):
                yield [self._batch(pairs, part) for part in rows.split(self.context.batch_size)]

    def _batch(self, pairs: FoundPairs, rows: Int64[Tensor, " p"]) -> StepPairs:
        device, count = self.context.policy.device, len(rows)
        both = torch.cat([pairs.x_prev_w[rows], pairs.x_prev_l[rows]])
        place = torch.arange(count, device=device)
        return StepPairs(
            x_t=pairs.x_t[rows].to(device),
            step=pairs.step[rows].to(device),
            conditioning=self.text[pairs.prompt[rows]],
            x_prev=both.to(device),
            origin=torch.cat([place, place]),
            winner=place,
            loser=place + count,
        )

    def state(self) -> dict[str, Tensor]:
        """Nothing."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to load."""


class RewardOfPrediction:
    """The context's reward in the place of a step-aware model: it is not told the noise."""

    def __init__(self, context: MethodContext) -> None:
        self.context = context

    def score(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        prompts: Sequence[str],
        noise: Float[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Rewards of the images as if they were finished; several are normalised among the
        candidates of a prompt."""
        context = self.context
        return score_to_learn(context.scorer, images, prompts, context.batch_size).reward


class PluggedStepScorer:
    """Calls the plug and checks what comes back, since a plug is somebody else's code."""

    def __init__(self, scorer: StepScorer, dotted: str, batch_size: int) -> None:
        self._scorer, self._dotted, self._batch_size = scorer, dotted, batch_size

    @classmethod
    def build(cls, settings: PluginSettings, context: MethodContext) -> PluggedStepScorer:
        """Call `settings.callable` with its arguments; the result must have a method `score`.

        Raises:
            SettingsError: the path cannot be imported, the call refuses its arguments, or the
                result cannot score.
        """
        scorer = build_plug(settings)
        if not callable(getattr(scorer, "score", None)):
            raise SettingsError(
                f"'{settings.callable}' gives a {type(scorer).__name__} without a method 'score'",
                allowed="an object with score(images, prompts, noise)",
            )
        return cls(scorer, settings.callable, context.batch_size)

    @torch.no_grad()
    def score(
        self,
        images: UInt8[Tensor, "b 3 h w"],
        prompts: Sequence[str],
        noise: Float[Tensor, " b"],
    ) -> Float[Tensor, " b"]:
        """Scores of the plug.

        Raises:
            SettingsError: the plug gave something else than one number an image.
        """
        parts = []
        for first in range(0, len(images), self._batch_size):
            rows = slice(first, first + self._batch_size)
            scores = self._scorer.score(images[rows], prompts[rows], noise[rows])
            if not isinstance(scores, Tensor) or scores.shape != noise[rows].shape:
                shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
                raise SettingsError(
                    f"'{self._dotted}' scored {len(noise[rows])} images with {shape}",
                    allowed=f"a tensor of shape ({len(noise[rows])},)",
                )
            parts.append(scores.float().cpu())
        return torch.cat(parts)
