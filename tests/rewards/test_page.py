"""The page of a reward model: what it claims, and that everybody can read it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from components.rewards import wording
from components.rewards.fit import Epoch
from components.rewards.page import MAX_ANNOTATORS, Names, most_active, render_report
from components.rewards.settings import BackboneSettings, Settings
from components.rewards.stage import run
from tests.rewards.conftest import SETTINGS, project
from tests.support.html_page import Page

ROOT = Path(__file__).parents[2]


def share(value: float, half: float = 0.05, pairs: int = 100) -> dict[str, Any]:
    return {
        "accuracy": value,
        "accuracy_low": value - half,
        "accuracy_high": min(1.0, value + half),
        "pairs": pairs,
    }


def step(value: float, half: float) -> dict[str, float]:
    return {"value": value, "low": value - half, "high": value + half}


REPORT: dict[str, Any] = {
    "schema_version": 2,
    "architecture": "two_towers",
    **share(0.80, 0.04, 400),
    "backbone_accuracy": 0.72,
    "backbone_accuracy_low": 0.68,
    "backbone_accuracy_high": 0.76,
    "backbone_gain": 0.08,
    "backbone_gain_low": 0.03,
    "backbone_gain_high": 0.13,
    "calibration_error": 0.031,
    "train_pairs": 4000,
    "validation_pairs": 500,
    "test_pairs": 500,
    "test_prompts": 60,
    "test_ties": 100,
    "best_update": 20,
    "last_update": 30,
    "stopped_early": True,
    "validation_accuracy": 0.81,
    "overfitting": 0.02,
    "score_mean": 1.5,
    "score_std": 0.75,
    "by_category": {"colour": share(0.9, pairs=250), "count": share(0.63, pairs=150)},
    "by_margin": [
        {"low": 0.01 + place, "high": 1.0 + place, **share(0.55 + 0.12 * place)}
        for place in range(4)
    ],
    "calibration": [
        {"predicted": 0.25, "observed": 0.3, "low": 0.2, "high": 0.42, "count": 200},
        {"predicted": 0.75, "observed": 0.72, "low": 0.66, "high": 0.8, "count": 300},
    ],
    "saturation": {"share": 0.0, "accuracy": None},
    "annotators": {
        "ann": {**share(0.85), "reliability": None},
        "<b>ben</b>": {**share(0.75), "reliability": None},
    },
    "learning_curve": [
        {"prompts": 100, "judgements": 1000, **share(0.70), "to_all": step(0.10, 0.03)},
        {"prompts": 200, "judgements": 2000, **share(0.75), "to_all": step(0.05, 0.02)},
        {"prompts": 400, "judgements": 4000, **share(0.80), "to_all": step(0.0, 0.0)},
    ],
    "ensemble": None,
}
ENSEMBLE = {
    "judged": 3000,
    "flipped": 600,
    "softened": 500,
    "smoothed": 300,
    "contradicted": 0.23,
    "strength": [-2.5, -0.5, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 4.0],
}
EPOCHS = (
    Epoch(0, 1.0, 0.60, 0.72),
    Epoch(10, 0.60, 0.55, 0.79),
    Epoch(20, 0.52, 0.50, 0.81),
    Epoch(30, 0.45, 0.52, 0.80),
)
NAMES = Names(
    Settings(backbone=BackboneSettings(source="some/clip"), patience=1),
    7,
    (("preferences", "data/preferences", "0123456789abcdef"),),
)


def changed(**values: Any) -> dict[str, Any]:
    return {**deepcopy(REPORT), **values}


def page_of(report: Mapping[str, Any] = REPORT, epochs: tuple[Epoch, ...] = EPOCHS) -> Page:
    return Page(render_report(report, epochs, NAMES))


# --- what it claims ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "verdict", "begins"),
    [
        (
            {},
            "better",
            "The reward model orders 80\u00a0% of pairs on unseen prompts as people did",
        ),
        ({"backbone_gain_low": -0.001}, "unclear", "No clear gain: the reward model orders 80"),
        (
            {"backbone_gain_low": -0.2, "backbone_gain_high": -0.1},
            "worse",
            "Worse than its backbone: ",
        ),
        ({"accuracy_low": 0.49}, "unclear", "No better than chance: "),
        ({"best_update": 0}, "unclear", "Nothing was learnt: the reward model is its backbone"),
    ],
)
def test_the_verdict_claims_no_more_than_the_interval(
    values: dict[str, Any], verdict: str, begins: str
) -> None:
    report = changed(**values)
    assert wording.verdict(report) == verdict
    assert wording.headline(report).startswith(begins)
    assert page_of(report).text.count(wording.headline(report)) == 2, "title and headline"


@pytest.mark.parametrize(
    ("gain", "begins", "style"),
    [
        (step(0.05, 0.02), "More labels would help: from 2", "better"),
        (step(0.05, 0.06), "Not clear whether more labels of this kind would help: ", ""),
        (step(0.0, 0.06), "No sign that more labels of this kind would help: ", ""),
        (step(-0.05, 0.06), "No sign that more labels of this kind would help: ", ""),
        (step(-0.05, 0.02), "More labels did harm: ", "worse"),
    ],
)
def test_more_labels_help_where_the_second_half_did(
    gain: dict[str, float], begins: str, style: str
) -> None:
    curve = deepcopy(REPORT["learning_curve"])
    curve[1]["to_all"] = gain
    found = wording.more_labels(curve)
    assert found.text.startswith(begins) and found.style == style
    # The point nearest to half of all labels is what counts, not the last before all.
    further = {**curve[1], "judgements": 3500, "to_all": step(0.0, 0.5)}
    assert wording.more_labels([*curve[:2], further, curve[2]]) == found


def test_more_labels_are_told_in_judgements_and_points() -> None:
    assert wording.more_labels(REPORT["learning_curve"]).text == (
        "More labels would help: from 2\u202f000 to 4\u202f000 judgements accuracy changed by "
        "+5.0 points [+3.0, +7.0]."
    )
    assert wording.more_labels(REPORT["learning_curve"][-1:]).text.startswith("Not measured")


def course(*validation: float, train: tuple[float, ...] = (), stopped: bool = False) -> str:
    train = train or tuple(1 - 0.1 * place for place in range(len(validation)))
    epochs = [Epoch(10 * place, train[place], loss, 0.7) for place, loss in enumerate(validation)]
    best = min(epochs, key=lambda epoch: epoch.validation_loss)
    report = {"best_update": best.update, "stopped_early": stopped}
    return wording.course(report, epochs, 2)


def test_over_fitting_in_words() -> None:
    assert course(0.6, 0.55, 0.5) == (
        "Training ran all of its 2\u00a0epochs. Update 20 is kept: its validation loss is 0.500 "
        "nats, the backbone's was 0.600. It still fell in the last epoch: no over-fitting, and "
        "more epochs may help."
    )
    assert "It had settled by the end" in course(0.6, 0.5005, 0.5)
    assert "Update 10 is kept" in course(0.6, 0.5, 0.5004)
    assert "no over-fitting to speak of" in course(0.6, 0.5, 0.5004)
    assert course(0.6, 0.5, 0.53, stopped=True) == (
        "Training stopped early, after 2\u00a0epochs without a lower validation loss. Update 10 is "
        "kept: its validation loss is 0.500 nats, the backbone's was 0.600. After that it rose by "
        "0.030 while the training loss fell by 0.100: over-fitting, and none of it was kept."
    )
    unstable = course(0.6, 0.5, 0.53, train=(1.0, 0.5, 0.7))
    assert "over-fitting" not in unstable and "A lower learning rate may help" in unstable
    assert "nothing of the training was kept" in course(0.6, 0.7, 0.8)


@pytest.mark.parametrize(
    ("share_", "accuracy", "says", "style"),
    [
        (0.0, None, "have not run away", ""),
        (0.01, None, "of 5 of 500 test pairs, 1.0\u00a0%; people called all of these ties", ""),
        (0.01, 0.8, "and right in 80\u00a0% of those with a winner.", ""),
        (
            0.2,
            0.8,
            "of 100 of 500 test pairs, 20.0\u00a0%, and right in 80\u00a0% of those",
            "watch",
        ),
        (0.2, 0.99, "and right in 99\u00a0% of those with a winner.", ""),
        (0.6, 0.99, "little gradient left to give", "watch"),
    ],
)
def test_saturation_in_words(share_: float, accuracy: float | None, says: str, style: str) -> None:
    found = wording.certainty(changed(saturation={"share": share_, "accuracy": accuracy}))
    assert says in found.text and found.style == style


def test_categories_in_which_it_may_be_guessing_are_named() -> None:
    assert wording.weak_categories(REPORT).text == (
        "Weakest: count, 63\u00a0%. In every category it is better than chance."
    )
    report = changed(by_category={"": share(0.5), "b": share(0.54), "c": share(0.9)})
    found = wording.weak_categories(report)
    assert found.style == "watch" and found.text.endswith(
        "chance does as well in: (no name) and b."
    )
    assert wording.weak_categories(changed(by_category={"all": share(0.5)})).text == ""


# --- what it shows -------------------------------------------------------------------------------


def test_the_page_is_whole_and_asks_nobody() -> None:
    page = page_of()
    assert page.sources == []
    assert not re.search(r"\bnan\b|None|undefined|not known", page.text)
    assert "<b>ben</b>" in page.text, "names are text, not tags"
    for said in ("80\u00a0%", "[76, 84]", "72\u00a0%", "[68, 76]", "20\u00a0%", "100 of 500"):
        assert said in page.text
    assert "+8.0 points over its backbone" in page.text and "3.1 points" in page.text
    assert "0123456789abcdef" in page.text and "some/clip" in page.text


def test_a_screen_reader_gets_every_picture_and_table() -> None:
    page = page_of(changed(ensemble=ENSEMBLE))
    assert all(said and len(said) > 10 for said in page.images)
    # Three lanes of categories, two of annotators; margin, reliability, learning, training, labels.
    assert len(page.images) == 5 + 7
    told = " | ".join(said or "" for said in page.images)
    assert "least sure 55\u00a0%" in told and "surest 91\u00a0%" in told
    assert "30\u00a0% where 25\u00a0% was predicted" in told
    assert "the kept epoch at update 20 with 0.5" in told
    assert "from 70\u00a0% with 1000 to 80\u00a0% [75, 85] with 4000" in told
    assert "from \u22122.50 by 0.60 in the middle to 4.00" in told
    assert len(page.tables) == 7
    for rows in page.tables:
        assert len(set(rows)) == 1, "every row has the columns of its head"


def test_the_learnt_reliability_has_a_column_only_where_it_was_learnt() -> None:
    assert "Learnt reliability" not in page_of().text
    people = {"ann": {**share(0.85), "reliability": 0.93}}
    text = page_of(changed(annotators=people)).text
    assert "Learnt reliability" in text and "93\u00a0%" in text


def test_where_nothing_was_learnt_no_gain_is_told() -> None:
    text = page_of(changed(best_update=0)).text
    assert "over its backbone, 95" not in text and "95\u00a0% interval [76, 84], on 400" in text


def test_losses_that_hardly_change_have_axes_that_do() -> None:
    epochs = tuple(
        Epoch(10 * place, 1.0 - 0.002 * place, 0.5 - 0.001 * place, 0.7) for place in range(4)
    )
    html = render_report(changed(best_update=30, last_update=30), epochs, NAMES)
    chart = next(part for part in html.split("<svg") if "Training loss over updates" in part)
    ticks = re.findall(r'text-anchor="end">([^<]+)<', chart)
    assert len(ticks) == len(set(ticks)) > 2


def test_of_a_crowd_the_most_active_are_shown() -> None:
    crowd = {
        f"worker {number:03d}": {**share(0.8, pairs=1 + number % 50), "reliability": None}
        for number in range(200)
    }
    shown = most_active(crowd)
    assert len(shown) == MAX_ANNOTATORS and list(shown) == sorted(shown)
    assert min(one["pairs"] for one in shown.values()) == 46
    text = page_of(changed(annotators=crowd)).text
    assert "Shown are the 20 with most pairs, of 200." in text
    assert "worker 049" in text and "worker 000" not in text


def test_an_ensemble_is_shown_where_there_was_one() -> None:
    assert "ensemble made of the labels" not in page_of().text
    text = page_of(changed(ensemble=ENSEMBLE)).text
    assert "the ensemble contradicts 23\u00a0%" in text and "600 were flipped" in text
    empty = {**ENSEMBLE, "judged": 0, "strength": [], "contradicted": 0.0}
    assert "none judged" in page_of(changed(ensemble=empty)).text


def test_without_a_learning_curve_the_page_says_so() -> None:
    page = page_of(changed(learning_curve=REPORT["learning_curve"][-1:]))
    assert "Not measured: learning_curve.shares" in page.text
    assert "judgements learnt from" not in page.text


def test_many_epochs_and_many_points_keep_their_axes_readable() -> None:
    epochs = tuple(Epoch(10 * place, 0.5, 0.6 - 0.001 * place, 0.7) for place in range(300))
    curve = [
        {"prompts": n, "judgements": n, **share(0.7), "to_all": step(0.0, 0.1)}
        for n in range(900, 1000)
    ]
    report = changed(best_update=2990, last_update=2990, learning_curve=curve)
    html = render_report(report, epochs, NAMES)
    for chart in re.findall(r"<svg.*?</svg>", html, flags=re.S):
        ticks = re.findall(r'<text x="([\d.]+)" y="190" text-anchor="middle">', chart)
        assert 2 <= len(ticks) <= 9
        places = sorted(map(float, ticks))
        assert all(after - before > 25 for before, after in pairwise(places))


def test_the_same_figures_give_the_same_page() -> None:
    assert render_report(deepcopy(REPORT), EPOCHS, NAMES) == render_report(REPORT, EPOCHS, NAMES)


# --- where it comes from -------------------------------------------------------------------------


def test_the_stage_writes_it_beside_its_figures(trained: tuple[Path, dict[str, float]]) -> None:
    root, _ = trained
    report = json.loads((root / "reports/rewards.json").read_text())
    page = Page((root / "reports/rewards.html").read_text())
    assert wording.headline(report) in page.text
    assert "data/preferences" in page.text and "learning_curve.shares" in page.text
    assert all(page.images)


def test_the_stage_logs_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = project(tmp_path)
    logged: list[str] = []
    monkeypatch.setattr(
        type(context.tracker),
        "log_artifact",
        lambda self, path, folder=None: logged.append(path.name),
    )
    quick = {
        "epochs": 1,
        "learning_curve": SETTINGS.learning_curve.model_copy(update={"shares": ()}),
    }
    run(SETTINGS.model_copy(update=quick), context)
    assert {"rewards.json", "rewards.html"} <= set(logged)


def test_it_is_an_out_of_the_stage_and_its_template_is_shipped() -> None:
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    assert "reports/rewards.html" in stages["rewards"]["outs"]
    assert '"components.rewards" = ["*.j2"]' in (ROOT / "pyproject.toml").read_text()
