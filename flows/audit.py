"""`konomi audit`: the audit of whatever scorer `finetuning.reward` names, as a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from components.contracts.errors import SettingsError
from components.contracts.settings import load_block, load_run
from components.contracts.stage import StageContext, set_threads
from components.finetuning.settings import Settings as FinetuningSettings
from components.rewards.settings import Settings as RewardSettings
from components.tracking import NullTracker

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from components.rewards.audit.run import Audited
    from components.rewards.scorers import ScorerSettings

WORK = Path(".work/audit")
"""Not `reports/`: those of the audit are the stage's, of the reward that it trained."""


def audit_reward(root: Path, console: Console) -> None:
    """Audit the reward, print every check and where the page is.

    Raises:
        QuarantinedData: a check failed.
        SettingsError: `rewards.audit` is null.
        ModelError, DataError, GuardError: the reward, the images or the judge cannot be used.
    """
    params = (
        (root / "params.yaml").relative_to(root) if root == Path.cwd() else root / "params.yaml"
    )
    run = load_run(params)
    settings = load_block(params, "rewards", RewardSettings).audit
    reward = load_block(params, "finetuning", FinetuningSettings).reward
    if settings is None:
        raise SettingsError(
            "rewards.audit is null: nobody is named to judge",
            file=params,
            allowed="a block with at least a judge",
        )
    set_threads(run.compute)
    from components.rewards.audit.run import carry_out
    from components.rewards.scorers import build_scorer

    work = root / WORK
    context = StageContext("audit", root, run.seed, run.compute, run.base, NullTracker(), work)
    scorer = build_scorer(reward, run.compute, root)
    audited = carry_out(scorer, settings, context, described(reward))
    _, page = audited.write(work)
    console.print(_table(audited))
    console.print(f"[dim]the whole of it:[/] {page.relative_to(root)}")
    audited.refuse(page.relative_to(root))


def described(reward: ScorerSettings) -> str:
    """What a person calls a scorer: its folder, its dotted path, or its kind."""
    for name in ("path", "callable"):
        if found := getattr(reward, name, None):
            return str(found)
    return reward.name


def _table(audited: Audited) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("check")
    table.add_column("figure", justify="right")
    table.add_column("limit", justify="right")
    table.add_column("found")
    for check in audited.report.checks:
        table.add_row(
            "[green]✓[/]" if check.passed else "[red]✗[/]",
            check.name,
            f"{check.figure:.2f}",
            f"{'≤' if check.at_most else '≥'} {check.limit:.2f}",
            Text(check.sentence),
        )
    return table
