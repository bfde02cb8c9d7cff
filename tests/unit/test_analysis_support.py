"""Claimed against measured: which runs are compared, and when a speed-up is called full, limited or none."""

from __future__ import annotations

from typing import Any

import pytest

from hpcpar.analysis.judging.fits import fits, sheet
from hpcpar.analysis.judging.intervals import Estimate
from hpcpar.analysis.judging.support import supports, verdict
from hpcpar.analysis.rows.reduce import Row


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (1.5, 2.1, "full"),
        (1.49, 2.1, "unclear"),
        (1.01, 1.49, "limited"),
        (1.01, 1.05, "none"),
        (0.4, 1.09, "none"),
        (0.9, 1.2, "unclear"),
        (None, None, "one run"),
    ],
)
def test_a_verdict_is_drawn_from_the_interval(low: float | None, high: float | None, expected: str) -> None:
    assert verdict(Estimate(1.0, low, high), 2) == expected


def _row(workers: int, time_s: float, **changes: Any) -> Row:
    return Row(
        **{
            "study": "s",
            "run": f"{workers}-{time_s}",
            "cluster": "local",
            "workload": "estimator",
            "workload_options": '{"estimator":"SVC"}',
            "strategy": "threads",
            "strategy_options": f'{{"workers":{workers}}}',
            "cpus_per_rank": 2,
            "state": "done",
            "claim": "none",
            "step_time_s": time_s,
            **changes,
        }
    )


def test_runs_of_several_workers_stand_against_those_of_one() -> None:
    rows = [_row(1, 2.0), _row(1, 2.02), _row(2, 1.0), _row(0, 1.01)]
    (found,) = supports(rows)
    assert (found.estimator, found.claim, found.strategy, found.workers) == ("SVC", "none", "threads", 2)
    assert found.runs == 2, "0 workers are as many as the rank has CPUs"
    assert found.speedup.value == pytest.approx((2.0 * 2.02 / 1.0 / 1.01) ** 0.5)
    assert found.verdict == "full"


def test_workers_of_a_driver_count_over_nodes() -> None:
    driven = {"strategy": "joblib-dask", "strategy_options": "{}", "cpus_per_rank": 1}
    rows = [
        _row(0, time_s, ranks=ranks, nodes=ranks, **driven)
        for ranks, time_s in ((1, 2.0), (1, 2.02), (4, 0.55), (4, 0.552))
    ]
    (found,) = supports(rows)
    assert (found.workers, found.verdict) == (4, "full")


def test_what_a_fit_takes_stands_beside_its_score() -> None:
    spent = {"fit_s": 0.5, "use_s": 0.25, "threads": 2, "peak_memory_bytes": 2**30, "samples_per_s": 1000.0}
    rows = [_row(2, 0.75, loss_last=0.1, **spent), _row(2, 0.75, **{**spent, "fit_s": 0.7}, loss_last=0.3)]
    (found,) = fits([*rows, _row(2, 0.75, claim="")])
    assert (found.workers, found.threads, found.runs, found.use_s) == (2, 2, 2, 0.25)
    assert (found.fit_s, found.score) == (pytest.approx(0.6), pytest.approx(0.8))
    page = sheet(fits([*rows, _row(1, 0.75, oversubscribed=True)]))
    cells = dict(zip(page.heads, page.rows[0], strict=True))
    assert (cells["fit (ms)"], cells["use (ms)"], cells["score"], cells["memory"]) == (
        "600.0",
        "250.0",
        "0.8000",
        "1.0 GiB",
    )
    assert page.rows[1][-1] == "oversubscribed"
    assert page.rows[1][page.heads.index("fit (ms)")] == "-", "nobody measured it"


def test_disturbed_runs_get_no_verdict_and_strangers_are_not_compared() -> None:
    assert supports([_row(1, 2.0), _row(2, 1.0, global_batch=7)]) == ()
    assert supports([_row(1, 2.0), _row(2, 1.0, state="failed")]) == ()
    assert supports([_row(1, 2.0, claim=""), _row(2, 1.0, claim="")]) == ()
    (found,) = supports([_row(1, 2.0), _row(1, 2.0), _row(2, 1.0), _row(2, 1.0, oversubscribed=True)])
    assert found.verdict == "disturbed"
