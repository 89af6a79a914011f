"""The tokenizer of the miniature world: CLIP's byte-pair encoding over a very small vocabulary."""

from __future__ import annotations

import json
import string
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Final

from transformers import CLIPTokenizer

from components.miniature.world import COLOURS, NUMBERS, PLACES, PLURALS

MAX_LENGTH: Final = 12
"""Positions of a prompt with its two marks; each costs time in every cross-attention."""

START, END = "<|startoftext|>", "<|endoftext|>"


def words() -> tuple[str, ...]:
    """Return every word that a caption of this world may hold, sorted."""
    found = {"a", "an", "and", *COLOURS, *NUMBERS, *PLURALS, *PLURALS.values()}
    for phrase in PLACES.values():
        found.update(phrase.split())
    return tuple(sorted(found))


def build() -> CLIPTokenizer:
    """Return a tokenizer with one token per word of the world and characters for all others."""
    merges = _merges(words())
    letters = string.ascii_lowercase + string.digits + string.punctuation
    entries = [*letters, *(f"{c}</w>" for c in letters), *(a + b for a, b in merges)]
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*entries, START, END]))}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n")
        return CLIPTokenizer.from_pretrained(
            folder,
            unk_token=END,
            bos_token=START,
            eos_token=END,
            pad_token=END,
            model_max_length=MAX_LENGTH,
        )


def save(tokenizer: CLIPTokenizer, folder: str) -> None:
    """Write the tokenizer with the two classic files vocab.json and merges.txt beside its own."""
    tokenizer.save_pretrained(folder)
    state = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    vocab = dict(sorted(state["vocab"].items(), key=lambda item: item[1]))
    (Path(folder) / "vocab.json").write_text(json.dumps(vocab) + "\n")
    merges = [m if isinstance(m, str) else " ".join(m) for m in state["merges"]]
    (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n")


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Apply byte-pair merges to `word`, the best-ranked first, as the tokenizer will."""
    parts = [*word[:-1], f"{word[-1]}</w>"]
    while True:
        pairs = [(ranks[p], i) for i, p in enumerate(pairwise(parts)) if p in ranks]
        if not pairs:
            return parts
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def _merges(vocabulary: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return merges after which every word is one token.

    A merge made for one word may break another up ("on" in "lion"); whatever is left in pieces
    gets one merge more, at the end of the list, until nothing is.
    """
    ranks: dict[tuple[str, str], int] = {}
    while True:
        broken = [parts for word in vocabulary if len(parts := _split(word, ranks)) > 1]
        if not broken:
            return list(ranks)
        for parts in broken:
            ranks.setdefault((parts[0], parts[1]), len(ranks))
