"""The stage as others see it: its files, its curves, what it tells the tracker."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
import torch

from components.contracts.errors import DataError
from components.contracts.seeds import torch_generator
from components.diffusion import load_policy, sample_images
from components.finetuning.curves import COLUMNS
from components.finetuning.stage import run
from components.tracking import NullTracker
from tests.finetuning.conftest import COMPUTE, METHODS


class Recorder(NullTracker):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self.inputs: list[str] = []
        self.artifacts: list[str] = []

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, dict(metrics)))

    def log_input(self, path, digest, context):
        self.inputs.append(context)

    def log_artifact(self, path, folder=None):
        self.artifacts.append(path.name)


def test_a_run_of_dpok(project, base):
    recorder = Recorder()
    settings, context = project(METHODS["dpok"])
    context = replace(context, tracker=recorder)
    metrics = run(settings, context)

    with (context.root / "reports/curves.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [row["update"] for row in rows] == ["1", "2", "3", "4", "5", "6", "7"]
    assert [row["round"] for row in rows] == ["1", "1", "2", "2", "3", "3", "4"]
    assert [row["images"] for row in rows] == ["4", "4", "8", "8", "12", "12", "12"]
    # The monitor looks before rounds 1 and 3 and after the last update.
    assert [bool(row["judge"]) for row in rows] == [True, False, False, False, True, False, True]
    assert (rows[0]["ratio_deviation_max"], rows[0]["kl"]) == ("0", "0")
    *updates, last = rows
    assert all(row["reward"] and row["value_loss"] and row["diversity"] for row in updates)
    assert not (last["reward"] or last["loss"] or last["diversity"]) and last["validation_reward"]

    report = json.loads((context.root / "reports/finetuning.json").read_text())
    assert report == {"method": "dpok", "stopped_by": None, **metrics}
    assert (metrics["updates"], metrics["images"], metrics["rounds"]) == (6.0, 12.0, 3.0)

    adapter = json.loads((context.root / "models/lora/adapter.json").read_text())
    assert (adapter["rank"], adapter["alpha"]) == (2, 2)
    assert len(adapter["modules"]) == metrics["lora_modules"] > 0
    assert (context.work / "manifest.json").is_file()

    steps = [step for step, _ in recorder.rows]
    assert steps == [1, 2, 3, 4, 5, 6, 7]
    assert recorder.rows[-1][1]["images_per_second"] > 0
    assert recorder.inputs == ["train", "validation"]
    assert {"curves.csv", "finetuning.json", "lora"} <= set(recorder.artifacts)

    # What was saved loads as a policy that draws other images than the base.
    tuned = load_policy(base, COMPUTE, lora=context.root / "models/lora")
    assert tuned.digest == adapter["base_digest"]
    seeds = [1, 2]
    images, x0 = sample_images(tuned, ["train 0", "train 1"], seeds)
    _, reference = sample_images(tuned, ["train 0", "train 1"], seeds, adapter="reference")
    assert images.dtype == torch.uint8
    assert not torch.equal(x0, reference)


def test_training_raises_what_it_is_told_to_raise(build, policy):
    """The same prompts and noise are worth more to the scorer after a few rounds than before."""
    made = build(
        METHODS["dpok"]
        | {
            "prompts_per_round": 4,
            "group_size": 8,
            "buffer_size": 64,
            "transitions_per_update": 64,
            "learning_rate": 1e-2,
            "clip_range": 0.2,
            "kl_weight": 0.0,
            "advantage": "group_standardised",
            "value_function": None,
        }
    )
    parameters = [parameter for _, parameter in policy.trainable_parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)

    def rewards() -> torch.Tensor:
        texts = [prompt for prompt in made.experience.context.prompts.prompts[:4] for _ in range(8)]
        images, _ = sample_images(policy, texts, list(range(len(texts))))
        return made.experience.context.scorer.score(images, texts)

    before = rewards()
    for number in range(16):
        collected = made.experience.collect(policy, torch_generator(5, "round", number))
        for batches in collected.updates:
            optimizer.zero_grad()
            for batch in batches:
                made.algorithm.loss(policy, batch, torch_generator(0)).loss.backward()
            optimizer.step()
    gain = rewards() - before
    # Paired, so that the noise that both share drops out: two standard errors above zero.
    assert gain.mean() > 2 * gain.std() / len(gain) ** 0.5


def test_missing_prompts_are_one_line_and_leave_earlier_outs(project):
    settings, context = project(METHODS["dpok"])
    earlier = context.root / "reports/curves.csv"
    earlier.parent.mkdir()
    earlier.write_text("earlier")
    (context.root / "data/prompts/validation.parquet").unlink()
    with pytest.raises(DataError, match=r"validation\.parquet: no such file"):
        run(settings, context)
    assert earlier.read_text() == "earlier"
