"""What sacct says that jobs used: parsed, added up, noted once, and set beside what the runs measured."""

import json
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from records_oracle import Oracle, Truth
from stub_slurm import StubSlurm

import hpcpar
from hpcpar import records
from hpcpar.analysis.rows.reduce import reduce_run
from hpcpar.cli import main
from hpcpar.control.accounting import LONG_AGO_S, usage
from hpcpar.control.slurm import parse_usage
from hpcpar.records import Event
from hpcpar.spec import Accounting, Submission

# An array of two nodes whose task 1 was requeued once, as sacct --duplicates prints it.
SACCT = """\
7_0|COMPLETED|100|2||5000
7_0.batch|COMPLETED|100|1|1912K|4000
7_0.extern|COMPLETED|100|2|0|5000
7_0.0|COMPLETED|90|2|1.5G|3000
7_1|NODE_FAIL|40|2||
7_1.batch|CANCELLED|40|1|2048K|
7_1|COMPLETED|60|2||
7_1.0|COMPLETED|55|2|1M|
"""


def of(job_id, text=SACCT):
    return usage([row for row in parse_usage(text) if row.job_id == job_id])


def test_a_job_is_its_starts_and_not_its_steps():
    assert of("7_0") == Accounting(
        state="COMPLETED", elapsed_s=100, node_s=200, nodes=2, peak_memory_bytes=1536 * 1024**2, energy_j=5000
    )


def test_a_requeued_job_is_billed_for_every_start():
    found = of("7_1")
    assert (found.state, found.elapsed_s, found.node_s) == ("COMPLETED", 100, 200)
    assert found.peak_memory_bytes == 2048 * 1024
    assert found.energy_j is None


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "REQUEUED", "COMPLETING"])
def test_a_job_that_is_not_over_is_not_accounted(state):
    assert of("7_1", SACCT + f"7_1|{state}|5|2||\n") is None


def test_a_job_that_sacct_does_not_know_is_not_accounted():
    assert of("8") is None


@given(st.text(alphabet="7_.0|ABCK-\n\u0663", max_size=200))
def test_what_sacct_prints_is_never_an_exception(text):
    for row in parse_usage(text):
        assert row.elapsed_s >= 0
        usage([row])


# ---------------------------------------------------------------- into the run folders


@pytest.fixture
def slurm(commands, tmp_path, monkeypatch):
    monkeypatch.setenv("HPCPAR_STATE", str(tmp_path / "state"))
    return StubSlurm(commands, tmp_path)


def accounted(run):
    return [line.accounting for line in run.submissions() if line.kind == "accounted"]


def job(run):
    return run.submissions()[0].job_id


def test_collect_notes_once_what_is_final(slurm):
    runs = slurm.submit(repeats=2)
    slurm.accounting.write_text(f"{job(runs[0])}|FAILED|30|2||\n{job(runs[1])}|RUNNING|30|2||\n")

    main(["collect", str(slurm.runs)])

    assert accounted(runs[0]) == [Accounting(state="FAILED", elapsed_s=30, node_s=60, nodes=2)]
    assert accounted(runs[1]) == []
    slurm.accounting.write_text(f"{job(runs[1])}|TIMEOUT|70|2||\n")
    main(["collect", str(slurm.runs)])
    main(["collect", str(slurm.runs)])
    assert [len(accounted(run)) for run in runs] == [1, 1]


def test_where_nothing_is_open_nobody_asks(slurm):
    runs = slurm.submit(repeats=2)
    slurm.accounting.write_text("".join(f"{job(run)}|FAILED|30|2||\n" for run in runs))
    main(["collect", str(slurm.runs)])
    slurm.forget_calls()

    main(["collect", str(slurm.runs)])

    asked = (slurm.place / "calls").read_text()  # `reconcile` may have a question of its own
    assert "--duplicates" not in asked


def test_what_accounting_has_forgotten_is_not_asked_for_for_ever(slurm, monkeypatch):
    runs = slurm.submit(repeats=1)
    main(["collect", str(slurm.runs)])
    assert accounted(runs[0]) == []
    true = time.time
    monkeypatch.setattr(time, "time", lambda: true() + LONG_AGO_S + 60)

    main(["collect", str(slurm.runs)])

    assert accounted(runs[0]) == [Accounting(state="")]
    assert reduce_run(runs[0]).billed_node_h is None


def test_a_site_without_accounting_is_no_trouble(slurm, capsys):
    runs = slurm.submit(repeats=1)
    records.append(
        runs[0].events_path(f"{job(runs[0])}.0"), Event(time=runs[0].submissions()[0].time + 1, kind="start")
    )
    slurm.commands.write("sacct", "echo 'Slurm accounting storage is disabled' >&2; exit 1")

    main(["collect", str(slurm.runs), "--format", "md"])

    assert "Billed: not known." in capsys.readouterr().out
    assert accounted(runs[0]) == []


# ---------------------------------------------------------------- into rows and tables

TRUTH = Oracle(truths={"ddp": Truth(0.01, 0.002)}, nodes=(1, 2), repeats=2, steps=20)


def bill(run, accounting, *, unit=None, each=None, gpus=0):
    spec = run.spec()
    billing = {"unit": unit, "units_per_node_hour": each} if unit else {}
    run.write_spec(msgspec.structs.replace(spec, billing=billing, gpus_per_node=gpus))
    job_id = run.submissions()[0].job_id
    line = Submission(kind="accounted", time=1.0, batch="b", scheduler="slurm", job_id=job_id, accounting=accounting)
    records.append(run.submission_path, line)


def test_measured_and_billed_stand_side_by_side(tmp_path):
    runs = TRUTH.write(tmp_path)
    used = Accounting(state="COMPLETED", elapsed_s=180, node_s=180, nodes=1, peak_memory_bytes=10**9, energy_j=3.6e6)
    bill(runs[0], used, unit="GPU-hours", each=4, gpus=8)

    row = reduce_run(runs[0])

    assert row.measured_node_h == pytest.approx(100 / 3600)  # the record's started to ended
    assert row.billed_node_h == pytest.approx(180 / 3600)
    assert row.billed_device_h == pytest.approx(8 * 180 / 3600)
    assert (row.billed_units, row.billing_unit) == (pytest.approx(4 * 180 / 3600), "GPU-hours")
    assert (row.accounted_state, row.accounted_peak_bytes, row.accounted_energy_j) == ("COMPLETED", 10**9, 3.6e6)


def test_a_run_with_a_job_that_accounting_does_not_know_has_no_bill(tmp_path):
    run = TRUTH.write(tmp_path)[0]
    bill(run, Accounting(state="COMPLETED", elapsed_s=180, node_s=180, nodes=1))
    records.append(run.submission_path, Submission(time=2.0, batch="b", scheduler="slurm", job_id="99"))

    row = reduce_run(run)

    assert row.billed_node_h is None
    assert row.accounted_state == ""


@pytest.mark.parametrize("harm", [{"elapsed_s": -1.0}, {"node_s": 1e300}, {"nodes": -2}, {"energy_j": -5.0}])
def test_a_damaged_account_is_no_bill(tmp_path, harm):
    run = TRUTH.write(tmp_path)[0]
    bill(run, Accounting(**{"state": "COMPLETED", "elapsed_s": 1.0, "node_s": 1.0, "nodes": 1, **harm}))

    assert reduce_run(run).billed_node_h is None


def test_the_cost_table_adds_up_and_says_what_is_not_known(tmp_path):
    runs = TRUTH.write(tmp_path)
    for run in (one for one in runs if one.spec().identity.nodes == 2):
        bill(run, Accounting(state="COMPLETED", elapsed_s=150, node_s=300, nodes=2), unit="node-hours", each=1)

    results = hpcpar.collect(tmp_path)

    one, two = results.costed
    assert (one.nodes, one.runs_accounted, one.billed_node_h) == (1, 0, None)
    assert (two.runs, two.runs_accounted) == (2, 2)
    assert two.measured_node_h == pytest.approx(2 * 2 * 100 / 3600)
    assert two.billed_node_h == pytest.approx(2 * 300 / 3600)
    assert two.billed_over_measured == pytest.approx(1.5)
    text = results.to_markdown()
    assert "Of 2 runs it is not known." in text
    assert "not known" in text[text.index("## Cost") :]
    assert json.loads(results.to_json())["cost"][1]["billed_node_h"] == pytest.approx(two.billed_node_h)
    assert list(results.cost["billed_node_h"].isna()) == [True, False]


def test_hours_of_runs_without_a_result_are_told(tmp_path):
    from dataclasses import replace

    from hpcpar.records import Cause

    replace(TRUTH, failures={("ddp", 2, 1): Cause.OOM_HOST}).write(tmp_path)

    (_, two) = hpcpar.collect(tmp_path).costed

    assert two.runs_without_result == 1
    assert two.lost_node_h is not None
    assert two.lost_node_h < two.measured_node_h
