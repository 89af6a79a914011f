"""docs/scorers.md: every scorer has a row, and every line of settings in it is read as such."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from components.rewards.scorers import SCORERS, ScorerSettings

PAGE = Path(__file__).parents[2] / "docs/scorers.md"
LINES = re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
ROWS = {name: row for name, row in LINES if f"{{name: {name}" in row}
UNION = get_args(get_args(ScorerSettings)[0])
CLASSES = {kind.model_fields["name"].default: kind for kind in UNION}


def read(content: Any) -> Any:
    """As params.yaml is read: through json, so that a list may become a tuple."""
    return TypeAdapter(ScorerSettings).validate_json(json.dumps(content))


def test_every_scorer_can_be_built_and_has_a_row() -> None:
    assert set(SCORERS) == set(CLASSES)
    assert sorted(set(CLASSES) - set(ROWS)) == []
    assert sorted(set(ROWS) - set(CLASSES)) == []


@pytest.mark.parametrize("name", sorted(ROWS))
def test_settings_on_the_page_are_valid(name: str) -> None:
    (line,) = re.findall(r"`(\{name: .*?\})`", ROWS[name])
    assert read(YAML(typ="safe").load(line)).name == name


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_says_whether_gradients_flow(name: str) -> None:
    cells = ROWS[name].split(" | ")
    says = getattr(CLASSES[name], "differentiable", None)
    assert ("no" in cells) == (says is False)


def test_every_default_named_on_the_page_is_the_default() -> None:
    rows = re.findall(r"\| `(\w+)` \| `(\w+)` \| `([^`]+)` \|", PAGE.read_text())
    assert len(rows) == 5
    for name, key, default in rows:
        given = {"checkpoint": "w.pth"} if name == "aesthetic" else {}
        assert getattr(read({"name": name, **given}), key) == default
