"""What the pages say is so: links lead somewhere, commands are commands, and what is shown was printed."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import click
import pytest

from hpcpar.cli import group, main

ROOT = Path(__file__).resolve().parents[2]
_FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_MACHINE_PATHS = ("/" + "work/", "/" + "root/")


class Line(NamedTuple):
    """A command line that a page shows."""

    page: str
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}: hpcpar {shlex.join(self.argv)}"


@cache
def tracked() -> list[Path]:
    """List the files of the repository, those that are not committed yet too; of a source archive all files."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    except (OSError, subprocess.CalledProcessError):
        return [path for path in ROOT.rglob("*") if path.is_file() and ".venv" not in path.parts]
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def pages() -> list[Path]:
    return sorted(path for path in tracked() if path.suffix == ".md")


def prose(page: Path) -> str:
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    yield from _FENCE.findall(page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#+ +(.*?) *#*$", prose(page), flags=re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        names.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return names


def commands(page: Path) -> Iterator[Line]:
    """Yield every hpcpar command line of a page's code blocks and of its inline code."""
    for language, body in blocks(page):
        lines = body.replace("\\\n", " ").splitlines()
        if language == "console":
            lines = [line.strip().removeprefix("$ ") for line in lines if line.strip().startswith("$ ")]
        if language in ("bash", "console"):
            for line in lines:
                yield from _commands(page, line)
    for code in re.findall(r"`(hpcpar [^`]+)`", prose(page)):
        yield from _commands(page, code)


def _commands(page: Path, line: str) -> Iterator[Line]:
    words = shlex.split(line, comments=True)
    if "hpcpar" not in words or words[0] not in ("hpcpar", "examples/slurm-cluster", "$"):
        return
    words = words[words.index("hpcpar") + 1 :]
    end = next((i for i, word in enumerate(words) if word in (">", ">>", "|", "&&", ";")), len(words))
    if end and "..." not in words:
        yield Line(str(page.relative_to(ROOT)), tuple(words[:end]))


ALL = sorted({line for page in pages() for line in commands(page)})


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in _LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        if not other.exists():
            broken.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(other):
            broken.append(f"{target}: no such heading")
    assert not broken


def test_the_pages_show_commands_of_every_kind() -> None:
    verbs = {line.argv[0] for line in ALL if not line.argv[0].startswith("-")}
    assert verbs == set(group.list_commands(click.Context(group)))


@pytest.mark.parametrize("line", ALL, ids=str)
def test_every_command_line_parses(line: Line) -> None:
    verb, *rest = line.argv
    with contextlib.suppress(click.exceptions.Exit):  # --help and --version end there
        if verb.startswith("-"):
            group.make_context("hpcpar", list(line.argv))
        else:
            command = group.get_command(click.Context(group), verb)
            assert command is not None, f"no such command: {verb}"
            command.make_context(verb, rest)


SUBMITS = [line for line in ALL if line.argv[0] == "submit" and len(line.argv) > 1 and "--help" not in line.argv]


@pytest.mark.parametrize("line", SUBMITS, ids=str)
def test_every_submit_names_what_there_is(
    line: Line, isolation: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Dry: also where the page submits for real. The profile `mine` is made as the README says."""
    assert main(["show", "cluster", "generic"]) == 0
    mine = isolation / "config" / "hpcpar" / "clusters" / "mine.toml"
    mine.parent.mkdir(parents=True)
    mine.write_text(capsys.readouterr().out.replace('name = "generic"', 'name = "mine"'))
    monkeypatch.chdir(ROOT)
    (isolation / "table.csv").write_text("price,carat\n")
    (isolation / "tokenizer.json").write_text('{"model": {"vocab": {"a": 0}}}')

    def fetched(asked: re.Match[str]) -> str:
        return str(isolation / ("tokenizer.json" if asked[1] == "cl100k" else "table.csv"))

    argv = [re.sub(r"\$\(hpcpar data path (\w+)\)", fetched, word) for word in line.argv[1:]]
    code = main([line.argv[0], "--dry-run", *(word for word in argv if word != "--wait")])
    answer = capsys.readouterr()
    assert code == 0, answer.err
    assert answer.out.startswith(("#!/bin/bash", "# ========"))


def test_a_dry_run_that_a_page_shows_was_printed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = 0
    for page in pages():
        for language, body in blocks(page):
            first, *lines = body.splitlines()
            if language != "console" or "--dry-run" not in first:
                continue
            shown += 1
            assert main(shlex.split(first.removeprefix("$ "))[1:]) == 0
            printed = iter(capsys.readouterr().out.splitlines())
            missing = [line for line in lines if line != "..." and line not in printed]
            assert not missing, f"{page.name}: not printed, or not in this order"
    assert shown


def test_every_make_target_of_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    named = set()
    for page in pages():
        text = page.read_text(encoding="utf-8")
        named |= set(re.findall(r"(?:^ *|`)make ([a-z][a-z-]*)", text, flags=re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_the_readme_shows_what_the_demo_made() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, content in (("status", "12 done"), ("table", "| strategy | nodes |")):
        begin, end = f"<!-- demo {name}: begin -->", f"<!-- demo {name}: end -->"
        assert readme.count(begin) == readme.count(end) == 1
        assert content in readme.partition(begin)[2].partition(end)[0], "run `make readme`"
    assert (ROOT / "docs" / "images" / "scaling.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (ROOT / "docs" / "images" / "scaling.svg").read_bytes()


def test_no_file_names_the_machine_on_which_it_was_written() -> None:
    named = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        named += [f"{path.relative_to(ROOT)}: {word}" for word in _MACHINE_PATHS if word in text]
    assert not named


def test_the_examples_of_the_tables_are_what_the_code_prints() -> None:
    """Byte by byte: run `python docs/make_examples.py` after a change."""
    spec = importlib.util.spec_from_file_location("make_examples", ROOT / "docs" / "make_examples.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for page, marker, text in module.examples():
        begin, end = f"<!-- example {marker}: begin -->", f"<!-- example {marker}: end -->"
        shown = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert shown.count(begin) == shown.count(end) == 1
        assert shown.partition(begin)[2].partition(end)[0] == f"\n{text}\n"
