"""From what a layout yields to rows of the tables, once the ids of its pictures are known.

Each function yields the rows of one label after the other, and adds to `reasons` why a label is
left out. `names` are the sample ids of the entry's pictures, None for one that cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

from components.contracts.ids import id_number, ranking_id
from components.preferences.known import IdSet
from components.preferences.layouts.records import (
    BAD_LABEL,
    REPEATED,
    SAME_PICTURE,
    UNREADABLE,
    Labelled,
    Ranking,
)
from components.preferences.records import Judgement, Label, PromptRow, RankedSample, Rated


def judgements(
    entry: Labelled, prompt: PromptRow, names: Sequence[str | None], reasons: list[str]
) -> Iterator[list[Label]]:
    """Two pictures that were compared by themselves."""
    for said in entry.comparisons:
        a, b = names[said.a], names[said.b]
        if a is None or b is None:
            reasons.append(UNREADABLE)
        elif a == b:
            if not entry.published:
                raise entry.fault("compares a picture with itself")
            reasons.append(SAME_PICTURE)
        else:
            yield [Judgement(prompt, a, b, said.annotator, said.preference)]


def rankings(
    entry: Labelled,
    prompt: PromptRow,
    names: Sequence[str | None],
    reasons: list[str],
    known: IdSet,
) -> Iterator[list[Label]]:
    """Rankings of two pictures or more, each with a judgement for every two of them; `known` are
    those that have been met before."""
    for said in entry.rankings:
        ranked: dict[str, int] = {}
        for name, rank in zip(names, said.ranks, strict=True):
            if rank is None:
                continue
            if name is None:
                reasons.append(UNREADABLE)
            elif name in ranked:
                if not entry.published:
                    raise entry.fault("ranks a picture twice", "each picture once")
                reasons.append(SAME_PICTURE)
            else:
                ranked[name] = rank
        if len(ranked) < 2:
            reasons.append(BAD_LABEL)
            continue
        ranking = ranking_id(prompt.prompt_id, said.annotator, said.name)
        if known.add(id_number(ranking)):
            yield _ranking(prompt, said, ranking, ranked)
            continue
        if not entry.published:
            allowed = "all rows of a ranking one after the other, each ranking once"
            raise entry.fault(f"ranking '{said.name[:40]}' stands twice", allowed)
        reasons.append(REPEATED)


def _ranking(prompt: PromptRow, said: Ranking, name: str, ranked: Mapping[str, int]) -> list[Label]:
    rows = [RankedSample(prompt, name, said.annotator, *item) for item in ranked.items()]
    pairs = [
        Judgement(
            prompt,
            a.sample_id,
            b.sample_id,
            said.annotator,
            0.5 if a.rank == b.rank else float(a.rank < b.rank),
            name,
        )
        for a, b in combinations(rows, 2)
    ]
    return [*rows, *pairs]


def ratings(
    entry: Labelled, prompt: PromptRow, names: Sequence[str | None], reasons: list[str]
) -> Iterator[list[Label]]:
    """Answers about one picture."""
    for said in entry.ratings:
        name = names[said.picture]
        if name is None:
            reasons.append(UNREADABLE)
            continue
        scale = (said.low, said.high, said.steps)
        yield [Rated(prompt, said.annotator, name, said.question, said.value, *scale)]
