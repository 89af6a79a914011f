"""Prompt search: words around the prompt that the base answers best to, by tabular Q-learning.

Paper: Marathe, "Reinforcement Learning from Diffusion Feedback: Q* for Image Search", arXiv
2311.15648, read in its abstract and a note on it. No weight is touched: the agent edits a finite
encoding of the prompt, the frozen model renders it, and the reward of the images is the agent's.

    state s    a phrase, or none, for each slot before or behind the prompt
    action a   put a phrase of a slot there; the one that stands there leaves s as it is
    reward r   mean reward of the images of s', against the prompts as they were asked
    update     Q(s, a) ← Q(s, a) + α (r + γ max Q(s', ·) - Q(s, a))
    episode    from the bare prompt, ε-greedy, so many edits
    found      the encoding with the highest reward of all that were rendered

The paper imitates one input image and takes its similarity for the reward; its exploration and its
constants were not found. Here one encoding is found for all prompts, on training prompts as a LoRA
is, and every encoding is rendered from the same prompts and noise: differences are those of the
words, and an encoding that comes again costs nothing. Left out: the paper's second search, by
gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from components.evaluation.settings import PhraseSlot, PromptSearchSettings

Encoding = tuple[int, ...]
"""For each slot 0 for no phrase, or the number of its phrase from 1."""


@dataclass(frozen=True)
class Move:
    """One edit of an episode."""

    state: Encoding
    action: int
    reward: float
    after: Encoding


@dataclass(frozen=True)
class Search:
    """What a search saw."""

    rewards: dict[Encoding, float]
    """Of each encoding that was rendered, in the order of rendering; the bare prompt is first."""
    table: dict[Encoding, Float[NDArray[np.float64], " a"]]
    """Q of each encoding that an episode stood in."""
    moves: Sequence[Move]

    @property
    def start(self) -> Encoding:
        """The bare prompt."""
        return next(iter(self.rewards))

    @property
    def found(self) -> Encoding:
        """The encoding with the highest reward, the earliest of equal ones."""
        return max(self.rewards, key=lambda encoding: self.rewards[encoding])


def updated(
    value: float,
    reward: float,
    after: Float[NDArray[np.float64], " a"],
    learning_rate: float,
    discount: float,
) -> float:
    """Q(s, a) + α (r + γ max Q(s', ·) - Q(s, a)).

    Worked: Q = 2, r = 1, Q(s', ·) = (3, 5), α = 0.5, γ = 0.8: 2 + 0.5 · (1 + 4 - 2) = 3.5.
    """
    return float(value + learning_rate * (reward + discount * after.max() - value))


def search(
    slots: Sequence[PhraseSlot],
    reward_of: Callable[[Encoding], float],
    settings: PromptSearchSettings,
    generator: np.random.Generator,
) -> Search:
    """Run the episodes; each encoding is rendered at its first visit.

    Args:
        slots: of the encoding.
        reward_of: renders an encoding.
        settings: of the episodes and of the update.
        generator: of exploration, and of the choice among equal actions.
    """
    actions = [(slot, phrase) for slot, of in enumerate(slots) for phrase in range(len(of) + 1)]
    start: Encoding = (0,) * len(slots)
    rewards = {start: reward_of(start)}
    table: dict[Encoding, NDArray[np.float64]] = {}
    moves = []

    def values(state: Encoding) -> NDArray[np.float64]:
        return table.setdefault(state, np.zeros(len(actions)))

    for _ in range(settings.episodes):
        state = start
        for _ in range(settings.edits or len(slots)):
            action = _choose(values(state), settings.exploration, generator)
            slot, phrase = actions[action]
            after = (*state[:slot], phrase, *state[slot + 1 :])
            if after not in rewards:
                rewards[after] = reward_of(after)
            values(state)[action] = updated(
                values(state)[action],
                rewards[after],
                values(after),
                settings.learning_rate,
                settings.discount,
            )
            moves.append(Move(state, action, rewards[after], after))
            state = after
    return Search(rewards, table, moves)


def rephrased(prompt: str, slots: Sequence[PhraseSlot], encoding: Encoding) -> str:
    """The prompt with the phrases of an encoding around it.

    Worked: ("a photo of" before, ", in bright colours" behind) make of "a red fox"
    "a photo of a red fox, in bright colours".
    """
    text = prompt
    chosen = [
        (slot.place, slot.phrases[phrase - 1])
        for slot, phrase in zip(slots, encoding, strict=True)
        if phrase
    ]
    # The first slot before the prompt stands farthest from it, the first behind it nearest.
    for _, phrase in (pair for pair in reversed(chosen) if pair[0] == "before"):
        text = f"{phrase} {text}"
    for _, phrase in (pair for pair in chosen if pair[0] == "behind"):
        text = f"{text}{'' if phrase.startswith(',') else ' '}{phrase}"
    return text


def _choose(
    values: Float[NDArray[np.float64], " a"], exploration: float, generator: np.random.Generator
) -> int:
    """An action at random, or one of those with the highest value."""
    if generator.random() < exploration:
        return int(generator.integers(len(values)))
    return int(generator.choice(np.flatnonzero(values == values.max())))
