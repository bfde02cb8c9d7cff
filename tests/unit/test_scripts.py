"""Scripts beside the package import what the package has: nobody runs the long ones every day."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted(path for folder in ("docs", "benchmarks", "examples") for path in (ROOT / folder).glob("*.py"))


def taken(script: Path) -> Iterator[tuple[str, str]]:
    """Yield (module, name) of all that a script imports from the package."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "hpcpar":
            yield from ((node.module or "", alias.name) for alias in node.names)
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name.partition(".")[0] == "hpcpar")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_what_a_script_imports_is_there(script: Path) -> None:
    for module, name in taken(script):
        assert not name or hasattr(import_module(module), name) or find_spec(f"{module}.{name}"), f"{module}: {name}"


def test_a_module_that_has_moved_would_be_seen(tmp_path: Path) -> None:
    script = tmp_path / "old.py"
    script.write_text("from hpcpar.analysis.captions import facts\n")
    with pytest.raises(ModuleNotFoundError, match=r"hpcpar\.analysis\.captions"):
        test_what_a_script_imports_is_there(script)
