"""How long finished runs took: read once each, kept in the state folder, and bounded however many runs there are."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from hpcpar.errors import HpcparError
from hpcpar.runs import RunFolder, StudyFolder, state_folder
from hpcpar.spec import RunSpec
from hpcpar.storage import make_folder, write_file

MOST_RUNS = 300
"""More finished runs make no rate surer, and each costs a look."""
MOST_LOOKED = 1000
"""Runs of other clusters are looked at in vain: the newest so many, whatever their cluster."""
_FOLDER = "times"


class Taken(Struct, frozen=True, kw_only=True):
    """What a finished run took."""

    stamp: int
    """When its result was written, in nanoseconds: another result has another one."""
    cluster: str
    node_type: str
    cell: str
    """The same for runs that differ in repeat and seed only."""
    step_s: float | None
    """Mean of the steps after its warm-up; None where there is none."""
    start_s: float = 0.0
    """What it did beside training."""


def taken(studies: Iterable[StudyFolder], cluster: str, node_type: str) -> list[tuple[RunFolder, Taken]]:
    """Return the newest finished runs of one kind of node, with what they took."""
    folders = list(studies)
    if not folders:
        return []
    place = _place(folders[0].path.parent)
    kept = _kept(place)
    found: list[tuple[RunFolder, Taken]] = []
    seen: dict[str, Taken] = {}
    for stamp, run in _newest(folders):
        name = str(run.path)
        one = kept.get(name)
        if one is None or one.stamp != stamp:
            one = _look(run, stamp)
        seen[name] = one
        if one.step_s and (one.cluster, one.node_type) == (cluster, node_type):
            found.append((run, one))
        if len(found) == MOST_RUNS:
            break
    if seen.items() - kept.items():
        _keep(place, {**kept, **seen})
    return found


def _newest(studies: Iterable[StudyFolder]) -> Iterator[tuple[int, RunFolder]]:
    """Yield the runs whose results are the newest, the newest first."""
    finished = []
    for study in studies:
        for run in study.runs():
            try:
                finished.append((os.stat(f"{run.path}/record.json").st_mtime_ns, run))  # noqa: PTH116
            except OSError:
                continue
    finished.sort(key=lambda one: (one[0], one[1].path.name), reverse=True)
    yield from finished[:MOST_LOOKED]


def _look(run: RunFolder, stamp: int) -> Taken:
    spec, record = run.spec(), run.record()
    if spec is None or record is None:
        return Taken(stamp=stamp, cluster="", node_type="", cell="", step_s=None)
    return Taken(
        stamp=stamp,
        cluster=spec.identity.cluster,
        node_type=spec.identity.node_type,
        cell=msgspec.structs.replace(spec.identity, repeat=1, seed=0).key(),
        step_s=step_time_of(run, spec),
        start_s=max(0.0, (record.wall_s or 0.0) - record.phases.get("train", 0.0)),
    )


def step_time_of(run: RunFolder, spec: RunSpec) -> float | None:
    """Return the mean time of the steps of a finished run after its warm-up, in seconds; None where there is none."""
    record = run.record()
    if record is None or record.whole_program:
        return None
    times = {step.step: step.time_s for step in run.steps(record.attempt).records}
    kept = [time for number, time in times.items() if number > spec.warmup_steps]
    return statistics.fmean(kept) if kept else None


def _place(root: Path) -> Path:
    return state_folder() / _FOLDER / f"{hashlib.sha256(str(root).encode()).hexdigest()[:16]}.json"


def _kept(place: Path) -> dict[str, Taken]:
    try:
        return msgspec.json.decode(place.read_bytes(), type=dict[str, Taken])
    except (OSError, msgspec.DecodeError):
        return {}


def _keep(place: Path, all_of_them: dict[str, Taken]) -> None:
    newest = sorted(all_of_them.items(), key=lambda pair: pair[1].stamp)[-2 * MOST_LOOKED :]
    try:
        make_folder(place.parent)
        write_file(place, msgspec.json.encode(dict(newest)))
    except (OSError, HpcparError):  # a full or read-only home: the next plan reads them again
        return
