"""hpcpar data."""

from __future__ import annotations

from typing import Any

import click

from hpcpar.cli.output import print_json
from hpcpar.errors import InputError, Problem

_EPILOG = """
\b
Examples:
  hpcpar data list
  hpcpar data fetch mnist
  hpcpar data path mnist              what to give to --set data.path=
"""


@click.command(epilog=_EPILOG)
@click.argument("action", type=click.Choice(["list", "fetch", "path"]))
@click.argument("names", metavar="[NAME...]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(action: str, names: tuple[str, ...], as_json: bool) -> int:
    """List data sets, fetch them into a cache (on a node with a network), or say where they lie."""
    from hpcpar.control.datasets import cache
    from hpcpar.control.datasets.catalog import DATA_SETS

    if (action == "list") == bool(names):
        what = "takes no names" if names else "needs the name of a data set"
        raise InputError(Problem(f"data {action}", what, f"one of: {', '.join(DATA_SETS)}"))
    if action == "list":
        return _list(DATA_SETS.values(), as_json)
    paths = cache.fetch(names) if action == "fetch" else [cache.path(name) for name in names]
    if as_json:
        print_json([{"name": name, "path": str(path)} for name, path in zip(names, paths, strict=True)])
        return 0
    for path in paths:
        click.echo(str(path))
    return 0


def _list(data_sets: Any, as_json: bool) -> int:
    from hpcpar.control.datasets import cache

    rows = [
        {
            "name": one.name,
            "about": one.about,
            "package": one.package,
            "path": str(cache.place(one)) if cache.is_there(one) else None,
        }
        for one in data_sets
    ]
    if as_json:
        print_json(rows)
        return 0
    for row in rows:
        click.echo(f"{row['name']:<12} {row['about']}; {row['path'] or 'not fetched'}")
    return 0
