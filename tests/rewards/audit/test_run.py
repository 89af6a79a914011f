"""The audit on files: what is read, what is written, what is refused and how."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import DataError, GuardError, QuarantinedData, SettingsError
from components.contracts.settings import BaseSettings, ComputeSettings, PluginSettings
from components.contracts.stage import StageContext
from components.rewards.audit.data import read_candidates
from components.rewards.audit.edits import EDITS
from components.rewards.audit.run import run_audit, write_unaudited
from components.rewards.settings import AuditSettings, Settings
from components.tracking import NullTracker
from tests.rewards.audit.plugs import Reward
from tests.rewards.world import NUM_PROMPTS, SAMPLES_PER_PROMPT, rows, write_world
from tests.support.html_page import Page

SETTINGS = AuditSettings(
    judge=PluginSettings(callable="tests.rewards.audit.plugs:RednessJudge"),
    edited_per_prompt=1,
    num_resamples=200,
)
PREFERENCES = Path("data/preferences")


class Spy(NullTracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.metrics: dict[str, float] = {}
        self.artifacts: dict[str, bytes] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics |= metrics

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self.artifacts[path.name] = path.read_bytes()


@pytest.fixture
def context(tmp_path: Path) -> StageContext:
    write_world(tmp_path / PREFERENCES, *rows())
    return StageContext(
        stage="rewards",
        root=tmp_path,
        seed=7,
        compute=ComputeSettings(device="cpu", threads=1),
        base=BaseSettings(path="base"),
        tracker=Spy(),
        work=tmp_path / ".work/rewards",
    )


def test_several_images_of_each_test_prompt_are_read(context: StageContext) -> None:
    data = read_candidates(context.root / PREFERENCES, 100, seed=0)
    assert len(data.prompts) == NUM_PROMPTS["test"] and data.num_images == SAMPLES_PER_PROMPT
    samples, _, images = rows()
    tests = {row["prompt"]: [] for row in samples if row["split"] == "test"}
    for row in samples:
        if row["split"] == "test":
            tests[row["prompt"]].append(images[row["sample_id"]])
    assert set(data.prompts) == set(tests)
    for image, prompt in zip(data.images, data.texts, strict=True):
        assert any(torch.equal(image, mine) for mine in tests[prompt])
    first = data.first(2)
    assert [data.texts[row] for row in first] == [p for p in data.prompts for _ in range(2)]


def test_few_prompts_are_of_all_categories_and_do_not_hang_on_the_rest(
    context: StageContext,
) -> None:
    samples, _, _ = rows()
    category = {row["prompt"]: row["category"] for row in samples}
    few = read_candidates(context.root / PREFERENCES, 6, seed=0)
    counts = [category[prompt] for prompt in few.prompts]
    assert counts.count("day") == counts.count("night") == 3
    more = read_candidates(context.root / PREFERENCES, 10, seed=0)
    assert more.prompts[:6] == few.prompts
    assert read_candidates(context.root / PREFERENCES, 6, seed=1).prompts != few.prompts


def test_images_may_differ_in_size_and_number(context: StageContext) -> None:
    samples, pairs, images = rows({"train": 1, "validation": 1, "test": 6})
    wide = [row for row in samples if row["split"] == "test"][::4]
    for row in wide:
        images[row["sample_id"]] = images[row["sample_id"]].repeat(1, 1, 2)
    write_world(context.root / PREFERENCES, samples[:-1], pairs, images)
    data = read_candidates(context.root / PREFERENCES, 100, seed=0)
    # One prompt has lost an image and is left out; the others keep theirs.
    assert len(data.prompts) == 5 and data.num_images == 4
    audited = run_audit(Reward(), SETTINGS, context, "redness")
    assert audited.report.best_of_n.captured.value == pytest.approx(1)


def test_an_image_that_is_in_no_shard_is_named(context: StageContext) -> None:
    samples, pairs, images = rows()
    lost = next(row["sample_id"] for row in samples if row["split"] == "test")
    del images[lost]
    write_world(context.root / PREFERENCES, samples, pairs, images)
    with pytest.raises(DataError, match=rf"samples.parquet: prompt .*'{lost}' is in no shard"):
        read_candidates(context.root / PREFERENCES, 100, seed=0)


def test_without_two_images_of_a_prompt_there_is_nothing_to_choose(context: StageContext) -> None:
    samples, pairs, images = rows()
    few = [row for row in samples if row["split"] != "test" or row["seed"] == 0]
    write_world(context.root / PREFERENCES, few, pairs, images)
    with pytest.raises(DataError, match="no two images of most prompts of the split 'test'"):
        run_audit(Reward(), SETTINGS, context, "redness")


def test_an_honest_reward_passes_and_is_written_down(context: StageContext) -> None:
    audited = run_audit(Reward(), SETTINGS, context, "redness")
    assert not audited.report.failed
    written = [path.read_bytes() for path in audited.write(context.root / "reports")]
    found: dict[str, Any] = json.loads(written[0])
    assert found["passed"] and found["num_prompts"] == 24 and found["num_images"] == 96
    assert set(found["checks"]) == {"captured", "shortcut", "colour", "agreement"}
    assert set(found["sensitivity"]) == {edit.name for edit in EDITS}
    assert found["best_of_n"]["n"] == [1, 2, 3, 4]
    # More colour makes red redder: the reward rises, and since the judge does too it may.
    more = found["sensitivity"]["saturation +50 %"]
    assert more["reward"]["value"] > 0.1 and more["shortcut"] < 1e-6
    work = context.work
    assert [
        (work / name).read_bytes() for name in ("rewards_audit.json", "rewards_audit.html")
    ] == (written)
    spy = context.tracker
    assert isinstance(spy, Spy)
    assert spy.metrics["audit_captured"] == pytest.approx(1) and spy.metrics["audit_passed"] == 1
    assert list(spy.artifacts.values()) == written
    again = run_audit(Reward(), SETTINGS, replace(context, work=work / "2"), "redness")
    assert (again.figures, again.page) == (audited.figures, audited.page)


@pytest.mark.parametrize(
    ("reward", "names", "words"),
    [
        (Reward(honest=-1.0), {"captured", "agreement"}, "captured: choosing the best of 4 by"),
        (Reward(0.0, "saturation"), {"captured", "shortcut", "colour", "agreement"}, "saturation"),
        (Reward(1.0, "frames"), {"shortcut"}, "shortcut: white frame [38] % changes the reward"),
    ],
    ids=["opposite", "saturation", "frames"],
)
def test_a_bad_reward_is_refused_with_its_reasons_and_still_written_down(
    context: StageContext, reward: Reward, names: set[str], words: str
) -> None:
    with pytest.raises(QuarantinedData, match=words) as refused:
        run_audit(reward, SETTINGS, context, "mine")
    line = str(refused.value)
    assert "\n" not in line and refused.value.exit_code == 65
    assert line.endswith("; see .work/rewards/rewards_audit.html")
    found = json.loads((context.work / "rewards_audit.json").read_text())
    failed = {name for name, check in found["checks"].items() if not check["passed"]}
    assert failed >= names and not found["passed"]
    for name in failed:
        sentence = f"{name}: {found['checks'][name]['sentence']}"
        # An error has plain spaces where a page has fixed ones.
        assert " ".join(sentence.split()) in line
    spy = context.tracker
    assert isinstance(spy, Spy)
    assert set(spy.artifacts) == {"rewards_audit.json", "rewards_audit.html"}
    assert spy.metrics["audit_passed"] == 0
    assert not (context.root / "reports").exists()


class Strange:
    """A scorer of one's own that gives what it is told."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def score(self, images: torch.Tensor, prompts: object) -> torch.Tensor:
        """Whatever it is."""
        return self.value(len(images))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (lambda b: torch.ones(b), QuarantinedData, "same for all images of each of 24 prompts"),
        (lambda b: torch.full((b,), 1e4) + 1e-4, QuarantinedData, "nothing to climb"),
        (lambda b: torch.full((b,), torch.nan), GuardError, "not finite for 96 of 96 images"),
        (lambda b: torch.full((b,), torch.inf), GuardError, "the reward is not finite"),
        (lambda b: torch.ones(b, 1), GuardError, r"\[64, 1\] numbers for 64 images"),
    ],
    ids=["constant", "rounding", "nan", "infinite", "shape"],
)
def test_numbers_that_are_no_reward_are_one_line(
    context: StageContext, value: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        run_audit(Strange(value), SETTINGS, context, "strange")


def test_what_the_judge_cannot_do_is_one_line(context: StageContext) -> None:
    no_judge = SETTINGS.model_copy(
        update={"judge": PluginSettings(callable="tests.rewards.audit.plugs:Reward")}
    )
    with pytest.raises(SettingsError, match="gives a Reward without correct, error_rate"):
        run_audit(Reward(), no_judge, context, "redness")
    samples, pairs, images = rows()
    for row in samples:
        row["prompt"] = row["prompt"].replace("cat", "unreadable")
    write_world(context.root / PREFERENCES, samples, pairs, images)
    with pytest.raises(DataError, match="the judge cannot read these prompts"):
        run_audit(Reward(), SETTINGS, context, "redness")


def test_the_page_is_whole_and_asks_nobody(context: StageContext) -> None:
    with pytest.raises(QuarantinedData):
        run_audit(Reward(0.0, "saturation"), SETTINGS, context, "<b>mine</b> & yours")
    page = Page((context.work / "rewards_audit.html").read_text())
    assert len(page.sources) > len(EDITS)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "Refused: its choice gets only" in page.text and "it follows saturation" in page.text
    assert "<b>mine</b> & yours" in page.text, "names are text, not tags"
    assert not re.search(r"\bnan\b|None|undefined", page.text)


def test_a_reward_that_nobody_looked_at_says_so(tmp_path: Path) -> None:
    report, page = write_unaudited(tmp_path)
    assert json.loads(report.read_text()) == {"passed": None, "checks": {}}
    assert "Nobody has looked" in page.read_text() and "--paper" in page.read_text()


def test_the_stage_has_the_block_and_null_means_no_audit() -> None:
    backbone = {"source": "clip"}
    assert Settings.model_validate({"backbone": backbone}).audit is None
    block = {"judge": {"callable": "a:b"}, "max_shortcut": 0.3}
    assert Settings.model_validate({"backbone": backbone, "audit": block}).audit.max_shortcut == 0.3
