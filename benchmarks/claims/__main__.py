"""The papers' claims in miniature: run what is missing, write figures, table and plots.

    python -m benchmarks.claims                     everything, three seeds (hours; resumes)
    python -m benchmarks.claims --claims 4 7        some of the claims
    python -m benchmarks.claims --methods dpok nft  some of the methods of claim 9
    python -m benchmarks.claims --further           attempts at what does not hold as well
    python -m benchmarks.claims --quick             every line of it in three minutes, nothing kept
    python -m benchmarks.claims --report            figures, table and plots of what has been run

A run that was killed goes on from its checkpoint, a finished one is never run again. Results are
`benchmarks/results/claims/*.json`, plots lie beside them, and `docs/claims.md` is the table.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

from benchmarks.claims import plots, report, worlds
from benchmarks.claims.runs import RESULTS, Run
from benchmarks.claims.table import CLAIMS, Claim, Form
from components.contracts.artifacts import read_json, write_json
from components.contracts.stage import git_revision


def main() -> int:
    """Run, then report."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--claims", nargs="+", choices=[claim.number for claim in CLAIMS])
    parser.add_argument("--methods", nargs="+", help="arms by name; others are left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 8, 9])
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--further", action="store_true", help="further attempts as well")
    parser.add_argument("--quick", action="store_true", help="a smoke test: nothing is kept")
    parser.add_argument("--report", action="store_true", help="run nothing")
    options = parser.parse_args()
    form: Form = "quick" if options.quick else "further" if options.further else "whole"
    seeds = options.seeds[:1] if options.quick else options.seeds
    claims = [
        claim for claim in CLAIMS if options.claims in (None, []) or claim.number in options.claims
    ]
    if not options.report:
        failed = run_all(wanted(claims, seeds, form, options.methods), options.jobs)
        for name, reason in failed.items():
            print(f"error: {name}: {reason}", file=sys.stderr)
        if failed:
            return 1
    if options.quick:
        with tempfile.TemporaryDirectory() as folder:
            write(claims, seeds, True, Path(folder))
        print("claims: every arm ran and every figure was drawn; nothing was kept")
    else:
        write(claims, seeds, False, RESULTS)
        report.write_table(RESULTS, worlds.ROOT / "docs" / "claims.md")
    return 0


def wanted(
    claims: Sequence[Claim], seeds: Sequence[int], form: Form, names: Sequence[str] | None
) -> list[Run]:
    """The runs of some claims and their bases, each once; whole seeds first, so that an interrupted
    table has something to say."""
    found: dict[Path, Run] = {}
    for seed in seeds:
        for claim in claims:
            if form == "quick" and claim.every_method:
                continue
            for name, arm in claim.arms.items():
                if (names and name not in names) or not arm.is_in(form):
                    continue
                (run,) = arm.runs(name, [seed], form == "quick")
                found.setdefault(run.base.folder, run.base)
                found.setdefault(run.folder, run)
    return list(found.values())


def run_all(runs: Sequence[Run], jobs: int) -> dict[str, str]:
    """Execute what is missing, `jobs` at a time, each in a process of its own; returns failures."""
    missing = [run for run in runs if run.result is None]
    print(f"claims: {len(runs)} runs, {len(missing)} of them to do", file=sys.stderr, flush=True)
    for seed, quick in dict.fromkeys((run.seed, run.quick) for run in missing):
        worlds.prepare(seed, quick)
    failed: dict[str, str] = {}
    began = time.monotonic()
    # A process takes run after run: opening the libraries takes longer than a quick run.
    with ProcessPoolExecutor(jobs, get_context("spawn"), initializer=worlds.work_alone) as pool:
        waiting = {pool.submit(Run.execute, run): run for run in missing}
        for done, future in enumerate(as_completed(waiting), start=1):
            run = waiting[future]
            error = future.exception()
            if error:
                failed[f"{run.name}, seed {run.seed}"] = str(error)
            minutes = (time.monotonic() - began) / 60
            note = "  FAILED" if error else ""
            print(
                f"claims: {done}/{len(missing)}  {minutes:.0f} min  {run.name}, {run.seed}{note}",
                file=sys.stderr,
                flush=True,
            )
    return failed


def stopped(arms: Mapping[str, Sequence[Run]]) -> dict[str, dict[str, str]]:
    """Why a run ended before its time, by arm and seed: a tripwire of the stage."""
    found: dict[str, dict[str, str]] = {}
    for name, runs in arms.items():
        for run in runs:
            reason = (run.result or {}).get("finetuning", {}).get("stopped_by")
            if reason:
                found.setdefault(name, {})[str(run.seed)] = reason
    return found


def write(claims: Sequence[Claim], seeds: Sequence[int], quick: bool, folder: Path) -> None:
    """Figures and plots of every claim whose arms have run under every seed; an arm without which
    it has something to say is left out and named."""
    folder.mkdir(parents=True, exist_ok=True)
    for claim in claims:
        arms = {
            name: arm.runs(name, seeds, quick)
            for name, arm in claim.arms.items()
            if arm.is_in("quick" if quick else "further")
        }
        lacking = [
            name
            for name, runs in arms.items()
            if any(run.result is None or run.base.result is None for run in runs)
        ]
        if lacking and not quick:  # which has not the time for every method
            print(f"claim {claim.number}: not yet run: {', '.join(lacking)}", file=sys.stderr)
        if not claim.every_method and any(claim.arms[name].is_in("quick") for name in lacking):
            continue
        complete = {name: runs for name, runs in arms.items() if name not in lacking}
        path = folder / f"claim-{claim.number}.json"
        write_json(
            path,
            {
                "claim": claim.number,
                "title": claim.title,
                "seeds": list(seeds),
                "git_revision": git_revision(worlds.ROOT),
                "not_run": lacking,
                "stopped": stopped(complete),
                **claim.figures(complete),
            },
        )
        plots.draw(read_json(path), folder / f"claim-{claim.number}.png")


if __name__ == "__main__":
    sys.exit(main())
