"""A run that was stopped, by whatever, ends as the undisturbed one, bit for bit."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from components.contracts.errors import TransientError
from components.finetuning import fit as loop
from components.finetuning.checkpoint import CheckpointStore, code_digest, run_digest
from components.finetuning.interruption import interruptible
from components.finetuning.stage import run
from tests.finetuning.conftest import METHODS, block, checkpoints, every_method, outs, write_prompts


def stop_after(monkeypatch, rounds: int) -> None:
    """SIGTERM reaches the process in the middle of the updates of a round."""
    honest = loop._update

    def update(state, *arguments):
        figures = honest(state, *arguments)
        if state.history.rounds == rounds - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return figures

    monkeypatch.setattr(loop, "_update", update)


@every_method
def test_a_stopped_run_goes_on_to_the_same_bytes(project, method, monkeypatch, capsys):
    settings, whole = project(method, name="whole")
    run(settings, whole)
    settings, parts = project(method, name="parts")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(TransientError, match="stopped by SIGTERM") as stopped:
            run(settings, parts)
    assert stopped.value.exit_code == 75
    assert not outs(parts.root)
    assert [folder.name for folder in checkpoints(parts)] == ["round-000001", "round-000002"]
    run(settings, parts)
    assert "going on after round 2" in capsys.readouterr().err
    assert outs(parts.root) == outs(whole.root)
    # Nothing is left that would make the next run skip its training.
    assert not checkpoints(parts)


def test_sigterm_saves_rounds_that_no_checkpoint_was_due_for(project, monkeypatch):
    settings, context = project(METHODS["dpok"], checkpoint_every=100)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(TransientError):
            run(settings, context)
    assert [folder.name for folder in checkpoints(context)] == ["round-000002"]


def test_sigterm_with_nothing_to_save_stops_at_once():
    with pytest.raises(TransientError), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("the signal was not served")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("damage", ["cut", "flip", "json", "missing"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, damage, capsys):
    store = CheckpointStore(tmp_path / "run")
    for rounds in (1, 2):
        store.save(rounds, {"w": torch.full((64,), float(rounds))}, {"rounds": rounds})
    file = tmp_path / "run/round-000002/state.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[:-10])
    elif damage == "flip":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        file.with_name("state.json").write_text('{"sha256": ')
    found = store.load()
    assert found.facts == {"rounds": 1}
    assert torch.equal(found.tensors["w"], torch.ones(64))
    assert "passing over a damaged checkpoint" in capsys.readouterr().err


def test_only_the_newest_two_checkpoints_are_kept(tmp_path):
    store = CheckpointStore(tmp_path / "run")
    for rounds in range(1, 12):
        store.save(rounds, {"w": torch.zeros(1)}, {})
    assert [folder.name for folder in store._newest_first()] == ["round-000011", "round-000010"]
    # What a killed process left half-written does not count.
    (tmp_path / "run/.round-000012.tmp-1").mkdir()
    assert store.load() is not None
    assert len(list((tmp_path / "run").iterdir())) == 2
    store.remove()
    assert store.load() is None


def test_a_checkpoint_of_other_settings_or_code_is_of_another_run(tmp_path):
    (tmp_path / "a.py").write_text("x = 1")
    before = code_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2")
    digests = {run_digest(settings=settings, code=code)
               for settings in ({"rounds": 1}, {"rounds": 2})
               for code in (before, code_digest(tmp_path))}  # fmt: skip
    assert len(digests) == 4


def test_other_settings_do_not_pick_up_a_checkpoint(project, monkeypatch, capsys):
    settings, context = project(METHODS["dpok"])
    with monkeypatch.context() as patch:
        stop_after(patch, 1)
        with pytest.raises(TransientError):
            run(settings, context)
    others, context = project(METHODS["dpok"] | {"kl_weight": 0.5})
    run(others, context)
    assert "going on" not in capsys.readouterr().err
    # Those of the first run still wait for it.
    assert len(checkpoints(context)) == 1


def start(root: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "KONOMI_TRACKING": "off",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "components.finetuning"],
        cwd=root,
        env=environment,
        stderr=subprocess.PIPE,
    )


def make_root(root: Path, base_folder: Path) -> Path:
    write_prompts(root)
    content = {
        "seed": 7,
        "compute": {"device": "cpu", "threads": 1},
        "base": {"path": str(base_folder), "num_steps": 2, "batch_size": 4},
        "finetuning": block(METHODS["dpok"], rounds=30),
    }
    YAML().dump(content, root / "params.yaml")
    return root


@pytest.mark.slow
def test_kill_minus_nine_three_times_then_resume_equals_the_undisturbed_run(tmp_path, base_folders):
    base_folder = base_folders("unet")
    whole = make_root(tmp_path / "whole", base_folder)
    child = start(whole)
    assert child.wait(timeout=600) == 0, child.stderr.read().decode()

    killed = make_root(tmp_path / "killed", base_folder)
    chance = random.Random(3)
    resumed_from = []
    for _ in range(3):
        child = start(killed)
        before = newest(killed)
        # Wait for a few more checkpoints, then strike at a random moment of the next round.
        wanted = before + chance.randint(2, 6)
        while newest(killed) < wanted:
            assert child.poll() is None, child.stderr.read().decode()
            time.sleep(0.01)
        time.sleep(chance.uniform(0.0, 0.05))
        child.kill()
        child.wait()
        child.stderr.close()
        resumed_from.append(newest(killed))
    child = start(killed)
    _, errors = child.communicate(timeout=600)
    assert child.returncode == 0, errors.decode()
    assert f"going on after round {resumed_from[-1]}" in errors.decode()
    assert resumed_from == sorted(set(resumed_from))
    assert outs(killed) == outs(whole)


def newest(root: Path) -> int:
    """The last finished round of which a checkpoint stands."""
    rounds = [int(f.name.split("-")[1]) for f in root.glob(".work/finetuning/*/round-*")]
    return max(rounds, default=0)
