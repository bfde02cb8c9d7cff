"""What a run used, from its record: memory by what it holds, processors, energy, and the share of the peak."""

from __future__ import annotations

import math
import statistics
from typing import Any

from hpcpar.analysis.rows.window import Window
from hpcpar.devices import peak_flops
from hpcpar.records import RankFacts, RunRecord
from hpcpar.schedules import SCHEDULES, bubble
from hpcpar.spec import RunSpec

HELD = ("parameters", "gradients", "optimizer", "buffers", "activations")
CONVENTIONS = {"mfu": "palm", "mfu_with_embedding": "with-embedding", "mfu_causal": "causal"}
"""Column -> convention of counting (worker/workloads/flops.py)."""
_LARGEST = 1e15
"""Numbers beyond this are damage."""


def columns(record: RunRecord | None, spec: RunSpec, window: Window, samples_per_s: float | None) -> dict[str, Any]:
    """Return what a run used where it ran, and how evenly."""
    if record is None:
        return {}
    slowest = next((rank.host for rank in record.ranks if rank.rank == window.slowest), "")
    return {
        "load_balance": window.load_balance,
        "slowest_host": slowest if len(record.ranks) > 1 else "",
        "pipeline_bubble": pipeline_bubble(spec),
        **used(record),
        **shares_of_peak(record, spec, samples_per_s),
    }


def pipeline_bubble(spec: RunSpec) -> float | None:
    """Return the bubble that the formula of its schedule gives; None without a pipeline, or without a formula."""
    identity, options = spec.identity, spec.identity.strategy_options
    name = options.get("schedule", "1f1b")
    if identity.mesh.pp < 2 or not isinstance(name, str) or name not in SCHEDULES:
        return None
    stages = options.get("virtual_stages") or SCHEDULES[name].stages_per_rank
    if not isinstance(stages, int) or stages < 1:
        return None
    found = bubble(name, identity.mesh.pp, identity.grad_accum, stages)
    return None if found.is_bound else found.share


def used(record: RunRecord) -> dict[str, Any]:
    """Return the columns about memory, the fabric, processors and energy; what is not known is not in it."""
    ranks = record.ranks
    found: dict[str, Any] = {"peak_reserved_bytes": _most([rank.peak_reserved_bytes for rank in ranks])}
    holding = [rank.held_bytes for rank in ranks if rank.held_bytes]
    for what in HELD if holding else ():
        found[f"memory_{what}_bytes"] = _most([held[what] for held in holding if what in held])
    if record.fabric is not None and 0 < record.fabric.bus_bytes_per_s < _LARGEST:
        found["fabric_bus_bytes_per_s"] = record.fabric.bus_bytes_per_s
        found["fabric_transports"] = " ".join(record.fabric.transports)
    found["cpu_utilisation"] = _cpu_utilisation(ranks)
    clocks = [rank.clock_mhz for rank in ranks if rank.clock_mhz is not None]
    found["clock_mhz"] = min([mhz for mhz in clocks if 0 < mhz < _LARGEST], default=None)
    shares = [rank.device_utilisation for rank in ranks if rank.device_utilisation is not None]
    possible = len(shares) == len(ranks) and all(0 <= share <= 1 for share in shares)
    found["device_utilisation"] = statistics.fmean(shares) if shares and possible else None
    wall_s = max([rank.train_wall_s for rank in ranks if rank.train_wall_s], default=0.0)
    for whose, energy_j in (("device", _device_energy_j(ranks)), ("machine", _machine_energy_j(ranks))):
        found[f"{whose}_energy_j"] = energy_j
        found[f"{whose}_power_w"] = energy_j / wall_s if energy_j is not None and wall_s > 0 else None
    found["processors"] = "; ".join(sorted({rank.processor for rank in ranks if rank.processor}))
    found["device_names"] = "; ".join(sorted({rank.device_name for rank in ranks if rank.device_name}))
    return found


def shares_of_peak(record: RunRecord, spec: RunSpec, samples_per_s: float | None) -> dict[str, float]:
    """Return the model's operations a second, and MFU by convention where the peak of every device is known."""
    if samples_per_s is None:
        return {}
    rates = {name: flops * samples_per_s for name, flops in record.model_flops.items() if 0 < flops < _LARGEST**2}
    if not rates:
        return {}
    found = {"model_flops_per_s": rates["palm"]} if "palm" in rates else {}
    precision = spec.identity.strategy_options.get("precision", "fp32")
    peaks = [peak_flops(rank.device_name, str(precision)) for rank in record.ranks]
    known = [peak for peak in peaks if peak is not None]
    if not known or len(known) < spec.identity.world_size:
        return found
    return found | {column: rates[name] / sum(known) for column, name in CONVENTIONS.items() if name in rates}


def without_peak(record: RunRecord, spec: RunSpec) -> str:
    """Say why there is no MFU where one might be expected; "" on processors, and where there is one."""
    if not record.model_flops:
        return ""
    precision = str(spec.identity.strategy_options.get("precision", "fp32"))
    names = {rank.device_name for rank in record.ranks if rank.device_name}
    unknown = sorted(name for name in names if peak_flops(name, precision) is None)
    if not unknown:
        return ""
    return f"no MFU: the {precision} peak of {' and '.join(unknown)} is not in the table"


def _cpu_utilisation(ranks: list[RankFacts]) -> float | None:
    """Return processor seconds over wall seconds times the CPUs that were asked for, over all ranks."""
    known = [(rank.train_cpu_s, rank.train_wall_s * rank.cpus_asked) for rank in ranks if rank.train_wall_s]
    if len(known) < len(ranks) or any(cpu_s is None for cpu_s, _ in known):
        return None
    share = math.fsum(cpu_s or 0.0 for cpu_s, _ in known) / max(1e-9, math.fsum(wall_s for _, wall_s in known))
    return share if 0 <= share < _LARGEST else None


def _device_energy_j(ranks: list[RankFacts]) -> float | None:
    return _sum([rank.device_energy_j for rank in ranks])


def _machine_energy_j(ranks: list[RankFacts]) -> float | None:
    """Add up machines, each once: every rank on one has read the same counters."""
    machines: dict[str, float | None] = {rank.boot_id: rank.machine_energy_j for rank in ranks}
    return _sum(list(machines.values()))


def _sum(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None and 0 <= value < _LARGEST]
    return math.fsum(known) if known and len(known) == len(values) else None


def _most(values: list[int]) -> int | None:
    return max([value for value in values if 0 <= value <= _LARGEST], default=None)
