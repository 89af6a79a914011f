"""A vision-language model as judge, behind an OpenAI-compatible endpoint: `{name: vlm, url: ...}`.

Each picture goes out as a PNG in a data URL, with a question that holds its prompt; a number is
read off the answer. With `expected_score` it is the mean over what the model might have answered,
so that ties within a group become rare.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from components.contracts.artifacts import encode_png
from components.contracts.device import find_device
from components.contracts.errors import SettingsError
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes
from components.rewards.scorers.http import post_json
from components.rewards.scorers.settings import VlmScorerSettings
from components.rewards.scorers.vlm_answers import (
    Json,
    Unusable,
    expected_score,
    said,
    written_score,
)

TOP_LOGPROBS = 20
"""How many tokens are asked for; as many as OpenAI gives."""


class VlmScorer:
    """Asks for one score a picture, several at a time; 0 is the worst answer and 1 the best."""

    differentiable = False

    def __init__(
        self, settings: VlmScorerSettings, device: torch.device, client: httpx.Client
    ) -> None:
        self._settings, self._device, self._client = settings, device, client
        self._url = settings.url.rstrip("/") + "/chat/completions"
        self._read = expected_score if settings.expected_score else written_score

    @classmethod
    def build(cls, settings: VlmScorerSettings, compute: ComputeSettings, root: Path) -> VlmScorer:
        """Nothing is asked yet; the key is read off the environment.

        Raises:
            SettingsError: the variable for the key is not set, or holds what is no key.
        """
        headers = {}
        if settings.api_key_variable:
            headers["authorization"] = f"Bearer {_key(settings.api_key_variable)}"
        limits = httpx.Limits(max_connections=settings.concurrency)
        return cls(settings, find_device(compute), httpx.Client(headers=headers, limits=limits))

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Scores in [0, 1], in the order of the images.

        Raises:
            TransientError: the service stayed away; nothing is scored then.
            SettingsError: it refuses the request, or its answers hold no score.
        """
        pool = ThreadPoolExecutor(self._settings.concurrency, "vlm")
        try:
            scores = list(pool.map(self._judged, as_bytes(images).cpu(), prompts))
        finally:
            # After a failure nobody waits for pictures that were not yet asked about.
            pool.shutdown(cancel_futures=True)
        return torch.tensor(scores, dtype=torch.float32, device=self._device)

    def _judged(self, image: UInt8[Tensor, "3 h w"], prompt: str) -> float:
        settings = self._settings
        messages = [_question(image, settings.question.replace("{prompt}", prompt))]
        for _ in range(settings.answer_tries):
            request = _request(messages, settings)
            choice = _choice(post_json(self._client, self._url, request, settings.http), self._url)
            try:
                score = self._read(choice, settings)
                return (score - settings.lowest) / (settings.highest - settings.lowest)
            except Unusable as error:
                reason = str(error)
            # The same question would get the same answer: the next one says what was wrong.
            again = f"Answer with one number from {settings.lowest} to {settings.highest} alone."
            messages += [
                {"role": "assistant", "content": said(choice)},
                {"role": "user", "content": again},
            ]
        raise SettingsError(
            f"'{settings.model}' gave no score for '{prompt}' in {settings.answer_tries} tries: "
            f"{reason}",
            allowed=f"a number from {settings.lowest} to {settings.highest}",
        )


def _question(image: UInt8[Tensor, "3 h w"], text: str) -> Json:
    url = "data:image/png;base64," + base64.b64encode(encode_png(image)).decode()
    content = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": text}]
    return {"role": "user", "content": content}


def _request(messages: list[Json], settings: VlmScorerSettings) -> Json:
    request: Json = {
        "model": settings.model,
        "messages": messages,
        "temperature": 0.0,
        "max_tokens": settings.max_tokens,
    }
    if settings.expected_score:
        request |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
    request |= settings.extra
    return {name: value for name, value in request.items() if value is not None}


def _choice(answer: Any, url: str) -> Json:
    try:
        choice = dict(answer["choices"][0])
        said(choice)
    except (KeyError, IndexError, TypeError, ValueError):
        raise SettingsError(
            f"{url} answers with another kind of JSON",
            allowed="an OpenAI-compatible service of chat completions",
        ) from None
    return choice


def _key(variable: str) -> str:
    key = os.environ.get(variable, "").strip()
    if not key:
        raise SettingsError(
            f"the environment variable {variable} holds no key",
            allowed="a variable with the key, or api_key_variable: null for a service without keys",
        )
    if not re.fullmatch(r"[!-~]+", key):
        # Not shown: it may be nearly right.
        raise SettingsError(
            f"the environment variable {variable} holds what is no key",
            allowed="printable ASCII without spaces",
        )
    return key
