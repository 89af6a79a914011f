"""What the README says is executed or read: its commands, its files, its figures."""

import re
from pathlib import Path

import pytest

from benchmarks.readme import FIGURE, PAGES, ROOT, filled

PAGE = ROOT / "README.md"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_figure_is_that_of_its_json(path: Path):
    page = path.read_text(encoding="utf-8")
    assert len(FIGURE.findall(page)) > 5
    assert filled(page, PAGES[path]) == page


def test_a_changed_json_changes_the_page(tmp_path: Path):
    (tmp_path / "demo.json").write_text('{"share": [0.5, 0.25]}')
    page = "<!--= demo.json share.1 percent -->50 %<!--/-->"
    assert filled(page, tmp_path) == "<!--= demo.json share.1 percent -->25 %<!--/-->"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_linked_file_exists(page: Path):
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text(encoding="utf-8"))
    assert linked
    assert [path for path in linked if not (page.parent / path).exists()] == []


def test_every_make_target_named_exists():
    page, makefile = PAGE.read_text(encoding="utf-8"), (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make ([a-z]+)", page, re.M)):
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_every_konomi_command_named_exists():
    from flows.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    named = set(re.findall(r"`konomi ([a-z][a-z-]+)", PAGE.read_text(encoding="utf-8")))
    assert named and named <= names
