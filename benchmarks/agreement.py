"""Our agreement statistics against independent libraries, on ratings that real people gave.

    python -m benchmarks.agreement --data FOLDER

FOLDER (or the environment variable KONOMI_RATINGS) holds published ratings under the paths of
`FILES`; `tests/preferences/ratings` is such a folder with a few rows of each, and its README tells
where the whole files come from. `krippendorff` and `statsmodels` compute the same figures, pandas
the rank correlations; Kendall's tau and the agreement of rankings are counted pair by pair as they
are defined. The result is `benchmarks/results/agreement.json`: every figure, by both, and the
largest difference.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from components.contracts.artifacts import read_json, write_json
from components.contracts.errors import BadInput
from components.contracts.stage import git_revision
from components.preferences.agreement import (
    Level,
    cohen_kappa,
    count_answers,
    fleiss_kappa,
    krippendorff_alpha,
    raw_agreement,
)
from components.preferences.rankings import (
    kendall_tau,
    ranking_agreement,
    ranking_pairs,
    spearman,
)
from components.preferences.reliability import reliability_rows

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "agreement.json"
FOLDER = "KONOMI_RATINGS"
FILES = (
    "imagereward/test.json",
    "geneval/annotations_clip.csv",
    "geneval/annotations_if-xl.csv",
    "geneval/annotations_sdv2.csv",
    "dsg/tifa160-likert-anns.csv",
    "t2v_metrics/SeeTRUE.csv",
    "agiqa3k/data.csv",
)
GENEVAL = {
    "quality": "ordinal",
    "real-0": "ordinal",
    "count-0": "interval",
    "position-x": "nominal",
}
"""Questions of GenEval's annotators, and the highest level on which the answers can be compared."""
LEVELS: tuple[Level, ...] = ("nominal", "ordinal", "interval")


@dataclass(frozen=True)
class Comparison:
    """One figure, computed twice."""

    data: str
    statistic: str
    ours: float
    theirs: float
    by: str
    """Who else computed it."""


def compare(folder: Path) -> list[Comparison]:
    """Every figure of the ratings in `folder`.

    Raises:
        FileNotFoundError: one of `FILES` is not there.
    """
    return [
        *_imagereward(read_json(folder / FILES[0])),
        *_geneval(pd.concat([pd.read_csv(folder / name).assign(file=name) for name in FILES[1:4]])),
        *_likert(read_likert(folder)),
        *_seetrue(pd.read_csv(folder / FILES[5])),
        *_agiqa(pd.read_csv(folder / FILES[6])),
    ]


def largest_difference(found: Sequence[Comparison]) -> float:
    """Between ours and theirs."""
    return max(abs(row.ours - row.theirs) for row in found)


def read_likert(folder: Path) -> pd.DataFrame:
    """DSG's ratings of images from 1 to 5, the workers numbered from 1."""
    table = pd.read_csv(folder / FILES[4])
    table["worker_id"] = table["worker_id"].rank(method="dense").astype(int)
    return table


def likert_pairs(table: pd.DataFrame) -> pd.DataFrame:
    """What each worker's ratings say of each two images of one prompt: `a`, `b` or `tie`."""
    rows = []
    for (item, worker), rated in table.sort_values("t2i_model").groupby(["item_id", "worker_id"]):
        models = rated["t2i_model"].tolist()
        for i, j, label in ranking_pairs((-rated["answer"]).tolist()):
            rows.append((f"{item} {models[i]} {models[j]}", f"worker {worker}", label))
    return pd.DataFrame(rows, columns=["pair", "worker", "label"])


def likert_reliability(folder: Path) -> list[dict[str, Any]]:
    """DSG's workers, told from what their ratings say of pairs."""
    pairs = likert_pairs(read_likert(folder))
    worker, names = pd.factorize(pairs["worker"], sort=True)
    return reliability_rows(
        names.tolist(),
        pd.factorize(pairs["pair"])[0],
        worker,
        pd.factorize(pairs["label"], sort=True)[0],
    )


def _imagereward(rows: list[dict[str, Any]]) -> Iterator[Comparison]:
    """Rankings of one person each: the pairs in them, and the pull of the place on the page."""
    rankings = [row["ranking"] for row in rows]
    labels = [label for ranking in rankings for _, _, label in ranking_pairs(ranking)]
    counted = [_signs(ranking) for ranking in rankings]
    decided = sum(int((signs != 0).sum()) // 2 for signs in counted)
    tied = sum((signs.size - len(signs) - int((signs != 0).sum())) // 2 for signs in counted)
    yield Comparison("ImageRewardDB", "decided pairs", _undecided(labels, False), decided, "numpy")
    yield Comparison("ImageRewardDB", "tied pairs", _undecided(labels, True), tied, "numpy")
    shown = [list(range(len(ranking))) for ranking in rankings]
    for name, ours, theirs, by in _CORRELATIONS:
        pairs = [(a, b) for a, b in zip(shown, rankings, strict=True) if len(set(b)) > 1]
        found = [(_known(ours(a, b)), theirs(a, b)) for a, b in pairs]
        mean, their_mean = (float(np.mean(values)) for values in zip(*found, strict=True))
        what = f"{name} of rank and place on the page"
        yield Comparison("ImageRewardDB", what, mean, their_mean, by)


def _undecided(labels: Sequence[str], tied: bool) -> float:
    return float(sum((label == "tie") == tied for label in labels))


def _geneval(table: pd.DataFrame) -> Iterator[Comparison]:
    """Five people an image, unknown by name, who also left answers out."""
    for question, highest in GENEVAL.items():
        column = f"Answer.task-{question}"
        answered = table.dropna(subset=[column])
        units = answered.groupby(["file", "Input.index"]).ngroup()
        levels = LEVELS if highest != "nominal" else LEVELS[:1]
        yield from _of_units(f"GenEval {question}", units, answered[column], levels)


def _likert(table: pd.DataFrame) -> Iterator[Comparison]:
    """Five workers by name, who rated nearly all images from 1 to 5."""
    name = "DSG Likert"
    images = table.groupby(["t2i_model", "item_id"]).ngroup()
    yield from _of_units(name, images, table["answer"], LEVELS)
    wide = table.pivot_table(index=["item_id", "t2i_model"], columns="worker_id", values="answer")
    for a, b in combinations(wide.columns, 2):
        both = wide[[a, b]].dropna().astype(int)
        yield from _of_two(name, f"workers {a} and {b}", both[a].tolist(), both[b].tolist())
    complete = wide.dropna()
    items = [group for _, group in complete.groupby(level="item_id")]
    rankings = [[(-group[worker]).tolist() for worker in group] for group in items]
    counts = np.sum([_agreeing(group) for group in rankings], axis=0)
    yield Comparison(
        name,
        "agreement of rankings",
        _known(ranking_agreement(rankings)),
        counts[0] / counts[1],
        "numpy",
    )
    pairs = likert_pairs(table)
    numbers = pairs.groupby("pair").ngroup()
    yield from _of_units(f"{name} as pairs", numbers, pairs["label"], LEVELS[:1])


def _seetrue(table: pd.DataFrame) -> Iterator[Comparison]:
    """One label an image: how far the prompt alone decides it. A high figure is why splits are by
    prompt."""
    prompts = table.groupby(["dataset_source", "text"]).ngroup()
    yield from _of_units("SeeTRUE, images of one prompt", prompts, table["label"], LEVELS[:1])


def _agiqa(table: pd.DataFrame) -> Iterator[Comparison]:
    """Mean opinions: does the finer picture also fit its prompt better?"""
    quality, alignment = table["mos_quality"].tolist(), table["mos_align"].tolist()
    for name, ours, theirs, by in _CORRELATIONS:
        found = _known(ours(quality, alignment)), theirs(quality, alignment)
        yield Comparison("AGIQA-3k", f"{name} of quality and alignment", *found, by=by)


def _of_units(
    data: str, units: pd.Series[Any], answers: pd.Series[Any], levels: Sequence[Level]
) -> Iterator[Comparison]:
    import krippendorff
    from statsmodels.stats.inter_rater import fleiss_kappa as their_fleiss

    code, values = pd.factorize(answers, sort=True)
    counts = count_answers(units.to_numpy(), code, len(values))
    theirs = pd.crosstab(units, answers).to_numpy()
    for level in levels:
        # Its own nominal distance takes labels for numbers where they are strings.
        numbers = list(range(len(values))) if level == "nominal" else values.tolist()
        alpha = krippendorff.alpha(
            value_counts=theirs, value_domain=numbers, level_of_measurement=level
        )
        ours = _known(krippendorff_alpha(counts, level, numbers))
        yield Comparison(data, f"{level} alpha", ours, float(alpha), "krippendorff")
    sizes = theirs.sum(axis=1)
    full = int(np.bincount(sizes).argmax())  # the other library knows one number of annotators
    ours = _known(fleiss_kappa(counts[counts.sum(axis=1) == full]))
    kappa = float(their_fleiss(theirs[sizes == full]))
    yield Comparison(data, f"Fleiss' kappa, {full} answers", ours, kappa, "statsmodels")
    groups = [answers[units == unit].tolist() for unit in units.unique()]
    same = [a == b for group in groups for a, b in combinations(group, 2)]
    yield Comparison(data, "raw agreement", _known(raw_agreement(counts)), np.mean(same), "numpy")


def _of_two(data: str, who: str, first: list[int], second: list[int]) -> Iterator[Comparison]:
    from statsmodels.stats.inter_rater import cohens_kappa

    values = sorted({*first, *second})
    table = np.zeros((len(values), len(values)))
    np.add.at(table, ([values.index(v) for v in first], [values.index(v) for v in second]), 1)
    for weights in (None, "linear", "quadratic"):
        ours = _known(cohen_kappa(first, second, weights))
        theirs = cohens_kappa(table, wt=weights, return_results=False)
        name = f"Cohen's kappa, {weights or 'no'} weights, {who}"
        yield Comparison(data, name, ours, float(theirs), "statsmodels")
    for name, correlation, independent, by in _CORRELATIONS:
        found = _known(correlation(first, second)), independent(first, second)
        yield Comparison(data, f"{name}, {who}", *found, by=by)


def _tau_by_definition(first: Sequence[float], second: Sequence[float]) -> float:
    """Concordant minus discordant pairs over the geometric mean of the pairs not tied in each."""
    a, b = _signs(first), _signs(second)
    return float((a * b).sum() / np.sqrt((a != 0).sum() * (b != 0).sum()))


def _spearman_of_pandas(first: Sequence[float], second: Sequence[float]) -> float:
    return float(pd.DataFrame([first, second]).T.corr(method="spearman").to_numpy()[0, 1])


Correlation = Callable[[Sequence[float], Sequence[float]], float | None]
_CORRELATIONS: tuple[
    tuple[str, Correlation, Callable[[Sequence[float], Sequence[float]], float], str], ...
] = (
    ("Kendall's tau-b", kendall_tau, _tau_by_definition, "definition"),
    ("Spearman", spearman, _spearman_of_pandas, "pandas"),
)


def _signs(ranking: Sequence[float]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """[n, n]: 1 where the row's place is behind the column's, -1 before, 0 for a tie."""
    places = np.asarray(ranking, dtype=float)
    return np.sign(places[:, None] - places[None, :]).astype(np.int64)


def _agreeing(rankings: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Pairs of images that two people order alike, and pairs that both decide."""
    alike = both = 0
    for a, b in combinations([_signs(ranking) for ranking in rankings], 2):
        alike += int((a * b > 0).sum()) // 2
        both += int((a * b != 0).sum()) // 2
    return alike, both


def _known(figure: float | None) -> float:
    if figure is None:
        raise ValueError("these ratings say nothing")
    return figure


def main() -> int:
    """Compare, write the file, print the largest difference."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.agreement",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, default=os.environ.get(FOLDER), help="folder of FILES")
    folder = parser.parse_args().data
    if folder is None or not all((Path(folder) / name).is_file() for name in FILES):
        raise BadInput(f"--data or {FOLDER}: no folder with {', '.join(FILES)}")
    folder = Path(folder)
    found = compare(folder)
    write_json(
        RESULTS,
        {
            "git_revision": git_revision(ROOT),
            "files": {
                name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in FILES
            },
            "libraries": {
                name: version(name)
                for name in ("krippendorff", "statsmodels", "pandas", "scikit-learn", "scipy")
            },
            "largest_difference": largest_difference(found),
            "figures": [asdict(row) for row in found],
            "annotators": {"DSG Likert as pairs": likert_reliability(folder)},
        },
    )
    print(f"{len(found)} figures, largest difference {largest_difference(found):.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
