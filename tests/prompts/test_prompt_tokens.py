"""Counting tokens agrees with the tokenizer that the text encoder gets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import CLIPTokenizer

from components.contracts.errors import ModelError
from components.prompts.tokens import load_token_counter

PROMPTS = [
    "a cat",
    "A  CAT's 42 lives, isn't it?!",
    "café dog\u00a0and 日本 cats",
    "",
    "cat " * 40,
    "<|endoftext|> a cat",
]


def lengths(folder: Path) -> list[int]:
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    shutil.copytree(base / "tokenizer", tmp_path / "model/tokenizer")
    return tmp_path / "model"


def test_counts_are_those_of_transformers(model: Path) -> None:
    counter = load_token_counter("model", model.parent)
    assert counter.count(PROMPTS) == lengths(model)
    assert counter.limit == 24


def test_an_older_model_with_its_two_files_gives_the_same_counts(model: Path) -> None:
    expected = lengths(model)
    whole = model / "tokenizer/tokenizer.json"
    content = json.loads(whole.read_text())["model"]
    (model / "tokenizer/vocab.json").write_text(json.dumps(content["vocab"]))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in content["merges"]]
    (model / "tokenizer/merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")
    whole.unlink()
    # A mark that stands in the text is one token for transformers and letters here.
    assert load_token_counter("model", model.parent).count(PROMPTS)[:-1] == expected[:-1]


@pytest.mark.parametrize("fault", ["no files", "not json", "no limit", "no config"])
def test_a_broken_tokenizer_is_one_line(model: Path, fault: str) -> None:
    folder = model / "tokenizer"
    if fault == "no files":
        (folder / "tokenizer.json").unlink()
    elif fault == "not json":
        (folder / "tokenizer.json").write_text("{")
    elif fault == "no limit":
        (folder / "tokenizer_config.json").write_text("{}")
    else:
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelError) as caught:
        load_token_counter("model", model.parent)
    assert str(folder) in str(caught.value)
    assert "allowed: " in str(caught.value)


def test_a_name_that_no_hub_gives_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    for name in ("nobody/nothing", "not a name at all", "../elsewhere"):
        with pytest.raises(ModelError, match="neither a folder nor a model"):
            load_token_counter(name, tmp_path)
