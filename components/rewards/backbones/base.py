"""What every reward model offers: four steps from a picture and a prompt to a score, and a folder.

    tokens        = tokenize(prompts)              [p, n]
    image_states  = image tower of the pixels      [b, ...]
    text_states   = text tower of the tokens       [b, ...]
    score         = head of both                   [b], a difference of two is the log-odds

The steps are apart so that what is frozen is computed once: the states of a tower that does not
learn are kept for a whole training, and those of a prompt for a whole fine-tuning. A reward is a
score less `mean`, over `std`, two constants measured on the images of the training split as
ImageReward (2304.05977) does: it is about N(0, 1) there, and `reward_weight` of a method means the
same for every reward model.

On disk a reward model is a folder that other programs open as what its backbone is, and beside it
`reward.json` with the architecture and the constants.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from jaxtyping import Float, Float32, Int64
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoTokenizer
from transformers.image_processing_base import ImageProcessingMixin
from transformers.utils import logging

from components.contracts.artifacts import atomic_path, read_json, write_json
from components.contracts.errors import DataError, ModelError
from components.rewards.pictures import Images, Preprocessing

CONSTANTS = "reward.json"
FORMAT_VERSION = 2
OPENING_ERRORS = (OSError, ValueError, KeyError, RuntimeError, AttributeError, SafetensorError)
"""What transformers raises for a folder that it cannot open."""


class RewardModel(nn.Module, ABC):
    """A picture and its prompt become one number."""

    architecture: ClassVar[str]

    def __init__(self, tokenizer: Any, processor: Mapping[str, Any], source: str) -> None:
        """Args:
        tokenizer: of the text tower.
        processor: config of the image processor.
        source: folder or hub name, for messages.
        """
        super().__init__()
        self.tokenizer, self.processor, self.source = tokenizer, dict(processor), source
        self.preprocessing = Preprocessing.from_config(processor, source)
        self.mean, self.std = 0.0, 1.0
        self.symmetric = False
        """Whether a picture and its mirror image get the same reward: the mean of both scores."""

    # --- what a backbone defines -----------------------------------------------------------------

    @classmethod
    @abstractmethod
    def open(cls, source: Path | str, generator: torch.Generator) -> Self:
        """Start from a pretrained backbone in a folder (a `Path`) or by its hub name (a `str`).

        `generator` draws the weights that no backbone brings, such as an MLP's.

        Raises:
            ModelError: nothing is there, weights are missing or truncated, or it is another kind.
        """

    @classmethod
    @abstractmethod
    def read(cls, folder: Path, constants: Mapping[str, Any]) -> Self:
        """Read the weights that `write` has written; `constants` are those of `reward.json`."""

    @abstractmethod
    def write(self, folder: Path) -> dict[str, Any]:
        """Write weights into a folder; returns what `read` needs besides them."""

    @property
    @abstractmethod
    def towers(self) -> dict[str, nn.Module]:
        """The pretrained encoders: `image` and `text`. Everything else is the head."""

    @property
    @abstractmethod
    def text_length(self) -> int:
        """Tokens of a row of `tokenize`."""

    @abstractmethod
    def image_states(self, pixels: Float32[Tensor, "b 3 s s"]) -> Float[Tensor, "b ..."]:
        """What the image tower makes of normalised pictures."""

    @abstractmethod
    def text_states(self, tokens: Int64[Tensor, "b n"]) -> Tensor:
        """What the text tower makes of tokens, as far as it can without the picture."""

    @abstractmethod
    def score(self, image: Float[Tensor, "b ..."], text: Tensor) -> Float32[Tensor, " b"]:
        """Scores from the states of both."""

    @abstractmethod
    def scale_scores(self, factor: float) -> None:
        """Multiply every score by a positive factor; the order of pictures stays."""

    def draw_head(self, generator: torch.Generator) -> None:
        """Draw the head anew, for another member of an ensemble; a pretrained head stays."""

    # --- what all share --------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.parameters()).device

    def tokenize(self, prompts: Sequence[str]) -> Int64[Tensor, "b n"]:
        """Token ids, cut and filled up to the text tower's length."""
        encoded = self.tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.text_length,
            return_tensors="pt",
        )
        return encoded["input_ids"].to(self.device)

    def image_states_of(self, images: Images) -> Float[Tensor, "b ..."]:
        """States of pictures as they come, bytes or floats in [0, 1]."""
        return self.image_states(self.preprocessing(images.to(self.device)))

    def reward(self, images: Images, text: Tensor) -> Float32[Tensor, " b"]:
        """Standardised scores of pictures as they come."""
        score = self.score(self.image_states_of(images), text)
        if self.symmetric:
            score = (score + self.score(self.image_states_of(images.flip(-1)), text)) / 2
        return (score - self.mean) / self.std

    def save(self, folder: Path) -> None:
        """Write the whole folder or nothing; equal models give equal bytes."""
        with atomic_path(folder) as temporary, without_bars():
            temporary.mkdir()
            constants = self.write(temporary)
            self.tokenizer.save_pretrained(temporary)
            write_json(temporary / "preprocessor_config.json", self.processor)
            write_json(
                temporary / CONSTANTS,
                {
                    "format_version": FORMAT_VERSION,
                    "architecture": self.architecture,
                    "mean": self.mean,
                    "std": self.std,
                    "symmetric": self.symmetric,
                    **constants,
                },
            )


def read_constants(folder: Path) -> dict[str, Any]:
    """`reward.json` of a folder.

    Raises:
        ModelError: there is none, or it is of a version that is not known here.
    """
    path = folder / CONSTANTS
    try:
        constants = read_json(path)
        version = constants["format_version"]
        for key in ("mean", "std"):
            constants[key] = float(constants[key])
        str(constants["architecture"])
        constants["symmetric"] = bool(constants["symmetric"])
    except DataError as error:
        raise ModelError(f"is no reward model ({error})", file=folder) from None
    except (KeyError, TypeError, ValueError):
        raise ModelError(
            "lacks format_version, architecture, mean, std or symmetric",
            file=path,
            allowed=f"what the stage rewards wrote, format_version {FORMAT_VERSION}",
        ) from None
    if version != FORMAT_VERSION:
        raise ModelError(f"has format_version {version}", file=path, allowed=str(FORMAT_VERSION))
    return constants


def open_texts(source: Path | str) -> tuple[Any, dict[str, Any]]:
    """Tokenizer and image processor config of a backbone.

    Raises:
        OSError, ValueError, ...: one of `OPENING_ERRORS`.
    """
    local = isinstance(source, Path)
    tokenizer = AutoTokenizer.from_pretrained(str(source), local_files_only=local)
    processor, _ = ImageProcessingMixin.get_image_processor_dict(
        str(source), local_files_only=local
    )
    return tokenizer, processor


def open_weights(kind: Any, source: Path | str, **keywords: Any) -> Any:
    """A transformers model whose weights are all there.

    Raises:
        ModelError: weights are missing or of another shape.
        OSError, ValueError, ...: one of `OPENING_ERRORS`.
    """
    with without_bars():
        model, problems = kind.from_pretrained(
            str(source),
            output_loading_info=True,
            dtype=torch.float32,
            local_files_only=isinstance(source, Path),
            **keywords,
        )
    lacking = sorted([*problems["missing_keys"], *map(str, problems["mismatched_keys"])])
    if lacking:
        raise ModelError(
            f"lacks {len(lacking)} weights of its towers, first {lacking[0]}", file=str(source)
        )
    return model


@contextmanager
def opening(source: Path | str, allowed: str) -> Iterator[None]:
    """Turn whatever a library raises for a folder that it cannot open into one line.

    Raises:
        ModelError: in its place.
    """
    if isinstance(source, Path) and not source.is_dir():
        raise ModelError("no such model folder", file=source)
    try:
        yield
    except OPENING_ERRORS as error:
        reason = re.split(r"[\n.](?:\s|$)", str(error))[0]
        raise ModelError(
            f"is no usable backbone ({reason})", file=str(source), allowed=allowed
        ) from None


@contextmanager
def without_bars() -> Iterator[None]:
    """No bars of the library while it reads or writes a folder: it takes no time worth one."""
    active = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if active:
            logging.enable_progress_bar()
