"""A score out of what a language model said: pure functions on one `choice` of its answer.

`choice` is an element of `choices` in an OpenAI-compatible answer of chat completions.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import accumulate
from math import exp
from typing import Any

from components.contracts.errors import SettingsError
from components.rewards.scorers.settings import VlmScorerSettings

Json = dict[str, Any]
Candidates = list[tuple[str, float]]
"""Tokens that could stand at one place, and the log-probability of each."""


class Unusable(Exception):
    """Why no score can be read off an answer."""


def said(choice: Json) -> str:
    """The words of the model; none where it refused."""
    return str(choice["message"]["content"] or "")


def written_score(choice: Json, settings: VlmScorerSettings) -> float:
    """The number in an answer, from `lowest` to `highest`.

    Raises:
        Unusable: there is none, it is out of range, or the answer was cut short.
    """
    return _number(said(choice), choice, settings)[0]


def expected_score(choice: Json, settings: VlmScorerSettings) -> float:
    """The mean of the digits that could stand where the number stands, by their probabilities.

    G-Eval (2303.16634), equation 1, over the tokens that the service lists; what is no score from
    `lowest` to `highest` has no part in the mean.

    Raises:
        Unusable: as `written_score`.
        SettingsError: the service gives no probabilities.
    """
    tokens = _tokens(choice, settings)
    _, start = _number("".join(token for token, _ in tokens), choice, settings)
    ends = list(accumulate(len(token) for token, _ in tokens))
    return _mean(tokens[bisect_right(ends, start)][1], settings)


def _tokens(choice: Json, settings: VlmScorerSettings) -> list[tuple[str, Candidates]]:
    try:
        return [
            (
                str(place["token"]),
                [(str(one["token"]), float(one["logprob"])) for one in place["top_logprobs"]],
            )
            for place in choice["logprobs"]["content"]
        ]
    except (KeyError, TypeError, ValueError):
        raise SettingsError(
            f"'{settings.model}' answers without top_logprobs",
            allowed="expected_score: false, or a service that gives them",
        ) from None


def _mean(candidates: Candidates, settings: VlmScorerSettings) -> float:
    total = weight = 0.0
    for token, log_prob in candidates:
        word = token.strip()
        if re.fullmatch("[0-9]", word) and settings.lowest <= int(word) <= settings.highest:
            total += exp(log_prob) * int(word)
            weight += exp(log_prob)
    if not weight:
        raise Unusable("no score is among the likely tokens")
    return total / weight


def _number(text: str, choice: Json, settings: VlmScorerSettings) -> tuple[float, int]:
    """The number in an answer, and where it begins."""
    shown = text if len(text) <= 80 else text[:80] + "..."
    if choice.get("finish_reason") == "length":
        raise Unusable(f"the answer '{shown}' was cut at max_tokens")
    match = re.search(settings.answer_pattern, text, re.IGNORECASE)
    try:
        number = float(match.group(1)) if match else None
    except (TypeError, ValueError):
        number = None
    if match is None or number is None:
        raise Unusable(f"no number in the answer '{shown}'")
    if not settings.lowest <= number <= settings.highest:
        raise Unusable(f"{number:g} is out of range in the answer '{shown}'")
    return number, match.start(1)
