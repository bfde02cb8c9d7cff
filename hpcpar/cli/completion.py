"""hpcpar completion."""

from __future__ import annotations

import click

_EPILOG = """
\b
Examples:
  hpcpar completion bash >> ~/.bash_completion
  hpcpar completion zsh > ~/.zfunc/_hpcpar
"""


@click.command(epilog=_EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> int:
    """Print the script that teaches SHELL to complete hpcpar's commands, options and names."""
    from click.shell_completion import get_completion_class

    from hpcpar.cli import group

    completion = get_completion_class(shell)
    assert completion is not None  # click knows all three shells
    click.echo(completion(group, {}, "hpcpar", "_HPCPAR_COMPLETE").source())
    return 0
