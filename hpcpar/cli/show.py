"""hpcpar show."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from hpcpar import assets, registry
from hpcpar.cli.output import print_json

_EPILOG = """
\b
Examples:
  hpcpar show cluster perlmutter      the file as it stands, and where it lies
  hpcpar show strategy hybrid         its options and their defaults
"""
_FILES = {"cluster": "clusters", "job": "jobs", "template": "templates"}


@click.command(epilog=_EPILOG)
@click.argument("kind", type=click.Choice(["cluster", "strategy", "workload", "job", "template"]))
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def command(kind: Any, name: str, as_json: bool) -> int:
    """Show one of the things that `hpcpar list` lists."""
    if kind in _FILES:
        return _show_file(_FILES[kind], name, as_json)
    thing = registry.get_strategy(name) if kind == "strategy" else registry.get_workload(name)
    defaults = msgspec.to_builtins(thing.Options())
    about = {"name": name, "about": thing.summary, "extras": list(thing.extras), "options": defaults}
    if as_json:
        print_json(about)
        return 0
    click.echo(f"{name}: {thing.summary}\nneeds: {', '.join(thing.extras) or 'nothing more'}\noptions (defaults):")
    for key, value in _flat(defaults):
        click.echo(f"  {key} = {msgspec.json.encode(value).decode()}")
    return 0


def _show_file(kind: Any, name: str, as_json: bool) -> int:
    path = assets.find(kind, name)
    if as_json and path.suffix == ".toml":
        from hpcpar.decode import decode, read_toml
        from hpcpar.profile import ClusterProfile
        from hpcpar.spec import Study

        struct: Any = ClusterProfile if kind == "clusters" else Study
        print_json(decode(struct, read_toml(path), str(path)))
        return 0
    click.echo(f"# {path}", err=True)
    click.echo(path.read_text(encoding="utf-8"), nl=False)
    return 0


def _flat(options: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in options.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows
