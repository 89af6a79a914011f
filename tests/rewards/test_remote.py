"""A reward service and who asks it: the same scores as here, limits, and clear errors."""

from __future__ import annotations

import base64
import io
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from components.contracts.errors import (
    DataError,
    GuardError,
    QuarantinedData,
    SettingsError,
    TransientError,
)
from components.contracts.settings import ComputeSettings
from components.rewards import serve
from components.rewards.scorers import build_scorer, wire
from components.rewards.scorers.remote import RemoteScorer
from components.rewards.scorers.settings import PythonScorerSettings, RemoteScorerSettings
from tests.rewards.world import pictures
from tests.support.json_service import Reply, Request, json_service
from tests.support.reward_service import reward_process, reward_thread

CPU = ComputeSettings(device="cpu", threads=1)
HEALTH = {"scorer": "eye", "version": "v1", "ready": True}


def thirds(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
    """Scores with all their bits in use, which depend on every byte and on the prompt."""
    weights = torch.linspace(-1, 1, images[0].numel())
    words = torch.tensor([len(prompt) / 3 for prompt in prompts])
    return (images.float().flatten(1) * weights).sum(1) / 7 + words


def settings(url: str, **others: Any) -> RemoteScorerSettings:
    return RemoteScorerSettings(url=url, **{"patience_s": 0.0, "timeout_s": 20.0, **others})


# --- the wire ------------------------------------------------------------------------------------


def test_a_picture_comes_out_as_it_went_in() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 17, 40), generator=generator, dtype=torch.uint8)
    encoded = wire.encode_images(images)
    assert torch.equal(wire.decode_images(encoded), images)
    assert wire.decode_images([]).shape[:2] == (0, 3)
    # Views of a larger tensor, as batches are.
    assert torch.equal(wire.decode_images(wire.encode_images(images[..., 3:9])), images[..., 3:9])


def packed(mode: str, size: tuple[int, int], kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def damaged() -> str:
    content = bytearray(base64.b64decode(packed("RGB", (64, 64))))
    content[60] ^= 255
    return base64.b64encode(content).decode()


def bomb() -> str:
    """A PNG of a few bytes that says it is 60,000 pixels wide and high."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + name + content + check

    side = (60_000).to_bytes(4, "big")
    head = chunk(b"IHDR", side + side + bytes([8, 2, 0, 0, 0]))
    content = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    return base64.b64encode(content).decode()


FAULTS = {
    "no base64": ("%%%", "image 0: is no PNG in base64"),
    "no picture": (base64.b64encode(b"GIF89a").decode(), "image 0: is no PNG in base64"),
    "a JPEG": (packed("RGB", (8, 8), "JPEG"), "image 0: is no PNG in base64"),
    "an alpha channel": (packed("RGBA", (8, 8)), "image 0: has the mode RGBA; allowed: RGB"),
    "grey": (packed("L", (8, 8)), "image 0: has the mode L"),
    "damage": (damaged(), "image 0: does not unpack"),
    "a bomb": (bomb(), r"image 0: is no PNG|3600000000 pixels; allowed: at most 67108864"),
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_picture_is_refused(fault: str) -> None:
    text, message = FAULTS[fault]
    with pytest.raises(DataError, match=message):
        wire.decode_images([text])


def test_too_much_is_refused_before_it_is_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = packed("RGB", (8, 8)), packed("RGB", (8, 9))
    with pytest.raises(DataError, match="images of 8 x 8 and 8 x 9 pixels; allowed: one size"):
        wire.decode_images([small, large])
    with pytest.raises(DataError, match="257 images; allowed: at most 256"):
        wire.decode_images([small] * 257)
    monkeypatch.setattr(wire, "MAX_PIXELS", 127)
    monkeypatch.setattr(wire, "_unpacked", lambda *_: pytest.fail("unpacked"))
    with pytest.raises(DataError, match="128 pixels; allowed: at most 127"):
        wire.decode_images([small, small])


# --- the real service ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    reward = {"name": "python", "callable": f"{__name__}:thirds"}
    with reward_process(tmp_path_factory.mktemp("service"), reward) as process:
        yield process.url


@pytest.mark.parametrize("batch_size", [1, 4, 256])
def test_scores_are_those_of_the_scorer_here_bit_for_bit(
    service: str, batch_size: int, tmp_path: Path
) -> None:
    images, prompts = pictures(9, 3), [f"fox {'x' * number}" for number in range(9)]
    here = build_scorer(PythonScorerSettings(callable=f"{__name__}:thirds"), CPU, tmp_path)
    there = build_scorer(settings(service, batch_size=batch_size), CPU, tmp_path)
    assert not there.differentiable
    expected = here.score(images, prompts)
    assert torch.equal(there.score(images, prompts), expected)
    # Floats are rounded to the bytes that they stand for.
    assert torch.equal(there.score(images.float() / 255, prompts), expected)
    assert there.score(images[:0], []).shape == (0,)


def test_images_of_another_kind_never_leave(service: str, tmp_path: Path) -> None:
    there = build_scorer(settings(service), CPU, tmp_path)
    with pytest.raises(DataError, match="reward remote: image values from"):
        there.score(pictures(2, 0).float(), ["a", "b"])


def test_who_the_service_is_changes_with_its_settings(service: str) -> None:
    health = httpx.get(f"{service}/health").json()
    assert health.keys() == {"scorer", "version", "ready"}
    assert (health["scorer"], health["ready"]) == ("python", True)
    made = [
        serve.Service.build(
            serve.ServiceSettings(
                compute=CPU,
                reward=PythonScorerSettings(callable=f"{__name__}:{name}"),
            ),
            Path(),
        ).version
        for name in ("thirds", "thirds", "packed")
    ]
    assert made[0] == made[1] == health["version"] != made[2]
    RemoteScorer(settings(service, version=health["version"]), torch.device("cpu"))
    with pytest.raises(
        SettingsError, match=r"is the scorer python of version .*; allowed: version"
    ):
        RemoteScorer(settings(service, version="older"), torch.device("cpu"))


WRONG_REQUESTS: dict[str, tuple[Any, str]] = {
    "no json": (b"{", "body: Invalid JSON"),
    "an unknown key": ({"prompts": [], "images": [], "model": "x"}, "model: Extra inputs"),
    "a missing key": ({"prompts": []}, "images: Field required"),
    "a number": ({"prompts": [1], "images": ["x"]}, "prompts.0: Input should be a valid string"),
    "too many": ({"prompts": ["a"] * 257, "images": []}, "prompts: List should have at most 256"),
    "uneven": ({"prompts": ["a", "b"], "images": ["x"]}, "1 images and 2 prompts"),
    "no picture": ({"prompts": ["a"], "images": ["x"]}, "image 0: is no PNG in base64"),
    "a long prompt": ({"prompts": ["a" * 10_001], "images": ["x"]}, "a prompt is too long"),
}


@pytest.mark.parametrize("wrong", WRONG_REQUESTS)
def test_a_request_that_is_none_is_told_why(service: str, wrong: str) -> None:
    content, message = WRONG_REQUESTS[wrong]
    kind = "content" if isinstance(content, bytes) else "json"
    answer = httpx.request("POST", f"{service}/score", **{kind: content})
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith(message)
    assert "\n" not in answer.json()["detail"]


def test_a_body_that_is_too_long_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "MAX_BODY", 100_000)
    with reward_thread(thirds) as url:
        answer = httpx.post(f"{url}/score", content=(b"x" * 1000 for _ in range(200)))
        assert answer.status_code == 413
        with pytest.raises(SettingsError, match=r"413 .*allowed: fewer or smaller images"):
            scorer = RemoteScorer(settings(url), torch.device("cpu"))
            scorer.score(torch.randint(0, 256, (1, 3, 256, 256), dtype=torch.uint8), ["a"])


def test_a_token_is_asked_for_before_anything_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    with reward_thread(thirds, token="open sesame") as url:
        for given in ({}, {"authorization": "Bearer open"}, {"authorization": "open sesame"}):
            answer = httpx.post(f"{url}/score", json={"prompts": [], "images": []}, headers=given)
            assert answer.status_code == 401
        with pytest.raises(SettingsError, match=r"401 .*allowed: a valid key in the environment"):
            RemoteScorer(settings(url), torch.device("cpu"))
        with pytest.raises(SettingsError, match="environment variable EYE_TOKEN holds no token"):
            RemoteScorer(settings(url, token_env="EYE_TOKEN"), torch.device("cpu"))
        monkeypatch.setenv("EYE_TOKEN", "open sesame")
        scorer = RemoteScorer(settings(url, token_env="EYE_TOKEN"), torch.device("cpu"))
        assert scorer.score(pictures(2, 0), ["a", "b"]).shape == (2,)


def test_one_request_is_scored_at_a_time() -> None:
    inside, most = [0], [0]

    def careful(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        inside[0] -= 1
        return thirds(images, prompts)

    with reward_thread(careful) as url:
        scorers = [RemoteScorer(settings(url, batch_size=1), torch.device("cpu")) for _ in "abcd"]
        found: dict[int, torch.Tensor] = {}
        images = pictures(4, 1)

        def ask(number: int) -> None:
            found[number] = scorers[number].score(images, ["a"] * 4)

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most == [1]
    assert len(found) == 4
    assert all(torch.equal(scores, thirds(images, ["a"] * 4)) for scores in found.values())


def test_what_the_scorer_there_complains_of_is_said_here() -> None:
    def broken(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        return thirds(images, prompts) / (0.0 if "cow" in prompts else 1.0)

    with reward_thread(broken) as url:
        scorer = RemoteScorer(settings(url), torch.device("cpu"))
        assert scorer.score(pictures(1, 0), ["fox"]).isfinite().all()
        with pytest.raises(SettingsError, match=r"422 .*1 of 1 rewards are not finite.*for 'cow'"):
            scorer.score(pictures(1, 0), ["cow"])


def test_an_accident_there_is_tried_again_and_then_told(capsys: pytest.CaptureFixture[str]) -> None:
    calls = [0]

    def shaky(images: torch.Tensor, prompts: Sequence[str]) -> torch.Tensor:
        calls[0] += 1
        if calls[0] in (1, 2) or "cow" in prompts:
            raise RuntimeError("out of memory")
        return thirds(images, prompts)

    pauses: list[float] = []
    with reward_thread(shaky) as url:
        scorer = RemoteScorer(
            settings(url, patience_s=60.0, retries=3), torch.device("cpu"), sleep=pauses.append
        )
        images = pictures(2, 0)
        assert torch.equal(scorer.score(images, ["fox", "sea"]), thirds(images, ["fox", "sea"]))
        assert pauses == [0.5, 1.0]
        with pytest.raises(TransientError, match="4 tries, the last: status 500 Internal Server"):
            scorer.score(images, ["cow", "sea"])
        assert pauses == [0.5, 1.0, 0.5, 1.0, 2.0]
    told = capsys.readouterr().err
    assert "answers again after" in told
    assert "RuntimeError: out of memory" in told


# --- services that are none, or away -------------------------------------------------------------


def answers(body: Any) -> Any:
    """A service whose health is good, and whose scores are `body` for all but the first request."""

    def answer(request: Request, number: int) -> Reply:
        if request.method == "GET":
            return Reply(HEALTH)
        return Reply(body if request.body["images"] else {"scores": []})

    return json_service(answer)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        ({"scores": [1.0]}, 1),
        ({"scores": [1.0, 2.0, 3.0]}, 3),
        ({"scores": [1.0, "2"]}, 1),
        ({"scores": [1.0, None]}, 1),
        ({"scores": [True, False]}, 0),
        ({"rewards": [1.0, 2.0]}, 0),
        ([1.0, 2.0], 0),
        (None, 0),
    ],
)
def test_an_answer_without_the_scores_is_never_a_zero(
    body: Any, found: int, tmp_path: Path
) -> None:
    with answers(body) as fake:
        scorer = build_scorer(settings(fake.url), CPU, tmp_path)
        with pytest.raises(GuardError, match=f"answers 2 images with {found} scores"):
            scorer.score(pictures(2, 0), ["a", "b"])


def test_a_score_that_is_not_finite_is_quarantined(tmp_path: Path) -> None:
    with answers(b'{"scores": [1.0, NaN]}') as fake:
        scorer = build_scorer(settings(fake.url), CPU, tmp_path)
        with pytest.raises(QuarantinedData, match="reward remote: 1 of 2 rewards are not finite"):
            scorer.score(pictures(2, 0), ["a", "b"])


@pytest.mark.parametrize("health", [{}, {"status": "ok"}, [], "fine"])
def test_another_service_is_recognised(health: Any) -> None:
    with (
        json_service(lambda request, number: Reply(health)) as fake,
        pytest.raises(SettingsError, match="health is not that of a reward service; allowed: the"),
    ):
        RemoteScorer(settings(fake.url), torch.device("cpu"))


def test_a_service_that_is_away_is_waited_for_and_then_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    url = "http://127.0.0.1:9"  # nobody listens there
    started = time.monotonic()
    with pytest.raises(TransientError) as failed:
        RemoteScorer(settings(url, patience_s=1.2), torch.device("cpu"))
    assert 1.2 <= time.monotonic() - started < 5
    line = str(failed.value)
    assert failed.value.exit_code == 75
    assert line.startswith(f"reward service {url} is away since ")
    assert "for 1 s (" in line and "run the same command again when it is back" in line
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all("the run pauses, 1 s at most from now" in line for line in told)


def test_a_service_that_is_not_ready_is_waited_for() -> None:
    def answer(request: Request, number: int) -> Reply:
        return Reply(
            {**HEALTH, "ready": number >= 2} if request.method == "GET" else {"scores": []}
        )

    pauses: list[float] = []
    with json_service(answer) as fake:
        RemoteScorer(settings(fake.url, patience_s=60), torch.device("cpu"), sleep=pauses.append)
    assert pauses == [0.5, 1.0]


def test_a_service_that_hangs_is_away(tmp_path: Path) -> None:
    def answer(request: Request, number: int) -> Reply:
        if request.method == "POST" and request.body["images"]:
            time.sleep(1.0)
        return Reply(HEALTH if request.method == "GET" else {"scores": []})

    with json_service(answer) as fake:
        scorer = build_scorer(settings(fake.url, timeout_s=0.1), CPU, tmp_path)
        with pytest.raises(TransientError, match=r"no answer within 0\.1 s"):
            scorer.score(pictures(1, 0), ["a"])


def test_a_service_that_comes_back_as_another_is_not_trusted() -> None:
    version = ["v1"]

    def answer(request: Request, number: int) -> Reply:
        if request.method == "GET":
            return Reply({**HEALTH, "version": version[0]})
        if not request.body["images"]:
            return Reply({"scores": []})
        version[0] = "v2"
        return Reply({"detail": "starting"}, status=503)

    with json_service(answer) as fake:
        scorer = RemoteScorer(
            settings(fake.url, patience_s=60), torch.device("cpu"), sleep=lambda seconds: None
        )
        with pytest.raises(GuardError, match="version v2, and was eye of version v1: its scores"):
            scorer.score(pictures(1, 0), ["a"])


# --- the command line ----------------------------------------------------------------------------


def test_the_reward_of_params_yaml_is_served(tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    params.write_text(
        "compute: {device: cpu, threads: 1}\n"
        "finetuning: {rounds: 3, reward: {name: model, path: models/mine}}\n"
    )
    found = serve.read_settings(params, None)
    assert (found.compute.threads, found.reward.name) == (1, "model")
    params.write_text("finetuning: {rounds: 3}\n")
    assert serve.read_settings(params, None) == serve.ServiceSettings()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("reward: {name: oracle}", "does not match any of the expected tags"),
        ("reward: {name: model}\nport: 3", "port: unknown key; allowed: compute, reward"),
        ("reward: {name: remote, url: 'http://a:1'}", "the reward is remote, at http://a:1"),
        ("[]", "holds no settings"),
    ],
)
def test_a_file_that_describes_no_service(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scorer.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=message):
        serve.read_settings(tmp_path / "params.yaml", path)


def test_faults_of_the_command_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "scorer.yaml").write_text("{reward: {name: model}, compute: {threads: 1}}")
    with ExitStack() as stack:
        url = stack.enter_context(reward_thread(thirds))
        taken = url.rpartition(":")[2]
        for arguments, message in (
            ([], "no such file"),
            (["--scorer", "scorer.yaml", "--port", taken], "Address already in use"),
            (["--scorer", "scorer.yaml", "--host", "0.0.0.0"], "there is no token; allowed: a to"),
            (["--scorer", "scorer.yaml", "--port", "0"], "models/reward: no such model folder"),
        ):
            assert serve.main(arguments) == 2
            told = capsys.readouterr().err
            assert told.startswith("error: serve-reward: ") and message in told
            assert told.count("\n") == 1
