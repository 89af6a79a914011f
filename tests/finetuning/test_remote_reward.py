"""A reward service that is killed in the middle of a fine-tuning: the run waits, or fails and goes
on later, and ends with the bytes of a run that nothing disturbed."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from components.contracts.errors import SettingsError, TransientError
from components.contracts.stage import stage_main
from components.finetuning import fit as loop
from components.finetuning.stage import run
from tests.finetuning.conftest import METHODS, checkpoints, outs
from tests.support.json_service import Reply, Request, json_service
from tests.support.reward_service import ServiceProcess, reward_process

PLUGS = "tests.finetuning.plugs"
REDNESS = {"name": "python", "callable": f"{PLUGS}:redness"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with reward_process(tmp_path_factory.mktemp("service"), REDNESS) as process:
        yield process


def remote(service: ServiceProcess, **others: Any) -> dict[str, Any]:
    return {"name": "remote", "url": service.url, "patience_s": 60.0, "batch_size": 3, **others}


def killed_in_round(service: ServiceProcess, number: int, monkeypatch: Any) -> list[int]:
    """Kill the service while the images of this round are drawn; how often that happened."""
    honest, killed = loop._collect, []

    def collect(state: Any, around: Any) -> Any:
        if state.history.rounds == number - 1 and not killed:
            killed.append(state.history.rounds)
            service.kill()
            # Starting takes seconds, through which the run must wait.
            threading.Thread(target=service.start).start()
        return honest(state, around)

    monkeypatch.setattr(loop, "_collect", collect)
    return killed


def test_a_run_waits_for_a_service_that_is_killed_and_ends_with_the_same_bytes(
    project: Any, service: ServiceProcess, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, here = project(METHODS["dpok"], name="here", reward=REDNESS)
    run(settings, here)
    settings, whole = project(METHODS["dpok"], name="whole", reward=remote(service))
    run(settings, whole)
    # Scored over there or here: the same LoRA.
    assert outs(whole.root) == outs(here.root)
    capsys.readouterr()

    settings, shaken = project(METHODS["dpok"], name="shaken", reward=remote(service))
    with monkeypatch.context() as patch:
        killed = killed_in_round(service, 2, patch)
        run(settings, shaken)
    assert killed == [1]
    told = capsys.readouterr().err
    assert re.search(
        rf"{service.url} is away since \d\d:\d\d:\d\d \(.+\); the run pauses, \d\d s at most", told
    )
    assert f"{service.url} answers again after " in told
    assert outs(shaken.root) == outs(whole.root)


def test_a_run_fails_with_a_clear_line_and_goes_on_when_the_service_is_back(
    project: Any, service: ServiceProcess, monkeypatch: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, whole = project(METHODS["dpok"], name="whole", reward=remote(service))
    run(settings, whole)
    settings, parts = project(METHODS["dpok"], name="parts", reward=remote(service, patience_s=2.0))
    honest = loop._collect

    def collect(state: Any, around: Any) -> Any:
        if state.history.rounds == 2:
            service.kill()
        return honest(state, around)

    started = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(loop, "_collect", collect)
        with pytest.raises(TransientError, match=r"is away since .* for 2 s .* run the same comm"):
            run(settings, parts)
    assert time.monotonic() - started > 2
    assert not outs(parts.root)
    assert [folder.name for folder in checkpoints(parts)][-1] == "round-000002"
    # Still away: the same line, at once after the patience, and nothing is lost.
    with pytest.raises(TransientError, match="is away since"):
        run(settings, parts)
    assert checkpoints(parts)
    service.start()
    service.wait()
    # Where the service is, and how long it is waited for, is not what the run is.
    elsewhere = remote(service, batch_size=32) | {"url": f"http://localhost:{service.port}"}
    settings, parts = project(METHODS["dpok"], name="parts", reward=elsewhere)
    capsys.readouterr()
    run(settings, parts)
    assert "going on after round 2" in capsys.readouterr().err
    assert outs(parts.root) == outs(whole.root)


def test_a_run_does_not_go_on_with_another_scorer(project: Any, capsys: Any) -> None:
    version = ["v1"]

    def answer(request: Request, number: int) -> Reply:
        if request.method == "GET":
            return Reply({"scorer": "eye", "version": version[0], "ready": True})
        count = len(request.body["images"])
        if version[0] == "v1" and number > 6:
            return Reply({"detail": "gone"}, status=503)
        return Reply({"scores": [float(len(image)) for image in request.body["images"]][:count]})

    with json_service(answer) as fake:
        reward = {"name": "remote", "url": fake.url, "patience_s": 0.0}
        settings, context = project(METHODS["dpok"], reward=reward)
        with pytest.raises(TransientError):
            run(settings, context)
        assert checkpoints(context)
        version[0] = "v2"
        run(settings, context)
    assert "going on after" not in capsys.readouterr().err


def test_a_part_of_several_rewards_may_be_remote(
    project: Any, service: ServiceProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    green = {"name": "python", "callable": f"{PLUGS}:greenness"}

    def parts(red: dict[str, Any]) -> dict[str, Any]:
        both = [{"label": "red", "scorer": red}, {"label": "green", "scorer": green}]
        return {"name": "several", "scorers": both}

    settings, here = project(METHODS["dpok"], name="here", reward=parts(REDNESS))
    run(settings, here)
    settings, there = project(METHODS["dpok"], name="there", reward=parts(remote(service)))
    run(settings, there)
    assert outs(there.root) == outs(here.root)


def test_exit_status_75_and_one_line(
    project: Any, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from components.contracts import stage as stages

    away = {"name": "remote", "url": "http://127.0.0.1:9", "patience_s": 0.0}
    settings, context = project(METHODS["dpok"], reward=away)

    def body(*_: Any) -> None:
        run(settings, context)

    monkeypatch.setattr(stages, "_run", body)
    assert stage_main("finetuning", run, None, []) == 75  # type: ignore[arg-type]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: finetuning: reward service http://127.0.0.1:9 is away since ")


def test_what_the_service_cannot_score_stops_before_any_update(
    project: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broken = {"name": "python", "callable": f"{PLUGS}:broken", "arguments": {"good_calls": 3}}
    with reward_process(tmp_path_factory.mktemp("broken"), broken) as service:
        settings, context = project(METHODS["dpok"], reward=remote(service))
        with pytest.raises(SettingsError, match="rewards are not finite, the first is nan"):
            run(settings, context)
    assert not outs(context.root) and not checkpoints(context)
