"""Agreement statistics on ratings of real people equal those of independent libraries.

Always on the few rows beside this file, and on the whole files where KONOMI_RATINGS points to them.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.agreement import FILES, FOLDER, RESULTS, compare, largest_difference
from components.contracts.artifacts import read_json

ROWS = Path(__file__).parent / "ratings"
FOLDERS = [ROWS, *([Path(os.environ[FOLDER])] if os.environ.get(FOLDER) else [])]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_figure_is_the_one_that_an_independent_library_computes(folder: Path) -> None:
    found = compare(folder)
    assert largest_difference(found) < 1e-12
    assert {row.data for row in found} == {
        "ImageRewardDB",
        *(f"GenEval {name}" for name in ("quality", "real-0", "count-0", "position-x")),
        "DSG Likert",
        "DSG Likert as pairs",
        "SeeTRUE, images of one prompt",
        "AGIQA-3k",
    }
    assert len(found) == 86 and {"krippendorff", "statsmodels"} < {row.by for row in found}


def test_the_committed_figures_are_those_of_the_whole_files() -> None:
    kept = read_json(RESULTS)
    assert set(kept["files"]) == set(FILES) and kept["largest_difference"] < 1e-12
    figures = {(row["data"], row["statistic"]): row["ours"] for row in kept["figures"]}
    # The number of pairs that ImageReward (2304.05977) tests itself on.
    assert figures["ImageRewardDB", "decided pairs"] == 6399
    assert len(kept["annotators"]["DSG Likert as pairs"]) == 5
