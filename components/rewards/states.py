"""States of a data set's pictures and prompts: what no training changes is computed once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from components.contracts.progress import track
from components.rewards.backbones import RewardModel
from components.rewards.dataset import Preferences

TOGETHER = 128
"""Pictures, or prompts, of one forward pass without gradient."""


class States:
    """Scores of pictures of a data set, with a graph to whatever learns.

    A tower that does not learn gives the same states in every epoch, and to every member of an
    ensemble: they are kept, as far as the memory goes. All of them or none, so that a training does
    not depend on where the memory ended.
    """

    def __init__(self, model: RewardModel, data: Preferences, cache_megabytes: int) -> None:
        """Nothing is computed yet.

        Args:
            model: with `requires_grad` set on what learns.
            data: of which the states are.
            cache_megabytes: for the states of pictures; more are computed again when needed.
        """
        self.model, self.data = model, data
        self.tokens = model.tokenize(data.prompts)
        self._budget = cache_megabytes * 2**20
        frozen = {
            kind: not any(parameter.requires_grad for parameter in tower.parameters())
            for kind, tower in model.towers.items()
        }
        self._frozen_images, self._frozen_texts = frozen["image"], frozen["text"]
        self._images: dict[bool, Tensor | None] = {}
        """By whether they are mirrored; None where they do not fit."""
        self._texts: Tensor | None = None

    def score(
        self, rows: Int64[Tensor, " k"], mirrored: Bool[Tensor, " k"] | None = None
    ) -> Float[Tensor, " k"]:
        """Scores of pictures, each with its own prompt; each prompt is encoded once.

        Args:
            rows: of the data's images.
            mirrored: which of them are looked at in a mirror; None for none of them.
        """
        prompts, text_row = self.data.prompt_of[rows].unique(return_inverse=True)
        text = self._text(prompts)[text_row.to(self.model.device)]
        return self.model.score(self._image(rows, mirrored), text)

    @torch.no_grad()
    def scores(self, rows: Int64[Tensor, " k"], description: str) -> Float[Tensor, " k"]:
        """The same without a graph, on the CPU, some at a time; of a symmetric model the mean of
        both sides."""
        if not len(rows):
            return torch.zeros(0)
        chunks = rows.split(TOGETHER)
        return torch.cat(
            [self._both_sides(chunk).cpu() for chunk in track(chunks, description, len(chunks))]
        )

    def _both_sides(self, rows: Tensor) -> Tensor:
        if not self.model.symmetric:
            return self.score(rows)
        turned = torch.ones(len(rows), dtype=torch.bool)
        return (self.score(rows) + self.score(rows, turned)) / 2

    def prompt_scores(
        self, rows: Int64[Tensor, " k"], prompts: Int64[Tensor, "k p"]
    ) -> Float[Tensor, "k p"]:
        """Scores of each picture with each of several prompts of the data."""
        unique, text_row = prompts.unique(return_inverse=True)
        text = self._text(unique)[text_row.flatten().to(self.model.device)]
        image = self._image(rows, None).repeat_interleave(prompts.shape[1], dim=0)
        return self.model.score(image, text).view(prompts.shape)

    def _text(self, prompts: Int64[Tensor, " p"]) -> Tensor:
        if not self._frozen_texts:
            return self.model.text_states(self.tokens[prompts.to(self.tokens.device)])
        if self._texts is None:
            with torch.no_grad():
                self._texts = torch.cat(
                    [self.model.text_states(part) for part in self.tokens.split(TOGETHER)]
                )
        return self._texts[prompts.to(self._texts.device)]

    def _image(self, rows: Tensor, mirrored: Tensor | None) -> Tensor:
        if not self._frozen_images:
            pixels = self.data.images.pixels(rows)
            if mirrored is not None:
                pixels = torch.where(mirrored[:, None, None, None], pixels.flip(-1), pixels)
            return self.model.image_states_of(pixels)
        if mirrored is None or not mirrored.any():
            return self._kept(rows, False)
        plain, turned = self._kept(rows, False), self._kept(rows, True)
        side = mirrored.to(plain.device).view(-1, *[1] * (plain.ndim - 1))
        return torch.where(side, turned, plain)

    def _kept(self, rows: Tensor, turned: bool) -> Tensor:
        if turned not in self._images:
            self._images[turned] = self._all(turned)
        kept = self._images[turned]
        return self._encoded(rows, turned) if kept is None else kept[rows.to(kept.device)]

    def _all(self, turned: bool) -> Tensor | None:
        """The states of every picture, in the order of the data; None where they do not fit."""
        everything = torch.arange(len(self.data.images))
        example = self._encoded(everything[:1], turned)
        if 2 * example.numel() * example.element_size() * len(everything) > self._budget:
            return None
        chunks = everything.split(TOGETHER)
        description = "encoding mirrored pictures" if turned else "encoding pictures"
        parts = [self._encoded(part, turned) for part in track(chunks, description, len(chunks))]
        return torch.cat(parts)

    @torch.no_grad()
    def _encoded(self, rows: Tensor, turned: bool) -> Tensor:
        pixels = self.data.images.pixels(rows)
        return self.model.image_states_of(pixels.flip(-1) if turned else pixels)


def rows_of(*sides: Sequence[int] | Tensor) -> tuple[Int64[Tensor, " m"], list[Tensor]]:
    """The distinct images of several columns, and where each column's entries stand among them."""
    columns = [torch.as_tensor(side) for side in sides]
    images, where = torch.cat(columns).unique(return_inverse=True)
    return images, list(where.split([len(column) for column in columns]))
