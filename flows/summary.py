"""What `konomi demo` ends with, and what `konomi status` shows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.errors import TransientError
from components.contracts.settings import STAGES, load_block
from flows import figures
from flows.display import clock
from flows.dvc import RepoBusy, changes

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MARKS = {
    "FINISHED": "[green]finished[/]",
    "FAILED": "[red]failed[/]",
    "KILLED": "[yellow]stopped[/]",
}


def show_summary(root: Path, console: Console) -> None:
    """The verdict, the model version, and where to go from here."""
    verdict = figures.read_verdict(root)
    if verdict is not None:
        value, low, high = (100 * part for part in verdict.difference)
        better = low > 0
        console.print()
        console.print(
            f"Prompt-correct images: base [bold]{verdict.base:.1%}[/], LoRA "
            f"[bold]{verdict.lora:.1%}[/], difference [bold {'green' if better else 'yellow'}]"
            f"{value:+.1f} points[/] [dim](95 % interval {low:+.1f} to {high:+.1f}; "
            f"{verdict.num_prompts} prompts never trained on; the judge errs on "
            f"{verdict.judge_error:.1%})[/]"
        )
        wins, low_wins, high_wins = verdict.win_rate
        console.print(
            f"The LoRA's image wins [bold]{wins:.1%}[/] of the comparisons "
            f"[dim](95 % interval {low_wins:.1%} to {high_wins:.1%})[/]"
        )
        console.print()
        console.print(_categories(verdict))
        console.print()
    receipts = figures.read_receipts(root)
    rows = _table("", "")
    for kind, receipt in receipts.items():
        named = f"{receipt['model_name']} version {receipt['version']}, alias {receipt['alias']}"
        rows.add_row("LoRA" if kind == "lora" else kind, named)
    if (root / figures.REPORT).exists():
        rows.add_row("report", f"{figures.REPORT}  [dim](konomi report --open)[/]")
    rows.add_row("runs", "[dim]mlflow ui --backend-store-uri sqlite:///mlflow.db[/]")
    version = receipts.get("lora", {}).get("version", "VERSION")
    rows.add_row("next", f"[dim]konomi status  ·  konomi promote {version} --by NAME[/]")
    console.print(rows)


def show_status(root: Path, console: Console) -> None:
    """Stages, the last run of the pipeline, and the registered versions."""
    try:
        console.print(_stages(root))
    except RepoBusy:
        console.print("[cyan]A run is at work here: DVC tells the stages' state when it ends.[/]")
    console.print()
    _show_runs(root, console)
    show_versions(root, console)


def _stages(root: Path) -> Table:
    changed = changes(root, STAGES)
    table = _table("stage", "state", "why")
    earlier = ""
    for stage in STAGES:
        if stage in changed:
            why = ", ".join(changed[stage][:3]) + (", ..." if len(changed[stage]) > 3 else "")
            table.add_row(stage, "[yellow]changed[/]", f"[dim]{why}[/]")
            earlier = earlier or stage
        elif earlier:
            table.add_row(stage, "[yellow]waits[/]", f"[dim]for {earlier}[/]")
        else:
            table.add_row(stage, "[green]up to date[/]", "")
    return table


def _show_runs(root: Path, console: Console) -> None:
    from components.tracking import latest_runs

    runs = latest_runs(root, 1)
    if not runs:
        console.print("[dim]No run has been tracked yet: konomi demo[/]")
        return
    (last,) = runs
    took = f" in {clock(last.seconds)}" if last.seconds is not None else ""
    console.print(
        f"Last run: [bold]{last.name}[/], {MARKS.get(last.status, last.status.lower())}{took} "
        f"[dim]({last.started:%Y-%m-%d %H:%M} UTC)[/]"
    )
    if last.stages:
        parts = (
            f"{part.stage} {clock(part.seconds)}"
            if part.status == "FINISHED" and part.seconds is not None
            else f"{part.stage} {MARKS.get(part.status, part.status.lower())}"
            for part in last.stages
        )
        console.print(f"  [dim]{' · '.join(parts)}[/]")


def show_versions(root: Path, console: Console) -> None:
    """The versions of both registered models, the newest first."""
    from components.registry.read import versions
    from components.registry.settings import Settings

    names = load_block(root / "params.yaml", "registry", Settings).model_names()
    for name in names.values():
        try:
            found = versions(root, name)
        except TransientError as error:
            console.print(f"[yellow]{error}[/]")
            return
        console.print()
        if not found:
            console.print(f"[dim]No version of {name} is registered yet.[/]")
            continue
        table = _table(name, "alias", "review", "registered")
        for version in found[:10]:
            table.add_row(
                f"version {version.version}",
                f"[bold]{', '.join(version.aliases)}[/]",
                version.review,
                f"[dim]{version.created:%Y-%m-%d %H:%M} UTC[/]",
            )
        console.print(table)


def _categories(verdict: figures.Verdict) -> Table:
    table = _table("prompt-correct", "base", "LoRA", "")
    for column in table.columns[1:3]:
        column.justify = "right"
    for name, (base, lora) in verdict.by_category.items():
        colour = "green" if lora > base else "red"
        table.add_row(
            name, f"{base:.1%}", f"{lora:.1%}", f"[{colour}]{100 * (lora - base):+.1f}[/]"
        )
    return table


def _table(*headers: str) -> Table:
    from rich.table import Table

    table = Table(box=None, show_header=any(headers), header_style="dim", padding=(0, 3, 0, 0))
    for header in headers:
        table.add_column(header)
    return table
