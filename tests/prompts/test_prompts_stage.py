"""Stage 1 on real files of every kind, good and bad."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.contracts.ids import prompt_id
from components.contracts.tables import PROMPTS, read_table
from components.contracts.text import prompt_key
from tests.support.rooms import Project

SPLITS = ("train", "validation", "test")


def settings(*sources: dict[str, Any] | str, **more: Any) -> dict[str, Any]:
    """A block of `prompts`; a bare name is a source with the default columns."""
    named = [{"path": source} if isinstance(source, str) else source for source in sources]
    return {"sources": named, **more}


def write_csv(project: Project, count: int = 40) -> None:
    lines = [
        f"a {kind} cat number {index},{kind}" for kind in ("red", "blue") for index in range(count)
    ]
    (project.root / "prompts.csv").write_text("\n".join(["prompt,category", *lines]) + "\n")


def rows_of(project: Project) -> list[dict[str, Any]]:
    folder = project.root / "data/prompts"
    return [
        {**row, "split": split}
        for split in SPLITS
        for row in read_table(folder / f"{split}.parquet", PROMPTS).to_pylist()
    ]


SOURCE = {"path": "prompts.csv", "category_column": "category"}


def test_every_category_is_split_in_the_same_proportions(project: Project) -> None:
    write_csv(project)
    project.params(prompts=settings(SOURCE, validation_fraction=0.1, test_fraction=0.25))
    assert project.run("prompts") == 0
    rows = rows_of(project)
    assert Counter((row["category"], row["split"]) for row in rows) == {
        (kind, split): count
        for kind in ("red", "blue")
        for split, count in (("train", 26), ("validation", 4), ("test", 10))
    }
    assert all(row["prompt_id"] == prompt_id(row["prompt"]) for row in rows)
    assert len({prompt_key(row["prompt"]) for row in rows}) == 80
    report = project.json("reports/prompts.json")
    assert (report["rows"], report["kept"], report["leakage"]) == (80, 80, 0)
    assert report["splits"] == {"train": 52, "validation": 8, "test": 20}
    kept = (project.root / "reports/prompts_kept.csv").read_text()
    assert kept == "category,prompts\nblue,40\nred,40\n"


def test_two_runs_give_the_same_bytes_whatever_the_order_of_rows(
    new_project: Callable[[str], Project],
) -> None:
    contents = []
    for name in ("first", "second", "turned", "other seed"):
        project = new_project(name)
        write_csv(project)
        if name == "turned":
            path = project.root / "prompts.csv"
            header, *lines = path.read_text().splitlines()
            path.write_text("\n".join([header, *reversed(lines)]) + "\n")
        project.params(prompts=settings(SOURCE), **({"seed": 8} if name == "other seed" else {}))
        assert project.run("prompts") == 0
        contents.append(project.files("data", "reports"))
    assert contents[0] == contents[1] == contents[2]
    assert contents[0] != contents[3]


def test_a_new_prompt_moves_at_most_one_other_across_each_border(
    new_project: Callable[[str], Project],
) -> None:
    homes = []
    for count in (40, 41):
        project = new_project(str(count))
        write_csv(project, count)
        project.params(prompts=settings(SOURCE))
        assert project.run("prompts") == 0
        homes.append({row["prompt"]: row["split"] for row in rows_of(project)})
    moved = sum(homes[1][prompt] != split for prompt, split in homes[0].items())
    assert moved <= 2 * 2  # two borders, two categories


def test_all_five_kinds_of_file_hold_the_same_prompts(project: Project) -> None:
    prompts = ["a red cat", 'a sign, "open"', "two dogs"]
    root = project.root
    (root / "p.txt").write_text("\r\n".join(prompts) + "\r\n")
    (root / "p.csv").write_text('text,n\na red cat,1\n"a sign, ""open""",2\ntwo dogs,3\n')
    (root / "p.tsv").write_text('text\tn\na red cat\t1\n"a sign, ""open"""\t2\ntwo dogs\t3\n')
    lines = [json.dumps({"text": prompt, "n": 1}) for prompt in prompts]
    (root / "p.jsonl").write_text("\n".join(lines) + "\n")
    pq.write_table(pa.table({"text": prompts, "n": [1, 2, 3]}), root / "p.parquet")
    for kind in ("txt", "csv", "tsv", "jsonl", "parquet"):
        project.params(prompts=settings({"path": f"p.{kind}", "column": "text"}))
        assert project.run("prompts") == 0, kind
        assert {row["prompt"] for row in rows_of(project)} == set(prompts), kind
    everything = [{"path": f"p.{kind}", "column": "text"} for kind in ("jsonl", "csv", "txt")]
    project.params(prompts=settings(*everything))
    assert project.run("prompts") == 0
    report = project.json("reports/prompts.json")
    assert (report["rows"], report["kept"], report["duplicates"]) == (9, 3, 6)
    assert {row["source"] for row in rows_of(project)} == {"p.jsonl"}


def test_spellings_of_one_prompt_are_one_prompt(project: Project) -> None:
    spellings = [
        "a café",
        "a cafe\u0301",
        "A CAFÉ",
        "a\u200b café",
        " a \t café\u00a0",
        "\ufeffa café",
    ]
    (project.root / "p.txt").write_text("\n".join([*spellings, "another"]), encoding="utf-8")
    project.params(prompts=settings("p.txt"))
    assert project.run("prompts") == 0
    assert {row["prompt"] for row in rows_of(project)} == {"a café", "another"}
    assert project.json("reports/prompts.json")["duplicates"] == 5


def test_bad_rows_are_dropped_and_counted_by_reason(project: Project) -> None:
    lines: list[dict[str, Any]] = [{"prompt": f"prompt {index}"} for index in range(20)]
    lines += [{"prompt": value} for value in ("", "  \u200b ", None, 5, "x" * 301, "hid\x07den")]
    (project.root / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    block = settings("p.jsonl", invisible_characters="refuse", max_dropped_fraction=0.25)
    project.params(prompts=block)
    assert project.run("prompts") == 0
    report = project.json("reports/prompts.json")
    assert report["dropped"] == {
        "empty": 2,
        "not_text": 1,
        "invisible_characters": 2,
        "too_long": 1,
    }
    assert (project.root / "data/prompts/dropped.csv").read_text().splitlines() == [
        "source,place,reason",
        "p.jsonl,line 21,empty",
        "p.jsonl,line 22,invisible_characters",
        "p.jsonl,line 23,empty",
        "p.jsonl,line 24,not_text",
        "p.jsonl,line 25,too_long",
        "p.jsonl,line 26,invisible_characters",
    ]


def test_too_many_bad_rows_are_bad_data(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.root / "p.txt").write_text("a cat\n\n\na dog\n")
    project.params(prompts=settings("p.txt", max_dropped_fraction=0.4))
    assert project.run("prompts") == 65
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "2 of 4 prompts were dropped (empty 2; first: p.txt: line 2: empty)" in error
    assert not (project.root / "data").exists()


def test_a_line_of_a_megabyte_is_too_long_in_every_text_format(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "x" * 1_048_576
    (project.root / "p.txt").write_text(f"a cat\n{line}\n")
    (project.root / "p.csv").write_text(f"prompt\na cat\n{line}\n")
    (project.root / "p.jsonl").write_text(f'{{"prompt": "a cat"}}\n{{"prompt": "{line}"}}\n')
    for name, place in (("p.txt", 2), ("p.csv", 3), ("p.jsonl", 2)):
        project.params(prompts=settings(name))
        assert project.run("prompts") == 65
        error = capsys.readouterr().err
        assert f"first: {name}: line {place}: too_long" in error
        assert "prompts of 1 to 300 characters" in error
        assert len(error) < 500


FAULTS: dict[str, tuple[str, bytes | None, str]] = {
    "missing": ("gone.csv", None, "gone.csv: no such file"),
    "empty": ("p.csv", b"", "p.csv: holds no rows; allowed: at least one row"),
    "only a header": ("p.csv", b"prompt\n", "p.csv: holds no rows"),
    "empty text": ("p.txt", b"", "p.txt: holds no rows"),
    "unknown kind": ("p.xlsx", b"x", "'.xlsx'; allowed: .txt, .csv, .tsv, .jsonl, .parquet"),
    "latin-1": ("p.txt", b"a cat\nun caf\xe9\n", "p.txt: line 2: byte 0xe9 is not UTF-8"),
    "utf-16": ("p.txt", "a cat\n".encode("utf-16"), "line 1: byte 0xff is not UTF-8"),
    "no column": ("p.csv", b"text,n\na,1\n", "line 1: no column 'prompt'; allowed: text, n"),
    "column twice": ("p.csv", b"prompt,prompt\na,b\n", "a column stands twice"),
    "unquoted comma": (
        "p.csv",
        b"prompt,n\na cat, red,1\n",
        "line 2: has 3 fields and the header 2",
    ),
    "open quote": ("p.csv", b'prompt\na\n"b\nc\n', "p.csv: line 4: is broken"),
    "not json": ("p.jsonl", b'{"prompt": "a"}\n{"prompt"\n', "p.jsonl: line 2: is not json"),
    "json list": ("p.jsonl", b"[1]\n", "line 1: is no json object"),
    "json key": ("p.jsonl", b'{"text": "a"}\n', "line 1: no column 'prompt'; allowed: text"),
    "deep json": ("p.jsonl", b"[" * 100_000, "line 1: is not json"),
    "not parquet": ("p.parquet", b"PAR1 or so", "is truncated or not a parquet file"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_file_is_one_line_and_earlier_outputs_stay(
    project: Project, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path, content, expected = FAULTS[name]
    earlier = project.root / "data/prompts/train.parquet"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"earlier")
    if content is not None:
        (project.root / path).write_bytes(content)
    project.params(prompts=settings(path))
    assert project.run("prompts") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: prompts: ")
    assert error.count("\n") == 1
    assert expected in error
    assert project.files("data") == {"data/prompts/train.parquet": b"earlier"}
    assert not (project.root / "reports").exists()


def test_a_truncated_parquet_file_is_named(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project.root / "p.parquet"
    pq.write_table(pa.table({"prompt": ["a cat", "a dog"]}), path)
    path.write_bytes(path.read_bytes()[:-20])
    project.params(prompts=settings("p.parquet"))
    assert project.run("prompts") == 2
    assert "p.parquet: is truncated or not a parquet file" in capsys.readouterr().err


def test_a_prompt_that_the_text_encoder_cuts_off_is_counted(project: Project) -> None:
    (project.root / "p.txt").write_text("\n".join(["a cat", "cat " * 30, "dog " * 40]))
    project.params(prompts=settings("p.txt"))
    assert project.run("prompts") == 0
    tokens = project.json("reports/prompts.json")["tokens"]
    assert tokens["limit"] == 24
    assert tokens["truncated"] == 2
    longest = max(row["num_tokens"] for row in rows_of(project))
    assert tokens["longest"] == longest > 40


def test_a_setting_that_leaves_nothing_to_train_on_is_refused(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    write_csv(project)
    project.params(prompts=settings(SOURCE, validation_fraction=0.5, test_fraction=0.5))
    assert project.run("prompts") == 2
    assert "must sum to less than 1" in capsys.readouterr().err
