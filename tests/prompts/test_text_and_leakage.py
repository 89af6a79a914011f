"""Laws of cleaning, and a leak that is planted must be found."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.text import clean_prompt, has_invisible, prompt_key
from components.prompts.curate import Prompt
from components.prompts.split import count_leakage


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    cleaned = clean_prompt(text)
    assert clean_prompt(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert not has_invisible(cleaned)
    assert cleaned == cleaned.strip()
    assert not any(character.isspace() and character != " " for character in cleaned)


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_the_key_of_a_prompt_does_not_see_capitals(text: str) -> None:
    prompt = clean_prompt(text)
    assert prompt_key(prompt_key(prompt)) == prompt_key(prompt)
    assert prompt_key(prompt.casefold()) == prompt_key(prompt)


def test_invisible_characters_go_and_visible_ones_stay() -> None:
    assert clean_prompt("a\u200bb\u202ec\x00d\ufeffe") == "abcde"
    assert clean_prompt("one\u2028two\tthree\r\nfour") == "one two three four"
    assert clean_prompt("日本 ❤️ naïve") == "日本 ❤️ naïve"
    assert not has_invisible("tabs\tand\nlines are white space")
    assert has_invisible("bell\x07")


def test_a_planted_leak_is_counted() -> None:
    def row(text: str) -> Prompt:
        return Prompt(text, "plain", "p.csv")

    clean = {"train": [row("a cat"), row("a dog")], "validation": [], "test": [row("a fox")]}
    assert count_leakage(clean) == 0
    assert count_leakage({**clean, "validation": [row("A Cat")], "test": [row("A DOG")]}) == 2
    assert count_leakage({**clean, "train": [row("a cat"), row("A cat")]}) == 0


def test_the_stage_starts_without_a_deep_learning_library() -> None:
    code = "import sys, components.prompts.stage as s; print('torch' in sys.modules, s.__name__)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False components.prompts.stage\n"
