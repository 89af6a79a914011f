"""What a service can do wrong, played by a real server: what is tried again, and what is said."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from components.contracts.errors import SettingsError, TransientError
from components.rewards.scorers.http import get_json, post_json
from components.rewards.scorers.settings import HttpSettings
from tests.support.json_service import Reply, Request, json_service

POLICY = HttpSettings(timeout_s=5.0, retries=3, first_pause_s=1.0, longest_pause_s=3.0)
KEY = "sk-secret-1234"


def ask(
    answer: Callable[[Request, int], Reply], policy: HttpSettings = POLICY, query: str = ""
) -> tuple[Any, list[float], list[Request]]:
    """The answer, the pauses, and what the service saw; an error carries both as attributes."""
    pauses: list[float] = []
    with json_service(answer) as service, client() as session:
        try:
            found = post_json(
                session, f"{service.url}/score{query}", {"a": 1}, policy, sleep=pauses.append
            )
        except Exception as error:
            error.pauses, error.requests = pauses, service.requests  # type: ignore[attr-defined]
            raise
        return found, pauses, service.requests


def client() -> httpx.Client:
    return httpx.Client(headers={"authorization": f"Bearer {KEY}"}, trust_env=False)


def test_the_payload_goes_out_and_the_answer_comes_back() -> None:
    found, pauses, requests = ask(lambda request, number: Reply({"scores": [0.5]}))
    assert found == {"scores": [0.5]}
    assert pauses == []
    (request,) = requests
    assert (request.method, request.path, request.body) == ("POST", "/score", {"a": 1})
    assert request.headers["authorization"] == f"Bearer {KEY}"


def test_a_page_is_read() -> None:
    with json_service(lambda request, number: Reply(request.method)) as service:
        assert get_json(httpx.Client(trust_env=False), service.url, POLICY) == "GET"


@pytest.mark.parametrize("status", [500, 502, 503, 504, 408, 425, 429])
def test_what_may_pass_is_tried_again(status: int, capsys: pytest.CaptureFixture[str]) -> None:
    answers = [Reply({}, status), Reply({}, status), Reply("done")]
    found, pauses, requests = ask(lambda request, number: answers[number])
    assert found == "done"
    assert pauses == [1.0, 2.0]
    assert len(requests) == 3
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(
        rf"http://127.0.0.1:\d+/score is away since 0 s: status {status} .*; "
        r"next try in 1 s, 3 left",
        said[0],
    )
    assert "next try in 2 s, 2 left" in said[1]


def test_pauses_double_up_to_the_longest_and_then_the_run_fails() -> None:
    with pytest.raises(TransientError) as failed:
        ask(lambda request, number: Reply({}, 503))
    assert failed.value.pauses == [1.0, 2.0, 3.0]  # type: ignore[attr-defined]
    assert len(failed.value.requests) == 4  # type: ignore[attr-defined]
    assert re.fullmatch(
        r"http://127.0.0.1:\d+/score is away since 0 s: status 503 Service Unavailable",
        str(failed.value),
    )


@pytest.mark.parametrize(
    ("asked", "pauses"), [("2.5", [2.5]), ("3600", [3.0]), ("-5", [1.0]), ("tomorrow", [1.0])]
)
def test_a_service_can_ask_for_a_longer_pause(asked: str, pauses: list[float]) -> None:
    answers = [Reply({}, 429, {"Retry-After": asked}), Reply("done")]
    assert ask(lambda request, number: answers[number])[1] == pauses


def test_without_retries_one_failure_is_the_end() -> None:
    with pytest.raises(TransientError) as failed:
        ask(lambda request, number: Reply({}, 500), HttpSettings(retries=0))
    assert failed.value.pauses == []  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (400, 'status 400 Bad Request: {"error": "no [key]"}'),
        (401, "status 401 .*; allowed: a valid key in the environment variable"),
        (404, "status 404 .*; allowed: a url with the path"),
        (422, "status 422 "),
        (307, "status 307 "),
    ],
)
def test_a_refusal_is_not_tried_again(status: int, message: str) -> None:
    with pytest.raises(SettingsError) as failed:
        ask(lambda request, number: Reply({"error": f"no {KEY}"}, status), query="?token=hidden")
    assert len(failed.value.requests) == 1  # type: ignore[attr-defined]
    assert re.search(message.replace("[", r"\["), str(failed.value))
    assert KEY not in str(failed.value)
    assert "hidden" not in str(failed.value)


def test_a_page_that_is_no_json_is_another_kind_of_service() -> None:
    with pytest.raises(SettingsError, match="answers with text/html that is not JSON"):
        ask(lambda request, number: Reply(b"<html>welcome</html>"))


def test_a_long_refusal_is_cut() -> None:
    with pytest.raises(SettingsError) as failed:
        ask(lambda request, number: Reply("word \n" * 1000, 400))
    assert len(str(failed.value)) < 400
    assert "\n" not in str(failed.value)


def test_a_cut_line_is_tried_again() -> None:
    answers = [Reply("a long answer", cut=True), Reply("done")]
    assert ask(lambda request, number: answers[number])[0] == "done"


def test_a_slow_service_is_away() -> None:
    release = threading.Event()

    def answer(request: Request, number: int) -> Reply:
        release.wait(5)
        return Reply("too late")

    policy = HttpSettings(timeout_s=0.1, retries=1)
    started = time.monotonic()
    message = r"is away since \d s: no answer within 0.1 s"
    with json_service(answer) as service, pytest.raises(TransientError, match=message):
        try:
            post_json(client(), service.url, {}, policy, sleep=lambda seconds: None)
        finally:
            release.set()
    assert time.monotonic() - started < 3


def test_nobody_at_home() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:password@127.0.0.1:{free.getsockname()[1]}/x?token=hidden"
    with pytest.raises(TransientError, match=r"^http://127.0.0.1:\d+/x is away since 0 s: ") as one:
        post_json(client(), url, {}, HttpSettings(retries=1), sleep=lambda seconds: None)
    assert "password" not in str(one.value)
    assert "hidden" not in str(one.value)


@pytest.mark.parametrize("url", ["no url", "ftp://a/b", "http://a:port/?token=hidden", "http:///x"])
def test_an_url_that_is_none(url: str) -> None:
    with pytest.raises(SettingsError, match="is no url; allowed: http://") as failed:
        post_json(client(), url, {}, POLICY)
    assert "hidden" not in str(failed.value)


def test_a_key_that_breaks_its_header_is_not_repeated() -> None:
    session = httpx.Client(headers={"authorization": f"Bearer {KEY}\nx"}, trust_env=False)
    message = "header of the request is malformed"
    service = json_service(lambda request, number: Reply("done"))
    with service as here, pytest.raises(SettingsError, match=message) as failed:
        post_json(session, here.url, {}, POLICY)
    assert KEY not in str(failed.value)


def test_the_pause_is_a_real_one() -> None:
    answers = [Reply({}, 500), Reply("done")]
    with json_service(lambda request, number: answers[number]) as service:
        started = time.monotonic()
        post_json(client(), service.url, {}, HttpSettings(first_pause_s=0.2))
    assert time.monotonic() - started >= 0.2
