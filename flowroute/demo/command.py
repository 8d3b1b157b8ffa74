"""The command `flowroute demo`."""

from __future__ import annotations

import getpass
import signal
import sys
import tempfile
from pathlib import Path

import click

from flowroute.demo.check import check
from flowroute.demo.stage import DemoError, Stage


@click.command("demo")
@click.option(
    "--check",
    "unattended",
    is_flag=True,
    help="Run the demo against itself, say what held, and end.",
)
@click.option(
    "--port",
    default=8000,
    show_default=True,
    help="Port of the shop on loopback; 0: any that is free.",
)
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    help="Directory of the data and logs, kept for the next time. Default: a temporary one.",
)
def demo(*, unattended: bool, port: int, home: Path | None) -> None:
    """Run the example shop: Redis, one worker and the web server, until Ctrl-C.

    Ends with 0, or with 1 if a process did not start or a check did not hold.
    """
    # As Ctrl-C, so that whoever ends this process leaves none of the others behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if unattended:
            sys.exit(0 if check(click.echo) else 1)
        _show(home or Path(tempfile.gettempdir()) / f"flowroute-demo-{getpass.getuser()}", port)
    except DemoError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        click.echo("\nStopped. The data stays: the next start goes on with it.")


def _show(home: Path, port: int) -> None:
    with Stage(home, port=port, say=click.echo) as stage:
        click.echo(f"Data and logs: {home}")
        click.secho(f"\n  The shop is open: {stage.url}\n", bold=True)
        click.echo("Ctrl-C stops everything.")
        stage.wait()
