"""The stage end to end with a real base, LoRA and judge: the same bytes twice, and its faults."""

from __future__ import annotations

import json
import re
from html import unescape
from io import BytesIO
from pathlib import Path

import pytest
import torch
from PIL import Image

from components.contracts.artifacts import write_json, write_text
from components.contracts.seeds import torch_generator
from components.contracts.settings import BaseSettings, ComputeSettings
from components.contracts.stage import stage_main
from components.diffusion import load_policy
from components.evaluation.stage import run
from components.tracking import open_tracker
from tests.evaluation.conftest import PROMPT_ROWS, write_params, write_prompts
from tests.support.project import SOURCE

OUTS = ("evaluation.json", "evaluation_by_category.csv", "grid.png", "report.html")
FLOW = SOURCE / "components" / "miniature" / "flow"
CATEGORIES = {"colour", "count", "plain"}


def evaluate() -> int:
    return stage_main("evaluation", run, open_tracker, [])


def test_several_rewards_are_told_each_and_together(project: Path):
    plugs = "tests.evaluation.plugs"
    parts = [
        {"label": "red", "scorer": {"name": "python", "callable": f"{plugs}:RednessReward"}},
        {
            "label": "light",
            "weight": -2.0,
            "scorer": {"name": "python", "callable": f"{plugs}:BrightnessJudge"},
        },
    ]
    write_params(project, reward={"name": "several", "scorers": parts})
    assert evaluate() == 0
    evaluation = json.loads((project / "reports/evaluation.json").read_text())
    found = evaluation["reward_parts"]
    assert list(found) == ["red", "light"]
    for model in ("base", "lora"):
        together = found["red"][model] - 2 * found["light"][model]
        assert evaluation[model]["reward"] == pytest.approx(together, abs=1e-5)
    # The judge happens to be the second part, and says the same of it.
    assert found["light"]["base"] == pytest.approx(evaluation["base"]["score"], abs=1e-5)
    low, high = found["red"]["interval"]
    assert low <= found["red"]["difference"] <= high
    page = (project / "reports/report.html").read_text()
    assert re.search(r"<dd>red \S+ to \S+</dd><dd>light \S+ to \S+</dd>", page)


@pytest.fixture
def flow_project(project: Path) -> Path:
    """The project with the miniature's flow for a base, and a LoRA of it."""
    base = BaseSettings(path=str(FLOW))
    policy = load_policy(base, ComputeSettings(device="cpu", threads=1))
    policy.add_adapter(2, 2, generator=torch_generator(0, "adapter"))
    policy.save_lora(project / "models" / "lora")
    info = {"rank": 2, "base_digest": policy.digest}
    write_json(project / "models" / "lora" / "adapter.json", info)
    return project


def outs(root: Path) -> dict[str, bytes]:
    return {name: (root / "reports" / name).read_bytes() for name in OUTS}


def test_the_stage_measures_draws_and_reports_the_same_twice(project: Path):
    assert evaluate() == 0
    first = outs(project)
    for name in OUTS:
        (project / "reports" / name).unlink()
    assert evaluate() == 0
    assert outs(project) == first

    evaluation = json.loads(first["evaluation.json"])
    assert evaluation["num_prompts"] == 6 and evaluation["num_images"] == 18
    assert evaluation["judge_error_rate"] == 0.025
    assert set(evaluation["by_category"]) == CATEGORIES
    # The LoRA moves the images: the same noise does not give the same picture.
    assert evaluation["reward_difference"]["value"] != 0
    low, high = evaluation["difference"]["interval"]
    assert low <= evaluation["difference"]["value"] <= high

    lines = first["evaluation_by_category.csv"].decode().splitlines()
    assert lines[0] == "category,base,lora"
    for line in lines[1:]:
        name, base, lora = line.split(",")
        task = evaluation["by_category"][name]
        assert (float(base), float(lora)) == (task["base"]["correct"], task["lora"]["correct"])

    with Image.open(BytesIO(first["grid.png"])) as grid:
        assert grid.mode == "RGB" and grid.width > 800 and grid.height > 900


def test_the_page_is_self_contained_and_says_what_matters(project: Path):
    assert evaluate() == 0
    page = (project / "reports" / "report.html").read_text()
    evaluation = json.loads((project / "reports" / "evaluation.json").read_text())

    # Nothing is fetched: every source is data, and no address, script or style sheet is named.
    assert set(re.findall(r'(?:src|href)="(\w+):', page)) == {"data"}
    text = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script|<link|<iframe", text)
    assert str(project) not in page

    shares = [f"{100 * evaluation[name]['correct']:.0f}\u00a0%" for name in ("base", "lora")]
    title = unescape(re.search(r"<h1>(.*?)</h1>", page)[1])
    assert all(share in title for share in shares)
    assert all(f"<h3>{name}</h3>" in page for name in CATEGORIES)
    assert page.count("<svg") == 5 and page.count('role="img" aria-label="') == 5 + 4
    assert len(re.findall(r'<img [^>]*alt="[^"]+"', page)) == page.count("<img ") == 6 * 3 * 2
    # What a prompt holds is text, never markup.
    assert "<b>three</b>" not in page
    for fact in ("1\u2009234", "78\u00a0%", "[70, 85]", "2.5\u00a0%", "models/lora"):
        assert fact in page, fact


def test_the_page_does_without_the_reports_of_earlier_stages(project: Path):
    for name in ("curves.csv", "prompts.json", "rewards.json", "finetuning.json"):
        (project / "reports" / name).unlink()
    assert evaluate() == 0
    page = (project / "reports" / "report.html").read_text()
    assert "<svg" not in page and "<h2>Training</h2>" not in page


def test_a_prompt_keeps_its_noise_when_others_leave(project: Path):
    from components.evaluation.measure import choose_draws

    table = project / "data" / "prompts" / "test.parquet"
    whole = choose_draws(table, 5, 10, 3)
    write_prompts(project, PROMPT_ROWS[3:])
    part = choose_draws(table, 5, 10, 3)
    noise = set(zip(whole.texts, whole.seeds, strict=True))
    assert len(part.seeds) == 15 and len(set(whole.seeds)) == 24
    assert set(zip(part.texts, part.seeds, strict=True)) <= noise


def test_the_subset_is_balanced_and_moves_with_the_seed(project: Path):
    from components.evaluation.measure import choose_draws

    table = project / "data" / "prompts" / "test.parquet"
    draws = choose_draws(table, 5, 2, 3)
    assert sorted(draws.categories) == ["colour"] * 2 + ["count"] * 2 + ["plain"] * 2
    assert len({tuple(choose_draws(table, seed, 2, 3).prompts) for seed in range(8)}) > 1


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


WEIGHTS = Path("models/lora/pytorch_lora_weights.safetensors")
FAULTS = {
    "no LoRA": (lambda root: (root / WEIGHTS).unlink(), "models/lora", 2),
    "a truncated LoRA": (lambda root: truncate(root / WEIGHTS), "models/lora", 2),
    "a LoRA of another base": (
        lambda root: write_json(root / "models/lora/adapter.json", {"base_digest": "other"}),
        "trained on another base",
        2,
    ),
    "no prompts": (lambda root: write_prompts(root, []), "holds no prompt", 2),
    "truncated prompts": (
        lambda root: truncate(root / "data/prompts/test.parquet"),
        "test.parquet: is truncated",
        2,
    ),
    "a prompt the judge cannot read": (
        lambda root: write_prompts(root, [("an unreadable prompt", "plain")]),
        "the judge cannot read",
        2,
    ),
    "a curve that is no number": (
        lambda root: write_text(root / "reports/curves.csv", "update,reward\n8,nan\n"),
        "curves.csv: line 2: 'nan' is no finite number",
        2,
    ),
    "curves of something else": (
        lambda root: write_text(root / "reports/curves.csv", "a,b\n1,2\n"),
        "has no column 'update'",
        2,
    ),
    "a report that is no json": (
        lambda root: write_text(root / "reports/rewards.json", "{"),
        "rewards.json: line 1",
        2,
    ),
    "a reward that is not a number": (
        lambda root: write_params(
            root,
            reward={
                "name": "python",
                "callable": "tests.evaluation.plugs:RednessReward",
                "arguments": {"broken": True},
            },
        ),
        "18 of 18 rewards are not finite, the first is nan for 'a red fox'",
        65,
    ),
    "a judge that is none": (
        lambda root: write_params(root, judge={"callable": "tests.evaluation.plugs:RednessReward"}),
        "without correct, error_rate",
        2,
    ),
    "a judge with other arguments": (
        lambda root: write_params(
            root,
            judge={
                "callable": "tests.evaluation.plugs:BrightnessJudge",
                "arguments": {"mood": 1},
            },
        ),
        "refuses its arguments",
        2,
    ),
    "an unknown key": (
        lambda root: write_params(root, sample_per_prompt=3),
        "did you mean 'samples_per_prompt'?",
        2,
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_and_leaves_the_earlier_report(
    project: Path, capsys: pytest.CaptureFixture[str], fault: str
):
    for name in OUTS:
        write_text(project / "reports" / name, "earlier")
    plant, message, status = FAULTS[fault]
    plant(project)
    assert evaluate() == status
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == 1 and message in errors[0], lines
    assert set(outs(project).values()) == {b"earlier"}


def test_the_lora_is_measured_and_not_the_base_twice(project: Path, models: Path):
    from components.contracts.settings import BaseSettings, ComputeSettings
    from components.diffusion import load_policy, sample_images
    from tests.evaluation.conftest import BASE

    base, compute = BaseSettings(**BASE), ComputeSettings(device="cpu", threads=1)
    tuned = load_policy(base, compute, lora=project / "models" / "lora")
    plain = load_policy(base, compute)
    prompts, seeds = ["a fish", "two cats"], [1, 2]
    reference, _ = sample_images(tuned, prompts, seeds, adapter="reference")
    trained, _ = sample_images(tuned, prompts, seeds, adapter="train")
    assert torch.equal(reference, sample_images(plain, prompts, seeds)[0])
    assert not torch.equal(reference, trained)


def test_a_flow_is_judged_as_people_draw_it_without_the_noise_of_training(flow_project: Path):
    found = {}
    for noise_level in (0.7, 0.0):
        base = {"path": str(FLOW), "num_steps": 2, "batch_size": 8}
        write_params(flow_project, base=base | {"noise_level": noise_level})
        assert evaluate() == 0
        found[noise_level] = (flow_project / "reports" / "grid.png").read_bytes()
    assert found[0.7] == found[0.0]
