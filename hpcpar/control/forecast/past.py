"""What the finished runs of this cluster say: how long a step took for the work that it was, and how long a start."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar.control.forecast.ask import ask
from hpcpar.control.forecast.clock import Clock, Seen, calibrated
from hpcpar.control.forecast.layout import Layout, host_cpus, layout_of
from hpcpar.control.forecast.work import Work, work
from hpcpar.profile import ClusterProfile
from hpcpar.runs import RunFolder, StudyFolder
from hpcpar.shapes import Case
from hpcpar.spec import RunSpec

MOST_RUNS = 300
"""More finished runs make no rate surer, and each costs a look."""


class Past(Struct, frozen=True, kw_only=True):
    """Finished cells by precision, and the start of a run in seconds (None: no run says)."""

    seen: dict[str, tuple[Seen, ...]]
    start_s: float | None = None
    notes: tuple[str, ...] = ()

    def calibrate(self, clock: Clock, precision: str) -> Clock:
        """Return the clock after these runs."""
        return calibrated(clock, self.seen.get(precision, ()))


def step_time_of(run: RunFolder, spec: RunSpec) -> float | None:
    """Return the mean time of the steps of a finished run after its warm-up, in seconds; None where there is none."""
    record = run.record()
    if record is None or record.whole_program:
        return None
    times = {step.step: step.time_s for step in run.steps(record.attempt).records}
    kept = [time for number, time in times.items() if number > spec.warmup_steps]
    return statistics.fmean(kept) if kept else None


def look_back(studies: Iterable[StudyFolder], profile: ClusterProfile, node_type: str, *, trace: bool) -> Past:
    """Read the finished runs of one kind of node."""
    gpu, cpus = profile.node_types[node_type].gpus_per_node > 0, host_cpus(profile)
    cells: dict[str, list[tuple[RunSpec, float]]] = defaultdict(list)
    starts = []
    for run in _newest(studies):
        spec = run.spec()
        if spec is None or (spec.identity.cluster, spec.identity.node_type) != (profile.name, node_type):
            continue
        time_s, record = step_time_of(run, spec), run.record()
        if time_s and record is not None:
            cells[_cell(spec)].append((spec, time_s))
            starts.append(record.ended - record.started - record.phases.get("train", 0.0))
    chosen = cells.values()
    seen: dict[str, list[Seen]] = defaultdict(list)
    for runs in chosen:
        spec = runs[0][0]
        layout = layout_of(spec.identity, gpu, cpus)
        done = _work(spec, layout, trace=trace) if isinstance(layout, Layout) else None
        if done is not None and isinstance(layout, Layout):
            mean = statistics.geometric_mean([time_s for _, time_s in runs])
            one = Seen(work=done, ranks=spec.identity.world_size, time_s=mean, runs=len(runs))
            seen[layout.case.precision].append(one)
    found = {precision: tuple(several) for precision, several in seen.items()}
    return Past(seen=found, start_s=statistics.median(starts) if starts else None)


def _newest(studies: Iterable[StudyFolder]) -> list[RunFolder]:
    """Return the runs that finished last."""
    finished = []
    for study in studies:
        for run in study.runs():
            try:
                finished.append((run.record_path.stat().st_mtime, run.path.name, run))
            except OSError:
                continue
    return [run for _, _, run in sorted(finished, key=lambda one: one[:2])[-MOST_RUNS:]]


def _cell(spec: RunSpec) -> str:
    return msgspec.structs.replace(spec.identity, repeat=1, seed=0).key()


def _work(spec: RunSpec, layout: Layout, *, trace: bool) -> Work | None:
    """Return what a run had to do: as its own prediction says, else traced anew."""
    noted: Any = spec.prediction.get("work")
    if noted is not None:
        try:
            return msgspec.convert(noted, Work)
        except msgspec.ValidationError:
            return None
    useful = Case(precision=layout.case.precision, capacity=layout.case.capacity, gpu=layout.gpu)
    cases: Sequence[Case] = (layout.case, useful)
    shapes = ask(spec.workload_file or spec.identity.workload, spec.identity.workload_options, cases, trace=trace)
    if isinstance(shapes, str):
        return None
    model, plain = shapes.models[layout.case], shapes.models[useful]
    if isinstance(model, str) or isinstance(plain, str):
        return None
    return work(model, plain, layout, shapes.answer)
