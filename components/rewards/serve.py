"""A reward service: one scorer behind HTTP, for runs that score with `{name: remote, url: ...}`.

    konomi serve-reward --port 8900          the scorer of params.yaml, finetuning.reward
    python -m components.rewards.serve --scorer scorer.yaml

`scorer.yaml` holds a block `reward` and, if need be, a block `compute`, as params.yaml does. What
is said and how large it may be: `scorers/wire.py`. The service listens on this machine alone unless
`--host` says otherwise; then it must have a token, which runs name by `token_env`.
"""

from __future__ import annotations

import argparse
import hashlib
import hmac
import os
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.contracts.artifacts import dvc_digest
from components.contracts.errors import DataError, KonomiError, SettingsError, TransientError
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings, StrictModel, read_params, validate_block
from components.rewards.scorers import ScorerSettings, build_scorer
from components.rewards.scorers.settings import ModelScorerSettings, trained_models
from components.rewards.scorers.wire import MAX_BODY, MAX_IMAGES, MAX_PROMPT, decode_images

TOKEN_ENV = "KONOMI_REWARD_TOKEN"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
MAX_WAITING = 64
"""Requests at a time; one is scored, the others wait, and further ones are sent away with 503."""

SECONDS_TO_FINISH = 30
"""What is being scored when the service is asked to stop may take that long."""


class ServiceSettings(StrictModel):
    """What is served, and where it is computed."""

    compute: ComputeSettings = ComputeSettings()
    reward: ScorerSettings = ModelScorerSettings()


class ScoreRequest(BaseModel):
    """Prompts and their pictures."""

    model_config = ConfigDict(extra="forbid", strict=True)
    prompts: list[str] = Field(max_length=MAX_IMAGES)
    images: list[str] = Field(max_length=MAX_IMAGES)


class Service:
    """One scorer, asked by one request at a time."""

    def __init__(self, scorer: Scorer, name: str, version: str) -> None:
        self._scorer, self.name, self.version = scorer, name, version
        self._lock = threading.Lock()

    @classmethod
    def build(cls, settings: ServiceSettings, root: Path) -> Service:
        """The scorer, and a version that changes with its settings and its model files.

        Raises:
            ModelError, SettingsError, TransientError: of the scorer.
        """
        torch.set_num_threads(settings.compute.threads)
        scorer = build_scorer(settings.reward, settings.compute, root)
        known = [settings.reward.model_dump_json()]
        known += [dvc_digest(root / path) for path in trained_models(settings.reward)]
        version = hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]
        return cls(scorer, settings.reward.name, version)

    def score(self, request: ScoreRequest) -> list[float]:
        """Scores of a request; every picture is checked before one is scored.

        Raises:
            DataError: pictures or prompts that cannot be scored.
            KonomiError: whatever the scorer has to say.
        """
        if len(request.prompts) != len(request.images):
            raise DataError(
                f"{len(request.images)} images and {len(request.prompts)} prompts",
                allowed="one prompt an image",
            )
        if any(len(prompt) > MAX_PROMPT for prompt in request.prompts):
            raise DataError("a prompt is too long", allowed=f"{MAX_PROMPT} characters")
        images = decode_images(request.images)
        # A scorer keeps what it knows of prompts, and an accelerator has one memory.
        with self._lock:
            scores: list[float] = self._scorer.score(images, request.prompts).cpu().tolist()
        return scores


def make_app(service: Service, token: str | None) -> FastAPI:
    """The two pages of the service; with a token, scores are for those who know it."""
    app = FastAPI(title="Konomi reward service", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"scorer": service.name, "version": service.version, "ready": True}

    @app.post("/score")
    async def score(request: Request) -> JSONResponse:
        if token is not None and not _knows(request, token):
            return _refusal(401, "no valid bearer token", {"WWW-Authenticate": "Bearer"})
        body = await _body(request)
        if body is None:
            return _refusal(413, f"more than {MAX_BODY} bytes in one request")
        try:
            asked = ScoreRequest.model_validate_json(body)
            return JSONResponse({"scores": await run_in_threadpool(service.score, asked)})
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            place = ".".join(map(str, first["loc"])) or "body"
            return _refusal(422, f"{place}: {first['msg']}")
        except TransientError as error:
            return _refusal(503, str(error))
        except KonomiError as error:
            return _refusal(422, str(error))
        except Exception as error:
            # The next request may still succeed: a full accelerator, for one.
            traceback.print_exc()
            return _refusal(500, f"{type(error).__name__} while scoring; see the service's log")

    return app


def _refusal(status: int, what: str, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"detail": what}, status, headers)


def _knows(request: Request, token: str) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    # In the same time whatever is wrong with it.
    right = hmac.compare_digest(given.strip().encode(), token.encode())
    return scheme.lower() == "bearer" and right


async def _body(request: Request) -> bytes | None:
    """The body, or None as soon as it is too long, whatever its head says."""
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > MAX_BODY:
            return None
        parts.append(part)
    return b"".join(parts)


def read_settings(params: Path, scorer: Path | None) -> ServiceSettings:
    """What is to be served: the file `scorer`, or the fine-tuning reward in `params`.

    Raises:
        SettingsError: a file is missing or does not describe a scorer, or it is another service.
    """
    path = scorer or params
    content: dict[str, Any] = dict(read_params(path))
    if scorer is None:
        finetuning = content.get("finetuning") or {}
        content = {
            name: value
            for name, value in (
                ("compute", content.get("compute")),
                ("reward", finetuning.get("reward")),
            )
            if value is not None
        }
    settings = validate_block(ServiceSettings, content, path)
    if settings.reward.name == "remote":
        raise SettingsError(
            f"the reward is remote, at {settings.reward.url}: it is served there, not here",
            file=path,
            allowed="--scorer FILE with a reward of another kind",
        )
    return settings


def serve(settings: ServiceSettings, root: Path, host: str, port: int, token: str | None) -> None:
    """Serve until SIGTERM or SIGINT; what is being scored then is still answered.

    Raises:
        SettingsError: the address cannot be had, or is open to others without a token.
        ModelError: the scorer cannot be built.
    """
    if host not in LOOPBACK and not token:
        raise SettingsError(
            f"on {host} others can reach the service, and there is no token",
            allowed=f"a token in {TOKEN_ENV}, or --host 127.0.0.1",
        )
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}:{port} ({error.strerror})") from None
    with listener:
        # The address is taken first: a scorer is not loaded for minutes to find it in use.
        service = Service.build(settings, root)
        config = uvicorn.Config(
            make_app(service, token),
            log_level="warning",
            limit_concurrency=MAX_WAITING,
            timeout_graceful_shutdown=SECONDS_TO_FINISH,
        )
        address = f"http://{host}:{listener.getsockname()[1]}"
        print(
            f"reward service: {service.name}, version {service.version}, on {address}",
            file=sys.stderr,
            flush=True,
        )
        uvicorn.Server(config).run(sockets=[listener])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m components.rewards.serve", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--port", type=int, default=8900, help="0 takes a free one")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--scorer", type=Path, help="a file with a block `reward`")
    parser.add_argument(
        "--token-env", default=TOKEN_ENV, help=f"variable with the token ({TOKEN_ENV})"
    )
    options = parser.parse_args(arguments)
    try:
        settings = read_settings(options.params, options.scorer)
        token = os.environ.get(options.token_env, "").strip() or None
        serve(settings, Path.cwd(), options.host, options.port, token)
    except KeyboardInterrupt:
        return 0
    except KonomiError as error:
        print(f"error: serve-reward: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
