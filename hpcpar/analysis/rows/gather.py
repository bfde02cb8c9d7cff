"""Find run folders, reduce each one, and give back rows in an order that does not depend on where they were found."""

from __future__ import annotations

import bisect
import math
import operator
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpcpar import records
from hpcpar.analysis.rows.cache import keep_rows, kept_rows
from hpcpar.analysis.rows.learning import with_reference
from hpcpar.analysis.rows.reduce import MISSING, UNREADABLE, Row
from hpcpar.analysis.rows.reducers import Options, reduce_all
from hpcpar.analysis.scaling.series import name_variants
from hpcpar.errors import InputError, Problem
from hpcpar.inventory import Listed, list_runs
from hpcpar.runs import BatchLine, Snapshot, StudyFolder, find_studies
from hpcpar.storage import in_utf8, is_folder


class Gathered(NamedTuple):
    """All rows, sorted, and what was noticed on the way."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def gather(paths: Sequence[Path], warmup_steps: int | None = None, target_loss: float | None = None) -> Gathered:
    """Read every run below the paths: runs folders, study folders, or run folders (which stand for their study).

    Raises:
        InputError: a path is not a folder, or nothing of hpcpar is in any of them.
    """
    with records.without_collections():
        return _gather(paths, Options(warmup_steps=warmup_steps, target_loss=target_loss))


def _gather(paths: Sequence[Path], options: Options) -> Gathered:
    studies = studies_at(paths)
    rows, found = _rows(studies, options)
    notes: list[str] = []
    for study, names in zip(studies, found, strict=True):
        missing, damaged = _missing(study, names)
        rows += missing
        notes += damaged
    if not rows:
        raise InputError(
            Problem(", ".join(map(str, paths)), "there is no run in it", "name a runs folder or a study's folder")
        )
    unique, copies = _without_copies(rows)
    marked = with_reference(_mark_shared(unique))
    return Gathered(tuple(sorted(name_variants(marked), key=sort_key)), tuple(sorted({*notes, *copies})))


sort_key = operator.attrgetter(
    "study",
    "cluster",
    "node_type",
    "workload",
    "workload_options",
    "scaling",
    "ranks_per_node",
    "cpus_per_rank",
    "strategy",
    "strategy_options",
    "nodes",
    "repeat",
    "run",
)
"""What rows are ordered by: the plan first, so that tables read well, then the run's name."""


def studies_at(paths: Sequence[Path]) -> list[StudyFolder]:
    """Find every study below the paths once.

    Raises:
        InputError: a path is not a folder, or there is none.
    """
    if not paths:
        raise InputError(Problem("collect", "nothing to read", "name a runs folder or a study's folder"))
    found: dict[Path, StudyFolder] = {}
    for path in paths:
        for study in find_studies(path):
            resolved = study.path.resolve()  # the same study may be named twice, by itself and by the folder above it
            found.setdefault(resolved, StudyFolder(resolved))
    return [found[path] for path in sorted(found)]


def _rows(studies: Sequence[StudyFolder], options: Options) -> tuple[list[Row], list[set[str]]]:
    """Return the row of every run (a kept one where nothing has changed, else a new one), and the names by study."""
    now_ns = time.time_ns()
    kept = [kept_rows(study, options) for study in studies]
    listed = [list_runs(study, one.facts) for study, one in zip(studies, kept, strict=True)]
    rows = [dict(one.rows) for one in kept]
    changed = [
        (place, run)
        for place, runs in enumerate(listed)
        for run in runs
        if run.facts is None or run.facts is not kept[place].facts.get(run.name)
    ]
    at = [str(study.path) for study in studies]
    made = reduce_all([_snapshot(at[place], run) for place, run in changed], options)
    for (place, run), row in zip(changed, made, strict=True):
        rows[place][run.name] = row
    for place in sorted({place for place, _ in changed}):
        keep_rows(studies[place], kept[place], listed[place], rows[place], options=options, now_ns=now_ns)
    names = [{run.name for run in runs} for runs in listed]
    return [rows[place][run.name] for place, runs in enumerate(listed) for run in runs], names


def _snapshot(study: str, run: Listed) -> Snapshot:
    return Snapshot(f"{study}/{run.name}", None if run.facts is None else run.facts.names)


def _missing(study: StudyFolder, found: set[str]) -> tuple[list[Row], list[str]]:
    """Return a row for every run that a batch names and that was not found; and notes on damaged manifests."""
    rows: dict[str, Row] = {}
    notes = []
    for batch in study.batches():
        reading = records.read_lines(batch.manifest_path, BatchLine)
        if reading.rejected:
            where = f"study {in_utf8(study.name)}: {reading.rejected} lines of batch {batch.key}'s manifest"
            notes.append(f"{where} could not be read")
        for name in (line.run for line in reading.records if line.kind == "run" and line.run):
            if name not in found and _is_of_a_run(name):
                state, why = _why_not_found(study.path / name)
                message = f"batch {batch.key} names it, but its folder {why}"
                rows[name] = Row(study=in_utf8(study.name), run=name, state=state, message=message)
    return list(rows.values()), notes


def _is_of_a_run(name: str) -> bool:
    """Say whether a manifest, which may be a stranger's, names a folder in its own study."""
    return name not in (".", "..") and not {"\0", "/"} & set(name)


def _why_not_found(path: Path) -> tuple[str, str]:
    """Return the state of a run that is not listed, and what is wrong with its folder."""
    if not is_folder(path):
        return MISSING, "is gone"
    try:
        os.listdir(path)
    except OSError as error:
        return UNREADABLE, f"cannot be read: {error.strerror or type(error).__name__}"
    return UNREADABLE, "has no spec.json"


def _without_copies(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Count a run that was found twice (a copied folder) once: twice would pretend evidence that is not there."""
    if len({(row.study, row.run) for row in rows}) == len(rows):
        return list(rows), []
    by_run: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_run[row.study, row.run].append(row)
    notes = [
        f"study {study}: run {run} was found in {len(found)} folders and counts once"
        for (study, run), found in by_run.items()
        if len(found) > 1
    ]
    return [max(found, key=_worth) if len(found) > 1 else found[0] for found in by_run.values()], notes


def _worth(row: Row) -> tuple[object, ...]:
    """Order copies by how much they tell; the encoded row breaks ties, so that the choice depends on content alone."""
    return (row.usable, row.state not in (MISSING, UNREADABLE), row.ended or 0.0, msgspec.json.encode(row))


def _mark_shared(rows: Sequence[Row]) -> list[Row]:
    """Count, for each run that uses CPUs, the other runs on one of its machines at the same time."""
    spans = [
        (row.started, row.ended, row.machines)
        for row in rows
        if row.uses_cpu and row.started is not None and row.ended is not None
    ]
    crowded = _crowded(sorted(spans))
    if not crowded:
        return list(rows)
    starts: dict[str, list[float]] = defaultdict(list)
    ends: dict[str, list[float]] = defaultdict(list)
    for start, end, machines in spans:
        for machine in machines:
            starts[machine].append(start)
            ends[machine].append(end)
    for times in (*starts.values(), *ends.values()):
        times.sort()

    def others(row: Row) -> int:
        if not row.uses_cpu or row.started is None or row.ended is None:
            return 0
        machines = [machine for machine in row.machines if machine in crowded]
        begun = [bisect.bisect_left(starts[machine], row.ended) for machine in machines]
        gone = [bisect.bisect_right(ends[machine], row.started) for machine in machines]
        return max(map(operator.sub, begun, gone), default=1) - 1

    return [msgspec.structs.replace(row, shared_with=n) if (n := others(row)) > 0 else row for row in rows]


def _crowded(spans: Sequence[tuple[float, float, tuple[str, ...]]]) -> set[str]:
    """Return the machines on which any two of these overlap; they are sorted by their starts."""
    latest: dict[str, float] = {}
    crowded = set()
    for start, end, machines in spans:
        for machine in machines:
            before = latest.get(machine, -math.inf)
            if start < before:
                crowded.add(machine)
            if end > before:
                latest[machine] = end
    return crowded
