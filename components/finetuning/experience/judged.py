"""Finished samples and which of them were preferred: read from what people said, or drawn and
ordered by the reward."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.compute as pc
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from components.contracts.artifacts import read_safetensors
from components.contracts.errors import DataError, QuarantinedData
from components.contracts.tables import PAIRS, SAMPLES, label_of, read_table
from components.finetuning.algorithms.preference_settings import PeoplePairs, WinnersOnly

SPLIT = "train"
SIDES = ("sample_id_a", "sample_id_b")
WHAT_WAS_SAID = ("label", "preference")


@dataclass(frozen=True)
class Judged:
    """m samples and n judgements on them; everything is on the CPU."""

    x0: Float[Tensor, "m c h w"]
    prompts: Sequence[str]
    """Of each sample."""
    winner: Int64[Tensor, " n"]
    """Row of `x0`."""
    loser: Int64[Tensor, " n"]
    preference: Float[Tensor, " n"]
    """The winner's share of the win: 1, 0.5 for a tie, or a soft label in between."""

    def __len__(self) -> int:
        return len(self.winner)


class Verdict(NamedTuple):
    """Two samples of one prompt and what is held of them."""

    winner: str
    loser: str
    share: float
    """Of the win, for the winner: from 0.5, a tie, to 1."""

    @property
    def tie(self) -> bool:
        """Whether neither won."""
        return self.share == 0.5


def read_judged(
    folder: Path, settings: PeoplePairs | WinnersOnly, latent_shape: tuple[int, int, int]
) -> Judged:
    """Judgements on training prompts, with the latents of their samples, joined by id.

    Args:
        folder: `data/preferences`.
        settings: whose judgements count, and which.
        latent_shape: (c, h, w) of the base.

    Raises:
        DataError: a file is missing or damaged, a judgement names a sample that is not there or is
            of another prompt, samples have no latents or latents of another model, or nothing is
            left to learn from.
        QuarantinedData: a latent is not finite.
    """
    path = folder / "pairs.parquet"
    table = read_table(path, PAIRS, ("pair_id", "prompt_id", "split", *SIDES, *WHAT_WAS_SAID))
    rows = table.filter(pc.equal(table["split"], SPLIT)).to_pylist()
    table = read_table(folder / "samples.parquet", SAMPLES)
    samples = {row["sample_id"]: row for row in table.to_pylist()}
    _check(rows, samples, path)
    ties = isinstance(settings, PeoplePairs) and settings.ties == "keep"
    verdicts = _majority(rows) if settings.annotators == "majority" else _all(rows)
    if settings.winners == "absolute":
        verdicts = _absolute(verdicts)
    kept = [verdict for verdict in verdicts if ties or not verdict.tie]
    if not kept:
        raise DataError(
            f"holds {len(rows)} judgements of split '{SPLIT}' and none that can be learnt from "
            f"with annotators {settings.annotators} and winners {settings.winners}",
            file=path,
            allowed="judgements with label a or b, or a wider choice",
        )
    names = sorted({name for verdict in kept for name in (verdict.winner, verdict.loser)})
    place = {name: number for number, name in enumerate(names)}
    return Judged(
        x0=_read_latents(folder / "latents", [samples[name] for name in names], latent_shape),
        prompts=[samples[name]["prompt"] for name in names],
        winner=torch.tensor([place[verdict.winner] for verdict in kept]),
        loser=torch.tensor([place[verdict.loser] for verdict in kept]),
        preference=torch.tensor([verdict.share for verdict in kept]),
    )


def _check(rows: list[dict[str, Any]], samples: Mapping[str, Any], path: Path) -> None:
    for row in rows:
        place = f"pair {row['pair_id']}"
        # Written so that a share that is no number is refused as well.
        if not 0 <= row["preference"] <= 1 or row["label"] != label_of(row["preference"]):
            raise DataError(
                f"label '{row['label']}' and preference {row['preference']}",
                file=path,
                place=place,
                allowed="a with more than 0.5, b with less, tie with 0.5",
            )
        for side in SIDES:
            if row[side] not in samples:
                raise DataError(f"'{row[side]}' is not in samples.parquet", file=path, place=place)
            if samples[row[side]]["prompt_id"] != row["prompt_id"]:
                raise DataError(
                    f"'{row[side]}' was drawn for another prompt", file=path, place=place
                )


def _all(rows: list[dict[str, Any]]) -> list[Verdict]:
    """Every judgement by itself."""
    verdicts = []
    for row in rows:
        a, b = (row[side] for side in SIDES)
        share = row["preference"]
        verdicts.append(Verdict(b, a, 1 - share) if share < 0.5 else Verdict(a, b, share))
    return verdicts


def _majority(rows: list[dict[str, Any]]) -> list[Verdict]:
    """One verdict a pair: the side with more of the votes; as much for both is a tie."""
    votes: dict[tuple[str, str], float] = defaultdict(float)
    for row, verdict in zip(rows, _all(rows), strict=True):
        # Annotators saw the two on sides of their own: votes are for ids.
        first, second = sorted(row[side] for side in SIDES)
        lead = verdict.share - (1 - verdict.share)
        votes[first, second] += lead if verdict.winner == first else -lead
    verdicts = []
    for (first, second), lead in votes.items():
        winner, loser = (second, first) if lead < 0 else (first, second)
        verdicts.append(Verdict(winner, loser, 1.0 if lead else 0.5))
    return verdicts


def _absolute(verdicts: list[Verdict]) -> list[Verdict]:
    """Those whose winner never lost or tied, and won more than once."""
    wins = Counter(verdict.winner for verdict in verdicts if not verdict.tie)
    stained = {verdict.loser for verdict in verdicts}
    stained |= {verdict.winner for verdict in verdicts if verdict.tie}
    return [
        verdict
        for verdict in verdicts
        if wins[verdict.winner] > 1 and verdict.winner not in stained
    ]


def _read_latents(
    folder: Path, samples: Sequence[Mapping[str, Any]], latent_shape: tuple[int, int, int]
) -> Float[Tensor, "m c h w"]:
    files = {row["sample_id"]: folder / f"latents-{row['shard']}.safetensors" for row in samples}
    missing = [name for name, file in files.items() if not file.exists()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(files)} judged images have no latents: they were brought "
            "along and not drawn here, and encoding a picture is not supported",
            file=folder,
            allowed="judgements on images that the stage preferences drew (preferences.people "
            "in place of label_source), or pairs.source reward",
        )
    found: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        tensors = read_safetensors(file)
        for name in (name for name, home in files.items() if home == file):
            if name not in tensors:
                raise DataError(f"holds no latent of sample '{name}'", file=file)
            found[name] = _checked(tensors[name].float(), name, file, latent_shape)
    return torch.stack([found[row["sample_id"]] for row in samples])


def _checked(latent: Tensor, name: str, file: Path, latent_shape: tuple[int, int, int]) -> Tensor:
    if tuple(latent.shape) != latent_shape:
        raise DataError(
            f"latent of '{name}' is {tuple(latent.shape)}, the base's are {latent_shape}",
            file=file,
            allowed="judgements on images of this base: run the stage preferences with it",
        )
    if not bool(torch.isfinite(latent).all()):
        raise QuarantinedData(f"{file}: latent of sample '{name}' is not finite")
    return latent


def order_by_reward(
    x0: Float[Tensor, "m c h w"],
    prompts: Sequence[str],
    reward: Float[Tensor, " m"],
    group: Int64[Tensor, " m"],
    choose: str,
) -> Judged:
    """Pairs of the samples of one group whose rewards differ.

    `best_worst` takes one pair a group, `all` every two. A group whose rewards are all equal has
    none.

    Worked: rewards (1, 3, 2 | 5, 5) in groups (0, 0, 0 | 1, 1): best_worst gives 1 over 0, and all
    gives 1 over 0, 2 over 0 and 1 over 2.
    """
    winners: list[int] = []
    losers: list[int] = []
    for number in range(int(group.max()) + 1):
        rows = (group == number).nonzero().flatten()
        # Stable: of equal rewards the first drawn stands first, whatever the machine.
        ordered = rows[reward[rows].argsort(stable=True)].tolist()
        couples = (
            [(ordered[-1], ordered[0])]
            if choose == "best_worst"
            else [(best, worse) for place, best in enumerate(ordered) for worse in ordered[:place]]
        )
        for winner, loser in couples:
            if reward[winner] > reward[loser]:
                winners.append(winner)
                losers.append(loser)
    return Judged(
        x0,
        prompts,
        torch.tensor(winners, dtype=torch.long),
        torch.tensor(losers, dtype=torch.long),
        torch.ones(len(winners)),
    )
