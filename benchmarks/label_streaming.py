"""How much memory a million labels take on their way from a published file to training.

    python -m benchmarks.label_streaming

Pairs are made up in the columns of Pick-a-Pic, every picture with bytes of its own, 17 pairs a
caption as in version 2. The real stage `preferences` imports them; then the dataset of the stage
`rewards` reads them as training does, one pass in shuffled batches with pictures decoded ahead.
Each step is a process of its own, so that its peak is its own. The slope is what one more pair
costs, from the two sizes. Speeds are of processor time, which other work on the machine does not
change. The result is `benchmarks/results/label_streaming.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results" / "label_streaming.json"
SIZES = (100_000, 1_000_000)
SIDE = 8
"""Pixels of a picture: the smaller it is, the more of the cost is bookkeeping."""
PAIRS_PER_CAPTION = 17
ROWS_PER_GROUP = 1000
CACHE_MEGABYTES = 64
BATCH_PAIRS = 128
"""Pairs of one batch of the reading pass."""
USERS = 5000


def write_labels(path: Path, rows: int, side: int = SIDE) -> None:
    """A parquet file as `yuvalkirstain/pickapic_v2` has them, with pictures of noise."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    random = np.random.default_rng(0)
    schema = pa.schema(
        [
            ("are_different", pa.bool_()),
            ("best_image_uid", pa.string()),
            ("caption", pa.string()),
            ("has_label", pa.bool_()),
            ("image_0_uid", pa.string()),
            ("image_1_uid", pa.string()),
            ("jpg_0", pa.binary()),
            ("jpg_1", pa.binary()),
            ("label_0", pa.float64()),
            ("label_1", pa.float64()),
            ("ranking_id", pa.int64()),
            ("user_id", pa.int64()),
            ("num_example_per_prompt", pa.int64()),
        ]
    )

    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as file:
        for start in range(0, rows, ROWS_PER_GROUP):
            group = range(start, min(start + ROWS_PER_GROUP, rows))
            label = [float(random.integers(0, 3)) / 2 for _ in group]
            columns = {
                "are_different": [True] * len(group),
                "best_image_uid": [f"{row:032x}" for row in group],
                "caption": [
                    f"a picture of thing number {row // PAIRS_PER_CAPTION}, highly detailed, 4k"
                    for row in group
                ],
                "has_label": [True] * len(group),
                "image_0_uid": [f"{row:032x}" for row in group],
                "image_1_uid": [f"{row:031x}f" for row in group],
                "jpg_0": [_png(random.bytes(3 * side * side), side) for _ in group],
                "jpg_1": [_png(random.bytes(3 * side * side), side) for _ in group],
                "label_0": label,
                "label_1": [1 - value for value in label],
                "ranking_id": list(group),
                "user_id": [int(random.integers(USERS)) for _ in group],
                "num_example_per_prompt": [PAIRS_PER_CAPTION] * len(group),
            }
            file.write_table(pa.table(columns, schema=schema))


def _png(pixels: bytes, side: int) -> bytes:
    """A square RGB picture, by hand: a library would take most of the time."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    lines = [pixels[start : start + 3 * side] for start in range(0, len(pixels), 3 * side)]
    # Eight bits a channel, RGB; each line starts with a filter, 0 for none.
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + line for line in lines), 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def import_labels(root: Path) -> int:
    """Run the stage `preferences` on `root/brought.parquet`; the number of pairs."""
    import pyarrow as pa

    from components.contracts.settings import BaseSettings, ComputeSettings
    from components.contracts.stage import StageContext
    from components.contracts.tables import PROMPTS, write_table
    from components.preferences.settings import Settings
    from components.preferences.stage import run
    from components.tracking import NullTracker

    for split in ("train", "validation", "test"):
        path = root / f"data/prompts/{split}.parquet"
        write_table(path, pa.Table.from_pylist([], schema=PROMPTS.columns), PROMPTS)
    source = {"layout": "pick_a_pic", "path": "brought.parquet"}
    settings = Settings.model_validate_json(json.dumps({"label_source": source}))
    (root / ".work").mkdir(exist_ok=True)
    context = StageContext(
        stage="preferences",
        root=root,
        seed=7,
        compute=ComputeSettings(device="cpu", threads=1),
        base=BaseSettings(path="base"),
        tracker=NullTracker(),
        work=root / ".work",
    )
    return int(run(settings, context)["judgements"])


def read_epoch(root: Path, side: int = SIDE, cache_megabytes: int = CACHE_MEGABYTES) -> int:
    """One pass over the training pairs; the number of pairs that were seen."""
    import torch

    from components.rewards.dataset import read_preferences
    from components.rewards.pictures import Preprocessing

    torch.set_num_threads(1)
    resize = Preprocessing(side, side, "bicubic", (0.5,) * 3, (0.5,) * 3).resize
    data = read_preferences(root / "data/preferences", resize, cache_megabytes)
    pairs = data.splits["train"]
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    batches = (
        torch.cat([pairs.image_a[rows], pairs.image_b[rows]]).unique()
        for rows in order.split(BATCH_PAIRS)
    )
    total = sum(int(pixels.sum()) for _, pixels in data.images.ahead(batches))
    assert total > 0
    return len(pairs)


STEPS = ("import", "read")
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "131072",
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
"""What is freed goes back at once: a peak is then what was held, not how allocators were lucky."""


def measure(
    step: str, root: Path, side: int = SIDE, cache_megabytes: int = CACHE_MEGABYTES
) -> dict[str, float]:
    """Run a step in a process of its own: rows, seconds, and its memory before and at its peak."""
    command = [sys.executable, "-m", "benchmarks.label_streaming", "--step", step]
    options = {"--root": root, "--side": side, "--cache": cache_megabytes}
    ran = subprocess.run(
        [*command, *(str(part) for option in options.items() for part in option)],
        cwd=Path(__file__).parents[1],
        env={**os.environ, **ENVIRONMENT},
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{step} failed: {ran.stderr[-2000:]}")
    found: dict[str, float] = json.loads(ran.stdout.splitlines()[-1])
    return found


def _step(step: str, root: Path, side: int, cache_megabytes: int) -> dict[str, float]:
    # What every step loads anyway is no cost of the labels.
    import numpy
    import PIL.Image
    import pyarrow.parquet

    if step == "read":
        import components.rewards.dataset
        import components.rewards.pictures
    else:
        import components.preferences.importing
        import components.preferences.stage  # noqa: F401
    del numpy, PIL, pyarrow
    before, started, used = _megabytes("VmRSS"), time.monotonic(), time.process_time()
    rows = read_epoch(root, side, cache_megabytes) if step == "read" else import_labels(root)
    seconds, used = time.monotonic() - started, time.process_time() - used
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "processor_seconds": round(used, 1),
        "rows_per_processor_second": round(rows / used, 1),
        "loaded_megabytes": before,
        "peak_megabytes": _megabytes("VmHWM"),
    }


def _megabytes(name: str) -> float:
    """Memory of this process now (`VmRSS`) or at its highest (`VmHWM`)."""
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found
    return round(int(found[1]) / 1024, 1)


def run(sizes: tuple[int, int], folder: Path) -> dict[str, Any]:
    """Both steps at both sizes."""
    from components.contracts.stage import git_revision

    figures: dict[str, Any] = {
        "git_revision": git_revision(Path(__file__).parents[1]),
        "machine": {"system": platform.machine(), "cpus": os.cpu_count()},
        "picture_side": SIDE,
        "cache_megabytes": CACHE_MEGABYTES,
        "steps": {},
    }
    for rows in sizes:
        root = folder / str(rows)
        started = time.monotonic()
        write_labels(root / "brought.parquet", rows)
        print(f"{rows} pairs made up in {time.monotonic() - started:.0f} s", file=sys.stderr)
        for step in STEPS:
            found = measure(step, root)
            figures["steps"].setdefault(step, {})[str(rows)] = found
            print(f"{step}: {found}", file=sys.stderr)
    for found in figures["steps"].values():
        small, large = (found[str(rows)] for rows in sizes)
        grown = (large["peak_megabytes"] - small["peak_megabytes"]) * 2**20
        found["bytes_per_pair"] = round(grown / (sizes[1] - sizes[0]), 1)
    return figures


def main() -> int:
    """Measure and write the file, or run one step for `measure`."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.label_streaming", description=__doc__
    )
    parser.add_argument("--folder", type=Path, help="where the files go (some GB); else a new one")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--root", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, default=SIDE, help=argparse.SUPPRESS)
    parser.add_argument("--cache", type=int, default=CACHE_MEGABYTES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(_step(options.step, options.root, options.side, options.cache)))
        return 0
    from components.contracts.artifacts import write_json

    if options.folder:
        write_json(RESULTS, run(SIZES, options.folder))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        write_json(RESULTS, run(SIZES, Path(folder)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
