"""Find run folders, reduce each one, and give back rows in an order that does not depend on where they were found."""

from __future__ import annotations

import bisect
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import msgspec

from hpcpar import records
from hpcpar.analysis.reduce import MISSING, UNREADABLE, Row, reduce_run
from hpcpar.analysis.series import name_variants
from hpcpar.errors import InputError, Problem
from hpcpar.runs import BatchLine, RunFolder, StudyFolder, find_studies

PARALLEL_FROM = 500
"""Runs from which starting processes costs less than it saves."""


class Gathered(NamedTuple):
    """All rows, sorted, and what was noticed on the way."""

    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def gather(paths: Sequence[Path], warmup_steps: int | None = None, target_loss: float | None = None) -> Gathered:
    """Read every run below the paths: runs folders, study folders, or run folders (which stand for their study).

    Raises:
        InputError: a path is not a folder, or nothing of hpcpar is in any of them.
    """
    studies = _studies(paths)
    folders = [folder for study in studies for folder in [*study.runs(), *_without_spec(study)]]
    rows = _reduce_all(folders, partial(reduce_run, warmup_steps=warmup_steps, target_loss=target_loss))
    notes: list[str] = []
    for study in studies:
        missing, damaged = _missing(study)
        rows += missing
        notes += damaged
    if not rows:
        raise InputError(
            Problem(", ".join(map(str, paths)), "there is no run in it", "name a runs folder or a study's folder")
        )
    unique, copies = _without_copies(rows)
    return Gathered(tuple(sorted(name_variants(_mark_shared(unique)), key=sort_key)), tuple(sorted({*notes, *copies})))


def sort_key(row: Row) -> tuple[object, ...]:
    """Return what rows are ordered by: the plan first, so that tables read well, then the run's name."""
    return (
        row.study,
        row.cluster,
        row.node_type,
        row.workload,
        row.workload_options,
        row.scaling,
        row.ranks_per_node,
        row.cpus_per_rank,
        row.strategy,
        row.strategy_options,
        row.nodes,
        row.repeat,
        row.run,
    )


def _studies(paths: Sequence[Path]) -> list[StudyFolder]:
    if not paths:
        raise InputError(Problem("collect", "nothing to read", "name a runs folder or a study's folder"))
    found: dict[Path, StudyFolder] = {}
    for path in paths:
        for study in find_studies(path):
            resolved = study.path.resolve()  # the same study may be named twice, by itself and by the folder above it
            found.setdefault(resolved, StudyFolder(resolved))
    return [found[path] for path in sorted(found)]


def _without_spec(study: StudyFolder) -> Iterator[RunFolder]:
    """Yield folders that a run wrote into and that lost their spec.json."""
    with os.scandir(study.path) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    for name in names:
        folder = study.run(name)
        leftovers = (folder.record_path, folder.submission_path)
        if not folder.spec_path.exists() and (any(path.exists() for path in leftovers) or folder.attempts()):
            yield folder


def _missing(study: StudyFolder) -> tuple[list[Row], list[str]]:
    """Return a row for every run that a batch names and that has no folder; and notes on damaged manifests."""
    rows: dict[str, Row] = {}
    notes = []
    for batch in study.batches():
        reading = records.read_lines(batch.manifest_path, BatchLine)
        if reading.rejected:
            notes.append(
                f"study {study.name}: {reading.rejected} lines of batch {batch.key}'s manifest could not be read"
            )
        for name in (line.run for line in reading.records if line.kind == "run" and line.run):
            if "\0" not in name and not study.run(name).path.is_dir():
                message = f"batch {batch.key} names it, but its folder is gone"
                rows[name] = Row(study=study.name, run=name, state=MISSING, message=message)
    return list(rows.values()), notes


def _reduce_all(folders: Sequence[RunFolder], reduce: Callable[[RunFolder], Row]) -> list[Row]:
    workers = _workers()
    if len(folders) < PARALLEL_FROM or workers < 2:
        return [reduce(folder) for folder in folders]
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
            return list(pool.map(reduce, folders, chunksize=64))
    except (
        BrokenProcessPool
    ):  # processes cannot be had here (limits, or a caller without a main guard): slower, the same rows
        return [reduce(folder) for folder in folders]


def _workers() -> int:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 16)


def _without_copies(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Count a run that was found twice (a copied folder) once: twice would pretend evidence that is not there."""
    by_run: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_run[row.study, row.run].append(row)
    notes = [
        f"study {study}: run {run} was found in {len(found)} folders and counts once"
        for (study, run), found in by_run.items()
        if len(found) > 1
    ]
    return [max(found, key=_worth) for found in by_run.values()], notes


def _worth(row: Row) -> tuple[object, ...]:
    """Order copies by how much they tell; the encoded row breaks ties, so that the choice depends on content alone."""
    return (row.usable, row.state not in (MISSING, UNREADABLE), row.ended or 0.0, msgspec.json.encode(row))


def _mark_shared(rows: Sequence[Row]) -> list[Row]:
    """Count, for each run that uses CPUs, the other runs on one of its machines at the same time."""
    starts: dict[str, list[float]] = defaultdict(list)
    ends: dict[str, list[float]] = defaultdict(list)
    busy: list[tuple[Row, float, float]] = []
    for row in rows:
        if row.uses_cpu and row.started is not None and row.ended is not None:
            busy.append((row, row.started, row.ended))
            for machine in row.machines:
                starts[machine].append(row.started)
                ends[machine].append(row.ended)
    for times in (*starts.values(), *ends.values()):
        times.sort()
    others: Counter[tuple[str, str]] = Counter()
    for row, started, ended in busy:
        for machine in row.machines:
            begun = bisect.bisect_left(starts[machine], ended)
            gone = bisect.bisect_right(ends[machine], started)
            others[row.study, row.run] = max(others[row.study, row.run], begun - gone - 1)
    return [
        msgspec.structs.replace(row, shared_with=count) if (count := others[row.study, row.run]) > 0 else row
        for row in rows
    ]
