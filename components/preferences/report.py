"""The figures of stage 2, from its samples and judgements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from components.preferences.agreement import krippendorff_alpha, label_noise, raw_agreement
from components.preferences.records import SPLITS, Judgement, Sample

ANSWERS = ("lower", "higher", "tie")
"""In terms that all judgements of a pair share: the sample with the lower or the higher id."""


def summarise(samples: Sequence[Sample], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """All figures, over everything, for each split and for each category.

    `first_side_fraction` is the share of decided judgements that chose the image shown first; far
    from 0.5 it is a side bias. The figures of agreement are null where no pair was judged twice.
    """
    return {
        "prompts": len({sample.prompt.prompt_id for sample in samples}),
        "samples": len(samples),
        "annotators": len({judgement.annotator for judgement in judgements}),
        **_figures(judgements),
        "splits": {
            split: _figures([row for row in judgements if row.prompt.split == split])
            for split in SPLITS
            if any(row.prompt.split == split for row in judgements)
        },
        "categories": {
            category: _figures([row for row in judgements if row.prompt.category == category])
            for category in sorted({row.prompt.category for row in judgements})
        },
    }


def _figures(judgements: Sequence[Judgement]) -> dict[str, Any]:
    # Somebody who saw a pair twice is one annotator; the last answer counts.
    answers: dict[str, dict[str, str]] = {}
    for row in judgements:
        answers.setdefault(row.pair_id, {})[row.annotator] = _answer(row)
    counts = np.array(
        [
            [list(by_annotator.values()).count(answer) for answer in ANSWERS]
            for by_annotator in answers.values()
        ]
    )
    decided = [row for row in judgements if row.label != "tie"]
    first = sum(row.label == "a" for row in decided)
    return {
        "pairs": len(counts),
        "judgements": len(judgements),
        "decided_fraction": len(decided) / len(judgements),
        "tie_fraction": 1.0 - len(decided) / len(judgements),
        "first_side_fraction": first / len(decided) if decided else None,
        "pairs_with_several": int((counts.sum(axis=1) > 1).sum()),
        "agreement": raw_agreement(counts),
        "krippendorff_alpha": krippendorff_alpha(counts),
        "label_noise": label_noise(counts, ANSWERS.index("tie")),
    }


def _answer(judgement: Judgement) -> str:
    """One of `ANSWERS`."""
    if judgement.label == "tie":
        return "tie"
    both = (judgement.sample_id_a, judgement.sample_id_b)
    return "lower" if judgement.choice == min(both) else "higher"
