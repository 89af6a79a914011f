"""Models that somebody else made, from the project's folder or from a hub by name.

Names go through transformers and huggingface_hub, which keep what they fetched in their cache.
Without a hub and with nothing in the cache there is one clear line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from torch import nn
from transformers import AutoTokenizer
from transformers.utils import logging

from components.contracts.errors import ModelError

FORMS = "a .safetensors file, or a .pt or .pth file of tensors"


def located(name: str, root: Path) -> Path | str:
    """The file or folder `name` below the project's folder `root`, otherwise a hub name."""
    path = root / name
    return path if path.exists() else name


def weight_file(name: str, filename: str, root: Path) -> Path:
    """The file that `name` means: itself, `filename` in a folder, or `filename` of a hub model.

    Raises:
        ModelError: there is none, neither here nor on the hub.
    """
    place = located(name, root)
    if isinstance(place, str):
        try:
            return Path(hf_hub_download(place, filename))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"no such file or folder, and no {filename} of this name on the hub or in its cache"
                f" ({first_line(error)})",
                file=name,
                allowed=f"a file, a folder with {filename}, or a hub name",
            ) from None
    if place.is_dir():
        place /= filename
    if not place.is_file():
        raise ModelError("no such file", file=place, allowed=FORMS)
    return place


def pretrained(kind: Any, source: Path | str, what: str, **options: Any) -> Any:
    """`kind.from_pretrained` of a folder or a hub name: a model, or a tokenizer.

    Raises:
        ModelError: nothing is there and no hub gives it, or it is truncated or of another kind.
    """
    is_model = issubclass(kind, nn.Module)
    if is_model:
        options |= {"output_loading_info": True, "dtype": torch.float32}
    with opening(source, what), _quiet():
        loaded = kind.from_pretrained(
            str(source), local_files_only=isinstance(source, Path), **options
        )
    if not is_model:
        return loaded
    model, problems = loaded
    lacking = sorted([*problems["missing_keys"], *map(str, problems["mismatched_keys"])])
    if lacking:
        raise ModelError(
            f"lacks {len(lacking)} weights, first {lacking[0]}", file=str(source), allowed=what
        )
    return model.eval().requires_grad_(False)


def pretrained_tokenizer(
    source: Path | str, what: str, count: int, marks: Sequence[str] = ()
) -> Any:
    """The tokenizer of a folder or a hub name, with `marks` as tokens of their own at its end.

    Raises:
        ModelError: there is none, or it has not `count` tokens, as the network's embedding has.
    """
    tokenizer = pretrained(AutoTokenizer, source, f"a model with {what}")
    if marks:
        tokenizer.add_special_tokens({"additional_special_tokens": list(marks)})
    if len(tokenizer) != count:
        raise ModelError(
            f"has a tokenizer of {len(tokenizer)} tokens",
            file=str(source),
            allowed=f"{what}, {count} tokens",
        )
    return tokenizer


@contextmanager
def opening(source: Path | str, what: str) -> Iterator[None]:
    """Errors of transformers while it opens `source`, as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"is no usable model here, nor one that a hub gives ({first_line(error)})",
            file=str(source),
            allowed=f"a folder or hub name of {what}",
        ) from None


@contextmanager
def _quiet() -> Iterator[None]:
    """No bars, and no tables of what a file holds beside the weights that were asked for."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def first_line(error: Exception) -> str:
    """The first sentence of a library's message."""
    return re.split(r"[\n.](?:\s|$)", str(error))[0]
