"""Stage 2 on a tiny base with people who like bright pictures: what is written is what they saw."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from components.contracts.artifacts import read_image_shard, read_safetensors
from components.contracts.ids import pair_id, prompt_id
from components.contracts.tables import PAIRS, PROMPTS, SAMPLES, read_table, write_table
from tests.support.rooms import Project

PLUG = "tests.support.plugs"
SETTINGS: dict[str, Any] = {
    "prompts_per_category": 2,
    "held_out_prompts_per_category": 1,
    "samples_per_prompt": 4,
    "pairs_per_prompt": 4,
    "annotators_per_pair": 2,
    "images_per_shard": 12,
    "people": {"callable": f"{PLUG}:brightness_people", "arguments": {"num_annotators": 3}},
}


def write_prompts(project: Project, per_category: int = 3) -> None:
    """Three categories; in each split, `per_category` prompts of each."""
    for split in ("train", "validation", "test"):
        texts = [
            (f"a {kind} cat {split} {number}", kind)
            for kind in ("red", "blue", "two")
            for number in range(per_category)
        ]
        table = pa.table(
            {
                "prompt_id": [prompt_id(text) for text, _ in texts],
                "prompt": [text for text, _ in texts],
                "category": [kind for _, kind in texts],
                "source": ["prompts.csv"] * len(texts),
                "num_tokens": [5] * len(texts),
            }
        )
        write_table(project.root / f"data/prompts/{split}.parquet", table, PROMPTS)


def read_all(project: Project) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    folder = project.root / "data/preferences"
    samples = read_table(folder / "samples.parquet", SAMPLES).to_pylist()
    return samples, read_table(folder / "pairs.parquet", PAIRS).to_pylist()


def test_what_is_written_is_what_was_drawn_and_said(project: Project) -> None:
    write_prompts(project)
    project.params(preferences=SETTINGS)
    assert project.run("preferences") == 0
    samples, rows = read_all(project)
    # 3 categories x (2 train + 1 validation + 1 test) prompts x 4 samples
    assert len(samples) == 48
    assert len({sample["sample_id"] for sample in samples}) == 48
    assert len({sample["seed"] for sample in samples}) == 48
    assert Counter((s["split"], s["category"]) for s in samples)["train", "red"] == 8
    assert Counter(s["split"] for s in samples) == {"train": 24, "validation": 12, "test": 12}

    folder = project.root / "data/preferences"
    brightness: dict[str, float] = {}
    for shard in {sample["shard"] for sample in samples}:
        images = read_image_shard(folder / "images" / f"images-{shard}.tar")
        latents = read_safetensors(folder / "latents" / f"latents-{shard}.safetensors")
        assert set(images) == set(latents)
        assert set(images) == {s["sample_id"] for s in samples if s["shard"] == shard}
        assert {tuple(image.shape) for image in images.values()} == {(3, 32, 32)}
        assert {tuple(latent.shape) for latent in latents.values()} == {(4, 8, 8)}
        brightness |= {name: image.double().mean().item() for name, image in images.items()}
    assert len(brightness) == 48

    # 12 prompts x 4 pairs x 2 annotators, and every label says which picture is the brighter one.
    assert len(rows) == 96
    prompt_of = {sample["sample_id"]: sample["prompt_id"] for sample in samples}
    for row in rows:
        a, b = row["sample_id_a"], row["sample_id_b"]
        assert row["pair_id"] == pair_id(a, b)
        assert prompt_of[a] == prompt_of[b] == row["prompt_id"]
        assert row["label"] == ("a" if brightness[a] > brightness[b] else "b")
    assert set(Counter(row["pair_id"] for row in rows).values()) == {2}
    assert len({(row["pair_id"], row["annotator"]) for row in rows}) == 96
    assert {row["annotator"] for row in rows} == {"person 0", "person 1", "person 2"}

    report = project.json("reports/preferences.json")
    assert (report["pairs"], report["judgements"], report["annotators"]) == (48, 96, 3)
    assert (report["agreement"], report["krippendorff_alpha"], report["label_noise"]) == (1, 1, 0)
    assert 0.3 < report["first_side_fraction"] < 0.7
    lines = (project.root / "reports/preferences_by_category.csv").read_text().splitlines()
    assert lines == ["category,decided_fraction", "blue,1.0", "red,1.0", "two,1.0"]


def test_two_runs_give_the_same_bytes_and_another_seed_others(
    new_project: Callable[[str], Project],
) -> None:
    contents = []
    for name in ("first", "second", "third"):
        project = new_project(name)
        write_prompts(project)
        project.params(preferences=SETTINGS, **({"seed": 8} if name == "third" else {}))
        assert project.run("preferences") == 0
        contents.append(project.files("data/preferences", "reports"))
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_a_sample_does_not_depend_on_the_shard_size(new_project: Callable[[str], Project]) -> None:
    seen = []
    for name, size in (("small", 4), ("large", 1000)):
        project = new_project(name)
        write_prompts(project)
        project.params(preferences={**SETTINGS, "images_per_shard": size})
        assert project.run("preferences") == 0
        shards = sorted((project.root / "data/preferences/images").glob("*.tar"))
        assert len(shards) == (12 if size == 4 else 1)
        seen.append({k: v for path in shards for k, v in read_image_shard(path).items()})
    assert set(seen[0]) == set(seen[1])
    # Another batch geometry may round a pixel differently; a different noise would change them all.
    for name, image in seen[0].items():
        assert (image.int() - seen[1][name].int()).abs().max() <= 1


def test_noisy_people_are_measured_as_noisy(project: Project) -> None:
    write_prompts(project)
    arguments = {"num_annotators": 4, "flip_probability": 0.2}
    people = {"callable": f"{PLUG}:brightness_people", "arguments": arguments}
    busy = {"samples_per_prompt": 8, "pairs_per_prompt": 28, "annotators_per_pair": 4}
    project.params(preferences={**SETTINGS, **busy, "people": people})
    assert project.run("preferences") == 0
    report = project.json("reports/preferences.json")
    # 336 pairs x 6 pairs of annotators: the estimate's standard deviation is near 0.02.
    assert report["label_noise"] == pytest.approx(0.2, abs=0.06)
    assert report["agreement"] == pytest.approx(0.2**2 + 0.8**2, abs=0.06)
    assert 0.2 < report["krippendorff_alpha"] < 0.5


def test_people_who_always_take_the_first_picture_lean_to_no_picture(project: Project) -> None:
    write_prompts(project)
    people = {"callable": f"{PLUG}:left_handed_people"}
    busy = {"samples_per_prompt": 8, "pairs_per_prompt": 28, "annotators_per_pair": 2}
    project.params(preferences={**SETTINGS, **busy, "people": people})
    assert project.run("preferences") == 0
    report = project.json("reports/preferences.json")
    assert report["first_side_fraction"] == 1.0
    assert abs(report["krippendorff_alpha"]) < 0.2
    _, rows = read_all(project)
    lower = sum(row["sample_id_a"] < row["sample_id_b"] for row in rows) / len(rows)
    assert 0.42 < lower < 0.58


def test_ties_are_kept(project: Project) -> None:
    write_prompts(project)
    arguments = {"tie_threshold": 255.0}
    people = {"callable": f"{PLUG}:brightness_people", "arguments": arguments}
    project.params(preferences={**SETTINGS, "people": people})
    assert project.run("preferences") == 0
    assert {row["label"] for row in read_all(project)[1]} == {"tie"}
    report = project.json("reports/preferences.json")
    assert report["tie_fraction"] == 1.0
    assert report["krippendorff_alpha"] is report["label_noise"] is None


FAULTS = {
    "no such plug": ({"people": {"callable": f"{PLUG}:nobody"}}, "brightness_people"),
    "foreign argument": (
        {"people": {"callable": f"{PLUG}:brightness_people", "arguments": {"age": 3}}},
        "age",
    ),
    "too few people": ({"annotators_per_pair": 9}, "allowed: 1 to 3"),
    "broken plug": ({"people": {"callable": f"{PLUG}:silent_people"}}, "person 0"),
    "too many pairs": ({"pairs_per_prompt": 7}, "at most 6"),
    "nobody at all": ({"people": None}, "either people or label_source"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_one_line_and_earlier_outputs_stay(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, expected = FAULTS[name]
    write_prompts(project)
    earlier = project.root / "data/preferences/pairs.parquet"
    earlier.parent.mkdir()
    earlier.write_bytes(b"earlier")
    project.params(preferences={**SETTINGS, **change})
    assert project.run("preferences") == 2
    # Progress and a library's remarks may stand above; of errors there is one line, the last.
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "error" in line.lower()] == [lines[-1]]
    assert lines[-1].startswith("error: preferences: ")
    assert expected in lines[-1]
    assert project.files("data/preferences") == {"data/preferences/pairs.parquet": b"earlier"}
    assert not (project.root / "reports").exists()
    assert [path.name for path in sorted((project.root / "data").iterdir())] == [
        "preferences",
        "prompts",
    ]


def test_missing_prompts_and_base_are_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.params(preferences=SETTINGS)
    assert project.run("preferences") == 2
    assert "data/prompts/train.parquet: no such file" in capsys.readouterr().err
    write_prompts(project)
    (project.root / "base").unlink()
    Path(project.root / "base").mkdir()
    assert project.run("preferences") == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: preferences: ")
    assert re.search(r"\bbase\b", last)


def test_every_sample_of_a_prompt_is_compared_about_as_often() -> None:
    from components.preferences.candidates import choose_pairs
    from components.preferences.records import PromptRow, Sample

    prompt = PromptRow("p", "a cat", "red", "train")
    for size in (2, 3, 4, 7, 8):
        samples = [Sample(f"s{number}", prompt, number) for number in range(size)]
        everything = size * (size - 1) // 2
        for count in range(1, everything + 1):
            pairs = choose_pairs(samples, count, seed=3)
            assert len({frozenset((a.sample_id, b.sample_id)) for a, b in pairs}) == count
            used = Counter(sample.sample_id for pair in pairs for sample in pair)
            times = sorted([used[sample.sample_id] for sample in samples])
            assert times[-1] - times[0] <= 2
            assert sum(times) == 2 * count
    orders = [choose_pairs(samples, 8, seed=seed) for seed in range(3)]
    assert all(one != other for one, other in pairwise(orders))
