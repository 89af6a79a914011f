"""What a training is told, and the loss of a batch under the settings' objective."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from components.rewards.batches import Batch
from components.rewards.dataset import Preferences, Ratings
from components.rewards.losses.pairs import bradley_terry_loss, davidson_loss, reliability_loss
from components.rewards.losses.prompts import prompt_classification_loss
from components.rewards.losses.rankings import plackett_luce_loss
from components.rewards.losses.ratings import ordinal_loss, rising, squared_error_loss
from components.rewards.settings import ObjectiveSettings, PromptClassificationSettings
from components.rewards.states import States, rows_of

MAX_LOGIT = 10.0
"""Nobody is surer than 1 - 5e-5: at exactly 1 the loss has no gradient."""
MAX_STEPS = 11
"""Answers of the finest scale whose steps get thresholds of their own; finer ones are rounded."""


@dataclass(frozen=True)
class Targets:
    """What the loss is told of each training pair."""

    preference: Float[Tensor, " n"]
    adaptive_margin: Float[Tensor, " n"] | None = None

    def with_preference(self, preference: Float[Tensor, " n"]) -> Targets:
        """The same margins with other labels."""
        return replace(self, preference=preference)


class Habits(nn.Module):
    """What is learnt of the people beside the model: how often each annotator errs, how readily a
    tie is called, where the steps of a scale lie. Not a part of the reward model."""

    def __init__(self, num_annotators: int, num_questions: int) -> None:
        super().__init__()
        # sigmoid(2) = 0.88: who labels is trusted at first, and not without doubt. At 1/2 "all are
        # right" and "all are wrong" would pull alike, and nothing would be learnt.
        self.reliability_logit = nn.Parameter(torch.full((num_annotators,), 2.0))
        self.log_tie = nn.Parameter(torch.tensor(-1.0))
        steps = torch.full((max(num_questions, 1), MAX_STEPS - 1), 0.5)
        steps[:, 0] = -0.5
        self.threshold_steps = nn.Parameter(steps)

    def reliability(self) -> Float[Tensor, " a"]:
        """Of each annotator: the chance of the answer that the scores ask for."""
        return torch.sigmoid(self.reliability_logit.clamp(-MAX_LOGIT, MAX_LOGIT))


class BatchLoss:
    """The loss of a batch: pairs, whole rankings, ratings, and prompt classification."""

    def __init__(
        self,
        states: States,
        data: Preferences,
        habits: Habits,
        objective: ObjectiveSettings,
    ) -> None:
        self.states, self.data, self.habits, self.objective = states, data, habits, objective
        # Other prompts of a category, to be told apart from a picture's own.
        self._category_of, self._members = _prompts_by_category(data)

    def __call__(
        self,
        batch: Batch,
        targets: Targets,
        generator: torch.Generator,
        *,
        mirror: bool,
    ) -> Float[Tensor, ""]:
        """Mean over the batch's judgements, in nats.

        Args:
            batch: rows of the training split.
            targets: of all its pairs.
            generator: of mirroring and of other prompts.
            mirror: whether half of the pictures are looked at in a mirror.
        """
        pairs, rankings = self.data.splits["train"], self.data.rankings["train"]
        ratings = self.data.ratings["train"]
        images, where = rows_of(
            pairs.image_a[batch.pairs],
            pairs.image_b[batch.pairs],
            rankings.image[batch.ranked],
            ratings.image[batch.rated],
        )
        mirrored = torch.rand(len(images), generator=generator) < 0.5 if mirror else None
        scores = self.states.score(images, mirrored)
        a, b, ranked, rated = (scores[rows.to(scores.device)] for rows in where)
        losses = [self._pairs(a - b, batch.pairs, targets)]
        if len(batch.ranked):
            _, ranking = rankings.ranking[batch.ranked].unique(return_inverse=True)
            rank = rankings.rank[batch.ranked].long()
            losses.append(
                plackett_luce_loss(ranked, rank.to(ranked.device), ranking.to(ranked.device))
            )
        comparisons = torch.cat(losses)
        total = comparisons.mean() if len(comparisons) else scores.sum() * 0
        if len(batch.rated):
            rating = self._ratings(rated, ratings, batch.rated)
            total = total + self.objective.ratings_weight * rating
        if self.objective.prompt_classification is not None:
            total = total + self._prompts(
                batch, targets, self.objective.prompt_classification, generator
            )
        return total

    def _pairs(
        self, margin: Float[Tensor, " k"], rows: Int64[Tensor, " k"], targets: Targets
    ) -> Float[Tensor, " k"]:
        smoothing = self.objective.label_smoothing
        preference = targets.preference[rows].to(margin.device)
        if targets.adaptive_margin is not None:
            margin = margin - targets.adaptive_margin[rows].to(margin.device)
        if self.objective.annotators == "reliability":
            annotator = self.data.splits["train"].annotator[rows].long().to(margin.device)
            smooth = (1 - smoothing) * preference + smoothing / 2
            return reliability_loss(margin, smooth, self.habits.reliability()[annotator])
        if self.objective.ties == "davidson":
            return davidson_loss(margin, preference, self.habits.log_tie, label_smoothing=smoothing)
        return bradley_terry_loss(margin, preference, label_smoothing=smoothing)

    def _ratings(
        self, score: Float[Tensor, " k"], ratings: Ratings, rows: Int64[Tensor, " k"]
    ) -> Float[Tensor, ""]:
        low, high = ratings.low[rows], ratings.high[rows]
        share = ((ratings.value[rows] - low) / (high - low)).to(score.device)
        if self.objective.ratings_loss == "squared_error":
            return squared_error_loss(score, share).mean()
        steps = ratings.steps[rows].to(score.device)
        num_levels = torch.where((steps < 2) | (steps > MAX_STEPS), MAX_STEPS, steps).long()
        level = (share * (num_levels - 1)).round().long()
        question = ratings.question[rows].long()
        total = score.new_zeros(())
        # A question asked with another number of steps is another scale.
        for asked, count in {*zip(question.tolist(), num_levels.tolist(), strict=True)}:
            chosen = (question.to(score.device) == asked) & (num_levels == count)
            thresholds = rising(self.habits.threshold_steps[asked, : count - 1])
            total = total + ordinal_loss(score[chosen], level[chosen], thresholds).sum()
        return total / len(rows)

    def _prompts(
        self,
        batch: Batch,
        targets: Targets,
        settings: PromptClassificationSettings,
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        pairs, ratings = self.data.splits["train"], self.data.ratings["train"]
        preference = targets.preference[batch.pairs]
        middle = (ratings.low[batch.rated] + ratings.high[batch.rated]) / 2
        good = torch.cat(
            [
                pairs.image_a[batch.pairs][preference > 0.5],
                pairs.image_b[batch.pairs][preference < 0.5],
                ratings.image[batch.rated][ratings.value[batch.rated] > middle],
            ]
        ).unique()
        if not len(good):
            return torch.zeros((), device=self.states.model.device)
        own = self.data.prompt_of[good]
        others = self._others(own, settings.num_prompts - 1, generator)
        scores = self.states.prompt_scores(good, torch.cat([own[:, None], others], dim=1))
        return prompt_classification_loss(
            scores,
            torch.ones(len(good), dtype=torch.bool, device=scores.device),
            settings.temperature,
            settings.weight,
        )

    def _others(
        self, own: Int64[Tensor, " k"], count: int, generator: torch.Generator
    ) -> Int64[Tensor, "k c"]:
        """Prompts of the same category, drawn with replacement, never the own one where another is
        there."""
        drawn = torch.rand((len(own), count), generator=generator)
        others = torch.empty(len(own), count, dtype=torch.long)
        for row, prompt in enumerate(own.tolist()):
            members = self._members[int(self._category_of[prompt])]
            members = members[members != prompt] if len(members) > 1 else members
            others[row] = members[(drawn[row] * len(members)).long()]
        return others


def first_targets(data: Preferences) -> Targets:
    """The labels of the training pairs as people gave them."""
    return Targets(data.splits["train"].preference.clone())


def trained_pairs(data: Preferences, objective: ObjectiveSettings) -> Int64[Tensor, " k"]:
    """Rows of the training pairs that the pair loss is asked about."""
    pairs = data.splits["train"]
    keep = torch.ones(len(pairs), dtype=torch.bool)
    if objective.ties == "leave_out":
        keep &= pairs.preference != 0.5
    if objective.rankings == "plackett_luce":
        keep &= pairs.ranking < 0
    return keep.nonzero()[:, 0]


def _prompts_by_category(data: Preferences) -> tuple[Int64[Tensor, " p"], list[Tensor]]:
    """The category of each prompt that is trained on, and the prompts of each category."""
    pairs = data.splits["train"]
    category_of = torch.zeros(len(data.prompts), dtype=torch.long)
    prompts = data.prompt_of[pairs.image_a]
    category_of[prompts] = pairs.category.long()
    trained = torch.cat([prompts, data.prompt_of[data.ratings["train"].image]]).unique()
    return category_of, [
        trained[category_of[trained] == number] for number in range(len(data.categories))
    ]
