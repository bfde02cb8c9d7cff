"""hpcpar list."""

from __future__ import annotations

from typing import Any

import click

from hpcpar.cli import printable
from hpcpar.cli.output import print_json

_KINDS = ["clusters", "strategies", "workloads", "jobs", "templates"]
_EPILOG = """
\b
Examples:
  hpcpar list clusters
  hpcpar list strategies --json
"""


@click.command("list", epilog=_EPILOG)
@click.argument("kind", type=click.Choice(_KINDS))
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(kind: str, as_json: bool) -> int:
    """List what can be named on the command line, with a line about each."""
    rows = _named_code(kind) if kind in ("strategies", "workloads") else _files(kind)
    if as_json:
        print_json(rows)
        return 0
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(printable(f"{row['name']:<{width}}  {row['about']}"))
    return 0


def _named_code(kind: str) -> list[dict[str, str]]:
    from hpcpar import registry

    if kind == "strategies":
        return [{"name": name, "about": registry.get_strategy(name).summary} for name in registry.names("strategy")]
    return [{"name": name, "about": registry.get_workload(name).summary} for name in registry.names("workload")]


def _files(kind: Any) -> list[dict[str, str]]:
    from hpcpar import assets
    from hpcpar.decode import read_toml
    from hpcpar.errors import InputError

    rows = []
    for name, path in assets.available(kind).items():
        about = str(path)
        if path.suffix == ".toml":
            try:
                about = str(read_toml(path).get("description", ""))
            except InputError as error:
                about = f"(unreadable) {error}"
        rows.append({"name": name, "about": about, "file": str(path)})
    return rows
