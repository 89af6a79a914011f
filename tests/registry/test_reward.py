"""The reward model as its own registered model, on a real registry."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from components.contracts.artifacts import encode_png, read_json, write_bytes, write_json
from components.contracts.settings import ComputeSettings
from components.registry import promote, versions
from components.registry.reward.load_back import soft_spots
from components.registry.session import open_registry
from components.rewards.scorers import build_scorer
from components.rewards.scorers.settings import ModelScorerSettings
from tests.registry.conftest import VARIABLES
from tests.registry.world import (
    AUDIT,
    changed,
    inside,
    run_stage,
    write_evaluation,
    write_reward,
    write_rewards,
)

MODEL, LORA = "tiny-reward", "tiny-lora"
WEIGHTS = "models/reward/model.safetensors"
PROMPT = "a green rabbit"


def refuse_lora(root: Path) -> None:
    """So that the stage ends once the reward model is registered."""
    write_evaluation(root, "win_rate", "interval", 0, value=0.41)


@pytest.fixture(scope="module")
def with_reward(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project with a version of the reward model and none of the LoRA; tests only read it."""
    before = {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    root = Path(shutil.copytree(built, tmp_path_factory.mktemp("reward") / "project"))
    refuse_lora(root)
    assert run_stage(root) == 65
    yield root
    os.environ.update(before)


def stored(root: Path, name: str) -> Path:
    """A file of the registered folder."""
    (found,) = (root / "mlartifacts").rglob(f"artifacts/reward/{name}")
    return found


def scores_of(root: Path, images: torch.Tensor, prompts: list[str]) -> list[float]:
    """By the stage's own folder."""
    settings = ModelScorerSettings(path="models/reward")
    scorer = build_scorer(settings, ComputeSettings(device="cpu", threads=1), root)
    return list(scorer.score(images, prompts).tolist())


def test_a_lora_that_is_refused_does_not_hide_the_reward_model(with_reward: Path) -> None:
    (version,) = versions(with_reward, MODEL)
    assert (version.version, version.aliases, version.review) == (1, ("challenger",), "waiting")
    assert versions(with_reward, LORA) == []
    assert not (with_reward / "reports/receipt.json").exists()
    assert version.tags["load_back"] == "8 equal scores"
    assert version.tags["architecture"] == "two_towers"
    assert len(version.tags["reward_sha256"]) == 64 and len(version.gates) == 10
    assert version.gates["reward_accuracy_low"] == "0.71"
    assert {"dvc.preferences", "dvc.reward", "dvc.reward_report", "dvc.reward_audit"} <= set(
        version.tags
    )


def test_the_version_tells_a_reviewer_everything(with_reward: Path) -> None:
    with open_registry(with_reward) as (client, _):
        version = client.get_model_version(MODEL, "1")
        card, run = version.description, client.get_run(version.run_id)
        files = {file.path for file in client.list_artifacts(version.run_id, "review")}
        whole = client.download_artifacts(version.run_id, "review/reward_card.md")
    assert "## Decides 74.2 % [71.0, 77.2] of unseen pairs as people do" in card
    assert "| colour | 70.0 % [62.0, 77.0] | 300 |" in card
    assert "A probability that it predicts is off by 3.1 points on average." in card
    assert "### Audit: passed" in card and "| captured: choosing the best of 6" in card
    assert "| Bob | 66.0 % [60.0, 71.0] | 293 |  |" in card
    assert "| 3600 | 400 | 74.2 % [70.2, 78.2] |" in card
    assert "konomi promote 1 --by NAME --model reward" in card
    for name in ("reward.png", "rewards_audit.html"):
        assert f"/get-artifact?path=review%2F{name}&run_uuid={version.run_id}" in card
        assert f"review/{name}" in files
    assert len(card) <= 5000 and Path(whole).read_text() == card
    assert run.data.tags["registered_reward"] == f"{MODEL} version 1"
    assert run.data.tags["gate.reward_audit"].startswith("passed: ")
    assert run.data.tags["gate.win_rate_low"].startswith("FAILED: ")


def test_pyfunc_gives_the_scores_of_the_shelf(with_reward: Path) -> None:
    import mlflow.pyfunc

    generator = torch.Generator().manual_seed(4)
    small, large = soft_spots(3, generator), soft_spots(2, generator)[..., :64, :]
    prompts = [PROMPT, "two red cats", "a dog", "a cat", "the moon"]
    with inside(with_reward), open_registry(with_reward):
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}@challenger")
        # Of two sizes, in turns; rows keep their places and their names.
        order = [0, 3, 1, 4, 2]
        pictures = [encode_png(image) for image in (*small, *large)]
        frame = pd.DataFrame(
            {"prompt": [prompts[n] for n in order], "image": [pictures[n] for n in order]}
        )
        found = model.predict(frame)
        with pytest.raises(Exception, match="row 1: image does not decode"):
            model.predict(pd.DataFrame({"image": [pictures[0], b"no"], "prompt": ["a", "b"]}))
        assert list(model.predict(frame[:0])["score"]) == []
    expected = [
        *scores_of(with_reward, small, prompts[:3]),
        *scores_of(with_reward, large, prompts[3:]),
    ]
    assert found["score"].tolist() == [expected[number] for number in order]
    assert len(set(expected)) == 5


def test_the_cards_code_runs_as_it_stands(with_reward: Path, tmp_path: Path) -> None:
    with open_registry(with_reward) as (client, _):
        card = client.get_model_version(MODEL, "1").description
    code = card.split("```python\n")[1].split("```")[0]
    image = soft_spots(1, torch.Generator().manual_seed(5))
    write_bytes(with_reward / "picture.png", encode_png(image[0]))
    space: dict[str, pd.Series] = {}
    with inside(with_reward), open_registry(with_reward):
        exec(code, space)
    assert space["scores"].tolist() == scores_of(with_reward, image, [PROMPT])


def test_nothing_is_pickled_and_the_folder_is_kept_byte_for_byte(with_reward: Path) -> None:
    import mlflow.artifacts

    with open_registry(with_reward):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/1"))
    files = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
    assert {Path(name).suffix for name in files} <= {
        "",
        ".safetensors",
        ".json",
        ".yaml",
        ".txt",
    } | {".py"}
    assert {name for name in files if name.endswith(".py")} == {"served.py"}
    kept = {file.name: file.read_bytes() for file in (folder / "artifacts/reward").iterdir()}
    assert kept == {
        file.name: file.read_bytes() for file in (with_reward / "models/reward").iterdir()
    }
    description = (folder / "MLmodel").read_text().split("\n", 1)[1]
    assert str(with_reward) not in description and "served.py" in description
    assert "+" not in (folder / "requirements.txt").read_text()


def test_the_same_reward_model_is_registered_once_and_a_review_stays(project: Path) -> None:
    refuse_lora(project)
    for _ in range(2):
        assert run_stage(project) == 65
    assert [version.version for version in versions(project, MODEL)] == [1]
    promote(project, MODEL, 1, by="Ann")
    write_reward(project, seed=2)
    assert run_stage(project) == 65
    newest, oldest = versions(project, MODEL)
    assert (newest.aliases, newest.review) == (("challenger",), "waiting")
    assert (oldest.aliases, oldest.review) == (("champion",), "approved")
    # The first file again: its version is found, and what Ann decided stands.
    write_reward(project, seed=1)
    assert run_stage(project) == 65
    assert [version.aliases for version in versions(project, MODEL)] == [
        ("challenger",),
        ("champion",),
    ]


def test_a_registry_that_gives_back_another_reward_is_found_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    refuse_lora(project)
    assert run_stage(project) == 65
    write_json(
        stored(project, "reward.json"), read_json(stored(project, "reward.json")) | {"std": 3.0}
    )
    assert run_stage(project) == 70
    assert "loaded back it gives other scores (one differs by" in capsys.readouterr().err
    assert versions(project, MODEL) == []
    assert run_stage(project) == 65
    # A folder that does not even open; and what was reviewed is not taken away.
    promote(project, MODEL, versions(project, MODEL)[0].version, by="Ann")
    for broken in (project / "mlartifacts").rglob("artifacts/reward/model.safetensors"):
        broken.write_bytes(broken.read_bytes()[:-100])
    assert run_stage(project) == 70
    told = capsys.readouterr().err
    assert "cannot be loaded back (" in told and "it was reviewed and stays" in told
    assert [version.aliases for version in versions(project, MODEL)] == [("champion",)]


def _nan(root: Path) -> None:
    tensors = load_file(root / WEIGHTS)
    tensors["visual_projection.weight"][0, 0] = float("nan")
    save_file(tensors, root / WEIGHTS, {"format": "pt"})


def _doubles(root: Path) -> None:
    tensors = {key: tensor.double() for key, tensor in load_file(root / WEIGHTS).items()}
    save_file(tensors, root / WEIGHTS, {"format": "pt"})


def _constant(root: Path) -> None:
    tensors = load_file(root / WEIGHTS)
    tensors["logit_scale"].fill_(-200.0)
    save_file(tensors, root / WEIGHTS, {"format": "pt"})


def _truncate(root: Path) -> None:
    (root / WEIGHTS).write_bytes((root / WEIGHTS).read_bytes()[:-100])


def _pickle(root: Path) -> None:
    (root / "models/reward/extra.bin").write_bytes(b"\x80\x04")


def _other_keys(root: Path) -> None:
    tensors = {f"other.{key}": tensor for key, tensor in load_file(root / WEIGHTS).items()}
    save_file(tensors, root / WEIGHTS, {"format": "pt"})


def _failed_audit(root: Path) -> None:
    audit = changed(AUDIT, "checks", "shortcut", "passed", value=False) | {"passed": False}
    write_json(root / "reports/rewards_audit.json", audit)


@pytest.mark.parametrize(
    ("plant", "status", "message"),
    [
        (
            lambda root: write_rewards(root, "accuracy_low", value=0.49),
            65,
            "reward_accuracy_low is",
        ),
        (lambda root: write_rewards(root, "schema_version", value=1), 2, "schema_version: 2"),
        (_failed_audit, 65, "reward_audit is failed: shortcut, demanded passed"),
        (lambda root: (root / "reports/rewards_audit.json").unlink(), 65, "reward_audit is none"),
        (_pickle, 65, "reward_files is extra.bin"),
        (_doubles, 65, "reward_types is F64"),
        (_nan, 65, "reward_finite is visual_projection.weight"),
        (_constant, 65, "reward_varies is 0.0"),
        (_truncate, 2, "is truncated or not a safetensors file"),
        (_other_keys, 2, "lacks"),
        (lambda root: (root / WEIGHTS).unlink(), 2, "holds no weights"),
        (lambda root: (root / "models/reward/reward.json").unlink(), 2, "reward.json: no such"),
    ],
)
def test_a_reward_model_that_is_refused_takes_the_lora_with_it(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    plant: Callable[[Path], object],
    status: int,
    message: str,
) -> None:
    plant(project)
    assert run_stage(project) == status
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: registry: ") and message in last
    if status == 65:
        assert "nothing is registered, since the reward model is refused: " in last
    assert versions(project, MODEL) == versions(project, LORA) == []
    assert not (project / "reports/receipt.json").exists()


def test_the_receipt_names_both(registered: Path) -> None:
    receipt = read_json(registered / "reports/receipt.json")
    assert receipt["schema_version"] == 2
    reward, lora = receipt["reward"], receipt["lora"]
    assert (reward["model_name"], reward["version"], reward["alias"]) == (MODEL, 1, "challenger")
    assert (lora["model_name"], lora["reward_model"]) == (LORA, f"{MODEL} version 1")
    assert reward["inputs"].items() < lora["inputs"].items()
    with open_registry(registered) as (client, _):
        card = client.get_model_version(LORA, "1").description
    assert f"| reward model | {MODEL} version 1 |" in card


@pytest.mark.parametrize("how", ["no folder", "null"])
def test_a_pipeline_without_a_reward_model_registers_its_lora(project: Path, how: str) -> None:
    if how == "null":
        write_rewards(project, "accuracy_low", value=0.1)  # nobody asks
        params = project / "params.yaml"
        params.write_text(params.read_text().replace("{model_name: tiny-reward}", "null"))
    else:
        shutil.rmtree(project / "models/reward")
        (project / "reports/rewards.json").unlink()
    assert run_stage(project) == 0
    receipt = read_json(project / "reports/receipt.json")
    assert receipt["reward"] is None and receipt["lora"]["reward_model"] == "none is registered"
    assert ("reward" in receipt["lora"]["inputs"]) == (how == "null")
    assert versions(project, MODEL) == [] and len(versions(project, LORA)) == 1


def test_the_picture_of_the_review_opens(with_reward: Path) -> None:
    (picture,) = (with_reward / "mlartifacts").rglob("review/reward.png")
    assert Image.open(picture).size == (720, 720)
