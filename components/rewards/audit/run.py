"""Audit a reward on the stage's data, write down what was found, and refuse what fails."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.contracts.artifacts import write_json, write_text
from components.contracts.errors import QuarantinedData
from components.contracts.plugins import build_judge
from components.contracts.protocols import Scorer
from components.contracts.stage import StageContext
from components.rewards.audit.audit import AuditReport, audit
from components.rewards.audit.data import read_candidates
from components.rewards.audit.page import Names, render_audit, render_unaudited
from components.rewards.audit.report import figures, metrics
from components.rewards.settings import AuditSettings

PREFERENCES = Path("data/preferences")
REPORT, PAGE = "rewards_audit.json", "rewards_audit.html"


@dataclass(frozen=True)
class Audited:
    """An audit that was carried out, passed or not."""

    report: AuditReport
    figures: dict[str, Any]
    page: str

    @property
    def metrics(self) -> dict[str, float]:
        """For the tracker."""
        return metrics(self.report)

    def write(self, folder: Path) -> tuple[Path, Path]:
        """Write figures and page into `folder`; returns both paths."""
        paths = folder / REPORT, folder / PAGE
        write_json(paths[0], self.figures)
        write_text(paths[1], self.page)
        return paths

    def refuse(self, page: Path) -> None:
        """Raise where a check failed; `page` is where a person can read why.

        Raises:
            QuarantinedData: with the reason of every check that failed.
        """
        if self.report.failed:
            reasons = "; ".join(f"{check.name}: {check.sentence}" for check in self.report.failed)
            raise QuarantinedData(f"the audit refuses the reward: {reasons}; see {page}")


def carry_out(scorer: Scorer, settings: AuditSettings, context: StageContext, name: str) -> Audited:
    """Audit a reward on the held-out images of `data/preferences`; nothing is written.

    `name` is what the page calls the reward.

    Raises:
        DataError: the images cannot be read, or the judge cannot judge them.
        SettingsError: the judge's plug gives no judge.
        GuardError: a score or a reward is not finite.
        QuarantinedData: the reward is the same for all images of each prompt.
    """
    judge = build_judge(settings.judge)
    seed = context.seed_for("audit")
    data = read_candidates(context.root / PREFERENCES, settings.max_prompts, seed)
    report = audit(scorer, judge, data, settings, context.generator("audit"))
    names = Names(name, settings.judge.callable, context.seed)
    page = render_audit(report, data, names, context.generator("audit", "page"))
    return Audited(report, figures(report, data), page)


def run_audit(scorer: Scorer, settings: AuditSettings, context: StageContext, name: str) -> Audited:
    """Audit a reward and refuse it where it fails.

    Figures and page go to the stage's work folder and to the tracker before anything is refused;
    the caller writes what it gets to `reports/` together with its other outs.

    Raises:
        QuarantinedData: the reward failed a check.
        DataError, SettingsError, GuardError: see `carry_out`.
    """
    audited = carry_out(scorer, settings, context, name)
    for path in (paths := audited.write(context.work)):
        context.tracker.log_artifact(path)
    context.tracker.log_metrics(audited.metrics)
    audited.refuse(paths[1].relative_to(context.root))
    return audited


def write_unaudited(folder: Path) -> tuple[Path, Path]:
    """The same two files where the settings ask for no audit: that nobody looked is said."""
    paths = folder / REPORT, folder / PAGE
    write_json(paths[0], {"passed": None, "checks": {}})
    write_text(paths[1], render_unaudited())
    return paths
