"""Runs folders in, results out: what `hpcpar collect` and `hpcpar.collect` call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from hpcpar.analysis.judging import against as comparing
from hpcpar.analysis.judging.lint import lint
from hpcpar.analysis.judging.metrics import margins
from hpcpar.analysis.judging.support import supports
from hpcpar.analysis.results import Results
from hpcpar.analysis.rows.gather import gather, studies_at
from hpcpar.analysis.rows.reduce import Row
from hpcpar.analysis.scaling.crossover import crossovers
from hpcpar.analysis.scaling.laws import laws
from hpcpar.analysis.scaling.sizeup import sizeups
from hpcpar.analysis.scaling.table import build
from hpcpar.errors import InputError, Problem
from hpcpar.runs import StudyFolder
from hpcpar.storage import in_utf8


def collect(
    paths: Sequence[Path],
    *,
    baseline: str = "",
    warmup_steps: int | None = None,
    efficiency_target: float = 0.75,
    reference: str = "",
    against: Sequence[Path] = (),
    margin: Sequence[str] = (),
    target_loss: float | None = None,
) -> Results:
    """Read all runs below the paths and make tables of them.

    Args:
        paths: runs folders, study folders, or run folders (which stand for their whole study).
        baseline: "STRATEGY@NODES" as the one baseline of every scaling table; "" for each series' smallest size.
        warmup_steps: cut this many steps instead of what each run was planned with.
        efficiency_target: what the headlines and figures measure efficiency against, between 0 and 1.
        reference: the strategy with which the others are compared at equal nodes; "" for the first of each study.
        against: runs of another collection (another date, code, cluster) with which this one is compared.
        margin: "METRIC=SHARE" over the default margins: a smaller change counts as none.
        target_loss: compare the samples and the time in which the training loss falls to it.

    Raises:
        InputError: with every option that is wrong; or nothing to read, a baseline that no run has, or a collection
            against itself.
    """
    chosen = _check(warmup_steps, efficiency_target, target_loss, margin)
    if against:
        _refuse_itself(studies_at(paths), studies_at(against))
    gathered = gather(paths, warmup_steps, target_loss)
    others = gather(against, warmup_steps, target_loss) if against else None
    tables = build(gathered.rows, baseline)
    return Results(
        rows=gathered.rows,
        tables=tables,
        problems=tuple(row for row in gathered.rows if not row.usable),
        notes=(*gathered.notes, *_damage(gathered.rows), *(others.notes if others else ())),
        efficiency_target=efficiency_target,
        comparisons=comparing.strategies(tables, chosen, reference),
        against=comparing.collections(gathered.rows, others.rows, chosen) if others else (),
        fitted=laws(tables, efficiency_target),
        crossovers=crossovers(tables),
        sized_up=sizeups(gathered.rows),
        supports=supports(gathered.rows),
        lint=lint(tables, target_loss),
        studies=tuple(study.path for study in studies_at(paths)),
    )


def _refuse_itself(studies: Sequence[StudyFolder], others: Sequence[StudyFolder]) -> None:
    """Refuse two sides that are the same runs: every verdict would be that nothing has changed."""
    if {study.path for study in studies} == {study.path for study in others}:
        names = ", ".join(in_utf8(study.name) for study in studies)
        what = f"both sides are the same runs ({names}): a run's folder stands for its whole study"
        raise InputError(Problem("--against", what, "name another study; to compare strategies of one, --reference"))


def _check(
    warmup_steps: int | None, efficiency_target: float, target_loss: float | None, margin: Sequence[str]
) -> dict[str, float]:
    problems = []
    if warmup_steps is not None and warmup_steps < 0:
        problems.append(Problem("--warmup-steps", f"{warmup_steps} is negative"))
    if not 0 < efficiency_target <= 1:
        problems.append(Problem("--efficiency-target", f"{efficiency_target:g} is not between 0 and 1"))
    if target_loss is not None and not math.isfinite(target_loss):
        problems.append(Problem("--target-loss", f"{target_loss:g} is not a finite number"))
    try:
        chosen = margins(margin)
    except InputError as error:
        raise InputError([*problems, *error.problems]) from error
    if problems:
        raise InputError(problems)
    return chosen


def _damage(rows: Sequence[Row]) -> list[str]:
    """Say what was left out of the numbers, run by run."""
    counted = {
        "lines could not be read": "rejected_lines",
        "steps had an impossible time or number": "rejected_steps",
        "steps were recorded more than once (the last line counts)": "duplicate_steps",
    }
    notes = [
        f"study {row.study}: run {row.run}: {getattr(row, name)} {words}"
        for row in rows
        for words, name in counted.items()
        if getattr(row, name)
    ]
    return notes + [f"study {row.study}: run {row.run}: {note}" for row in rows for note in row.notes]
