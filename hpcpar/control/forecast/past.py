"""What the finished runs of this cluster say: how long a step took for the work that it was, and how long a start."""

from __future__ import annotations

import contextlib
import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar import workload_files
from hpcpar.control.forecast import clock as step_clock
from hpcpar.control.forecast.ask import ask
from hpcpar.control.forecast.clock import Clock, Seen, calibrated
from hpcpar.control.forecast.layout import Layout, host_cpus, layout_of, pace
from hpcpar.control.forecast.times import Taken, taken
from hpcpar.control.forecast.work import Work, work
from hpcpar.errors import HpcparError
from hpcpar.profile import ClusterProfile
from hpcpar.runs import RunFolder, StudyFolder, state_folder
from hpcpar.shapes import Case
from hpcpar.spec import RunSpec
from hpcpar.storage import make_folder, write_file

SCHEMA = 2
"""Of what a run's spec.json says was expected; 1 counted attention among the other operations."""


class Past(Struct, frozen=True, kw_only=True):
    """Finished cells by the pace of their ranks, and the start of a run in seconds (None: no run says)."""

    seen: dict[str, tuple[Seen, ...]]
    start_s: float | None = None
    notes: tuple[str, ...] = ()

    def calibrate(self, clock: Clock, kind: str) -> Clock:
        """Return the clock after the runs of one pace (layout.py); what was fitted once is kept."""
        seen = self.seen.get(kind, ())
        if not seen:
            return clock
        code = Path(step_clock.__file__).stat().st_mtime_ns
        words = hashlib.sha256(msgspec.json.encode([code, clock, seen], order="deterministic"))
        place = state_folder() / "clocks" / f"{words.hexdigest()[:24]}.json"
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return msgspec.json.decode(place.read_bytes(), type=Clock)
        fitted = calibrated(clock, seen)
        with contextlib.suppress(OSError, HpcparError):  # a full or read-only home: the next plan fits again
            make_folder(place.parent)
            write_file(place, msgspec.json.encode(fitted))
        return fitted


def look_back(studies: Iterable[StudyFolder], profile: ClusterProfile, node_type: str, *, trace: bool) -> Past:
    """Read the finished runs of one kind of node."""
    gpu, cpus = profile.node_types[node_type].gpus_per_node > 0, host_cpus(profile)
    cells: dict[str, list[tuple[RunFolder, Taken]]] = defaultdict(list)
    for run, one in taken(studies, profile.name, node_type):
        cells[one.cell].append((run, one))
    seen: dict[str, list[Seen]] = defaultdict(list)
    for runs in cells.values():
        spec = runs[0][0].spec()
        if spec is None:
            continue
        layout = layout_of(spec.identity, gpu, cpus)
        done = _work(spec, layout, trace=trace) if isinstance(layout, Layout) else None
        if done is not None and isinstance(layout, Layout):
            mean = statistics.geometric_mean([one.step_s for _, one in runs if one.step_s])
            cell = Seen(work=done, ranks=spec.identity.world_size, time_s=mean, runs=len(runs))
            seen[pace(layout, spec.identity)].append(cell)
    found = {kind: tuple(several) for kind, several in seen.items()}
    starts = [one.start_s for runs in cells.values() for _, one in runs]
    return Past(seen=found, start_s=statistics.median(starts) if starts else None)


def _work(spec: RunSpec, layout: Layout, *, trace: bool) -> Work | None:
    """Return what a run had to do: as its own prediction says, else traced anew, but for a workload of a file."""
    noted: Any = spec.prediction.get("work")
    if noted is not None and spec.prediction.get("schema") == SCHEMA:
        try:
            return msgspec.convert(noted, Work)
        except msgspec.ValidationError:
            return None
    if spec.workload_file or workload_files.split(spec.identity.workload):
        return None  # whoever made the folder could name any file: it is not run to look at its shapes
    useful = Case(precision=layout.case.precision, capacity=layout.case.capacity, gpu=layout.gpu)
    cases: Sequence[Case] = (layout.case, useful)
    shapes = ask(spec.identity.workload, spec.identity.workload_options, cases, trace=trace)
    if isinstance(shapes, str):
        return None
    model, plain = shapes.models[layout.case], shapes.models[useful]
    if isinstance(model, str) or isinstance(plain, str):
        return None
    return work(model, plain, layout, shapes.answer)
