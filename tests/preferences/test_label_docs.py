"""The page on label data shows blocks that the stage takes, for every layout that there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from ruamel.yaml import YAML

from components.preferences.layouts.records import FAULTS, NO_LABEL, REPEATED, SAME_PICTURE
from components.preferences.layouts.table import COLUMNS
from components.preferences.settings import AnySource, Settings

PAGE = Path(__file__).parents[2] / "docs" / "label_data.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_one_that_the_stage_takes(block: str) -> None:
    content = YAML(typ="safe").load(block)["preferences"]
    assert Settings.model_validate_json(json.dumps(content)).sources


def test_every_layout_has_a_block_and_a_file() -> None:
    layouts = {source.model_fields["layout"].default for source in get_args(AnySource)}
    shown = set(re.findall(r"layout: (\w+)", "".join(BLOCKS)))
    folder = Path(__file__).parents[2] / "components/preferences/layouts"
    files = {path.stem for path in folder.glob("*.py")} - {"__init__", "records"}
    assert layouts == shown == files


def test_the_page_names_every_reason_and_every_column_of_a_table() -> None:
    for reason in (*FAULTS, NO_LABEL, SAME_PICTURE, REPEATED):
        assert f"| `{reason}` |" in TEXT
    for kind, columns in COLUMNS.items():
        (line,) = (line for line in TEXT.splitlines() if line.startswith(f"| `{kind}` |"))
        assert all(f"`{column}`" in line for column in columns)
