"""docs/scorers.md: every line of settings in it is read as settings are."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import TypeAdapter
from ruamel.yaml import YAML

from components.rewards.scorers import ScorerSettings

PAGE = Path(__file__).parents[2] / "docs/scorers.md"
PUBLISHED = {"clip_score", "pick_score", "hps_v2", "aesthetic", "image_reward", "hps_v3"}


def test_settings_on_the_page_are_valid() -> None:
    lines = re.findall(r"`(\{name: [^`]*\})`", PAGE.read_text())
    read = [TypeAdapter(ScorerSettings).validate_python(YAML(typ="safe").load(x)) for x in lines]
    assert {settings.name for settings in read} >= PUBLISHED


def test_every_default_named_on_the_page_is_the_default() -> None:
    rows = re.findall(r"\| `(\w+)` \| `(\w+)` \| `([^`]+)` \|", PAGE.read_text())
    assert len(rows) == 5
    for name, key, default in rows:
        given = {"checkpoint": "w.pth"} if name == "aesthetic" else {}
        settings = TypeAdapter(ScorerSettings).validate_python({"name": name, **given})
        assert getattr(settings, key) == default
