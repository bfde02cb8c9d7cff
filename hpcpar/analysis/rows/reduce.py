"""A run folder to one row. Whatever is in the folder, there is a row: what is damaged is counted, never dropped."""

from __future__ import annotations

import functools
import math
import re
from typing import Any

import msgspec

from hpcpar.analysis.rows import billing, diagnosed, usage
from hpcpar.analysis.rows.attempts import goodput, read_history
from hpcpar.analysis.rows.row import MISSING, UNREADABLE, Row
from hpcpar.analysis.rows.window import Window, measure
from hpcpar.outcome import Outcome, decide, result_of
from hpcpar.records import LONGEST_S, Cause, RunRecord
from hpcpar.runs import RunFolder, Snapshot
from hpcpar.spec import SCHEMA, UNDECLARED, RunSpec
from hpcpar.storage import in_utf8
from hpcpar.units import compress_nodes

__all__ = ["MISSING", "UNREADABLE", "Row"]  # of another module, and found here by whoever reduces runs

_LARGEST = 10**12
"""Sizes beyond this are damaged numbers; it also keeps every later product inside a float."""
_MOST = _LARGEST * 1000
"""And bytes, CPUs or threads of a rank beyond this."""
_ATTEMPT = re.compile(r"[A-Za-z0-9._-]{1,100}", re.ASCII)


def reduce_run(folder: RunFolder, warmup_steps: int | None = None, target_loss: float | None = None) -> Row:
    """Reduce a run folder to its row; never raises for what is in the files.

    Args:
        folder: the run's folder.
        warmup_steps: cut this many steps instead of what the run's spec says.
        target_loss: the loss whose first reaching is looked for.
    """
    if not isinstance(folder, Snapshot):
        folder = Snapshot(folder.path)
    spec = folder.spec()
    wrong = _what_is_wrong(folder, spec)
    if spec is None or wrong:
        study, run = in_utf8(folder.path.parent.name), in_utf8(folder.path.name)
        return Row(study=study, run=run, state=UNREADABLE, message=wrong)
    outcome = decide(folder)
    result = result_of(folder)
    record = result.record
    attempt = _attempt(record, outcome)
    names = [name for name in folder.attempts() if _ATTEMPT.fullmatch(name)]
    history = read_history(folder, attempt, record, names, losses=record is None or target_loss is not None)
    identity, whole = spec.identity, _is_whole(record)
    reached = record.steps if record is not None and record.cause == Cause.OK else 0
    planned = identity.steps if spec.declares_steps and not whole else max(1, reached)
    warmup = spec.warmup_steps if warmup_steps is None else warmup_steps
    if whole or not spec.declares_steps:  # nobody could know how many there would be
        warmup = min(warmup, planned // 2)
    window = measure(
        history.steps,
        planned=planned,
        warmup=warmup,
        reached=reached,
        rejected_lines=history.rejected_lines,
        target_loss=target_loss,
        begins=history.begins,
        until_steady=spec.until_steady and warmup_steps is None and not whole,
        sound=history.sound,
    )
    damaged = int(bool(result.wrong))
    submission_lines = folder.submission_lines().rejected
    timed = _timed(spec, window, whole=whole)
    return Row(
        **_planned(spec, warmup),
        pair=_pair(spec, record),
        **_ended(outcome, record, result.wrong, window),
        **timed,
        **_places(record),
        **usage.columns(record, spec, window, timed["samples_per_s"]),
        **diagnosed.columns(record.diagnosis if record is not None else None, spec.identity.global_batch),
        **billing.columns(folder, spec, record, names),
        phases=history.phases,
        attempt=attempt,
        rejected_lines=outcome.rejected + history.rejected_lines + submission_lines + damaged,
        loss_last=record.loss_last if record is not None else window.loss_last,
        **_evaluated(record),
        whole_program=whole,
        loss_diverged=record is not None and record.loss_first is not None and record.loss_last is None,
        notes=_notes(spec, record, outcome, window),
        replayed_steps=history.replayed_steps,
        **goodput(window, history.wall_s, whole=whole),
    )


def _what_is_wrong(folder: RunFolder, spec: RunSpec | None) -> str:
    if spec is None:
        return "spec.json is damaged" if folder.spec_path.exists() else "spec.json is missing"
    identity = spec.identity
    sizes = {
        "nodes": identity.nodes,
        "ranks_per_node": identity.ranks_per_node,
        "ranks": identity.world_size,
        "global_batch": identity.global_batch,
        "steps": identity.steps,
        "repeat": identity.repeat,
        "cpus_per_rank": identity.cpus_per_rank,
        "micro_batch": identity.micro_batch,
        "grad_accum": identity.grad_accum,
        "tokens_per_sample": 1 if spec.tokens_per_sample is None else spec.tokens_per_sample,
    }
    impossible = [f"{name} {size}" for name, size in sizes.items() if not 1 <= size <= _LARGEST]
    from_zero = {
        "seed": identity.seed,
        "warmup_steps": spec.warmup_steps,
        "gpus_per_node": spec.gpus_per_node,
    }
    impossible += [f"{name} {size}" for name, size in from_zero.items() if not 0 <= size <= _LARGEST]
    return f"spec.json has impossible sizes: {', '.join(impossible)}" if impossible else ""


def _attempt(record: RunRecord | None, outcome: Outcome) -> str:
    attempt = record.attempt if record is not None else outcome.attempt
    return attempt if _ATTEMPT.fullmatch(attempt) else ""  # it becomes a part of a file name


def _planned(spec: RunSpec, warmup: int) -> dict[str, Any]:
    identity = spec.identity
    return {
        "study": spec.study,
        "run": spec.run_name,
        "key": spec.key,
        "cluster": identity.cluster,
        "node_type": identity.node_type,
        "workload": identity.workload,
        "workload_options": _canonical(identity.workload_options),
        "strategy": identity.strategy,
        "strategy_options": _canonical(identity.strategy_options),
        "mesh": identity.mesh.label(),
        "scaling": spec.scaling,
        "nodes": identity.nodes,
        "ranks": identity.world_size,
        "ranks_per_node": identity.ranks_per_node,
        "cpus_per_rank": identity.cpus_per_rank,
        "gpus_per_node": spec.gpus_per_node,
        "repeat": identity.repeat,
        "seed": identity.seed,
        "global_batch": identity.global_batch,
        "micro_batch": identity.micro_batch,
        "grad_accum": identity.grad_accum,
        "sample_unit": spec.sample_unit,
        "steps_planned": identity.steps,
        "warmup_steps": warmup,
        "quick": spec.quick,
        "uses_cpu": spec.uses_cpu,
        "code": spec.code,
        "order": spec.order,
        **_predicted(spec.prediction),
    }


def _predicted(noted: dict[str, Any]) -> dict[str, Any]:
    """Return what the plan expected; what is no positive number is left out, as the file may be damaged."""
    step = noted.get("step_s")
    step = step if isinstance(step, dict) else {}
    found = {
        "predicted_step_s": step.get("expected"),
        "predicted_naive_s": step.get("naive"),
        "predicted_bytes": noted.get("memory_bytes"),
    }
    return {
        name: value
        for name, value in found.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _LARGEST
    }


def _canonical(options: dict[str, Any]) -> str:
    return msgspec.json.encode(options, order="deterministic").decode()


def _pair(spec: RunSpec, record: RunRecord | None) -> str:
    """Return the word that runs share which were on the same nodes: one that was sent again alone shares it with none.

    All runs of the local queue are on this machine.
    """
    if not spec.pair or record is None or record.attempt.startswith("local-"):
        return spec.pair
    return f"{spec.pair} {record.attempt}"


def _ended(outcome: Outcome, record: RunRecord | None, record_note: str, window: Window) -> dict[str, Any]:
    """Return state, cause and message; a foreign or damaged record never counts as a result."""
    state, cause = outcome.state, outcome.cause.value if outcome.cause else ""
    if state == "done" and record is None:  # of a newer version, which the message says
        state, cause = UNREADABLE, ""
    possible = not _is_impossible(outcome)
    words = [outcome.message, "" if record_note in outcome.message else record_note]
    if record is not None and state == "failed" and not outcome.message:
        words += record.notes
    if state in ("done", "running"):
        words.append(window.reason)
    return {
        "state": state,
        "cause": cause,
        "message": "; ".join(filter(None, words)),
        "attempts": outcome.num_attempts,
        "too_few_steps": bool(window.reason) and (outcome.num_attempts > 0 or state == "done"),
        "started": outcome.started if possible else None,
        "ended": outcome.ended if possible else None,
    }


def _is_impossible(outcome: Outcome) -> bool:
    return outcome.started is not None and outcome.ended is not None and outcome.wall_s is None


def _is_whole(record: RunRecord | None) -> bool:
    return record is not None and record.whole_program


def _timed(spec: RunSpec, window: Window, *, whole: bool) -> dict[str, Any]:
    updates = spec.identity.steps if whole else 1  # in one of the times
    known = window.mean_s is not None and spec.scaling != UNDECLARED and (spec.declares_steps or not whole)
    rate = spec.identity.global_batch * updates / window.mean_s if known and window.mean_s else None
    tokens, ranks = spec.tokens_per_sample, spec.identity.world_size
    return {
        "steps_measured": window.steps_measured,
        "steps_used": window.steps_used,
        "warmup_cut": window.warmup_cut if window.steps_measured else None,
        "not_steady": window.not_steady,
        "step_time_s": window.mean_s,
        "step_time_p50_s": window.p50_s,
        "step_time_trend": window.trend,
        "time_to_target_s": window.reached.time_s if window.reached else None,
        "samples_to_target": float(window.reached.step * spec.identity.global_batch) if window.reached else None,
        "data_wait_s": window.data_wait_s,
        "samples_per_s": rate,
        "tokens_per_s": rate * tokens if rate is not None and tokens is not None else None,
        "samples_per_s_per_rank": rate / ranks if rate is not None else None,
        "tokens_per_s_per_rank": rate * tokens / ranks if rate is not None and tokens is not None else None,
        "data_wait_share": _share(window.data_wait_s, window.mean_s),
        "rejected_steps": window.rejected_steps,
        "duplicate_steps": window.duplicate_steps,
        "skipped_updates": window.skipped_updates,
    }


def _share(wait_s: float | None, step_s: float | None) -> float | None:
    """Return the share of the time between two steps' begins that a rank waits for its samples."""
    return None if wait_s is None or step_s is None else wait_s / (wait_s + step_s)


def _evaluated(record: RunRecord | None) -> dict[str, Any]:
    """Return what the trained model made of samples that it had never seen."""
    found = record.evaluation if record is not None else None
    if found is None:
        return {}
    return {"evaluation_loss": found.loss, "metric": found.metric, "metric_value": found.value}


def _places(record: RunRecord | None) -> dict[str, Any]:
    """Return where it ran and what it used there; peaks are the largest over ranks."""
    if record is None:
        return {}
    ranks = record.ranks
    memory, on_device = [fact.peak_memory_bytes for fact in ranks], [fact.peak_device_bytes for fact in ranks]
    return {
        "oversubscribed": record.oversubscribed,
        "hosts": _compressed(tuple([fact.host for fact in ranks])),
        "machines": tuple(sorted({fact.boot_id for fact in ranks if fact.boot_id})),
        "usable_cpus": _largest([fact.usable_cpus for fact in ranks]),
        "peak_memory_bytes": _largest(memory),
        "peak_device_bytes": _largest(on_device),
        "claim": claim if isinstance(claim := record.facts.get("claim"), str) else "",
        "fit_s": _seconds(record.facts.get("fit_s")),
        "use_s": _seconds(record.facts.get("use_s")),
        "threads": _threads(record),
        "sum_memory_bytes": _sum(memory),
        "sum_device_bytes": _sum(on_device),
        "devices": " ".join(sorted({fact.device for fact in ranks})),
        "data": _canonical(record.data),
        "versions": _canonical(record.versions),
    }


def _seconds(value: Any) -> float | None:
    return value if isinstance(value, float) and _possible(value) else None


def _threads(record: RunRecord) -> int | None:
    """Return the threads that work: of fits as their trainer says, else of all ranks."""
    spread = [record.facts.get(name) for name in ("workers", "native_threads")]
    each = [value for value in spread if isinstance(value, int) and 0 < value <= _LARGEST]
    return math.prod(each) if len(each) == 2 else _sum([rank.threads for rank in record.ranks])


@functools.lru_cache(maxsize=4096)
def _compressed(hosts: tuple[str, ...]) -> str:
    """Compress the names of nodes; runs of a study were on the same few sets of them."""
    return compress_nodes(hosts)


def _largest(values: list[int]) -> int | None:
    """Return the largest possible value; what no machine has is damage, and no number."""
    return max([value for value in values if 0 <= value <= _MOST], default=None)


def _sum(values: list[int]) -> int | None:
    """Return the sum over ranks, or None where one of them, or all together, is no possible value."""
    possible = values and min(values) >= 0 and max(values) <= _MOST
    return sum(values) if possible and sum(values) <= _LARGEST * 10**6 else None


def _possible(seconds: float) -> bool:
    return 0 <= seconds <= LONGEST_S


def _notes(spec: RunSpec, record: RunRecord | None, outcome: Outcome, window: Window) -> tuple[str, ...]:
    notes = [] if record is None else list(record.notes)
    if spec.schema > SCHEMA or (record is not None and record.schema > SCHEMA):
        notes.append("written by a newer hpcpar: fields unknown to this one were left out")
    if record is not None and usage.without_peak(record, spec):
        notes.append(usage.without_peak(record, spec))
    if record is not None and record.lineage:
        resumed = ", ".join(str(span.first) for span in record.lineage[1:])
        notes.append(f"went on from a checkpoint before step {resumed}")
    if _is_impossible(outcome):
        notes.append("its times were left out: a clock was set while it ran, or they are damaged")
    lost = [] if record is None else [name for name, seconds in record.phases.items() if not _possible(seconds)]
    if lost:
        notes.append(f"impossible seconds of the phases {', '.join(lost)} were left out")
    if window.skipped_updates:
        notes.append(f"{window.skipped_updates} updates of the window were skipped")
    return tuple(notes)
