"""Batches of stored preferences: pairs, or samples that are good or bad each on its own.

Preferences are read from `data/preferences` or, in the first round, drawn from the reference and
ordered by the reward. An update takes the next judgements of a shuffled round: all of them come
before one comes again. Latents stay on the CPU until their update.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Sized
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from components.contracts.errors import GuardError
from components.diffusion import Policy
from components.finetuning.algorithms.preference_settings import (
    PREFERENCES,
    PreferenceSettings,
    RewardPairs,
)
from components.finetuning.batches import DesirableSamples, PreferencePairs
from components.finetuning.denoising_errors import (
    Noised,
    noised,
    noised_pairs,
    policy_error,
)
from components.finetuning.experience.calibration import Unscaled, calibrated_beta
from components.finetuning.experience.drawing import draw, reward_of
from components.finetuning.experience.judged import Judged, order_by_reward, read_judged
from components.finetuning.experience.scoring import restored, stored
from components.finetuning.interfaces import MethodContext, Round

if TYPE_CHECKING:
    from components.finetuning.algorithms.kto import KTOSettings

B = TypeVar("B", bound=Sized)
CALIBRATION_SAMPLES = 64
"""Pairs, or samples, whose logits set the temperature."""


class StoredPreferences(ABC, Generic[B]):
    """What does not depend on the form of a batch: the data, its temperature, its state."""

    calibrates = "dpo_beta"
    """What `settings.calibrate` sets, by its name in a batch and in the curves."""

    def __init__(
        self,
        settings: PreferenceSettings,
        context: MethodContext,
        unscaled: Unscaled | None = None,
    ) -> None:
        """Args:
        settings: of the method.
        context: of the method.
        unscaled: the method's logit with β = 1; None for a method without one.

        Raises:
            DataError, QuarantinedData: see `read_judged`.
        """
        self.settings, self.context, self.unscaled = settings, context, unscaled
        self.drawn: dict[str, Tensor] = {}
        """`x0` [n c h w], `prompt` [n], `group` [n], `reward` [n] and the figures of the rewards,
        once drawn."""
        self.calibrated: float | None = None
        """The figure of that name, measured before training; None where it was not."""
        self.judged: Judged | None = None
        if not isinstance(settings.pairs, RewardPairs):
            self.judged = read_judged(
                context.root / PREFERENCES, settings.pairs, context.policy.latent_shape
            )

    def collect(self, policy: Policy, generator: torch.Generator) -> Round[B]:
        """The updates of one round.

        Raises:
            QuarantinedData, GuardError: rewards, or a temperature, that must not be trained on.
        """
        num_drawn = 0
        if self.judged is None:
            self._draw(policy, generator)
            num_drawn = len(self.drawn["reward"])
        metrics = restored(self.drawn)
        if self._target and self.calibrated is None:
            self.calibrated = self._calibrate(policy, self._target)
        if self.calibrated is not None:
            metrics[self.calibrates] = self.calibrated
        return Round(self._updates(generator), num_drawn, metrics)

    @property
    def _target(self) -> float | None:
        return getattr(self.settings, "calibrate", None)

    def _draw(self, policy: Policy, generator: torch.Generator) -> None:
        pairs: Any = self.settings.pairs
        pool = self.context.prompts
        drawn = draw(
            self.context,
            policy,
            policy.encode_prompts(pool.prompts),
            pool.draw(pairs.num_prompts, generator),
            pairs.images_per_prompt,
            generator,
            adapter="reference",
            keep_trajectories=False,
            description="drawing the reference's images",
        )
        scored = reward_of(self.context, drawn)
        self.drawn = {
            # A copy: the last column of a trajectory would keep all of it in memory.
            "x0": drawn.x0.clone(),
            "prompt": drawn.prompt,
            "group": drawn.group,
            "reward": scored.reward,
            **stored(scored.figures()),
        }
        self._order()

    def _order(self) -> None:
        pairs: Any = self.settings.pairs
        prompts = [self.context.prompts.prompts[place] for place in self.drawn["prompt"].tolist()]
        self.judged = order_by_reward(
            self.drawn["x0"], prompts, self.drawn["reward"], self.drawn["group"], pairs.choose
        )
        if not len(self.judged):
            raise GuardError(
                "the rewards of every prompt's images are all equal: there is no pair to learn from"
            )

    def _calibrate(self, policy: Policy, target: float) -> float:
        assert self.unscaled
        # A generator of its own: how often it was asked cannot matter to the round.
        generator = self.context.generator("calibration")
        batches = self._noised(policy, next(self._calibration_rows(generator)), generator)
        return calibrated_beta(
            policy, batches, self.settings.error, self.unscaled, target, generator
        )

    @abstractmethod
    def _updates(self, generator: torch.Generator) -> Iterator[list[B]]:
        """The batches of each update."""

    @abstractmethod
    def _calibration_rows(self, generator: torch.Generator) -> Iterator[Tensor]:
        """What the temperature is measured on."""

    @abstractmethod
    def _noised(self, policy: Policy, rows: Tensor, generator: torch.Generator) -> Sequence[Noised]:
        """`rows` at random noise levels, `batch_size` at a time."""

    def state(self) -> dict[str, Tensor]:
        """What was drawn, and the temperature; what people said is on the disk."""
        found = {f"drawn.{name}": tensor for name, tensor in self.drawn.items()}
        if self.calibrated is not None:
            found["calibrated"] = torch.tensor(self.calibrated, dtype=torch.float64)
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        found = state.get("calibrated")
        self.calibrated = None if found is None else float(found)
        self.drawn = {
            name.removeprefix("drawn."): tensor
            for name, tensor in state.items()
            if name.startswith("drawn.")
        }
        if self.drawn:
            self._order()


class StoredPairs(StoredPreferences[PreferencePairs]):
    """Winners and losers, half of `batch_size` pairs at a time: both sides fill one batch."""

    def _updates(self, generator: torch.Generator) -> Iterator[list[PreferencePairs]]:
        settings: Any = self.settings
        assert self.judged
        drawn = shuffled(len(self.judged), settings.pairs_per_update, generator)
        for _ in range(settings.updates_per_round):
            yield pair_batches(self.context, self.judged, next(drawn), self.calibrated)

    def _calibration_rows(self, generator: torch.Generator) -> Iterator[Tensor]:
        assert self.judged
        return shuffled(len(self.judged), CALIBRATION_SAMPLES, generator)

    def _noised(self, policy: Policy, rows: Tensor, generator: torch.Generator) -> Sequence[Noised]:
        assert self.judged
        source = self.settings.noise_levels
        return [
            noised_pairs(policy, batch, generator, source)
            for batch in pair_batches(self.context, self.judged, rows, None)
        ]


def pair_batches(
    context: MethodContext, judged: Judged, rows: Int64[Tensor, " n"], dpo_beta: float | None
) -> list[PreferencePairs]:
    """The judgements at `rows`, in micro-batches whose winners and losers together fill
    `batch_size`."""
    device = context.policy.device
    batches = []
    for part in rows.split(max(1, context.batch_size // 2)):
        winner, loser = judged.winner[part], judged.loser[part]
        texts = [judged.prompts[row] for row in winner.tolist()]
        batches.append(
            PreferencePairs(
                x0_w=judged.x0[winner].to(device),
                x0_l=judged.x0[loser].to(device),
                conditioning=context.policy.encode_prompts(texts),
                preference=judged.preference[part].to(device),
                dpo_beta=dpo_beta,
            )
        )
    return batches


class StoredSamples(StoredPreferences[DesirableSamples]):
    """Samples that are good, and for KTO samples that are bad, each on its own."""

    def __init__(
        self,
        settings: PreferenceSettings,
        context: MethodContext,
        unscaled: Unscaled | None = None,
        *,
        whole: bool,
    ) -> None:
        """As of `StoredPreferences`, and
        whole: an update is one batch, for losses that join all of its samples.
        """
        super().__init__(settings, context, unscaled)
        self.whole = whole

    def _updates(self, generator: torch.Generator) -> Iterator[list[DesirableSamples]]:
        settings: Any = self.settings
        count = settings.samples_per_update
        size = count if self.whole else self.context.batch_size
        drawn = self._rows(count, generator)
        for _ in range(settings.updates_per_round):
            yield [self._batch(part) for part in next(drawn).split(size)]

    def _rows(self, count: int, generator: torch.Generator) -> Iterator[Int64[Tensor, "n 2"]]:
        """Of each draw, the rows of samples and whether each is desirable (1 or 0)."""
        desirable, undesirable = self._sides()
        num_desirable = round(count * self._desirable_share)
        good = shuffled(len(desirable), num_desirable, generator)
        bad = shuffled(len(undesirable), count - num_desirable, generator)
        while True:
            # An empty side is not asked: it could give nothing.
            sides = [desirable[next(good)]] if num_desirable else []
            sides += [undesirable[next(bad)]] if num_desirable < count else []
            rows = torch.cat(sides)
            label = torch.arange(len(rows)) < num_desirable
            # Micro-batches hold both kinds.
            mixed = torch.randperm(len(rows), generator=generator)
            yield torch.stack([rows, label.long()], dim=1)[mixed]

    @property
    def _desirable_share(self) -> float:
        return 1.0

    def _sides(self) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " k"]]:
        """Rows of the good samples and of the bad; one comes as often as it won or lost."""
        assert self.judged
        winner = self.judged.winner
        if self.settings.pairs.source == "winners":
            winner = winner.unique()
        return winner, self.judged.loser

    def _batch(self, rows: Int64[Tensor, "n 2"]) -> DesirableSamples:
        assert self.judged
        place, label = rows.unbind(dim=1)
        device = self.context.policy.device
        texts = [self.judged.prompts[row] for row in place.tolist()]
        return DesirableSamples(
            x0=self.judged.x0[place].to(device),
            conditioning=self.context.policy.encode_prompts(texts),
            desirable=label.bool().to(device),
            **{self.calibrates: self.calibrated},
        )

    def _calibration_rows(self, generator: torch.Generator) -> Iterator[Tensor]:
        return self._rows(CALIBRATION_SAMPLES, generator)

    def _noised(self, policy: Policy, rows: Tensor, generator: torch.Generator) -> Sequence[Noised]:
        batches = [self._batch(part) for part in rows.split(self.context.batch_size)]
        source = self.settings.noise_levels
        return [
            noised(policy, batch.x0, batch.conditioning, generator, source=source)
            for batch in batches
        ]


class StoredWinners(StoredSamples):
    """SFT's samples: what is measured before training is the size of the loss."""

    calibrates = "loss_scale"

    @torch.no_grad()
    def _calibrate(self, policy: Policy, target: float) -> float:
        generator = self.context.generator("calibration")
        batches = self._noised(policy, next(self._calibration_rows(generator)), generator)
        found = [policy_error(policy, batch, self.settings.error) for batch in batches]
        return target / float(torch.cat(found).double().mean())


class LabelledByPreference(StoredSamples):
    """KTO's binary labels: winners and losers, or rewards above and below a threshold."""

    settings: KTOSettings

    @property
    def _desirable_share(self) -> float:
        return self.settings.desirable_share

    def _sides(self) -> tuple[Int64[Tensor, " n"], Int64[Tensor, " k"]]:
        if not self.drawn:
            return super()._sides()
        reward, threshold = self.drawn["reward"], self.settings.reward_threshold
        good = reward > (reward.median() if threshold is None else threshold)
        if bool(good.all()) or not bool(good.any()):
            raise GuardError(
                f"reward_threshold {threshold}: the rewards of {len(reward)} images lie all on one "
                f"side, from {float(reward.min()):g} to {float(reward.max()):g}"
            )
        return good.nonzero().flatten(), (~good).nonzero().flatten()


def shuffled(
    length: int, count: int, generator: torch.Generator
) -> Iterator[Int64[Tensor, " count"]]:
    """`count` places of `length` at a time, for ever: all of them before one comes again."""
    left = torch.zeros(0, dtype=torch.long)
    while True:
        while len(left) < count:
            left = torch.cat([left, torch.randperm(length, generator=generator)])
        yield left[:count]
        left = left[count:]
