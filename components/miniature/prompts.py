"""Write prompts.csv, which the pipeline draws from: python -m components.miniature.prompts."""

from __future__ import annotations

import csv
import io
from typing import Final

import numpy as np

from components.miniature.scenes import PROMPTS_PATH, Scene, all_scenes, caption
from components.miniature.world import OBJECTS, TASKS

PARTNERS: Final = 8
"""Every object opens this many pairs, so that composition is about as large as colour."""


def listed_prompts() -> list[tuple[str, str]]:
    """Return (prompt, category) of all listed prompts, sorted by task and then by words.

    All scenes of the tasks but composition, of which a balanced part is taken: every object stands
    in exactly 2 * `PARTNERS` pairs, no pair stands twice, and chance decides which is named first.
    """
    rng = np.random.default_rng(0)
    ring = rng.permutation(OBJECTS).tolist()
    pairs = []
    for step in range(1, PARTNERS + 1):
        for place, name in enumerate(ring):
            both = [name, ring[(place + step) % len(ring)]]
            first, second = both if rng.random() < 0.5 else both[::-1]
            pairs.append(Scene(((first, 1, None), (second, 1, None))))
    rows: list[tuple[str, str]] = []
    for task in TASKS:
        scenes = pairs if task == "composition" else all_scenes(task)
        rows.extend((prompt, task) for prompt in sorted(caption(scene) for scene in scenes))
    return rows


def main() -> None:
    """Write prompts.csv as a whole or not at all."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("prompt", "category"))
    writer.writerows(listed_prompts())
    temporary = PROMPTS_PATH.with_name(f".{PROMPTS_PATH.name}.part")
    temporary.write_text(buffer.getvalue())
    temporary.replace(PROMPTS_PATH)


if __name__ == "__main__":
    main()
