"""Prompts as what the network is conditioned on, with guidance settled once for all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

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
    pooled: Float[Tensor, "u p"] | None = None
    """One vector of each unique prompt, for the families that are told one (SD3)."""
    unconditional_pooled: Float[Tensor, " p"] | None = None

    def __len__(self) -> int:
        return len(self.prompt_of_row)

    def __getitem__(self, rows: slice | Sequence[int] | Tensor) -> Conditioning:
        return replace(self, prompt_of_row=self.prompt_of_row[rows])

    def without_guidance(self) -> Conditioning:
        """The same prompts for a plain prediction: a guided one is no estimate of the noise."""
        return replace(self, unconditional=None, unconditional_pooled=None, guidance_scale=1.0)

    @property
    def prompt_states(self) -> Float[Tensor, "b l d"]:
        """Text states of every row."""
        return self.states[self.prompt_of_row]


class TextEncoders(Protocol):
    """The frozen part of a family that reads prompts."""

    @property
    def modules(self) -> Sequence[torch.nn.Module]:
        """The networks, for the digest of the base."""
        ...

    def __call__(
        self, texts: Sequence[str], batch_size: int
    ) -> tuple[Float[Tensor, "n l d"], Float[Tensor, "n p"] | None]:
        """States of each text, and its pooled vector where the network is told one."""
        ...


class PromptEncoder:
    """Turns text into what a network is conditioned on."""

    def __init__(self, encoders: TextEncoders, guidance_scale: float, batch_size: int) -> None:
        """Args:
        encoders: of the family.
        guidance_scale: classifier-free guidance weight (2207.12598); 1 is off.
        batch_size: texts that are encoded together, always.
        """
        self.encoders = encoders
        self._guidance_scale, self._batch_size = guidance_scale, batch_size

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode each unique prompt once; rows follow the order of `prompts`."""
        unique = list(dict.fromkeys(prompts))
        guided = self._guidance_scale != 1.0
        states, pooled = self.encoders([*unique, ""] if guided else unique, self._batch_size)
        position = {prompt: index for index, prompt in enumerate(unique)}
        rows = torch.tensor([position[prompt] for prompt in prompts], device=states.device)
        return Conditioning(
            states[: len(unique)],
            rows,
            states[-1] if guided else None,
            self._guidance_scale,
            None if pooled is None else pooled[: len(unique)],
            pooled[-1] if guided and pooled is not None else None,
        )


class ClipText:
    """Stable Diffusion's text encoder: padded to the tokenizer's full length."""

    def __init__(self, tokenizer: Any, text_encoder: torch.nn.Module) -> None:
        """Args:
        tokenizer: of transformers, with its `model_max_length`; longer prompts are cut there.
        text_encoder: frozen, its first output are the states [b l d].
        """
        self._tokenizer, self._text_encoder = tokenizer, text_encoder
        self.modules: Sequence[torch.nn.Module] = (text_encoder,)

    def __call__(self, texts: Sequence[str], batch_size: int) -> tuple[Tensor, None]:
        """States of each text; nothing pooled."""
        tokens = _tokens(self._tokenizer, texts)
        masked = getattr(self._text_encoder.config, "use_attention_mask", False)

        def encode(ids: Tensor, mask: Tensor) -> Tensor:
            states: Tensor = self._text_encoder(ids, attention_mask=mask if masked else None)[0]
            return states

        device = next(self._text_encoder.parameters()).device
        ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
        return in_chunks(encode, batch_size, ids, mask), None


class StableDiffusion3Text:
    """SD3's text (2403.03206): the last states but one of two CLIP encoders side by side, zeros
    behind them where T5 would stand, and both pooled projections.

    SD3 was trained to do without T5. Diffusers draws the same image when its pipeline is called
    with `max_sequence_length` equal to the tokenizer's length.
    """

    def __init__(
        self, tokenizers: Sequence[Any], text_encoders: Sequence[torch.nn.Module], width: int
    ) -> None:
        """Args:
        tokenizers, text_encoders: the two of each; the encoders project (`text_embeds`).
        width: of the states that the network attends to (`joint_attention_dim`).
        """
        self._tokenizers, self._width = tokenizers, width
        self.modules: Sequence[torch.nn.Module] = tuple(text_encoders)

    def __call__(self, texts: Sequence[str], batch_size: int) -> tuple[Tensor, Tensor]:
        """States [n 2l width] and pooled vectors of each text."""
        found = [
            self._encode(tokenizer, encoder, texts, batch_size)
            for tokenizer, encoder in zip(self._tokenizers, self.modules, strict=True)
        ]
        states = torch.cat([states for states, _ in found], dim=-1)
        states = torch.nn.functional.pad(states, (0, self._width - states.shape[-1]))
        states = torch.cat([states, torch.zeros_like(states)], dim=1)
        return states, torch.cat([pooled for _, pooled in found], dim=-1)

    def _encode(
        self, tokenizer: Any, encoder: torch.nn.Module, texts: Sequence[str], batch_size: int
    ) -> tuple[Tensor, Tensor]:
        ids = _tokens(tokenizer, texts).input_ids.to(next(encoder.parameters()).device)

        def encode(ids: Tensor) -> Tensor:
            output = encoder(ids, output_hidden_states=True)
            # One tensor for both: the pooled vector stands behind the states of its row.
            states: Tensor = output.hidden_states[-2]
            return torch.cat([states.flatten(1), output.text_embeds], dim=1)

        rows = in_chunks(encode, batch_size, ids)
        width = encoder.config.hidden_size  # type: ignore[union-attr]
        split = ids.shape[1] * int(width)  # type: ignore[arg-type]
        return rows[:, :split].unflatten(1, (ids.shape[1], -1)), rows[:, split:]


def _tokens(tokenizer: Any, texts: Sequence[str]) -> Any:
    return tokenizer(
        list(texts),
        padding="max_length",
        max_length=tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    )


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
