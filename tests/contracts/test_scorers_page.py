"""The page of scorers: every scorer has a row, and its line of settings is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter
from ruamel.yaml import YAML

from components.rewards.scorers import SCORERS
from components.rewards.scorers.settings import ScorerSettings

PAGE = Path(__file__).parents[2] / "docs/scorers.md"
ROWS = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
UNION = get_args(get_args(ScorerSettings)[0])
CLASSES = {kind.model_fields["name"].default: kind for kind in UNION}


def test_every_scorer_can_be_built_and_has_a_row() -> None:
    assert set(SCORERS) == set(CLASSES)
    assert sorted(set(CLASSES) - set(ROWS)) == []
    assert sorted(set(ROWS) - set(CLASSES)) == []


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_line_of_settings_is_one(name: str) -> None:
    (line,) = re.findall(r"`(\{name: .*?\})`", ROWS[name])
    content: Any = YAML(typ="safe").load(line)
    settings = TypeAdapter(ScorerSettings).validate_json(json.dumps(content))
    assert settings.name == name


@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_row_says_whether_gradients_flow(name: str) -> None:
    gradient = ROWS[name].split(" | ")[3]
    kind = CLASSES[name]
    if isinstance(getattr(kind, "differentiable", None), bool):
        assert gradient == ("yes" if kind.differentiable else "no")
