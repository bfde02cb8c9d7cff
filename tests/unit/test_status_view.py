"""What `hpcpar status --watch` fills a screen with."""

from __future__ import annotations

import io
import time

import msgspec
import pytest
from rich.console import Console

from hpcpar.cli import view
from hpcpar.control.status import Status, StatusRow


def row(study: str, number: int, state: str, cause: str = "", **more: object) -> StatusRow:
    facts = {
        "study": study,
        "run": f"run-{number:03}",
        "workload": "mlp",
        "strategy": "ddp",
        "mesh": "1",
        "nodes": 1,
        "repeat": number,
        "state": state,
        "cause": cause,
        "note": "",
        "step": 3,
        "steps": 10,
        "elapsed_s": 5.0,
        "left_s": None,
        "starts": None,
        "job_id": "1",
        "attempts": 1,
        "folder": "/f",
    }
    return StatusRow(**{**facts, **more})  # type: ignore[arg-type]


def status(rows: list[StatusRow], **more: object) -> Status:
    facts = {"rows": rows, "counts": {"running": len(rows)}, "causes": {}, "unreadable": [], "trouble": []}
    return Status(**{**facts, **more})  # type: ignore[arg-type]


def printed(shown: object, height: int, width: int = 140) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, height=height, highlight=False).print(shown)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("height", [12, 24, 60])
@pytest.mark.parametrize("studies", [1, 3, 40])
def test_it_fits_on_the_screen_and_the_counts_are_on_it(studies: int, height: int) -> None:
    rows = [row(f"study-{s}", n, "running") for s in range(studies) for n in range(50)]
    lines = printed(view.screen(status(rows, trouble=["the scheduler could not be asked"] * 9), height, 2.0), height)
    assert len(lines) <= height
    assert any(line.startswith(f"{len(rows)} runs: {len(rows)} running") for line in lines)
    assert lines[-1].startswith("seen ")
    assert lines[-1].endswith("next in 2 s; Ctrl-C leaves")


def test_failures_come_first_where_not_all_fits() -> None:
    rows = [row("s", n, "done") for n in range(50)] + [row("s", 99, "failed", "hung")]
    said = "\n".join(printed(view.screen(status(rows), 14, 2.0), 14))
    assert "run-099" in said
    assert "failed: hung" in said


WHY = "rank 0 on node-0001: RuntimeError: " + "a word " * 30


@pytest.mark.parametrize("width", [60, 80, 100, 120, 140, 200])
@pytest.mark.parametrize("full_screen", [True, False])
def test_the_name_of_a_run_and_its_state_are_whole_at_any_width(width: int, full_screen: bool) -> None:
    more: dict[str, object] = {"strategy": "xgb-collective", "mesh": "pp=2 dp_replicate=2", "steps": 3000, "note": WHY}
    rows = [row("s", n, "failed", "python_error", **more, left_s=100.0) for n in range(3)]
    rows = [msgspec.structs.replace(one, run=f"f97f0c0ffe-r{n}") for n, one in enumerate(rows)]
    shown = status(rows)
    lines = printed(view.screen(shown, 24, 2.0, width) if full_screen else view.table(shown, None, width), 24, width)
    for one in rows:
        assert any(line.split()[:1] == [one.run] and "failed: python_error" in line for line in lines)
    assert all(len(line) <= width for line in lines)
    assert full_screen or "".join(" ".join(lines).split()).count("aword" * 5) >= len(rows), "notes are whole"
    assert not full_screen or len(lines) <= 24


def test_a_column_without_a_word_makes_room_for_a_note() -> None:
    rows = [row("s", 1, "failed", "cancelled", note="by `hpcpar cancel`")]
    (line,) = [line for line in printed(view.table(status(rows), None, 96), 24, 96) if "run-001" in line]
    assert line.split()[-3:] == ["by", "`hpcpar", "cancel`"]


def test_a_screen_that_is_wide_enough_has_all_columns() -> None:
    rows = [row("s", 1, "failed", "hung", note=WHY, left_s=100.0)]
    headings = "run strategy mesh nodes repeat state step elapsed left note".split()
    assert headings in [line.split() for line in printed(view.table(status(rows), None, 110), 24, 110)]


def test_time_left_and_when_it_may_start() -> None:
    soon = time.time() + 600
    rows = [row("s", 1, "running", left_s=125.0), row("s", 2, "queued", note="Priority", starts=soon)]
    said = "\n".join(printed(view.table(status(rows), None), 50))
    assert "~2m05s" in said
    assert f"Priority; may start {time.strftime('%H:%M', time.localtime(soon))}" in said


@pytest.mark.parametrize(
    ("causes", "words"),
    [({}, "failed"), ({"hung": 2}, "2 failed (hung)"), ({"hung": 2, "data": 1}, "3 failed (2 hung, 1 data)")],
)
def test_the_line_that_counts(causes: dict[str, int], words: str) -> None:
    failed = sum(causes.values())
    counts = {"failed": failed} if failed else {}
    rows = [row("s", n, "failed") for n in range(failed)]
    line = view.counts(status(rows, counts=counts, causes=causes))
    assert line == (f"{failed} runs: {words}" if failed else "0 runs")
