"""What stands below a plan's table: who overtakes whom, what batches are worth, what is left of an allocation."""

from __future__ import annotations

import datetime
import sys

import msgspec
import pytest

from hpcpar import assets
from hpcpar.cli import main
from hpcpar.control.forecast import allocation, spend
from hpcpar.control.forecast import forecast as forecasts
from hpcpar.control.forecast.ask import Shapes
from hpcpar.control.forecast.attach import attach
from hpcpar.control.forecast.batches import eaten, worth
from hpcpar.control.forecast.clock import Time
from hpcpar.control.forecast.fastest import fastest
from hpcpar.control.forecast.forecast import Row
from hpcpar.control.forecast.price import Price
from hpcpar.control.plan import make_plan
from hpcpar.decode import decode, read_toml
from hpcpar.errors import HpcparError, InputError
from hpcpar.profile import Allocation, ClusterProfile
from hpcpar.shapes import Answer, Line, Model, Pass, UnitShape
from hpcpar.spec import Study
from hpcpar.units import parse_memory


def row(strategy: str, nodes: int, step_s: float, *, band: float = 1.1, batch: int = 64, **more) -> Row:
    time = Time(expected=step_s, low=step_s / band, high=step_s * band, naive=step_s, shares={})
    return Row(
        strategy=strategy, mesh="", nodes=nodes, ranks=nodes, micro_batch=1, grad_accum=1, global_batch=batch,
        options={}, key=f"{strategy}{nodes}", fits=more.pop("fits", "yes"), reason="", time=time,
        worst=Price(node_hours=1.0, units=None), limit_s=60.0, **more,
    )  # fmt: skip


def test_who_is_fastest_changes_with_the_size() -> None:
    rows = [row("ddp", 1, 1.0), row("fsdp", 1, 2.0), row("ddp", 2, 0.6), row("fsdp", 2, 1.0),
            row("ddp", 4, 0.55), row("fsdp", 4, 0.5)]  # fmt: skip
    found = fastest(rows)
    assert [(one.strategy, one.nodes, one.sure) for one in found] == [("ddp", (1, 2), True), ("fsdp", (4,), False)]


def test_what_does_not_fit_or_learns_otherwise_is_not_the_fastest() -> None:
    rows = [row("ddp", 1, 1.0, fits="no"), row("localsgd", 1, 0.5, learns_otherwise="late"), row("fsdp", 1, 2.0)]
    assert [one.strategy for one in fastest(rows)] == ["fsdp"]


def test_a_batch_is_worth_its_samples_a_second_over_the_samples_it_needs() -> None:
    # Weak scaling: twice the nodes, twice the batch, the same step; a critical batch of 64.
    rows = [row("ddp", nodes, 1.0, batch=64 * nodes) for nodes in (1, 2, 4)]
    found = worth(rows, 64.0)
    assert [one.faster for one in found] == [1.0, 2.0, 4.0]
    assert [one.samples for one in found] == [1.0, pytest.approx(3 / 2), pytest.approx(5 / 2)]
    assert eaten(found) is None
    # The third size is as slow as twice the second: its batch eats all that it gains.
    late = worth([*rows[:2], row("ddp", 4, 1.7, batch=256)], 64.0)
    assert eaten(late) == late[2]
    assert late[2].sooner < late[1].sooner


# ---------------------------------------------------------------- the allocation


def profile(name: str, **own) -> ClusterProfile:
    path = assets.find("clusters", name)
    made = decode(ClusterProfile, read_toml(path), str(path))
    return msgspec.structs.replace(made, allocation=Allocation(**own))


def test_the_last_day_counts_to_its_end() -> None:
    noon = datetime.datetime(2027, 3, 30, 12).timestamp()
    assert allocation.time_left(profile("lumi", ends="2027-03-31"), noon) == 36 * 3600
    assert allocation.time_left(profile("lumi"), noon) is None


def test_the_balance_is_the_last_number_that_the_command_prints() -> None:
    words = (sys.executable, "-c", "print('project p1'); print('left: 12,345.5 hours')")
    assert allocation.ask_balance(profile("lumi", balance=words)).units == 12345.5


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "has no command that says the balance"),
        ((sys.executable, "-c", "import sys; sys.exit('no such project')"), "no such project"),
        ((sys.executable, "-c", "print('unlimited')"), "it printed no number"),
        (("no-such-command-here",), "No such file or directory"),
    ],
)
def test_a_balance_that_cannot_be_known_is_said(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(HpcparError, match=said):
        allocation.ask_balance(profile("lumi", balance=words))


UNIT = UnitShape(
    parameters=2**24, whole=2**24, largest=2**20, input=Line(0, 100), output=Line(0, 100), kept=Line(0, 1e6),
    keeps_input=True, keeps_output=False, forward=Pass(peak=(Line(0, 1e6),), flops=Line(0, 1e12), traffic=Line(0, 0),
    operators=10), backward=Pass(peak=(Line(0, 1e6),), flops=Line(0, 2e12), traffic=Line(0, 0), operators=10),
    backward_again=(Line(0, 1e6),),
)  # fmt: skip
MODEL = Model(kinds=(UNIT,), order=(0,) * 8, loss=msgspec.structs.replace(UNIT, parameters=0, whole=0))


@pytest.fixture
def shapes(monkeypatch):
    def ask(workload, options, cases, *, trace=True):
        return Shapes(models=dict.fromkeys(cases, MODEL), answer=Answer(models=(MODEL,), moments=8))

    monkeypatch.setattr(forecasts, "ask", ask)


def study(**more) -> Study:
    return Study(workload="llama-tiny", global_batch=64, account="a", **more)


def test_what_cannot_end_before_the_allocation_does_says_so(shapes) -> None:
    where = profile("perlmutter", ends="2027-03-31")
    last_minute = datetime.datetime(2027, 3, 31, 23, 59).timestamp()
    asked = study(strategies=("fsdp",), nodes=(1,), steps=100_000)
    (late,) = forecasts.forecast(asked, where, "flags", now=last_minute).rows
    assert late.too_late
    assert late.reason.startswith("cannot end before the allocation does (2027-03-31)")
    (early,) = forecasts.forecast(asked, where, "flags", now=last_minute - 1e8).rows
    assert not early.too_late


def test_longer_than_the_queue_allows_is_several_jobs(shapes) -> None:
    asked = study(strategies=("single",), nodes=(1,), ranks_per_node=1, steps=10_000_000, qos="debug")
    (found,) = forecasts.forecast(asked, profile("perlmutter"), "flags").rows
    assert found.jobs == -(-found.run_s // found.limit_s)
    assert f"{found.jobs} jobs, with checkpoints" in found.reason


def test_the_worst_case_of_several_jobs_is_that_of_all_of_them(shapes) -> None:
    where = profile("perlmutter")
    asked = study(strategies=("fsdp",), nodes=(4,), steps=100_000, time="5m")
    found = forecasts.forecast(asked, where, "flags")
    (row,) = found.rows
    assert row.jobs > 1
    assert row.worst.node_hours == pytest.approx(row.jobs * 4 * 5 / 60)
    assert row.worst.node_hours >= row.price.node_hours
    with pytest.raises(InputError, match="is exceeded"):
        spend.check_budget(found, [], where, row.price.node_hours)


def test_submit_asks_for_the_memory_that_nobody_gave(shapes) -> None:
    where = profile("slurm-test")
    asked = study(strategies=("ddp",), nodes=(2,))
    made = attach(make_plan(asked, where, "flags"), asked, where, "flags", studies=[], force=False)
    (run,) = made.runs
    needed = run.spec.prediction["memory_bytes"]
    assert parse_memory(run.resources.memory) >= 2 * needed
    assert run.spec.prediction["memory_request"] == run.resources.memory
    given = msgspec.structs.replace(asked, memory="9GiB")
    kept = attach(make_plan(given, where, "flags"), given, where, "flags", studies=[], force=False)
    assert kept.runs[0].resources.memory == "9GiB"
    assert "memory_request" not in kept.runs[0].spec.prediction


def test_the_worst_case_of_a_submission_is_asked_or_refused() -> None:
    where = profile("lumi", ask_above=5.0)
    runs = make_plan(study(nodes=(2,), time="30m", repeats=3), where, "flags").runs
    worst = spend.at_worst(runs, where)
    assert (worst.node_hours, worst.units) == (3.0, 12.0)
    assert spend.to_ask(worst, where) == "this may cost 12.00 GPU-hours, more than 5"
    assert not spend.to_ask(worst, profile("lumi", ask_above=12.0))
    spend.refuse_above(worst, 12.0, [], where)
    with pytest.raises(InputError, match=r"12.00 at worst for this = 12.00 GPU-hours"):
        spend.refuse_above(worst, 11.9, [], where)


def test_nobody_to_ask_is_a_refusal(tmp_path, capsys, monkeypatch) -> None:
    text = assets.find("clusters", "local").read_text().replace('name = "local"', 'name = "dear"')
    own = tmp_path / "dear.toml"
    own.write_text(text + "\n[allocation]\nask_above = 0.1\n")
    words = ["submit", "--cluster", str(own), "--workload", "mlp", "--runs", str(tmp_path / "runs"), "--no-gate"]
    assert main(words) == 2
    assert "this may cost 0.50 node-hours, more than 0.1" in capsys.readouterr().err
    assert not list((tmp_path / "runs").glob("*/*/spec.json"))


def test_a_budget_is_said_by_doctor_and_dry_run_as_well(capsys, monkeypatch) -> None:
    monkeypatch.setattr("hpcpar.control.gate.OFFLINE", ())
    flags = ["--cluster", "local", "--workload", "mlp", "--nodes", "2", "--time", "1h"]
    assert main(["doctor", *flags, "--budget", "1"]) == 1
    assert "2.00 at worst for this = 2.00 node-hours" in capsys.readouterr().out
    assert main(["doctor", *flags, "--budget", "2"]) == 0
    assert "the worst case is within --budget 2" in capsys.readouterr().out
    assert main(["submit", *flags, "--budget", "1", "--dry-run"]) == 0
    assert "warning: --budget 1: is exceeded" in capsys.readouterr().err
    assert main(["submit", *flags, "--budget", "1"]) == 2
