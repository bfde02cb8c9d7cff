"""How long a step takes: work over rates that are known with a certain doubt. Pure.

Every rate is a log-normal number: what is most likely, and how far off that may be. What finished runs say makes the
doubt smaller (calibrate.py). A prediction has a band that holds 95 % of what the doubts allow.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from msgspec import Struct

from hpcpar.control.forecast.work import Link, Work

Z95 = 1.96
MODEL_DOUBT = 0.1
"""Standard deviation of the logarithm of what the formula leaves out altogether (stragglers, data)."""


class Rate(Struct, frozen=True, kw_only=True):
    """One number that the time of a step depends on."""

    value: float
    doubt: float
    """Standard deviation of its natural logarithm before any run was looked at; 0.69 is a factor of 2 (4 at 95 %)."""
    source: str


class Clock(Struct, frozen=True, kw_only=True):
    """All rates of one kind of node, and how they are doubted together."""

    rates: dict[str, Rate]
    covariance: tuple[tuple[float, ...], ...]
    """Of the logarithms of the rates, in their order."""
    naive: float
    """Seconds that one rank takes for a useful operation where efficiency is constant."""
    runs: int = 0
    """Finished cells that it was calibrated with."""


class Time(Struct, frozen=True, kw_only=True):
    """A predicted step time, in seconds."""

    expected: float
    low: float
    high: float
    """The band holds 95 % of what is possible as far as the doubts of the rates go."""
    naive: float
    """The same with constant efficiency: useful operations over ranks and rate, and nothing else."""
    shares: dict[str, float]
    """What the expected time is made of."""


def first_clock(rates: dict[str, Rate], naive: float | None = None) -> Clock:
    """Return the clock of a machine on which nothing has been measured.

    Args:
        rates: what is known before.
        naive: seconds of a rank for a useful operation; not given: those of a matrix product.
    """
    covariance = tuple(
        tuple(rate.doubt**2 if i == j else 0.0 for j in range(len(rates))) for i, rate in enumerate(rates.values())
    )
    return Clock(rates=rates, covariance=covariance, naive=naive or rates["s_per_flop"].value)


def step_time(work: Work, clock: Clock, ranks: int) -> Time:
    """Predict a step of a run of `ranks` ranks."""
    values = {name: rate.value for name, rate in clock.rates.items()}
    parts = parts_of(work, values)
    expected = sum(parts.values())
    slopes = [slope(work, values, name) for name in values]
    variance = (
        sum(a * b * clock.covariance[i][j] for i, a in enumerate(slopes) for j, b in enumerate(slopes)) + MODEL_DOUBT**2
    )
    factor = math.exp(Z95 * math.sqrt(max(0.0, variance)))
    return Time(
        expected=expected,
        low=expected / factor,
        high=expected * factor,
        naive=work.useful_flops / ranks * clock.naive * work.sharing,
        shares={name: part / expected if expected else 0.0 for name, part in parts.items()},
    )


def seconds(work: Work, values: Mapping[str, float]) -> float:
    """Return the time of a step with these rates."""
    return sum(parts_of(work, values).values())


def parts_of(work: Work, values: Mapping[str, float]) -> dict[str, float]:
    """Return what a step is made of, which is added up.

    Of the messages that replicas and shards send while they compute, a share stands out. What a rank of a pipeline
    passes on is waited for by the one that receives it.
    """
    compute = work.flops * values["s_per_flop"] + work.attention * values["s_per_attention"]
    memory = work.traffic * values["s_per_byte"]
    operators = work.operators * values["s_per_operator"]
    sent, waits = {}, {}
    for where, link, behind, passed in (
        ("inside", work.inside, work.behind_inside, work.passed_inside),
        ("outside", work.outside, work.behind_outside, work.passed_outside),
    ):
        waits[where] = _sent(Link(calls=passed.calls), where, values)
        copied = _sent(Link(wire_bytes=passed.wire_bytes), where, values)
        sent[where] = _sent(link, where, values) + values["exposed"] * _sent(behind, where, values) + copied
    busy, sending = compute + memory + operators, sum(sent.values())
    # While a rank waits, those that share its processors go on: waiting costs what is left of it then.
    waiting = max(0.0, busy / (1 - work.bubble) + sum(waits.values()) - busy - (busy + sending) * (work.sharing - 1))
    for_messages = min(waiting, sum(waits.values()))
    late = {where: for_messages * each / sum(waits.values()) if each else 0.0 for where, each in waits.items()}
    parts = {"compute": compute, "memory traffic": memory, "operators": operators}
    parts = {name: part * work.sharing for name, part in parts.items()}
    parts |= {
        name: sent[where] * work.sharing + late[where]
        for name, where in (("inside nodes", "inside"), ("between nodes", "outside"))
    }
    return {**parts, "bubble": waiting - for_messages}


def _sent(link: Link, where: str, values: Mapping[str, float]) -> float:
    return link.calls * values[f"s_per_call_{where}"] + link.wire_bytes * values[f"s_per_wire_{where}"]


def slope(work: Work, values: Mapping[str, float], name: str) -> float:
    """Return d log(time) / d log(rate): the share of the time that a rate is responsible for."""
    whole = seconds(work, values)
    return (whole - seconds(work, {**values, name: 0.0})) / whole if whole else 0.0


Rates = dict[str, Rate]
Links = tuple[float | None, float | None]


def cpu_rates(cpus: int, links: Links = (None, None)) -> Rates:
    """Return what is known of a rank on so many CPUs that nobody has measured: little. `links` as for `gpu_rates`."""
    unknown = "assumed: between slow and fast CPUs of the last ten years"
    return {
        "s_per_flop": Rate(value=1 / (30e9 * cpus), doubt=0.8, source=unknown),
        "s_per_attention": Rate(value=1 / (15e9 * cpus), doubt=0.8, source=unknown),
        "s_per_byte": Rate(value=1 / 10e9, doubt=0.8, source=unknown),
        "s_per_operator": Rate(value=10e-6, doubt=0.7, source="assumed: torch calls an operator in 3 to 40 us"),
        "exposed": Rate(value=1.0, doubt=0.3, source="assumed: the CPUs that compute also send"),
        **_links(links, gpu=False),
    }


MATRICES = {"bf16": (0.8, 0.2), "fp32": (0.75, 0.25)}
"""Share of the peak that matrix products reach, and its doubt. bf16: rounded, after fits to published runs
(docs/plan.md); fp32: assumed, nobody publishes such runs."""
USUAL = {"bf16": 0.4, "fp32": 0.6}
"""Share of the peak that whole steps usually reach: what the naive estimate goes by before any run has finished. bf16:
33 to 50 % of H100s and 41 to 68 % of A100s are published (docs/plan.md); fp32: assumed."""
ATTENTION = 0.25
"""The same of fused attention; same source."""
GPU_BYTES = 3e12
"""Bytes a second that operators read and write; same source."""
GPU_OPERATOR = 4e-6
"""Seconds that a call of an operator takes where the GPU waits for it; same source."""
EXPOSED = 0.15
"""Share of the time on links that stands out where something is computed meanwhile; same source."""
LINKED = 0.7
"""Share of a link's peak that collectives reach (assumed)."""
CPU_LINKS, GPU_LINKS = (2e9, 1e9), (100e9, 15e9)
"""Bytes a second of a rank inside its node and between nodes, where the profile does not say (assumed)."""
_CALL = {False: 100e-6, True: 20e-6}


def gpu_rates(peaks: Mapping[str, float], precision: str, source: str, links: Links = (None, None)) -> Rates | None:
    """Return what is known of a device with a published peak; None where its peak is not known: nothing is guessed.

    Args:
        peaks: dense operations a second, by precision.
        precision: that of the run.
        source: who says so.
        links: peak bytes a second of a rank, one way, inside its node and between nodes; None: unknown.
    """
    precision = "bf16" if precision == "fp8" else precision
    if precision not in peaks:
        return None
    peak, (share, doubt) = peaks[precision], MATRICES[precision]
    said = f"{share:.0%} of {peak / 1e12:g} TFLOP/s ({source})"
    others = "assumed, in sight of published runs (docs/plan.md)"
    return {
        "s_per_flop": Rate(value=1 / (peak * share), doubt=doubt, source=said),
        "s_per_attention": Rate(value=1 / (peak * ATTENTION), doubt=0.4, source=others),
        "s_per_byte": Rate(value=1 / GPU_BYTES, doubt=0.5, source=others),
        "s_per_operator": Rate(value=GPU_OPERATOR, doubt=0.7, source=others),
        "exposed": Rate(value=EXPOSED, doubt=0.7, source=others),
        **_links(links, gpu=True),
    }


def _links(peaks: Links, *, gpu: bool) -> Rates:
    rates: Rates = {}
    for where, peak, usual in zip(("inside", "outside"), peaks, GPU_LINKS if gpu else CPU_LINKS, strict=True):
        known = peak is not None
        source = f"{LINKED:.0%} of {peak / 1e9:g} GB/s (the profile)" if peak else "assumed: the profile has no speed"
        call = _CALL[gpu] * (2 if where == "outside" else 1)
        rates[f"s_per_call_{where}"] = Rate(value=call, doubt=0.7, source="assumed")
        value = 1 / (peak * LINKED if peak is not None else usual)
        rates[f"s_per_wire_{where}"] = Rate(value=value, doubt=0.35 if known else 0.8, source=source)
    return rates


class Seen(Struct, frozen=True, kw_only=True):
    """A finished cell: what it had to do, and how long a step took."""

    work: Work
    ranks: int
    time_s: float
    runs: int = 1


NOISE = 0.05
"""Standard deviation of the logarithm of a measured time, where one machine is used alone."""


def calibrated(clock: Clock, seen: Sequence[Seen]) -> Clock:
    """Return the clock after finished runs have been looked at.

    The most likely rates, given what was thought before (log-normal) and what was measured (log-normal); the doubt is
    what the curvature there leaves (Laplace's approximation; MacKay 2003, chapter 27).
    """
    if not seen:
        return clock
    from scipy import linalg, optimize  # 0.3 s: only where there are runs

    names = [name for name, rate in clock.rates.items() if rate.value > 0]
    before = [math.log(clock.rates[name].value) for name in names]
    doubts = [max(clock.rates[name].doubt, 1e-3) for name in names]
    fixed = {name: rate.value for name, rate in clock.rates.items() if name not in names}

    def misfit(logs: Sequence[float]) -> list[float]:
        values = {**fixed, **{name: math.exp(log) for name, log in zip(names, logs, strict=True)}}
        measured = [math.log(seconds(one.work, values) / one.time_s) / NOISE for one in seen]
        return measured + [(log - old) / doubt for log, old, doubt in zip(logs, before, doubts, strict=True)]

    fit = optimize.least_squares(misfit, before)
    covariance = linalg.inv(fit.jac.T @ fit.jac).tolist()
    source = f"fitted to {len(seen)} finished cell{'s' * (len(seen) > 1)} of this cluster"
    found = dict(zip(names, (math.exp(log) for log in fit.x.tolist()), strict=True))
    places = {name: place for place, name in enumerate(names)}
    rates = {
        name: Rate(value=found.get(name, rate.value), doubt=rate.doubt, source=source if name in found else rate.source)
        for name, rate in clock.rates.items()
    }
    both = tuple(
        tuple(covariance[places[a]][places[b]] if a in places and b in places else 0.0 for b in rates) for a in rates
    )
    return Clock(rates=rates, covariance=both, naive=_naive(seen) or clock.naive, runs=len(seen))


def _naive(seen: Sequence[Seen]) -> float | None:
    """Return the seconds of a rank for a useful operation; None where no cell has any (models without a product)."""
    each = [
        one.time_s * one.ranks / (one.work.useful_flops * one.work.sharing) for one in seen if one.work.useful_flops > 0
    ]
    return statistics.geometric_mean(each) if each else None
