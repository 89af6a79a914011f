"""`konomi`: the command line. Imports are inside the commands, so that `--help` answers at once."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="konomi",
    help="Prompts and people's preferences in, a reviewed LoRA out.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
Profile = Annotated[
    str | None, typer.Option(help="Write the values of profiles/<name>.yaml first.")
]


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    # `main` reads the flag before typer does, since it also holds for what typer itself reports.
    del debug


@app.command()
def demo(profile: Profile = None) -> None:
    """Run the whole chain on the embedded miniature world and say what came out."""
    _run("registry", profile)
    from flows.summary import show_summary

    show_summary(Path.cwd(), _console())


@app.command()
def run(
    stage: Annotated[
        str, typer.Option(help="Up to and including this stage; stages before it as needed.")
    ] = "registry",
    profile: Profile = None,
) -> None:
    """Bring the pipeline up to date, as a Prefect flow."""
    _run(stage, profile)


@app.command()
def check() -> None:
    """Validate params.yaml, every block by the stage that it belongs to."""
    from components.contracts.settings import check as check_settings

    path = Path("params.yaml")
    check_settings(path)
    _console().print(f"[green]✓[/] {path}: every block is valid")


@app.command()
def status() -> None:
    """Show the stages, the last run, and the registered versions."""
    from flows.summary import show_status

    _prepare()
    show_status(Path.cwd(), _console())


@app.command()
def report(
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Print where the report of the last evaluation is, or open it."""
    from components.contracts.errors import DataError
    from flows.figures import REPORT

    path = Path.cwd() / REPORT
    if not path.exists():
        raise DataError("not written yet", file=REPORT, allowed="`konomi run` writes it")
    print(path)
    if open_it:
        import webbrowser

        if not webbrowser.open(path.as_uri()):
            raise DataError("no browser to open it with", file=REPORT)


@app.command()
def promote(
    version: Annotated[int, typer.Argument(help="The model version that becomes the champion.")],
    by: Annotated[str, typer.Option("--by", help="Who decides.")],
) -> None:
    """Make a registered version the champion, in a reviewer's name."""
    from components.contracts.settings import read_params
    from components.registry.promote import promote as make_champion

    root = _prepare()
    name = str(read_params(root / "params.yaml")["registry"]["model_name"])
    make_champion(root, name, version, by)
    _console().print(f"[green]✓[/] {name} version {version} is the champion, approved by {by}")


@app.command("serve-reward")
def serve_reward(
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 8900,
    host: Annotated[str, typer.Option(help="Other than this machine needs a token.")] = "127.0.0.1",
    scorer: Annotated[
        Path | None, typer.Option(help="A file with a block reward; else that of params.yaml.")
    ] = None,
) -> None:
    """Serve the reward of fine-tuning over HTTP, for runs with reward {name: remote}."""
    from components.rewards.serve import main as serve

    # A plug of one's own lies in the project's folder, as it does for `python -m`.
    sys.path.insert(0, str(Path.cwd()))
    chosen = ["--scorer", str(scorer)] if scorer else []
    status = serve(["--port", str(port), "--host", host, *chosen])
    if status:
        raise typer.Exit(status)


def main() -> None:
    """Entry point: one clear line for an error, and the exit status of what failed."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    sys.exit(_main(arguments, debug))


def _main(arguments: list[str], debug: bool) -> int:
    from components.contracts.errors import KonomiError

    try:
        return int(app(arguments or ["--help"], prog_name="konomi", standalone_mode=False) or 0)
    except typer.TyperException as error:
        message = getattr(error, "format_message", error.__str__)()
        return _complain(message, getattr(error, "exit_code", 2), debug)
    except (KeyboardInterrupt, typer.Abort):
        return _complain("stopped; run the same command again to go on", 130, debug)
    except KonomiError as error:
        return _complain(str(error), error.exit_code, debug)
    except Exception as error:
        words = " ".join(f"{type(error).__name__}: {error}".split())
        return _complain(f"{words} (`--debug` shows where)", 1, debug)


def _complain(message: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return status


def _prepare() -> Path:
    from flows.environment import prepare

    root = Path.cwd()
    prepare(root)
    return root


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False)


def _run(upto: str, profile: str | None) -> None:
    from components.contracts.errors import BadInput
    from components.contracts.settings import STAGES

    if upto not in STAGES:
        raise BadInput(f"no stage '{upto}'", allowed=", ".join(STAGES))
    root = _prepare()
    from flows.dvc import first_change
    from flows.preflight import preflight

    console = _console()
    if profile is not None:
        from flows.profiles import apply_profile

        changed = apply_profile(root, profile)
        what = "; ".join(changed) if changed else "has these values already"
        console.print(f"params.yaml, profile {profile}: {what}", soft_wrap=True)
    preflight(root)
    wanted = STAGES[: STAGES.index(upto) + 1]
    if first_change(root, wanted) is None:
        console.print("[green]✓[/] everything is up to date: no stage had to run")
        return
    from flows.display import showing
    from flows.server import prefect_api

    with console.status("starting Prefect"):
        prefect_api(root)
        # Prefect reads its settings when it is imported: not before the server has an address.
        from flows.retrain import describe, retrain
    console.print(describe(root), style="bold", markup=False)
    with showing(wanted):
        retrain(str(root), upto)


if __name__ == "__main__":
    main()
