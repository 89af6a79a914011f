"""How many tokens a prompt has for the base model's text encoder, and where that cuts it off.

Uses the light `tokenizers` package: counting tokens must not cost the import of a deep-learning
library.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.artifacts import read_json
from components.contracts.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CLIP_WORDS = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
"""What CLIP's tokenizer takes for a word (Radford et al. 2021): letters, one digit, other signs."""


@dataclass(frozen=True)
class TokenCounter:
    """Counts tokens, with the two marks around a prompt."""

    tokenizer: Tokenizer
    num_marks: int
    """Marks that the counter adds by itself, where the tokenizer's file does not."""
    limit: int
    """Tokens, with the marks, that the text encoder reads; the rest of a prompt is cut off."""

    def count(self, prompts: Sequence[str]) -> list[int]:
        """Number of tokens of each prompt before any is cut off."""
        encodings = self.tokenizer.encode_batch(list(prompts))
        return [len(encoding.ids) + self.num_marks for encoding in encodings]


def load_token_counter(base: str, root: Path) -> TokenCounter:
    """The tokenizer of a base model: a folder in diffusers' layout, or a hub name.

    Raises:
        ModelError: the folder is missing, its tokenizer is incomplete or does not parse.
    """
    from tokenizers import Tokenizer

    folder = _model_folder(base, root) / "tokenizer"
    config = folder / "tokenizer_config.json"
    if not config.is_file():
        raise ModelError("no such file", file=config, allowed="a model in diffusers' layout")
    limit = read_json(config).get("model_max_length")
    if not isinstance(limit, int) or limit < 3:
        raise ModelError(
            f"model_max_length is {limit}", file=config, allowed="a whole number above 2"
        )
    whole = folder / "tokenizer.json"
    try:
        if whole.is_file():
            tokenizer, num_marks = Tokenizer.from_file(str(whole)), 0
        else:
            tokenizer, num_marks = _clip_tokenizer(folder), 2
    except Exception as error:  # the package raises bare Exception for every fault of a file
        raise ModelError(
            f"tokenizer does not load ({error})",
            file=folder,
            allowed="tokenizer.json, or vocab.json and merges.txt",
        ) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TokenCounter(tokenizer, num_marks, limit)


def _clip_tokenizer(folder: Path) -> Tokenizer:
    """CLIP's byte-pair encoding from its two classic files, as older models have them."""
    from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
    from tokenizers.models import BPE

    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()
    merges = [
        (pair[0], pair[1])
        for line in lines
        if not line.startswith("#version") and len(pair := line.split()) == 2
    ]
    tokenizer = Tokenizer(
        BPE(vocab, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>", fuse_unk=False)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CLIP_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _model_folder(base: str, root: Path) -> Path:
    if (root / base).is_dir():
        return root / base
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        return Path(snapshot_download(base, allow_patterns=["tokenizer/*"]))
    except (OSError, ValueError, HfHubHTTPError, HFValidationError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise ModelError(
            f"neither a folder nor a model that the hub gives ({reason})",
            file=base,
            allowed="base.path: a folder in diffusers' layout, or a hub name that can be reached",
        ) from None
