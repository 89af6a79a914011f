"""What a judgement, a ranking or a rating must be, whoever wrote it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, UInt64

from components.contracts.errors import DataError
from components.rewards.label_tables import LABELS, Piece

Columns = Mapping[str, np.ndarray]


def check_pairs(piece: Piece, found: Columns) -> None:
    """A share of a win in [0, 1] that its label says too, between two different samples.

    Raises:
        DataError: for the first row that is not so.
    """
    preference = found["preference"]
    piece.refuse(
        (preference < 0) | (preference > 1),
        lambda row: f"preference is {preference[row]:g}",
        "a share of a win for a, from 0 to 1",
    )
    label = np.where(preference > 0.5, 0, np.where(preference < 0.5, 2, 1))
    piece.refuse(
        label != found["label"],
        lambda row: f"label '{LABELS[found['label'][row]]}' and preference {preference[row]:g}",
        "label a above 0.5, b below, tie for 0.5",
    )
    piece.refuse(
        found["sample_id_a"] == found["sample_id_b"], lambda row: "compares a sample with itself"
    )


def check_ratings(piece: Piece, found: Columns) -> None:
    """A value on a scale that has two ends.

    Raises:
        DataError: for the first row that is not so.
    """
    value, low, high = (found[name] for name in ("value", "low", "high"))
    piece.refuse(
        ~(low < high) | (value < low) | (value > high),
        lambda row: f"value {value[row]:g} from {low[row]:g} to {high[row]:g}",
        "low below high, and a value from one to the other",
    )
    steps = found["steps"]
    piece.refuse(
        (steps < 0) | (steps == 1), lambda row: f"steps is {steps[row]}", "0, or 2 and more"
    )


def check_rankings(path: Path, found: Columns, prompt_of: Int[np.ndarray, " s"]) -> None:
    """Two samples or more of one prompt, each once, ordered by one annotator.

    Args:
        path: of the table.
        found: its columns.
        prompt_of: each sample's prompt.

    Raises:
        DataError: for a ranking that is not so.
    """
    ranking = found["ranking_id"]
    order = np.lexsort((found["sample_id"], ranking))
    sample, name = found["sample_id"][order], ranking[order]
    same = name[1:] == name[:-1]
    _refuse(path, name[1:], same & (sample[1:] == sample[:-1]), "ranks a sample twice")
    for column, what in ((prompt_of[sample], "prompts"), (found["annotator"][order], "annotators")):
        _refuse(path, name[1:], same & (column[1:] != column[:-1]), f"is of two {what}")
    lonely = np.ones(len(name), bool)
    lonely[1:] &= ~same
    lonely[:-1] &= ~same
    _refuse(path, name, lonely, "holds one sample only")


def _refuse(
    path: Path, name: UInt64[np.ndarray, " n"], wrong: Bool[np.ndarray, " n"], what: str
) -> None:
    if wrong.any():
        raise DataError(
            what,
            file=path,
            place=f"ranking r_{name[wrong][0]:016x}",
            allowed="one annotator's order of two or more samples of one prompt, each once",
        )
