"""hpcpar resume."""

from __future__ import annotations

import click

_EPILOG = """
\b
Examples:
  hpcpar resume           in the background, as submit does
  hpcpar resume --here    in this terminal, until the queue is empty
"""


@click.command(epilog=_EPILOG)
@click.option("--here", is_flag=True, help="Work the queue off in this process.")
def command(here: bool) -> int:
    """Start this machine's local queue again after it died; a run that was interrupted is run once more."""
    from hpcpar.control import local_queue

    waiting = local_queue.num_waiting()
    if not waiting:
        click.echo("the local queue is empty", err=True)
        return 0
    if local_queue.is_alive():
        click.echo("the local queue is being worked off: see `hpcpar status`", err=True)
        return 0
    if here:
        click.echo(f"{local_queue.drain()} runs executed", err=True)
        return 0
    local_queue.start()
    click.echo(f"the local queue goes on with {waiting} batch{'es' * (waiting != 1)}", err=True)
    return 0
