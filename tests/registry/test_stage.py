"""The stage end to end on a real registry: what a version holds, and what refuses to become one."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from components.contracts.artifacts import read_json, write_json
from components.contracts.errors import BadInput
from components.registry import promote, reject, versions
from components.registry.session import open_registry
from tests.registry.world import inside, run_stage, write_evaluation, write_lora

MODEL = "tiny-lora"
LORA = "models/lora/pytorch_lora_weights.safetensors"


def test_the_version_tells_a_reviewer_everything(registered: Path) -> None:
    (version,) = versions(registered, MODEL)
    assert (version.version, version.aliases, version.review) == (1, ("challenger",), "waiting")
    assert version.gates["win_rate_low"] == "0.55" and len(version.gates) == 17
    assert version.tags["algorithm"] == "dpok"
    assert version.tags["base_model"] == "./base"
    assert version.tags["load_back"] in ("max difference 0", "max difference 1")
    assert len(version.tags["base_digest"]) == len(version.tags["adapter_sha256"]) == 64
    revision = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=registered, capture_output=True, text=True, check=True
    )
    assert version.tags["git_revision"] == revision.stdout.strip()
    with open_registry(registered) as (client, _):
        card = client.get_model_version(MODEL, "1").description
        files = {file.path for file in client.list_artifacts(str(version.run_id), "review")}
        run = client.get_run(str(version.run_id))
    assert "61.0 % prompt-correct images, the base 49.0 %" in card and len(card) <= 5000
    assert f"/get-artifact?path=review%2Fgrid.png&run_uuid={version.run_id}" in card
    assert {"review/grid.png", "review/report.html", "review/model_card.md"} < files
    assert run.data.tags["registered"] == f"{MODEL} version 1"
    names = {entry.dataset.name for entry in run.inputs.dataset_inputs}
    assert {"data/prompts", "data/preferences", "models/lora", "models/reward"} <= names


def test_pyfunc_draws_the_image_of_plain_diffusers(registered: Path) -> None:
    import mlflow.pyfunc
    from diffusers import StableDiffusionPipeline

    prompt = "a green rabbit"
    with inside(registered), open_registry(registered), torch.random.fork_rng():
        model = mlflow.pyfunc.load_model(f"models:/{MODEL}@challenger")
        torch.manual_seed(5)
        (png,) = model.predict([prompt])
    drawn = np.asarray(Image.open(io.BytesIO(png)))
    pipeline = StableDiffusionPipeline.from_pretrained(registered / "base")
    arguments = {"num_inference_steps": 3, "guidance_scale": 1.0, "output_type": "np"}

    def draw() -> np.ndarray:
        with torch.random.fork_rng():
            torch.manual_seed(5)
            return (pipeline([prompt], **arguments).images[0] * 255).round().astype(np.uint8)

    without = draw()
    pipeline.load_lora_weights(registered / "models/lora")
    assert np.array_equal(drawn, draw())
    assert not np.array_equal(drawn, without)


def test_nothing_is_pickled_and_the_lora_is_kept_byte_for_byte(registered: Path) -> None:
    import mlflow.artifacts

    with open_registry(registered):
        folder = Path(mlflow.artifacts.download_artifacts(f"models:/{MODEL}/1"))
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {"", ".safetensors", ".json", ".yaml", ".txt"}
    (weights,) = folder.rglob("*.safetensors")
    assert weights.read_bytes() == (registered / LORA).read_bytes()
    description = (folder / "MLmodel").read_text()
    assert "base_model: ./base" in description and "input_example.json" in description
    assert (
        "num_inference_steps" in description
        and str(registered) not in description.split("artifact_path")[0]
    )
    assert "+" not in (folder / "requirements.txt").read_text()


def test_the_same_lora_is_registered_once(project: Path) -> None:
    receipts = []
    for _ in range(2):
        assert run_stage(project) == 0
        receipts.append((project / "reports/receipt.json").read_bytes())
    assert receipts[0] == receipts[1]
    assert [version.version for version in versions(project, MODEL)] == [1]
    write_lora(project, seed=2)
    assert run_stage(project) == 0
    assert [version.aliases for version in versions(project, MODEL)] == [("challenger",), ()]
    assert read_json(project / "reports/receipt.json")["lora"]["version"] == 2
    _decide(project)


def _decide(project: Path) -> None:
    """Promotion and rejection, on a registry with two versions."""
    promote(project, MODEL, 2, by=" Ann\x00 ")
    newest, oldest = versions(project, MODEL)
    assert (newest.aliases, newest.review) == (("champion",), "approved")
    assert newest.tags["approved_by"] == "Ann" and "approved_at" in newest.tags
    promote(project, MODEL, 1, by="Bob")
    newest, oldest = versions(project, MODEL)
    assert (newest.aliases, oldest.aliases) == ((), ("champion",))
    assert oldest.tags["previous_champion"] == "2"
    assert newest.tags["replaced_by"] == "version 1"
    # What a reviewer decided outlives another run of the stage.
    assert run_stage(project) == 0
    assert [version.aliases for version in versions(project, MODEL)] == [(), ("champion",)]
    with open_registry(project) as (client, _):
        client.delete_model_version_tag(MODEL, "2", "load_back")
    for arguments, message in [
        ((2, "Ann"), "was never loaded back; allowed: "),
        ((3, "Ann"), "no version 3 of tiny-lora; allowed: 2, 1"),
        ((1, " "), "needs a name"),
    ]:
        with pytest.raises(BadInput, match=message):
            promote(project, MODEL, *arguments)
    with pytest.raises(BadInput, match="is the champion"):
        reject(project, MODEL, 1, "Ann", "blurred")
    with pytest.raises(BadInput, match="needs a reason"):
        reject(project, MODEL, 2, "Ann", " ")
    reject(project, MODEL, 2, "Ann", "blurred")
    with pytest.raises(BadInput, match="was rejected by Ann; allowed: 1"):
        promote(project, MODEL, 2, "Bob")


def _rename(prefix: str) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        metadata = _metadata(path)
        tensors = {key.replace("unet.", prefix, 1): t for key, t in load_file(path).items()}
        save_file(tensors, path, metadata)

    return plant


def _metadata(path: Path) -> dict[str, str]:
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return dict(header["__metadata__"])


def _lose_alpha(path: Path) -> None:
    save_file(load_file(path), path)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _change(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def plant(path: Path) -> None:
        metadata, tensors = _metadata(path), load_file(path)
        change(tensors)
        save_file(tensors, path, metadata)

    return plant


def _nan(tensors: dict[str, torch.Tensor]) -> None:
    tensors[sorted(tensors)[0]][0, 0] = float("nan")


def _zero(tensors: dict[str, torch.Tensor]) -> None:
    for key in tensors:
        if "lora_B" in key:
            tensors[key].zero_()


def _doubles(tensors: dict[str, torch.Tensor]) -> None:
    for key in tensors:
        tensors[key] = tensors[key].double()


def _half_a_pair(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[sorted(tensors)[0]]


@pytest.mark.parametrize(
    ("plant", "status", "message"),
    [
        (_rename(""), 65, "lora_keys"),
        (_rename("base_model.model."), 65, "lora_keys"),
        (_lose_alpha, 65, "lora_alpha"),
        (_truncate, 2, "is truncated or not a safetensors file"),
        (_change(_nan), 65, "lora_finite"),
        (_change(_zero), 65, "lora_moved"),
        (_change(_doubles), 65, "lora_types"),
        (_change(_half_a_pair), 65, "lora_keys"),
        (Path.unlink, 2, "no such file"),
    ],
)
def test_a_spoiled_lora_is_refused_and_nothing_is_registered(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    plant: Callable[[Path], None],
    status: int,
    message: str,
) -> None:
    (project / "reports/receipt.json").write_text("earlier")
    plant(project / LORA)
    assert run_stage(project) == status
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: registry: ") and message in last
    assert versions(project, MODEL) == []
    assert (project / "reports/receipt.json").read_text() == "earlier"


def test_a_failed_gate_registers_nothing_and_the_run_says_why(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_evaluation(project, "win_rate", "interval", 0, value=0.41)
    assert run_stage(project) == 65
    last = capsys.readouterr().err.strip().splitlines()[-1]
    refused = "the LoRA is not registered (tiny-reward version 1 is): "
    assert f"{refused}win_rate_low is 0.41, demanded > 0.5" in last
    assert versions(project, MODEL) == [] and not (project / "reports/receipt.json").exists()
    with open_registry(project) as (client, experiment):
        (run,) = client.search_runs([experiment])
    assert run.info.status == "FAILED"
    assert run.data.tags["gate.win_rate_low"].startswith("FAILED: ")
    assert run.data.tags["gate.judge_error"].startswith("passed: ")


def test_a_lora_of_another_base_is_refused(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = read_json(project / "models/lora/adapter.json")
    write_json(project / "models/lora/adapter.json", info | {"base_digest": "0" * 64})
    assert run_stage(project) == 65
    assert "trained on this base model" in capsys.readouterr().err
    assert versions(project, MODEL) == []


def test_a_registry_that_gives_back_another_lora_is_found_out(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_stage(project) == 0
    (stored,) = (project / "mlartifacts").rglob("pytorch_lora_weights.safetensors")
    _lose_alpha(stored)
    assert run_stage(project) == 70
    assert "loaded back it draws another image" in capsys.readouterr().err
    assert versions(project, MODEL) == []
    # The version is gone, so that the next run registers the good file anew.
    assert run_stage(project) == 0
    assert [version.aliases for version in versions(project, MODEL)] == [("challenger",)]


def test_two_projects_that_start_anew_give_the_same_receipt(
    registered: Path, project: Path
) -> None:
    assert run_stage(project) == 0
    assert (project / "reports/receipt.json").read_bytes() == (
        registered / "reports/receipt.json"
    ).read_bytes()


def test_without_kept_runs_a_version_is_registered_all_the_same(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KONOMI_TRACKING", "off")
    assert run_stage(project) == 0
    (version,) = versions(project, MODEL)
    assert version.aliases == ("challenger",) and not version.run_id


def test_a_registry_that_is_away_is_worth_a_retry(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert run_stage(project) == 75
    assert "tracking store is away" in capsys.readouterr().err
    assert not (project / "reports/receipt.json").exists()
