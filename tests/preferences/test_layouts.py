"""Each layout on a small file that is written in exactly the published schema."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.preferences.brought import Tables, import_, picture, write_pictures
from tests.support.rooms import Project

THREE = ("red", "green", "blue")
# The features on the cards of yuvalkirstain/pickapic_v1 and pickapic_v2.
PICK_A_PIC = pa.schema(
    [
        ("are_different", pa.bool_()),
        ("best_image_uid", pa.string()),
        ("caption", pa.string()),
        ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()),
        ("image_0_uid", pa.string()),
        ("image_0_url", pa.string()),
        ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()),
        ("jpg_0", pa.binary()),
        ("jpg_1", pa.binary()),
        ("label_0", pa.float64()),
        ("label_1", pa.float64()),
        ("model_0", pa.string()),
        ("model_1", pa.string()),
        ("ranking_id", pa.int64()),
        ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()),
        ("__index_level_0__", pa.int64()),
    ]
)


def pick_a_pic_row(a: str, b: str, label: float, **more: Any) -> dict[str, Any]:
    row = {
        "are_different": a != b,
        "best_image_uid": a if label == 1 else b,
        "caption": "a cat",
        "created_at": datetime(2023, 1, 1),
        "has_label": True,
        "image_0_uid": a,
        "image_0_url": f"https://example.org/{a}.png",
        "image_1_uid": b,
        "image_1_url": f"https://example.org/{b}.png",
        "jpg_0": picture(a, "JPEG"),
        "jpg_1": picture(b, "JPEG"),
        "label_0": label,
        "label_1": 1 - label,
        "model_0": "stabilityai/stable-diffusion-2-1",
        "model_1": "dreamlike-art/dreamlike-photoreal-2.0",
        "ranking_id": 7,
        "user_id": 123,
        "num_example_per_prompt": 2,
        "__index_level_0__": 5,
    }
    return {**row, **more}


def write_parts(folder: Path, *parts: list[dict[str, Any]]) -> None:
    folder.mkdir()
    for number, rows in enumerate(parts):
        table = pa.Table.from_pylist(rows, schema=PICK_A_PIC)
        pq.write_table(table, folder / f"train-{number:05d}-of-00002-abc.parquet")


PICK = {"layout": "pick_a_pic", "path": "brought"}


def test_pick_a_pic_as_published(project: Project) -> None:
    first = [
        pick_a_pic_row("red", "green", 1.0),
        pick_a_pic_row("green", "blue", 0.5, user_id=9),
        pick_a_pic_row("red", "blue", 0.0, has_label=False),
        pick_a_pic_row("red", "red", 1.0),
    ]
    second = [pick_a_pic_row("blue", "red", 0.0, caption="another one", user_id=None)]
    write_parts(project.root / "brought", first, second)
    # The published subsets repeat rows; the default takes every file, a pattern some.
    pq.write_table(
        pa.Table.from_pylist(first, schema=PICK_A_PIC),
        project.root / "brought/validation_unique-00000-of-00001.parquet",
    )
    assert import_(project, {**PICK, "files": "train-*.parquet"}) == 0
    found = Tables(project)
    assert found.said() == [
        ("red", "green", 1.0, "123"),
        ("green", "blue", 0.5, "9"),
        ("blue", "red", 0.0, "unknown"),
    ]
    assert [row["label"] for row in found.pairs] == ["a", "tie", "b"]
    assert {row["ranking_id"] for row in found.pairs} == {""}
    assert (found.rankings, found.ratings) == ([], [])
    assert found.report["skipped"] == {"no_label": 1, "same_picture": 1}
    # A picture is stored once a prompt, as the bytes that it came in.
    assert len(found.samples) == 3 + 2
    content = b"".join(path.read_bytes() for path in (found.folder / "images").glob("*.tar"))
    assert content.count(picture("green", "JPEG")) == 1
    assert content.count(b".jpg\0") == 5


def test_a_fault_in_published_pairs_is_counted_up_to_a_share(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    good = [pick_a_pic_row("red", "green", 1.0, caption=f"cat {n}") for n in range(16)]
    bad = [
        pick_a_pic_row("red", "blue", float("nan")),
        pick_a_pic_row("red", "blue", 1.5),
        pick_a_pic_row("red", "blue", 1.0, jpg_1=b"no picture"),
        pick_a_pic_row("red", "blue", 1.0, caption=None),
    ]
    write_parts(project.root / "brought", [*good, *bad])
    assert import_(project, PICK, max_skipped_fraction=0.2) == 0
    found = Tables(project)
    assert len(found.pairs) == 16
    assert found.report["skipped"] == {"bad_label": 3, "unreadable_picture": 1}
    # No sample is left behind by a pair of which one picture could not be read.
    assert len(found.samples) == 32
    assert import_(project, PICK, max_skipped_fraction=0.19) == 65
    error = capsys.readouterr().err.splitlines()[-1]
    assert "of 20 labels too many cannot be used (unreadable_picture 1, bad_label 3)" in error
    assert "allowed: a share of 0.19, preferences.max_skipped_fraction" in error


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def test_hpd_train(project: Project) -> None:
    root = project.root / "HPD"
    write_pictures(root / "train", "00000_red.jpg", "00001_green.jpg", "00002_blue.jpg")
    chosen: dict[str, Any] = {
        "prompt": "a cat",
        "image_path": ["00000_red.jpg", "00001_green.jpg"],
        "human_preference": [0, 1],
    }
    # The card spells the paths in another way; some releases name the annotator.
    spelled = {
        "prompt": "two dogs",
        "file_path": ["00000_red.jpg", "00001_green.jpg", "00002_blue.jpg"],
        "human_preference": [0, 0, 1],
        "user_hash": -3606106900967824568,
    }
    write_json(root / "train.json", [chosen, spelled])
    assert import_(project, {"layout": "hpd", "path": "HPD/train.json"}) == 0
    assert Tables(project).said() == [
        ("red", "green", 0.0, "unknown"),
        ("red", "blue", 0.0, "-3606106900967824568"),
        ("green", "blue", 0.0, "-3606106900967824568"),
    ]


def hpd_test_item(**more: Any) -> dict[str, Any]:
    """As in the published test.json: ranks from 0, by each annotator and on average."""
    names = [
        f"anime/folder{n}/0000_{colour}.jpg" for n, colour in enumerate(("red", "green", "blue"))
    ]
    return {
        "prompt": "a cat",
        "image_path": names,
        "rank": [1, 0, 2],
        "raw_annotations": [
            {"annotation": [1, 0, 2], "user_hash": 5026193362184583612},
            {"annotation": [0, 2, 1], "user_hash": -319362806847663096},
        ],
        **more,
    }


def test_hpd_test(project: Project) -> None:
    root = project.root / "HPD"
    write_pictures(root / "test", *hpd_test_item()["image_path"])
    averaged = {**hpd_test_item(prompt="two dogs"), "raw_annotations": []}
    write_json(root / "test.json", [hpd_test_item(), averaged])
    assert import_(project, {"layout": "hpd", "path": "HPD/test.json"}) == 0
    found = Tables(project)
    colours = found.colours()
    assert [
        (colours[row["sample_id"]], row["rank"], row["annotator"]) for row in found.rankings
    ] == [
        ("red", 1, "5026193362184583612"),
        ("green", 0, "5026193362184583612"),
        ("blue", 2, "5026193362184583612"),
        ("red", 0, "-319362806847663096"),
        ("green", 2, "-319362806847663096"),
        ("blue", 1, "-319362806847663096"),
        ("red", 1, "average"),
        ("green", 0, "average"),
        ("blue", 2, "average"),
    ]
    first = [row["ranking_id"] for row in found.rankings[:3]]
    assert len(set(first)) == 1
    assert len({row["ranking_id"] for row in found.rankings}) == 3
    # Every two pictures of a ranking are a judgement too, and say which ranking they are from.
    assert found.said()[:3] == [
        ("red", "green", 0.0, "5026193362184583612"),
        ("red", "blue", 1.0, "5026193362184583612"),
        ("green", "blue", 1.0, "5026193362184583612"),
    ]
    assert [row["ranking_id"] for row in found.pairs[:3]] == first
    report = found.report
    assert (report["rankings"], report["judgements"], report["pairs"]) == (3, 9, 6)
    # Of the three pairs that two annotators ranked they agree on one: red over blue.
    assert report["splits"]["test"]["agreement"] == pytest.approx(1 / 3)
    # In a ranking nothing is shown first.
    assert report["first_side_fraction"] is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_path": "a.jpg"}, "item 1: has no image_path with two paths or more"),
        ({"image_path": ["a.jpg"]}, "item 1: has no image_path with two paths or more"),
        ({"rank": None, "raw_annotations": [{"annotation": [1]}]}, "no label that can be used"),
        ({"human_preference": [1, 1, 0]}, "no label that can be used (bad_label 1)"),
        ({"human_preference": [0, 0]}, "no label that can be used (bad_label 1)"),
    ],
)
def test_hpd_of_another_form(
    project: Project, capsys: pytest.CaptureFixture[str], change: dict[str, Any], expected: str
) -> None:
    write_pictures(project.root / "HPD/test", *hpd_test_item()["image_path"])
    write_json(project.root / "HPD/test.json", [hpd_test_item(**change)])
    source = {"layout": "hpd", "path": "HPD/test.json"}
    assert import_(project, source, max_skipped_fraction=1.0) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]


def irdb_row(colour: str, rank: int, **more: Any) -> dict[str, Any]:
    """A row of metadata-*.parquet, as the card of THUDM/ImageRewardDB shows it."""
    row = {
        "image_path": f"images/train/train_1/uuid_{colour}.webp",
        "prompt_id": "000864-0061",
        "prompt": "painting of a holy woman",
        "classification": "People",
        "image_amount_in_total": 9,
        "rank": rank,
        "overall_rating": 4,
        "image_text_alignment_rating": 3,
        "fidelity_rating": 7,
    }
    return {**row, **more}


def irdb_rows() -> list[dict[str, Any]]:
    """Two prompts whose rows do not stand together."""
    return [
        irdb_row("red", 2),
        irdb_row("green", 1, prompt_id="005658-0040", prompt="a cat", classification="Animals"),
        irdb_row("green", 1, overall_rating=6),
        irdb_row("blue", 1, prompt_id="005658-0040", prompt="a cat", classification="Animals"),
        irdb_row("blue", 2),
    ]


@pytest.mark.parametrize("form", ["parquet", "folder", "json"])
def test_image_reward_db(project: Project, form: str) -> None:
    root = project.root / "ImageRewardDB"
    write_pictures(root, *{row["image_path"] for row in irdb_rows()})
    if form == "json":
        write_json(root / "train_1.json", irdb_rows())
        path = "ImageRewardDB/train_1.json"
    else:
        pq.write_table(pa.Table.from_pylist(irdb_rows()), root / "metadata-train.parquet")
        path = "ImageRewardDB" if form == "folder" else "ImageRewardDB/metadata-train.parquet"
    assert import_(project, {"layout": "image_reward_db", "path": path}) == 0
    found = Tables(project)
    colours = found.colours()
    assert [(row["prompt"], colours[row["sample_id"]], row["rank"]) for row in found.rankings] == [
        ("painting of a holy woman", "red", 2),
        ("painting of a holy woman", "green", 1),
        ("painting of a holy woman", "blue", 2),
        ("a cat", "green", 1),
        ("a cat", "blue", 1),
    ]
    # Equal ranks are a tie.
    assert found.said() == [
        ("red", "green", 0.0, "unknown"),
        ("red", "blue", 0.5, "unknown"),
        ("green", "blue", 1.0, "unknown"),
        ("green", "blue", 0.5, "unknown"),
    ]
    assert len(found.ratings) == 15
    of_red = {
        row["question"]: (row["value"], row["low"], row["high"], row["steps"])
        for row in found.ratings
        if colours[row["sample_id"]] == "red"
    }
    assert of_red == {
        "overall": (4.0, 1.0, 7.0, 7),
        "alignment": (3.0, 1.0, 7.0, 7),
        "fidelity": (7.0, 1.0, 7.0, 7),
    }
    # The classification is the category, but for a caption that stage 1 knows.
    categories = {row["prompt"]: row["category"] for row in found.samples}
    assert categories == {"painting of a holy woman": "People", "a cat": "plain"}
    assert found.report["ratings"] == 15


def test_image_reward_db_ratings_out_of_range_are_left_out(project: Project) -> None:
    root = project.root / "db"
    rows = [irdb_row("red", 1, overall_rating=0), irdb_row("green", 2, fidelity_rating=None)]
    write_pictures(root, *(row["image_path"] for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata-test.parquet")
    source = {"layout": "image_reward_db", "path": "db"}
    assert import_(project, source, max_skipped_fraction=0.2) == 0
    found = Tables(project)
    assert (len(found.ratings), len(found.pairs)) == (4, 1)
    assert found.report["skipped"] == {"bad_label": 1}


def test_image_reward_db_test_json(project: Project) -> None:
    names = [
        f"part-005658/images/0040/{n}_{c}.webp" for n, c in enumerate(("red", "green", "blue"))
    ]
    write_pictures(project.root / "pictures", *names)
    item = {"id": "005658-0040", "prompt": "a cat", "generations": names, "ranking": [1, 5, 5]}
    write_json(project.root / "data_of_the_repository/test.json", [item])
    source = {
        "layout": "image_reward_db",
        "path": "data_of_the_repository/test.json",
        "images": "pictures",
    }
    assert import_(project, source) == 0
    found = Tables(project)
    assert [row["rank"] for row in found.rankings] == [1, 5, 5]
    assert [row[2] for row in found.said()] == [1.0, 1.0, 0.5]


def test_image_reward_db_lacks_a_column(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{key: value for key, value in irdb_row("red", 1).items() if key != "rank"}]
    (project.root / "db").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), project.root / "db/metadata-train.parquet")
    assert import_(project, {"layout": "image_reward_db", "path": "db"}) == 2
    assert "metadata-train.parquet: no column 'rank'" in capsys.readouterr().err


def test_hpd_and_image_reward_db_images_that_are_not_there(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write_json(project.root / "HPD/test.json", [hpd_test_item()] * 3)
    assert import_(project, {"layout": "hpd", "path": "HPD/test.json"}) == 65
    assert "unreadable_picture 18" in capsys.readouterr().err.splitlines()[-1]


def sorted_folder(root: Path) -> Path:
    write_pictures(
        root / "by hand",
        "b/rank_1/x_red.png",
        "b/rank_2/x_green.png",
        "b/rank_2/y_blue.jpg",
        "b/good/z_grey.png",
        "a/good/x_red.png",
        "a/bad/x_green.webp",
    )
    (root / "by hand/a/prompt.txt").write_text("two dogs\n")
    (root / "by hand/b/prompt.txt").write_text("a cat")
    return root / "by hand"


FOLDER = {"layout": "folder", "path": "by hand"}


def test_a_plain_folder(project: Project) -> None:
    sorted_folder(project.root)
    assert import_(project, FOLDER) == 0
    found = Tables(project)
    assert found.said() == [
        ("red", "green", 1.0, "unknown"),
        ("red", "blue", 1.0, "unknown"),
        ("green", "blue", 0.5, "unknown"),
    ]
    colours = found.colours()
    rated = [
        (row["prompt"], colours[row["sample_id"]], row["question"], row["value"], row["steps"])
        for row in found.ratings
    ]
    assert rated == [
        ("two dogs", "green", "good", 0.0, 2),
        ("two dogs", "red", "good", 1.0, 2),
        ("a cat", "grey", "good", 1.0, 2),
    ]


FOLDER_FAULTS = {
    "no prompt": ("a/prompt.txt", None, "a/prompt.txt: no such file"),
    "empty prompt": ("a/prompt.txt", b" \n", "a: caption is empty"),
    "not UTF-8": ("a/prompt.txt", b"a \xff", "prompt.txt: line 1: byte 0xff is not UTF-8"),
    "another folder": ("a/better/x_red.png", picture("red"), "a/better: is not of this layout"),
    "a loose file": ("a/x_red.png", picture("red"), "a/x_red.png: is not of this layout"),
    "no picture": ("a/good/x_red.png", b"text", "good/x_red.png: image does not decode"),
    "ranked alone": ("a/rank_1/x_red.png", picture("blue"), "a: holds 1 ranked pictures"),
    "ranked twice": ("b/rank_3/again.png", picture("red"), "b: ranks a picture twice"),
    "no folder": ("notes.txt", b"", "notes.txt: is no folder"),
}


@pytest.mark.parametrize("name", FOLDER_FAULTS)
def test_faults_of_a_plain_folder(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    place, content, expected = FOLDER_FAULTS[name]
    path = sorted_folder(project.root) / place
    if content is None:
        path.unlink()
    else:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    assert import_(project, FOLDER) == 2
    assert expected in capsys.readouterr().err.splitlines()[-1]
