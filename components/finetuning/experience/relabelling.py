"""Rounds kept for reuse under a reward that is being learned: re-scored whenever it has changed.

PEBBLE (Lee et al., arXiv 2106.05091) recomputes the reward of everything in its replay buffer after
each update of the reward model, so that no sample is ever judged by two of them at once. Here the
buffer holds whole rounds of images with their trajectories.

Reuse makes training off-policy: the stored log-probabilities stay those of the policy that drew, so
that PPO's clip drops whatever the policy has left behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from components.finetuning.experience.drawing import Drawn

COLUMNS = ("latents", "log_probs", "images", "prompt")


class RelabelledRounds:
    """The newest rounds. A reward of theirs is never stored: it would be an old one."""

    def __init__(
        self, num_rounds: int, prompts: Sequence[str], rescore: Callable[[Drawn], Tensor]
    ) -> None:
        """Args:
        num_rounds: how many earlier rounds are kept; 0 keeps none.
        prompts: of the pool, to which the stored images' `prompt` refers.
        rescore: the reward as it is now, one number an image.
        """
        self.num_rounds, self.prompts, self.rescore = num_rounds, prompts, rescore
        self.rounds: list[Drawn] = []
        """Oldest first."""

    def recall(
        self, drawn: Drawn, reward: Float[Tensor, " n"]
    ) -> tuple[Drawn, Float[Tensor, " m"]]:
        """The kept rounds and the new one behind them, all scored by the present reward; then keep
        the new one.

        Args:
            drawn: a round.
            reward: of its images, already by the present reward.
        """
        kept = self.rounds
        self.rounds = [*kept, drawn][-self.num_rounds :] if self.num_rounds else []
        if not kept:
            return drawn, reward
        old = self._joined(kept)
        return self._joined([old, drawn]), torch.cat([self.rescore(old), reward])

    def _joined(self, parts: Sequence[Drawn]) -> Drawn:
        columns = {name: torch.cat([getattr(part, name) for part in parts]) for name in COLUMNS}
        return self._drawn(columns)

    def _drawn(self, columns: Mapping[str, Tensor]) -> Drawn:
        prompt = columns["prompt"]
        # Images of one prompt are one group, whichever round they are of.
        group = prompt.unique(return_inverse=True)[1]
        texts = [self.prompts[place] for place in prompt.tolist()]
        return Drawn(
            columns["latents"],
            columns["log_probs"],
            columns["images"],
            prompt,
            group,
            texts,
        )

    def state(self) -> dict[str, Tensor]:
        """What is kept, by number of the round and name."""
        return {
            f"{number}.{name}": getattr(drawn, name)
            for number, drawn in enumerate(self.rounds)
            for name in COLUMNS
        }

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Become what `state` was taken from."""
        rounds: dict[int, dict[str, Tensor]] = {}
        for path, tensor in state.items():
            number, _, name = path.partition(".")
            rounds.setdefault(int(number), {})[name] = tensor.clone()
        self.rounds = [self._drawn(rounds[number]) for number in sorted(rounds)]
