"""How the commands speak: results to stdout, talk to stderr."""

from __future__ import annotations

import re
import sys
from typing import Any

import click

_NOT_PLAIN = re.compile(r"[^\n -~]")


def print_json(value: Any) -> None:
    """Print a value as JSON on stdout, in ASCII: names from elsewhere may hold what a terminal obeys, or no Unicode."""
    import msgspec

    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except (UnicodeEncodeError, TypeError):  # a name that is not UTF-8
        import json

        text = json.dumps(msgspec.to_builtins(value), indent=2)
    sys.stdout.write(escape_json(text) + "\n")


def escape_json(text: str) -> str:
    """Escape all but ASCII in a JSON text, in JSON's own way; line breaks stay."""
    return _NOT_PLAIN.sub(lambda match: _escaped(match[0]), text)


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


def in_unicode() -> bool:
    """Say whether stdout can take lines and bars that are drawn with characters."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def warn(text: str) -> None:
    """Say something that the user should know on stderr."""
    from hpcpar.cli import printable

    click.echo(f"warning: {printable(text)}", err=True)
