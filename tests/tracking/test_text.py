"""What the store is given is flat, printable and bounded."""

from __future__ import annotations

import pytest

from components.tracking.text import clean, flatten, name


def test_control_characters_are_dropped_and_text_is_kept() -> None:
    assert clean("a\x00b\x1b[1m\u202ec\nd é 好") == "ab[1mc\nd é 好"


def test_long_text_is_cut_to_the_limit() -> None:
    assert clean("x" * 10, limit=5) == "xxxx…"


@pytest.mark.parametrize(
    ("given", "kept"),
    [("reward", "reward"), ("a b/c.d:e-f", "a b/c.d:e-f"), ("été\0", "_t_"), ("/", "_"), ("", "_")],
)
def test_names_hold_only_what_the_store_allows(given: str, kept: str) -> None:
    assert name(given) == kept


def test_nested_settings_become_dotted_names() -> None:
    nested = {"seed": 7, "lora": {"rank": 4, "targets": None}, "names": ["a", "b"], "s": "x"}
    assert flatten(nested) == {
        "seed": "7",
        "lora.rank": "4",
        "lora.targets": "null",
        "names": '["a", "b"]',
        "s": "x",
    }
