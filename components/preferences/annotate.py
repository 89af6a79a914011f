"""Asking people: who judges which pair, and on which side each image is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from components.contracts.errors import SettingsError
from components.contracts.ids import pair_id
from components.contracts.plugins import load_callable
from components.contracts.protocols import People
from components.contracts.seeds import derive_seed, torch_generator
from components.contracts.settings import PluginSettings
from components.preferences.records import Judgement, Sample

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor

PREFERENCES = (1.0, 0.0, 0.5)
"""Share of a win for the image shown first, by what the people answer: first, second, tie."""
PAIRS_AT_ONCE = 256
"""Judged in one call, so that the memory of the people does not grow with the data."""

Pair = tuple[Sample, Sample]


def build_people(plug: PluginSettings, annotators_per_pair: int) -> People:
    """The people that the settings name.

    Raises:
        SettingsError: the callable refuses the arguments, or there are too few people.
    """
    try:
        people: People = load_callable(plug.callable)(**plug.arguments)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"preferences.people: {plug.callable}: {error}") from None
    if len(people.names) < annotators_per_pair:
        raise SettingsError(
            f"preferences.annotators_per_pair is {annotators_per_pair}",
            allowed=f"1 to {len(people.names)}, the number of people",
        )
    return people


def judge_pairs(
    people: People,
    pairs: Sequence[Pair],
    images: Mapping[str, UInt8[Tensor, "3 h w"]],
    annotators_per_pair: int,
    seed: int,
) -> list[Judgement]:
    """Have every pair judged by `annotators_per_pair` different people, in the order of the pairs.

    Which image is shown first is drawn anew for each judgement: whoever leans to one side then does
    not lean to one image.
    """
    work: dict[int, list[tuple[int, Pair]]] = {}
    for position, pair in enumerate(pairs):
        for annotator in _assigned(pair, len(people.names), annotators_per_pair, seed):
            shown = _shuffle_sides(pair, annotator, seed)
            work.setdefault(annotator, []).append((position, shown))
    answers: list[tuple[int, int, Judgement]] = []
    for annotator, tasks in sorted(work.items()):
        for start in range(0, len(tasks), PAIRS_AT_ONCE):
            chunk = tasks[start : start + PAIRS_AT_ONCE]
            shown_pairs = [pair for _, pair in chunk]
            labels = _ask(people, annotator, shown_pairs, images, seed)
            answers += [
                (
                    position,
                    annotator,
                    Judgement(
                        a.prompt,
                        a.sample_id,
                        b.sample_id,
                        people.names[annotator],
                        PREFERENCES[label],
                    ),
                )
                for (position, (a, b)), label in zip(chunk, labels, strict=True)
            ]
    return [judgement for *_, judgement in sorted(answers, key=lambda answer: answer[:2])]


def _assigned(pair: Pair, num_people: int, wanted: int, seed: int) -> list[int]:
    name = pair_id(pair[0].sample_id, pair[1].sample_id)
    order = sorted(range(num_people), key=lambda person: derive_seed(seed, "who", name, person))
    return order[:wanted]


def _shuffle_sides(pair: Pair, annotator: int, seed: int) -> Pair:
    first, second = sorted(pair, key=lambda sample: sample.sample_id)
    swap = derive_seed(seed, "side", first.sample_id, second.sample_id, annotator) % 2
    return (second, first) if swap else (first, second)


def _ask(
    people: People,
    annotator: int,
    pairs: Sequence[Pair],
    images: Mapping[str, UInt8[Tensor, "3 h w"]],
    seed: int,
) -> list[int]:
    first, last = pairs[0], pairs[-1]
    answer = torch.as_tensor(
        people.compare(
            torch.stack([images[a.sample_id] for a, _ in pairs]),
            torch.stack([images[b.sample_id] for _, b in pairs]),
            [a.prompt.prompt for a, _ in pairs],
            annotator,
            torch_generator(seed, "answers", annotator, first[0].sample_id, last[1].sample_id),
        )
    )
    labels: list[int] = answer.tolist() if answer.dim() == 1 else []
    if len(labels) != len(pairs) or not set(labels) <= {0, 1, 2}:
        raise SettingsError(
            f"preferences.people: {people.names[annotator]} gave an answer of shape "
            f"{list(answer.shape)} to {len(pairs)} pairs",
            allowed="one of 0 (first), 1 (second), 2 (tie) for each pair",
        )
    return labels
