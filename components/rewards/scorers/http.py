"""JSON over HTTP for scorers that ask a service: bounded retries, clear errors, no secrets in them.

A service that is away makes the run wait and then fail with `TransientError`; it never becomes a
score. Whatever else goes wrong is a person's to mend and fails at once.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

from components.contracts.errors import BadInput, SettingsError, TransientError
from components.rewards.scorers.settings import HttpSettings

MAY_PASS = frozenset({408, 425, 429})
"""Refusals that a later try can escape: too slow, too early, too many. So can any 5xx."""
HINTS = {
    401: "a valid key in the environment variable that the settings name",
    403: "a key that may use this service",
    404: "a url with the path that the service documents",
    413: "fewer or smaller images in one request",
}
"""What a person can do about the commonest refusals."""


def post_json(
    client: httpx.Client,
    url: str,
    payload: Any,
    policy: HttpSettings,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """The JSON that `url` answers when `payload` is posted to it as JSON.

    No connection, a timeout, a broken answer, a 5xx and the refusals of `MAY_PASS` are tried again
    `policy.retries` times after growing pauses; `sleep` is what pauses, in seconds. The answer's
    header Retry-After lengthens a pause, up to `policy.longest_pause_s`.

    Raises:
        TransientError: the service was still away after the last try.
        SettingsError: the service refuses the request, or the url is no url of such a service.
    """
    return _ask(client, "POST", url, policy, sleep, json=payload)


def get_json(
    client: httpx.Client,
    url: str,
    policy: HttpSettings,
    *,
    sleep: Callable[[float], None] = time.sleep,
) -> Any:
    """As `post_json`, for a page that is read: a health check, a list of models."""
    return _ask(client, "GET", url, policy, sleep)


class Away(Exception):
    """Why one try failed, in words, and how long the service asks to be left alone."""

    def __init__(self, reason: str, pause_s: float = 0.0) -> None:
        super().__init__(reason)
        self.pause_s = pause_s


def _ask(
    client: httpx.Client,
    method: str,
    url: str,
    policy: HttpSettings,
    sleep: Callable[[float], None],
    **content: Any,
) -> Any:
    started = time.monotonic()
    pause = policy.first_pause_s
    for left in reversed(range(policy.retries + 1)):
        try:
            return ask_once(client, method, url, policy.timeout_s, **content)
        except Away as error:
            away = f"{_shown(url)} is away since {time.monotonic() - started:.0f} s: {error}"
            wait = min(max(pause, error.pause_s), policy.longest_pause_s)
        if left:
            # The run stands still meanwhile: somebody who watches it should know why.
            print(f"{away}; next try in {wait:.0f} s, {left} left", file=sys.stderr)
            sleep(wait)
            pause *= 2
    raise TransientError(away)


def ask_once(client: httpx.Client, method: str, url: str, timeout_s: float, **content: Any) -> Any:
    """One try, for who waits in a way of their own.

    Raises:
        Away: a later try can succeed.
        SettingsError: as `post_json`.
    """
    try:
        answer = client.request(method, url, timeout=timeout_s, **content)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise SettingsError(
            f"'{_shown(url)}' is no url", allowed="http://host:port/path or https://..."
        ) from None
    except httpx.LocalProtocolError:
        # Its words can hold the header that it complains of, and with that the key.
        raise SettingsError(
            f"{_shown(url)} cannot be asked: a header of the request is malformed",
            allowed="a key of one line without spaces",
        ) from None
    except httpx.TimeoutException:
        raise Away(f"no answer within {timeout_s:g} s") from None
    except (httpx.TransportError, httpx.DecodingError) as error:
        raise Away(_clean(str(error) or type(error).__name__, client)) from None
    if answer.status_code >= 500 or answer.status_code in MAY_PASS:
        reason = f"status {answer.status_code} {answer.reason_phrase}".rstrip()
        raise Away(reason, _retry_after(answer))
    if not answer.is_success:
        raise _refusal(answer, url, client)
    try:
        return answer.json()
    except ValueError:
        kind = answer.headers.get("content-type", "something")
        raise SettingsError(
            f"{_shown(url)} answers with {_clean(kind, client)} that is not JSON",
            allowed="the url of a service that speaks JSON",
        ) from None


def _refusal(answer: httpx.Response, url: str, client: httpx.Client) -> BadInput:
    words = _clean(answer.text, client)
    status = f"status {answer.status_code} {answer.reason_phrase}".rstrip()
    said = f"{status}: {words}" if words else status
    return SettingsError(
        f"{_shown(url)} refuses the request with {said}", allowed=HINTS.get(answer.status_code, "")
    )


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the service asks for; 0 where it does not, or gives a date instead."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _shown(url: str) -> str:
    """An url as a message may hold it: without user, password and query, which can be secrets."""
    try:
        return str(httpx.URL(url).copy_with(userinfo=b"", query=None, fragment=None))
    except (httpx.InvalidURL, TypeError):
        return url.partition("?")[0].rpartition("@")[2]


def _clean(words: str, client: httpx.Client) -> str:
    """One short line of what a service said, without the key should it repeat that."""
    secret = client.headers.get("authorization", "").rpartition(" ")[2]
    if secret:
        words = words.replace(secret, "[key]")
    line = " ".join(words.split())
    return line if len(line) <= 200 else line[:200] + "..."
