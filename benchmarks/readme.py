"""Figures in a page are read from committed json, never typed.

    python -m benchmarks.readme            fill the figures of every page
    python -m benchmarks.readme --check    exit with 1 when a figure differs from its json

A figure stands between two comments, and the first says where it comes from and how it is written:
`<!--= demo.json evaluation.base.correct percent -->49 %<!--/-->`.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.contracts.artifacts import write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MINIATURE = ROOT / "components" / "miniature"
PAGES = {
    ROOT / "README.md": RESULTS,
    MINIATURE / "README.md": MINIATURE,
    ROOT / "docs" / "label_data.md": RESULTS,
    ROOT / "docs" / "reward_models.md": RESULTS,
}
"""Each page, and the folder to which the files of its figures are relative."""
FIGURE = re.compile(
    r"<!--= (?P<file>\S+) (?P<key>\S+) (?P<form>\w+) -->(?P<text>.*?)<!--/-->", re.S
)

FORMS: dict[str, Callable[[Any], str]] = {
    "percent": lambda value: f"{100 * value:.0f} %",
    "points": lambda value: f"{100 * value:+.1f} points",
    "tenths": lambda value: f"{100 * value:.1f} %",
    "interval": lambda value: f"[{100 * value[0]:+.1f}, {100 * value[1]:+.1f}]",
    "range": lambda value: f"({100 * value[0]:.0f}–{100 * value[1]:.0f})",
    "seconds": lambda value: f"{value:.0f} s",
    "minutes": lambda value: f"{value / 60:.1f} minutes",
    "decimal": lambda value: f"{value:.2f}",
    "count": lambda value: f"{value:,}",
    "whole": lambda value: f"{value:,.0f}",
    "megabytes": lambda value: f"{value:,.0f} MB",
    "text": str,
}


def look_up(content: Any, key: str) -> Any:
    """The value that a dotted key leads to; a list takes its index as a step."""
    for step in key.split("."):
        content = content[int(step)] if isinstance(content, list) else content[step]
    return content


def filled(page: str, results: Path) -> str:
    """The page with every figure as its json under `results` has it."""

    def replace(match: re.Match[str]) -> str:
        content = json.loads((results / match["file"]).read_text(encoding="utf-8"))
        text = FORMS[match["form"]](look_up(content, match["key"]))
        return f"<!--= {match['file']} {match['key']} {match['form']} -->{text}<!--/-->"

    return FIGURE.sub(replace, page)


def main() -> int:
    """Fill or check every page."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readme", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing, fail on a difference")
    options = parser.parse_args()
    differs = False
    for path, results in PAGES.items():
        page = path.read_text(encoding="utf-8")
        wanted = filled(page, results)
        differs |= page != wanted
        if not options.check:
            write_text(path, wanted)
    return int(options.check and differs)


if __name__ == "__main__":
    sys.exit(main())
