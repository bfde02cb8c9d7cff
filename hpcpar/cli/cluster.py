"""hpcpar cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hpcpar import assets
from hpcpar.cli import printable
from hpcpar.cli.output import print_json, warn
from hpcpar.errors import HpcparError, InputError, Problem, SchedulerError

if TYPE_CHECKING:
    from hpcpar.control.cluster.machine import Machine

_EPILOG = """
\b
Examples:
  hpcpar cluster detect                        a first profile of this cluster, printed
  hpcpar cluster detect --out mine.toml        the same into a file
  hpcpar cluster verify perlmutter             a profile beside the live machine
"""


@click.group(epilog=_EPILOG)
def command() -> None:
    """Write a profile of this cluster, or compare one with it."""


def _ask() -> Machine:
    """Ask Slurm about the machine; say what to look at where it does not answer."""
    from hpcpar.control.cluster import machine

    try:
        return machine.ask()
    except SchedulerError as error:
        fix = "Slurm must answer here: look with `scontrol ping`, try another login node, or later"
        raise HpcparError(f"{error}\n    {fix}") from error


@command.command()
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it here; never over another file.")
@click.option("--name", help="What the profile is called (default: the file's name, else the cluster's).")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def detect(out: Path | None, name: str | None, as_json: bool) -> int:
    """Ask Slurm what it schedules, and write a first profile of it.

    Partitions, kinds of nodes, limits and QOS come from scontrol, sinfo and sacctmgr. What Slurm does not know is said
    in comments.
    """
    from datetime import date

    from hpcpar.control.cluster import detect as detection
    from hpcpar.decode import decode, parse_toml
    from hpcpar.profile import ClusterProfile
    from hpcpar.storage import is_file, write_file

    if out is not None and is_file(out):
        raise InputError(Problem(str(out), "is there already", "choose another name, or remove it"))
    found = _ask()
    called = name or (out.stem if out else detection.profile_name(found))
    detected = detection.detect(found, called, date.today().isoformat())
    profile = decode(ClusterProfile, parse_toml(detected.text, called), called)
    for note in detected.notes:
        warn(note)
    if out is not None:
        write_file(out, detected.text.encode(), mode=0o644)
        click.echo(
            f"{out}: nodes {', '.join(profile.node_types)}; partitions {', '.join(profile.partitions)}", err=True
        )
        path = out if len(out.parts) > 1 else f"./{out}"
        click.echo(f"next: read it, then hpcpar submit --cluster {path} --dry-run", err=True)
    elif as_json:
        print_json({"profile": profile, "text": detected.text, "notes": list(detected.notes)})
    else:
        click.echo(detected.text, nl=False)
    return 0


@command.command()
@click.argument(
    "name", shell_complete=lambda _, __, begun: [n for n in assets.available("clusters") if n.startswith(begun)]
)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def verify(name: str, as_json: bool) -> int:
    """Compare the profile NAME with the machine that Slurm describes here.

    Exit code 0: nothing differs. 1: something does. 2: there is no such profile, or no Slurm here.
    """
    from hpcpar.control.cluster import probe
    from hpcpar.control.cluster import verify as comparison
    from hpcpar.decode import decode, read_toml
    from hpcpar.profile import ClusterProfile

    path = assets.find("clusters", name)
    profile = decode(ClusterProfile, read_toml(path), str(path))
    if profile.scheduler != "slurm":
        fix = "only what Slurm schedules can be compared"
        raise InputError(Problem(f"cluster {profile.name}", f"its scheduler is '{profile.scheduler}'", fix))
    verdict = comparison.verify(profile, _ask())
    if not verdict.differences:  # what the file says of partitions and sizes is right: may a job be sent so?
        verdict = verdict._replace(differences=tuple(probe.forbidden(profile)))
    if as_json:
        said = [one._asdict() for one in verdict.differences]
        print_json({"profile": str(path), "agrees": not said, **verdict._asdict(), "differences": said})
        return 1 if verdict.differences else 0
    for text in verdict.unchecked:
        warn(f"not compared: {text}")
    for source in verdict.unconfirmed:
        warn(f"unconfirmed in the profile: {', '.join(source.keys)}" + (f" ({source.note})" if source.note else ""))
    for one in verdict.differences:
        line = f"{one.key}: profile: {one.profile or 'nothing'}; machine: {one.machine}"
        click.echo(printable(f"{line}\n    {one.fix}"))
    number = len(verdict.differences)
    click.echo(f"{path}: {number or 'no'} difference{'s' * (number != 1)}", err=True)
    return 1 if number else 0
