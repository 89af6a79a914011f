"""A reward service as a scorer: `{name: remote, url: "http://127.0.0.1:8900"}`.

The other end is `components/rewards/serve.py`, or anything that speaks `wire.py`. While the service
is away the run stands still, says so, and asks for its health; when the patience of the settings is
over it fails with `TransientError`, and the same command goes on from the last checkpoint. A batch
is scored by the service or not at all: nothing stands in for a score.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import torch
from jaxtyping import Float32
from torch import Tensor

from components.contracts.device import find_device
from components.contracts.errors import GuardError, SettingsError, TransientError
from components.contracts.settings import ComputeSettings
from components.rewards.pictures import Images, as_bytes
from components.rewards.scorers.http import Away, ask_once
from components.rewards.scorers.settings import RemoteScorerSettings
from components.rewards.scorers.wire import encode_images

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 15.0
"""Between two looks at a service that is away; each pause is twice as long as the one before."""
HEALTH_TIMEOUT_S = 10.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RemoteScorer:
    """Sends pictures as bytes, some at a time, and waits for their scores."""

    differentiable = False

    def __init__(
        self,
        settings: RemoteScorerSettings,
        device: torch.device,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """Ask whether the service is there, who it is, and whether it takes the token.

        Raises:
            SettingsError: the token's variable is not set, or the service is none, is another
                version, or refuses the token.
            TransientError: it is away for longer than the settings' patience.
        """
        self._settings, self._device, self._sleep = settings, device, sleep
        self._url = settings.url.rstrip("/")
        self._client = httpx.Client(
            headers=_authorization(settings.token_env),
            # A proxy of the environment is not asked for what is on this machine.
            trust_env=httpx.URL(self._url).host not in LOOPBACK,
        )
        self._known: tuple[str, str] | None = None
        self._patiently(self._look)
        self._scores(torch.zeros((0, 3, 1, 1), dtype=torch.uint8), [])

    @classmethod
    def build(
        cls, settings: RemoteScorerSettings, compute: ComputeSettings, root: Path
    ) -> RemoteScorer:
        """As the constructor."""
        return cls(settings, find_device(compute))

    @property
    def identity(self) -> str:
        """Name and version that the service gave."""
        return ":".join(self._known or ())

    def score(self, images: Images, prompts: Sequence[str]) -> Float32[Tensor, " b"]:
        """Scores of the service.

        Raises:
            TransientError: it was away for longer than the settings' patience.
            SettingsError: it refuses the request.
            GuardError: it came back as another scorer, or its answer holds no scores.
        """
        pictures, size = as_bytes(images).cpu(), self._settings.batch_size
        scores: list[float] = []
        for start in range(0, len(pictures), size):
            rows = slice(start, start + size)
            scores += self._scores(pictures[rows], prompts[rows])
        return torch.tensor(scores, dtype=torch.float32, device=self._device)

    def _scores(self, pictures: Tensor, prompts: Sequence[str]) -> list[float]:
        payload = {"prompts": list(prompts), "images": encode_images(pictures)}
        answer = self._patiently(lambda: self._ask("POST", "score", json=payload))
        scores: list[Any] = answer.get("scores", []) if isinstance(answer, dict) else []
        numbers = [float(score) for score in scores if type(score) in (int, float)]
        if len(scores) != len(pictures) or len(numbers) != len(pictures):
            raise GuardError(
                f"{self._url} answers {len(pictures)} images with {len(numbers)} scores; nothing "
                "was trained on them"
            )
        return numbers

    def _look(self) -> None:
        """Raises:
        Away: not ready.
        GuardError: it is another scorer than before.
        SettingsError: it is another than the settings ask for, or no reward service.
        """
        timeout_s = min(HEALTH_TIMEOUT_S, self._settings.timeout_s)
        health = self._ask("GET", "health", timeout_s=timeout_s)
        try:
            found, ready = (str(health["scorer"]), str(health["version"])), bool(health["ready"])
        except (KeyError, TypeError):
            raise SettingsError(
                f"{self._url}/health is not that of a reward service",
                allowed="the url of `konomi serve-reward`, or a service of the same answers",
            ) from None
        if not ready:
            raise Away("it says that it is not ready")
        wanted = self._settings.version
        if wanted is not None and found[1] != wanted:
            raise SettingsError(
                f"{self._url} is the scorer {found[0]} of version {found[1]}",
                allowed=f"version {wanted}, as the settings say",
            )
        if self._known is not None and self._known != found:
            raise GuardError(
                f"{self._url} came back as the scorer {found[0]} of version {found[1]}, and was "
                f"{self._known[0]} of version {self._known[1]}: its scores are not to be mixed"
            )
        self._known = found

    def _ask(self, method: str, page: str, timeout_s: float | None = None, **content: Any) -> Any:
        timeout_s = timeout_s or self._settings.timeout_s
        return ask_once(self._client, method, f"{self._url}/{page}", timeout_s, **content)

    def _patiently(self, ask: Callable[[], Any]) -> Any:
        """What `ask` gives once the service is there.

        Raises:
            TransientError: it stayed away, or was up again and again without an answer.
        """
        outage: _Outage | None = None
        for tried in count(1):
            try:
                answer = ask()
            except Away as error:
                outage = outage or _Outage(self._url, self._settings.patience_s)
                if tried > self._settings.retries:
                    raise outage.failure(f"{tried} tries, the last: {error}") from None
                self._wait(outage, error, FIRST_PAUSE_S * 2 ** (tried - 1))
                continue
            if outage:
                outage.tell(f"answers again after {outage.seconds:.0f} s")
            return answer

    def _wait(self, outage: _Outage, error: Away, pause: float) -> None:
        """Until the service says that it is ready, or patience is over."""
        while True:
            left = outage.left
            if left <= 0:
                raise outage.failure(str(error))
            outage.tell(
                f"is away since {outage.since} ({error}); the run pauses, {left:.0f} s at most "
                "from now"
            )
            self._sleep(min(max(pause, error.pause_s), left, LONGEST_PAUSE_S))
            pause *= 2
            try:
                return self._look()
            except Away as still:
                error = still


class _Outage:
    """A service that is away, since when, and for how long that is borne."""

    def __init__(self, url: str, patience_s: float) -> None:
        self._url, self._patience_s = url, patience_s
        self._started = time.monotonic()
        self.since = time.strftime("%H:%M:%S")

    @property
    def seconds(self) -> float:
        """So far."""
        return time.monotonic() - self._started

    @property
    def left(self) -> float:
        """Seconds of patience."""
        return self._patience_s - self.seconds

    def tell(self, what: str) -> None:
        """To who watches a run that stands still."""
        print(f"reward service {self._url} {what}", file=sys.stderr, flush=True)

    def failure(self, reason: str) -> TransientError:
        """The error that ends the run."""
        return TransientError(
            f"reward service {self._url} is away since {self.since}, for {self.seconds:.0f} s "
            f"({reason}); nothing was trained without its scores: run the same command again when "
            "it is back"
        )


def _authorization(variable: str | None) -> dict[str, str]:
    if variable is None:
        return {}
    token = os.environ.get(variable, "").strip()
    if not token:
        raise SettingsError(
            f"the environment variable {variable} holds no token", allowed=f"{variable}=<token>"
        )
    return {"authorization": f"Bearer {token}"}
