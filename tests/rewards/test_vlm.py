"""A judge behind HTTP: a real server in a thread speaks the protocol, well and badly."""

from __future__ import annotations

import base64
import re
import threading
import time
from math import log
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.artifacts import decode_image
from components.contracts.errors import SettingsError, TransientError
from components.contracts.protocols import Scorer
from components.contracts.settings import ComputeSettings
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import HttpSettings, VlmScorerSettings
from tests.support.json_service import Reply, Request, json_service

CPU = ComputeSettings(device="cpu", threads=1)
KEY = "sk-secret-1234"
IMAGES = torch.randint(0, 256, (4, 3, 9, 7), generator=torch.Generator().manual_seed(0))
IMAGES = IMAGES.to(torch.uint8)
PROMPTS = ["a red fox", "two cats", 'a "sign"', "a {prompt}"]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def judge(url: str, **changes: Any) -> Scorer:
    fast = HttpSettings(timeout_s=5.0, retries=2, first_pause_s=0.0)
    fields = {"url": url + "/v1", "model": "judge", "http": fast, **changes}
    return build_scorer(VlmScorerSettings(**fields), CPU, Path())


def says(text: str, **fields: Any) -> Reply:
    return Reply({"choices": [{"message": {"content": text}, "finish_reason": "stop", **fields}]})


def text_of(request: Request) -> str:
    return str(request.body["messages"][0]["content"][1]["text"])


def number_of(request: Request) -> int:
    return next(number for number, prompt in enumerate(PROMPTS) if prompt in text_of(request))


def test_answers_become_scores_in_the_order_of_the_images() -> None:
    def answer(request: Request, number: int) -> Reply:
        time.sleep(0.05 * (3 - number_of(request)))  # the first is the last to be answered
        return says(str(1 + number_of(request)))

    with json_service(answer) as service:
        scores = judge(service.url).score(IMAGES, PROMPTS)
    assert scores.dtype == torch.float32
    assert scores.tolist() == [0.0, 0.25, 0.5, 0.75]


def test_the_model_sees_the_picture_and_the_prompt() -> None:
    with json_service(lambda request, number: says("3")) as service:
        scorer = judge(service.url, api_key_variable="JUDGE_KEY", question="How well: {prompt}?")
        scorer.score(IMAGES[:1].float() / 255, ["a red fox"])
        (request,) = service.requests
    assert request.path == "/v1/chat/completions"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    fields = {name: value for name, value in request.body.items() if name != "messages"}
    assert fields == {"model": "judge", "temperature": 0.0, "max_tokens": 16}
    (message,) = request.body["messages"]
    assert message["role"] == "user"
    picture, text = message["content"]
    assert text == {"type": "text", "text": "How well: a red fox?"}
    head, _, content = picture["image_url"]["url"].partition(",")
    assert (picture["type"], head) == ("image_url", "data:image/png;base64")
    decoded = decode_image(base64.b64decode(content), file=Path("sent"), place="")
    assert torch.equal(decoded, IMAGES[0])


def test_without_a_variable_no_key_is_sent() -> None:
    with json_service(lambda request, number: says("3")) as service:
        judge(service.url).score(IMAGES[:1], PROMPTS[:1])
        assert "authorization" not in service.requests[0].headers


def test_fields_of_ones_own_join_the_request_and_null_takes_one_away() -> None:
    with json_service(lambda request, number: says("3")) as service:
        extra = {"max_tokens": None, "max_completion_tokens": 9, "seed": 1}
        judge(service.url, extra=extra).score(IMAGES[:1], PROMPTS[:1])
        body = service.requests[0].body
    assert "max_tokens" not in body
    assert (body["max_completion_tokens"], body["seed"]) == (9, 1)


def test_the_expected_score_asks_for_probabilities() -> None:
    listed = [{"token": "4", "logprob": log(0.75)}, {"token": "2", "logprob": log(0.25)}]
    logprobs = {"content": [{"token": "4", "logprob": log(0.75), "top_logprobs": listed}]}
    with json_service(lambda request, number: says("4", logprobs=logprobs)) as service:
        scores = judge(service.url, expected_score=True).score(IMAGES[:1], PROMPTS[:1])
        body = service.requests[0].body
    assert (body["logprobs"], body["top_logprobs"]) == (True, 20)
    # The mean is 3.5 on a scale from 1 to 5.
    assert scores.tolist() == pytest.approx([2.5 / 4])


def test_no_more_pictures_than_allowed_are_asked_about_at_once() -> None:
    busy, most, lock = [0], [0], threading.Lock()

    def answer(request: Request, number: int) -> Reply:
        with lock:
            busy[0] += 1
            most[0] = max(most[0], busy[0])
        time.sleep(0.05)
        with lock:
            busy[0] -= 1
        return says("3")

    with json_service(answer) as service:
        judge(service.url, concurrency=2).score(IMAGES.repeat(2, 1, 1, 1), PROMPTS * 2)
    assert most == [2]


def test_a_service_that_stumbles_is_asked_again() -> None:
    answers = [Reply({}, 500), Reply({}, 429), says("5")]
    with json_service(lambda request, number: answers[number]) as service:
        assert judge(service.url).score(IMAGES[:1], PROMPTS[:1]).tolist() == [1.0]


def test_a_service_that_stays_away_gives_no_scores_at_all() -> None:
    def answer(request: Request, number: int) -> Reply:
        return Reply({}, 503) if number_of(request) == 2 else says("3")

    with json_service(answer) as service:
        with pytest.raises(TransientError, match=r"v1/chat/completions is away since 0 s: status"):
            judge(service.url, concurrency=1).score(IMAGES.repeat(20, 1, 1, 1), PROMPTS * 20)
        asked = [number_of(request) for request in service.requests]
    # Three tries for the third picture; one more may have gone out before the news was heard.
    assert asked[:5] == [0, 1, 2, 2, 2]
    assert len(asked) < 20


def test_a_slow_service_is_away() -> None:
    release = threading.Event()

    def answer(request: Request, number: int) -> Reply:
        release.wait(5)
        return says("3")

    patience = HttpSettings(timeout_s=0.1, retries=1, first_pause_s=0.0)
    with json_service(answer) as service:
        try:
            with pytest.raises(TransientError, match=r"no answer within 0\.1 s"):
                judge(service.url, http=patience).score(IMAGES[:1], PROMPTS[:1])
        finally:
            release.set()


def test_an_answer_without_a_number_is_questioned() -> None:
    answers = [says("What a lovely fox!"), says("9"), says("4")]
    with json_service(lambda request, number: answers[number]) as service:
        assert judge(service.url).score(IMAGES[:1], PROMPTS[:1]).tolist() == [0.75]
        messages = service.requests[2].body["messages"]
    assert [message["role"] for message in messages] == [
        "user", "assistant", "user", "assistant", "user"
    ]  # fmt: skip
    assert messages[1]["content"] == "What a lovely fox!"
    assert messages[2]["content"] == "Answer with one number from 1 to 5 alone."


def test_a_model_that_never_answers_with_a_number_is_one_line() -> None:
    with json_service(lambda request, number: says("I cannot\nsay.")) as service:
        with pytest.raises(SettingsError) as failed:
            judge(service.url, answer_tries=2).score(IMAGES[:1], PROMPTS[:1])
        assert len(service.requests) == 2
    assert str(failed.value) == (
        "'judge' gave no score for 'a red fox' in 2 tries: no number in the answer 'I cannot say.'"
        "; allowed: a number from 1 to 5"
    )


@pytest.mark.parametrize("body", [{}, [], {"choices": []}, {"choices": [{}]}, {"choices": [3]}])
def test_another_kind_of_service_is_one_line(body: Any) -> None:
    message = r"completions answers with another kind of JSON; allowed: an OpenAI-compatible"
    service = json_service(lambda request, number: Reply(body))
    with service as here, pytest.raises(SettingsError, match=message):
        judge(here.url).score(IMAGES[:1], PROMPTS[:1])


def test_a_wrong_key_is_refused_without_being_repeated(capfd: pytest.CaptureFixture[str]) -> None:
    def answer(request: Request, number: int) -> Reply:
        return Reply({"error": f"Incorrect API key provided: {KEY}"}, 401)

    with json_service(answer) as service:
        with pytest.raises(SettingsError) as failed:
            judge(service.url, api_key_variable="JUDGE_KEY").score(IMAGES[:1], PROMPTS[:1])
        assert len(service.requests) == 1
    assert re.search(r"status 401 Unauthorized: .*provided: \[key\]", str(failed.value))
    assert KEY not in str(failed.value) + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "JUDGE_KEY holds no key; allowed: a variable with the key, or api_key_variable"),
        ("  ", "JUDGE_KEY holds no key"),
        ("two words", "JUDGE_KEY holds what is no key; allowed: printable ASCII without spaces"),
        ("schlüssel", "JUDGE_KEY holds what is no key"),
    ],
)
def test_a_key_that_is_none_is_one_line(
    value: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JUDGE_KEY")
    if value is not None:
        monkeypatch.setenv("JUDGE_KEY", value)
    with pytest.raises(SettingsError, match=message) as failed:
        judge("http://127.0.0.1:9", api_key_variable="JUDGE_KEY")
    assert value is None or not value.strip() or value not in str(failed.value)


def test_no_images_have_no_scores_and_ask_nobody() -> None:
    assert judge("http://127.0.0.1:9").score(IMAGES[:0], []).shape == (0,)
