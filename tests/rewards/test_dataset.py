"""Preferences that cannot be trained on are refused with one line that says where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from components.contracts.errors import DataError, KonomiError, QuarantinedData
from components.contracts.ids import ranking_id
from components.rewards.dataset import Preferences, read_preferences
from tests.rewards.world import rows, write_world

Rows = list[dict[str, Any]]
FEW = {"train": 4, "validation": 2, "test": 2}


def keep(images: torch.Tensor) -> torch.Tensor:
    return images


class World:
    """The rows of all tables, with one ranking and two ratings, to be spoilt."""

    def __init__(self) -> None:
        self.samples, self.pairs, self.images = rows(FEW)
        shared = {key: self.samples[0][key] for key in ("prompt_id", "prompt", "category", "split")}
        names = [row["sample_id"] for row in self.samples[:3]]
        name = ranking_id(shared["prompt_id"], "ann", "1")
        self.rankings: Rows = [
            {**shared, "ranking_id": name, "annotator": "ann", "sample_id": sample, "rank": rank}
            for sample, rank in zip(names, (1, 3, 3), strict=True)
        ]
        for number in (1, 2):
            self.pairs.append(
                {
                    **self.pairs[0],
                    "sample_id_a": names[0],
                    "sample_id_b": names[number],
                    "annotator": "ann",
                    "preference": 1.0,
                    "label": "a",
                    "ranking_id": name,
                }
            )
        scale = {"low": 1.0, "high": 5.0, "steps": 5}
        self.ratings: Rows = [
            {**shared, **scale, "annotator": "ben", "sample_id": sample, "question": question}
            | {"value": value}
            for sample, question, value in (
                (names[0], "quality", 4.0),
                (names[2], "alignment", 1.0),
            )
        ]

    def write(self, folder: Path) -> Path:
        tables = (self.samples, self.pairs, self.images, self.rankings, self.ratings)
        return write_world(folder, *tables)

    def read(self, folder: Path) -> Preferences:
        return read_preferences(self.write(folder), keep)


def test_joined_by_id_whatever_the_order_of_rows(tmp_path: Path) -> None:
    samples, pairs, images = rows(FEW)
    pairs[1].update(label="tie", preference=0.5)
    pairs[2].update(label="b", preference=0.25)
    straight = read_preferences(write_world(tmp_path / "1", samples, pairs, images), keep)
    turned = read_preferences(write_world(tmp_path / "2", samples[::-1], pairs, images), keep)
    everything = torch.arange(len(straight.images))
    pixels = straight.images.pixels(everything)
    assert torch.equal(pixels, turned.images.pixels(everything))
    # Images by rising id, prompts by their text.
    assert torch.equal(pixels, torch.stack([images[name] for name in sorted(images)]))
    assert list(straight.prompts) == sorted({row["prompt"] for row in samples})
    train = straight.splits["train"]
    chosen = [row for row in pairs if row["split"] == "train"]
    assert len(train) == len(chosen) == 12
    for number in (0, 1, 2, 11):
        row = chosen[number]
        assert torch.equal(pixels[train.image_a[number]], images[row["sample_id_a"]])
        assert torch.equal(pixels[train.image_b[number]], images[row["sample_id_b"]])
        prompt = straight.prompts[int(straight.prompt_of[train.image_a[number]])]
        assert prompt == row["prompt"]
        assert straight.categories[int(train.category[number])] == row["category"]
        assert straight.annotators[int(train.annotator[number])] == "eye"
        assert float(train.preference[number]) == row["preference"]
    assert set(train.ranking.tolist()) == {-1}
    assert len(straight.rankings["train"]) == len(straight.ratings["train"]) == 0


def test_rankings_and_ratings_name_the_same_images(tmp_path: Path) -> None:
    world = World()
    data = world.read(tmp_path)
    train, ranked, rated = (part["train"] for part in (data.splits, data.rankings, data.ratings))
    assert (ranked.rank.tolist(), ranked.ranking.tolist()) == ([1, 3, 3], [0, 0, 0])
    assert train.ranking.tolist() == [-1] * 12 + [0, 0]
    assert train.image_a[-1] == ranked.image[0]
    assert train.image_b[-2:].tolist() == ranked.image[1:].tolist()
    assert [data.annotators[place] for place in ranked.annotator] == ["ann"] * 3
    assert [data.annotators[place] for place in rated.annotator] == ["ben"] * 2
    assert rated.image.tolist() == ranked.image[[0, 2]].tolist()
    assert [data.questions[place] for place in rated.question] == ["quality", "alignment"]
    assert (rated.value.tolist(), rated.steps.tolist()) == ([4.0, 1.0], [5, 5])
    assert (rated.low.tolist(), rated.high.tolist()) == ([1.0, 1.0], [5.0, 5.0])
    assert len(data.rankings["test"]) == len(data.ratings["test"]) == 0


def test_samples_that_nobody_judged_are_left_out(tmp_path: Path) -> None:
    world = World()
    world.pairs = [row for row in world.pairs if row["prompt_id"] != world.samples[4]["prompt_id"]]
    unused = [row for row in world.samples if row["prompt_id"] == world.samples[4]["prompt_id"]]
    for row in unused[1:]:
        del world.images[row["sample_id"]]
    data = world.read(tmp_path)
    assert len(data.images) == len(world.samples) - 4
    assert unused[0]["prompt"] not in data.prompts


def test_a_split_of_ratings_alone_can_be_learnt_from(tmp_path: Path) -> None:
    world = World()
    world.pairs = [row for row in world.pairs if row["split"] != "train"]
    world.rankings = []
    assert len(world.read(tmp_path).splits["train"]) == 0


def unknown_label(world: World) -> None:
    world.pairs[5]["label"] = "both"


def unknown_split(world: World) -> None:
    world.pairs[5]["split"] = "dev"


def missing_image(world: World) -> None:
    del world.images[world.pairs[5]["sample_id_a"]]


def missing_sample(world: World) -> None:
    name = world.pairs[5]["sample_id_a"]
    world.samples.remove(next(row for row in world.samples if row["sample_id"] == name))


def another_prompt(world: World) -> None:
    world.pairs[5]["sample_id_b"] = world.pairs[20]["sample_id_b"]


def empty_split(world: World) -> None:
    world.pairs = [row for row in world.pairs if row["split"] != "test"]


def only_ties(world: World) -> None:
    for row in world.pairs:
        if row["split"] == "validation":
            row.update(label="tie", preference=0.5)


def only_rated(world: World) -> None:
    """Ratings alone: enough to learn from, not to be measured on."""
    empty_split(world)
    sample = next(row for row in world.samples if row["split"] == "test")
    shared = {key: sample[key] for key in ("prompt_id", "prompt", "category", "split", "sample_id")}
    world.ratings.append({**world.ratings[0], **shared})


def no_share(world: World) -> None:
    world.pairs[5]["preference"] = float("nan")


def too_large_a_share(world: World) -> None:
    world.pairs[5].update(preference=1.25, label="a")


def another_word(world: World) -> None:
    world.pairs[5].update(preference=0.5, label="a")


def itself(world: World) -> None:
    world.pairs[5]["sample_id_b"] = world.pairs[5]["sample_id_a"]


def no_id(world: World) -> None:
    world.pairs[5]["sample_id_b"] = "picture.png"


def lost_ranking(world: World) -> None:
    world.rankings = []


def ranked_twice(world: World) -> None:
    world.rankings.append(dict(world.rankings[1]))


def ranked_alone(world: World) -> None:
    del world.rankings[1:]


def ranked_by_two(world: World) -> None:
    world.rankings[1]["annotator"] = "cleo"


def ranked_across_prompts(world: World) -> None:
    world.rankings[2].update(
        {key: world.samples[4][key] for key in ("prompt_id", "prompt", "sample_id")}
    )


def off_the_scale(world: World) -> None:
    world.ratings[1]["value"] = 5.5


def no_scale(world: World) -> None:
    world.ratings[1].update(low=1.0, high=1.0, value=1.0)


def one_step(world: World) -> None:
    world.ratings[1]["steps"] = 1


def rated_nan(world: World) -> None:
    world.ratings[0]["value"] = float("nan")


def twice_a_sample(world: World) -> None:
    world.samples.append(dict(world.samples[3]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (unknown_label, r"row 5, pair c_\w+: unknown label 'both'; allowed: a, tie, b"),
        (unknown_split, r"row 5, pair c_\w+: unknown split 'dev'; allowed: train, valid"),
        (missing_image, r"images: image 's_\w+' is in no shard"),
        (missing_sample, r"row \d, pair c_\w+: 's_\w+' is not in samples.parquet"),
        (another_prompt, r"row 5, pair c_\w+: 's_\w+' was drawn for another prompt"),
        (empty_split, r"0 pairs of split 'test' and none with a winner; allowed: at least one"),
        (only_rated, r"0 pairs of split 'test' and none with a winner"),
        (only_ties, r"6 pairs of split 'validation' and none with a winner"),
        (no_share, r"row 5, pair c_\w+: preference is nan; allowed: a number"),
        (too_large_a_share, r"row 5, pair c_\w+: preference is 1.25; allowed: a share"),
        (another_word, r"row 5, pair c_\w+: label 'a' and preference 0.5; allowed: label a above"),
        (itself, r"row 5, pair c_\w+: compares a sample with itself"),
        (no_id, r"pairs.parquet: .*'picture.png' is no id"),
        (lost_ranking, r"pairs.parquet: ranking 'r_\w+' is not in rankings.parquet"),
        (ranked_twice, r"rankings.parquet: ranking r_\w+: ranks a sample twice; allowed: one ann"),
        (ranked_alone, r"rankings.parquet: ranking r_\w+: holds one sample only"),
        (ranked_by_two, r"rankings.parquet: ranking r_\w+: is of two annotators"),
        (ranked_across_prompts, r"rankings.parquet: ranking r_\w+: is of two prompts"),
        (off_the_scale, r"ratings.parquet: row 1, prompt p_\w+: value 5.5 from 1 to 5"),
        (no_scale, r"ratings.parquet: row 1, prompt p_\w+: value 1 from 1 to 1"),
        (one_step, r"ratings.parquet: row 1, prompt p_\w+: steps is 1; allowed: 0, or 2"),
        (rated_nan, r"ratings.parquet: row 0, prompt p_\w+: value is nan"),
        (twice_a_sample, r"samples.parquet: sample 's_\w+' stands twice"),
    ],
)
def test_refused(spoil: Callable[[World], None], message: str, tmp_path: Path) -> None:
    world = World()
    spoil(world)
    with pytest.raises(DataError, match=message) as caught:
        world.read(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def pair_elsewhere(world: World) -> None:
    world.pairs[0]["split"] = "test"


def ranking_elsewhere(world: World) -> None:
    for row in world.rankings:
        row["split"] = "test"


def rating_elsewhere(world: World) -> None:
    world.ratings[0]["split"] = "test"


@pytest.mark.parametrize(
    ("spoil", "splits"),
    [
        (pair_elsewhere, "'test' and 'train'"),
        (ranking_elsewhere, "'train' and 'test'"),
        (rating_elsewhere, "'train' and 'test'"),
    ],
)
def test_a_prompt_in_two_splits_is_quarantined(
    spoil: Callable[[World], None], splits: str, tmp_path: Path
) -> None:
    world = World()
    spoil(world)
    with pytest.raises(QuarantinedData, match=f"stands in the splits {splits}") as caught:
        world.read(tmp_path)
    assert caught.value.exit_code == 65


def test_faults_are_found_beyond_the_first_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("components.contracts.tables.GROUP_ROWS", 4)
    world = World()
    too_large_a_share(world)
    with pytest.raises(DataError, match=r"row 5, pair c_\w+: preference is 1.25"):
        world.read(tmp_path / "1")
    world = World()
    world.pairs[11]["split"] = "validation"
    with pytest.raises(QuarantinedData, match=r"row 11, pair .* 'train' and 'validation'"):
        world.read(tmp_path / "2")


@pytest.mark.parametrize("table", ["pairs", "samples", "rankings", "ratings"])
def test_tables_that_are_not_there_or_cut(table: str, tmp_path: Path) -> None:
    path = World().write(tmp_path) / f"{table}.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(KonomiError, match=rf"{table}.parquet: is truncated"):
        read_preferences(tmp_path, keep)
    path.unlink()
    with pytest.raises(KonomiError, match=rf"{table}.parquet: no such file"):
        read_preferences(tmp_path, keep)
