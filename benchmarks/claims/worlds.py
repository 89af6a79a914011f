"""The world of a seed: its split of prompts, its people's judgements, its reward model.

Made once by the pipeline's own stages and shared by all runs of that seed, so that methods are
compared on the same base, the same prompts and the same reward.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pyarrow as pa

from components.contracts.artifacts import write_text
from components.contracts.tables import PROMPTS, read_table, write_table
from flows.profiles import params_yaml

ROOT = Path(__file__).parents[2]
WORK = ROOT / ".work" / "claims"
STAGES = ("prompts", "preferences", "rewards")
MADE = "made"
"""A file that stands when the world is complete."""


def prepare(seed: int, quick: bool) -> Path:
    """The folder of the world of `seed`; what it already has is not made again.

    Args:
        seed: of split, judgements and reward model.
        quick: a few prompts and one epoch: enough to run everything, not to learn from it.
    """
    folder = WORK / (f"quick-{seed}" if quick else f"world-{seed}")
    if (folder / MADE).exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    link(folder / "components", ROOT / "components")
    write_params(folder, {"seed": seed, "compute": {"threads": 1}, **(_QUICK if quick else {})})
    for stage in STAGES:
        if not (folder / f"reports/{stage}.json").exists():
            call(folder, f"components.{stage}")
    write_text(folder / MADE, "")
    return folder


_QUICK = {
    "preferences": {
        "prompts_per_category": 6,
        "held_out_prompts_per_category": 3,
        "samples_per_prompt": 4,
        "pairs_per_prompt": 3,
    },
    "rewards": {"epochs": 1, "learning_curve": {"shares": []}, "audit": None},
}


def work_alone() -> None:
    """One thread for this process and no tracker; it ends with the process that started it."""
    os.environ |= {"KONOMI_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    # A pool's workers outlive a parent that was killed, and would go on with what it had queued.
    threading.Thread(target=_end_with, args=(parent_process(),), daemon=True).start()


def _end_with(parent: BaseProcess | None) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """The repository's params.yaml with some values changed; a changed method replaces the old
    one."""
    params = params_yaml().load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    overlay(params, changes)
    with (folder / "params.yaml").open("w", encoding="utf-8") as file:
        params_yaml().dump(params, file)


def overlay(params: Any, changes: dict[str, Any]) -> None:
    """Change values in place, block by block; the block of another method is taken whole."""
    for key, value in changes.items():
        whole = key in ("method", "reward")
        if isinstance(value, dict) and isinstance(params.get(key), dict) and not whole:
            overlay(params[key], value)
        else:
            params[key] = value


def call(folder: Path, module: str, *arguments: str) -> None:
    """Run a module in a project folder, without a tracker and quietly.

    Raises:
        RuntimeError: it failed; the message holds the end of what it printed.
    """
    environment = {**os.environ, "KONOMI_TRACKING": "off", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{folder.name}: {module} failed\n{ran.stderr[-2000:]}")


def link_prompts(folder: Path, world: Path, per_category: int | None) -> None:
    """The world's prompts in a run's folder; with `per_category` the first so many of each category
    of the training split are all that is trained on, and what validates too."""
    source, own = world / "data" / "prompts", folder / "data" / "prompts"
    if per_category is None:
        link(own, source)
        return
    own.mkdir(exist_ok=True)
    link(own / "test.parquet", source / "test.parquet")
    rows = read_table(source / "train.parquet", PROMPTS).to_pylist()
    taken: Counter[str] = Counter()
    few = []
    for row in rows:
        taken[row["category"]] += 1
        if taken[row["category"]] <= per_category:
            few.append(row)
    for split in ("train", "validation"):
        write_table(own / f"{split}.parquet", pa.Table.from_pylist(few), PROMPTS)


def link(place: Path, target: Path) -> None:
    """A symbolic link, unless it is there."""
    if not place.is_symlink():
        place.symlink_to(target)
