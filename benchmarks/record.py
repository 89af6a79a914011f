"""Keep the figures of the run that has just ended: `python -m benchmarks.record demo`.

Copies what the README and the paper index quote from `reports/` and the tracker into
`benchmarks/results/<name>.json`, and the before/after grid into `docs/<name>_grid.png`.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from components.contracts.artifacts import read_json, write_bytes, write_json
from components.contracts.stage import git_revision
from components.tracking import latest_runs

RESULTS = Path(__file__).parent / "results"
GRID_WIDTH = 1600


def collect(root: Path) -> dict[str, Any]:
    """Figures of the last pipeline run that is on record under `root`."""
    (last,) = latest_runs(root, 1)
    return {
        "git_revision": git_revision(root),
        "machine": {"system": platform.machine(), "cpus": os.cpu_count()},
        "seconds": {
            "pipeline": last.seconds,
            **{stage.stage: stage.seconds for stage in last.stages},
        },
        **{
            stage: read_json(root / "reports" / f"{stage}.json")
            for stage in ("prompts", "preferences", "rewards", "finetuning", "evaluation")
        },
    }


def main() -> int:
    """Write the json and the picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.record", description=__doc__)
    parser.add_argument("name", help="of the result, for example `demo`")
    parser.add_argument("--root", type=Path, default=Path.cwd(), help="project folder of the run")
    options = parser.parse_args()
    write_json(RESULTS / f"{options.name}.json", collect(options.root))
    with Image.open(options.root / "reports" / "grid.png") as picture:
        small = picture.convert("RGB")
        small.thumbnail((GRID_WIDTH, 10_000))
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    write_bytes(RESULTS.parent.parent / "docs" / f"{options.name}_grid.png", content.getvalue())
    return 0


if __name__ == "__main__":
    sys.exit(main())
