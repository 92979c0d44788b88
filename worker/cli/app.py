"""The commands and their options; each is a few lines over the modules beside it."""

from __future__ import annotations

import gc
import os
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from worker import __version__
from worker.cli import asked, history, looking, resuming, searching, sending
from worker.cli.desk import Common, say, say_error
from worker.cli.signals import SIGNALS
from worker.errors import CancelWorkerError

app = typer.Typer(
    name="cancel-worker",
    help="Withdraw the commands that wait for offline devices on EnOS, and prove it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # a traceback with values could show a secret
    rich_markup_mode=None,
)

_LATER = ("control", "serve", "init", "doctor", "temporal")  # commands that are not built yet
_LATER_OPTIONS = (
    "--out",
    "--detailed-exitcode",
    "--expect-digest",
    "--allow",
    "--allow-partial",
    "--wait",
    "--ignore-window",
    "--shard",
    "--engine",
    "--remaining-scope",
)


class Output(StrEnum):
    """How a result is printed."""

    TEXT = "text"
    JSON = "json"


class Format(StrEnum):
    """How a report is rendered."""

    TEXT = "text"
    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    RESTORE = "restore"
    REMAINING = "remaining"


class Schema(StrEnum):
    """What has a JSON Schema."""

    JOB = "job"
    CONFIG = "config"
    REPORT = "report"
    LOG = "log"


Jobs = Annotated[list[Path], Argument(metavar="JOB…", help="Job files (YAML).")]
Run = Annotated[str, Argument(metavar="RUN", help="A run_id, a unique prefix, last or last:JOB.")]
Print = Annotated[Output, Option("--output", "-o", help="How the result is printed.")]
Config = Annotated[str | None, Option("--config", metavar="FILE", help="Configuration file.")]
Ledger = Annotated[str | None, Option("--ledger", metavar="URL", help="Such as sqlite:///l.db.")]
LogFile = Annotated[str | None, Option("--log-file", metavar="FILE", help="Log here, as JSON.")]
LogLevel = Annotated[str | None, Option("--log-level", help="debug, info, warning or error.")]
LogFormat = Annotated[str | None, Option("--log-format", help="auto, json or console.")]
Rate = Annotated[str | None, Option("--rate", help="Such as 50/s, 600/m or none.")]
Concurrency = Annotated[str | None, Option("--concurrency", help="Requests in flight at most.")]
MaxDevices = Annotated[str | None, Option("--max-devices", help="Refuse a longer list.")]
Limit = Annotated[int | None, Option("--limit", min=1, help="Only the first N of the plan.")]
Until = Annotated[str | None, Option("--until", help="Stop then: RFC 3339 or HH:MM.")]
_FORMATS = "csv, ndjson, json, restore or remaining; repeatable."
Report = Annotated[list[str], Option("--report", metavar="FORMAT=PATH", help=_FORMATS)]
Yes = Annotated[bool, Option("--yes", "-y", help="Do not ask: for scripts.")]
Actor = Annotated[str | None, Option("--actor", help="Who runs this, for the record.")]


@app.command()
def check(jobs: Jobs, output: Print = Output.TEXT) -> None:
    """Validate job files; sends nothing."""
    raise typer.Exit(looking.check(jobs, as_json=output is Output.JSON))


@app.command()
def plan(
    job: Annotated[Path, Argument(metavar="JOB", help="A job file (YAML).")],
    preview: Annotated[
        bool, Option("--preview", help="Ask the gateway what is cached now.")
    ] = False,
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
    log_file: LogFile = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    max_devices: MaxDevices = None,
    actor: Actor = None,
) -> None:
    """Resolve and freeze the target list; with --preview say what is cached now."""
    ask = asked.Ask(
        common=Common(config, ledger, log_file, log_level, log_format),
        limits={"rate": rate, "concurrency": concurrency, "max_devices": max_devices},
        actor=actor,
        as_json=output is Output.JSON,
    )
    raise typer.Exit(sending.plan(job, ask, with_preview=preview))


@app.command()
def run(
    jobs: Annotated[list[Path] | None, Argument(metavar="[JOB…]", help="Job files (YAML).")] = None,
    planned: Annotated[
        str | None, Option("--plan", metavar="RUN", help="Run what `plan` has frozen.")
    ] = None,
    yes: Yes = False,
    dry_run: Annotated[bool, Option("--dry-run", help="The same as plan --preview.")] = False,
    rehearse: Annotated[
        bool, Option("--rehearse", help="Against the bundled simulator; nothing real is touched.")
    ] = False,
    faults: Annotated[
        str | None, Option("--faults", metavar="PROFILE", help="Rehearse with this weather.")
    ] = None,
    seed: Annotated[int | None, Option("--seed", help="Of the rehearsal.")] = None,
    limit: Limit = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    max_devices: MaxDevices = None,
    until: Until = None,
    report: Report = [],  # noqa: B006 - typer copies it
    actor: Actor = None,
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
    log_file: LogFile = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Plan, confirm, cancel, verify, report."""
    ask = asked.Ask(
        common=Common(config, ledger, log_file, log_level, log_format),
        limits={"rate": rate, "concurrency": concurrency, "max_devices": max_devices},
        limit=limit,
        until=until,
        reports=tuple(report),
        yes=yes,
        actor=actor,
        as_json=output is Output.JSON,
        rehearsal=sending.rehearsal_asked(rehearse=rehearse, faults=faults, seed=seed),
    )
    _leave(sending.run(jobs or [], planned, ask, dry_run=dry_run))


@app.command()
def resume(
    run: Run,
    retry: Annotated[
        str | None, Option("--retry", help="Send these again: failed,rejected,not_found.")
    ] = None,
    max_age: Annotated[
        str | None, Option("--max-age", help="Refuse an older plan (24h; 7d by id).")
    ] = None,
    assume_sent: Annotated[
        bool, Option("--assume-sent", help="Of a restored ledger: look up all without an outcome.")
    ] = False,
    yes: Yes = False,
    limit: Annotated[
        int | None, Option("--limit", min=1, help="Only the next N of what is left.")
    ] = None,
    rate: Rate = None,
    concurrency: Concurrency = None,
    max_devices: MaxDevices = None,
    until: Until = None,
    report: Report = [],  # noqa: B006 - typer copies it
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
    log_file: LogFile = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Finish a run from the ledger alone: look up what is in doubt, send what was not attempted."""
    ask = asked.Ask(
        common=Common(config, ledger, log_file, log_level, log_format),
        limits={"rate": rate, "concurrency": concurrency, "max_devices": max_devices},
        limit=limit,
        until=until,
        reports=tuple(report),
        yes=yes,
        as_json=output is Output.JSON,
    )
    _leave(resuming.resume(run, ask, retry=retry, max_age=max_age, assume_sent=assume_sent))


@app.command()
def verify(
    run: Run,
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
    log_file: LogFile = None,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Search again: what is still cached, and which targets have no outcome."""
    ask = asked.Ask(
        common=Common(config, ledger, log_file, log_level, log_format),
        as_json=output is Output.JSON,
    )
    raise typer.Exit(searching.verify(run, ask))


@app.command()
def runs(
    job: Annotated[
        str | None, Option("--job", metavar="JOB", help="Only runs of this job.")
    ] = None,
    limit: Annotated[int, Option("--limit", min=1, metavar="N", help="How many, at most.")] = 20,
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
) -> None:
    """List the runs of a ledger, newest first."""
    as_json = output is Output.JSON
    history.runs(Common(config, ledger), job=job, limit=limit, as_json=as_json)


@app.command()
def report(
    run: Run,
    format_: Annotated[Format, Option("--format", "-f", help="How it is rendered.")] = Format.TEXT,
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
) -> None:
    """Render one run."""
    asked = Format.JSON if output is Output.JSON and format_ is Format.TEXT else format_
    looking.report(run, asked.value, Common(config, ledger))


@app.command()
def find(
    what: Annotated[str, Argument(metavar="commandId=…|deviceKey=…|assetId=…")],
    rehearsals: Annotated[
        bool, Option("--rehearsals", help="Name rehearsals too, which touched nothing real.")
    ] = False,
    output: Print = Output.TEXT,
    config: Config = None,
    ledger: Ledger = None,
) -> None:
    """Say which runs touched a command or a device; exit code 3 when none did."""
    as_json = output is Output.JSON
    found = history.find(what, Common(config, ledger), rehearsals=rehearsals, as_json=as_json)
    raise typer.Exit(found)


@app.command()
def simulate(
    port: Annotated[int, Option("--port", min=0, max=65535, help="0 takes any free one.")] = 0,
    faults: Annotated[str, Option("--faults", metavar="PROFILE")] = "calm",
    seed: Annotated[int, Option("--seed")] = 1,
    orgId: Annotated[str, Option("--org", metavar="ORGID")] = "o15541858646501",
) -> None:
    """Serve the simulated gateway on loopback until ^C."""
    raise typer.Exit(looking.simulate(port, faults, seed, orgId))


@app.command()
def schema(of: Schema) -> None:
    """Print a JSON Schema."""
    looking.schema(of.value)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Withdraw the commands that wait for offline devices on EnOS, and prove it."""


def _leave(done: asked.Done) -> None:
    if done.at_once:
        os._exit(done.code)
    raise typer.Exit(done.code)


def seldom_collect() -> None:
    """Look for reference cycles seldom: the path of a device makes none, and has no time for it."""
    gc.freeze()
    gc.set_threshold(10_000, 20, 100)


def main() -> None:
    """Run the command line and exit with its code."""
    SIGNALS.own()
    try:
        _run()
    finally:
        SIGNALS.release()


def _run() -> None:
    seldom_collect()
    named = [word.partition("=")[0] for word in sys.argv[1:]]
    later = [word for word in named if word in _LATER_OPTIONS]
    if named and named[0] in _LATER:
        later = named[:1]
    if later:
        say(f"error: {later[0]}: not supported yet")
        sys.exit(2)
    try:
        app()
    except CancelWorkerError as error:
        say_error(error, asked.WORDS.get(error.exit_code, "error"))
        sys.exit(error.exit_code)
    except Exception as bug:  # noqa: BLE001 - its text may hold a secret, or what a gateway wrote
        say(*_bug(bug))
        sys.exit(CancelWorkerError.exit_code)


def _bug(bug: BaseException) -> list[str]:
    """A bug of ours, by its class and its place; never by its text."""
    while isinstance(bug, BaseExceptionGroup):
        bug = bug.exceptions[0]
    frames = traceback.extract_tb(bug.__traceback__)
    return [
        f"internal error: {type(bug).__name__}; please report it with these lines",
        *(f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames),
    ]
