"""How the commands speak: results to stdout, talk to stderr."""

from __future__ import annotations

import sys
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def warn(text: str) -> None:
    """Say something that the user should know on stderr."""
    from hpcpar.cli import printable

    click.echo(f"warning: {printable(text)}", err=True)
