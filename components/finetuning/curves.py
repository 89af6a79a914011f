"""The curves of a run: one row an update, with what was known just before its optimizer step."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.contracts.artifacts import write_text

COLUMNS = (
    "update",
    "round",
    "images",
    "reward",
    "reward_std",
    "kl",
    "ratio_mean",
    "ratio_deviation_max",
    "clip_fraction",
    "loss",
    "grad_norm",
    "value_loss",
    "dropped_groups",
    "clipped_weights",
    "brightness",
    "saturation",
    "diversity",
    "judge",
    "validation_reward",
    "validation_diversity",
)
"""What most methods tell, in this order; a method's own figures follow by name. The last three
stand in the first row of a round where the monitor looked, and alone in a last row for the look
after the last update."""

Row = Mapping[str, float]


def write_curves(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as csv; what was not measured is empty. The same rows give the same bytes."""
    columns = [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([format(row[name], ".7g") if name in row else "" for name in columns])
    write_text(path, text.getvalue())
