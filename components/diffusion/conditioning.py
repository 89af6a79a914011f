"""Prompts as what the network is conditioned on, with guidance settled once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor


@dataclass(frozen=True)
class Conditioning:
    """The prompts of a batch; `conditioning[rows]` picks, repeats or reorders without copies."""

    states: Float[Tensor, "u l d"]
    """Text states of the unique prompts."""
    prompt_of_row: Int64[Tensor, " b"]
    unconditional: Float[Tensor, "l d"] | None
    """Text states of the empty prompt; None when guidance is off, which then costs nothing."""
    guidance_scale: float

    def __len__(self) -> int:
        return len(self.prompt_of_row)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Conditioning:
        return Conditioning(
            self.states, self.prompt_of_row[rows], self.unconditional, self.guidance_scale
        )

    @property
    def prompt_states(self) -> Float[Tensor, "b l d"]:
        """Text states of every row."""
        return self.states[self.prompt_of_row]


class PromptEncoder:
    """Turns text into states as Stable Diffusion does: padded to the tokenizer's full length."""

    def __init__(
        self, tokenizer: Any, text_encoder: torch.nn.Module, guidance_scale: float, batch_size: int
    ) -> None:
        """Args:
        tokenizer: of transformers, with its `model_max_length`; longer prompts are cut there.
        text_encoder: frozen, its first output are the states [b l d].
        guidance_scale: classifier-free guidance weight (2207.12598); 1 is off.
        batch_size: texts that are encoded together, always.
        """
        self._tokenizer, self.text_encoder = tokenizer, text_encoder
        self._guidance_scale, self._batch_size = guidance_scale, batch_size

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode each unique prompt once; rows follow the order of `prompts`."""
        unique = list(dict.fromkeys(prompts))
        guided = self._guidance_scale != 1.0
        states = self._states([*unique, ""] if guided else unique)
        position = {prompt: index for index, prompt in enumerate(unique)}
        rows = torch.tensor([position[prompt] for prompt in prompts], device=states.device)
        return Conditioning(
            states[: len(unique)], rows, states[-1] if guided else None, self._guidance_scale
        )

    @torch.no_grad()
    def _states(self, texts: Sequence[str]) -> Float[Tensor, "u l d"]:
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            max_length=self._tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        device = next(self.text_encoder.parameters()).device
        masked = getattr(self.text_encoder.config, "use_attention_mask", False)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            states: Tensor = self.text_encoder(ids, attention_mask=mask if masked else None)[0]
            return states

        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        return in_chunks(encode, self._batch_size, ids, mask)


def in_chunks(function: Callable[..., Tensor], size: int, *rows: Tensor) -> Tensor:
    """Apply a row-wise `function` to batches of exactly `size` rows and join the results.

    Matrix kernels of another shape add up in another order, so that a row's last bits would depend
    on how many rows came with it: the rollout and its replay, or an image drawn alone and one drawn
    in a crowd, would differ. The last batch is therefore filled up with copies of the last row.
    """
    num_rows = len(rows[0])
    results = []
    for start in range(0, num_rows, size):
        chunk = [_filled(tensor[start : start + size], size) for tensor in rows]
        results.append(function(*chunk)[: num_rows - start])
    return results[0] if len(results) == 1 else torch.cat(results)


def _filled(tensor: Tensor, size: int) -> Tensor:
    missing = size - len(tensor)
    if not missing:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])
