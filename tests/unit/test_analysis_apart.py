"""What takes a run apart: efficiency factors, pipelines, memory, failures by cause."""

import math
from dataclasses import replace
from itertools import pairwise

import msgspec
import pytest
from records_oracle import Oracle, Truth, change_record

import hpcpar
from hpcpar.analysis.figures import bars, pipeline
from hpcpar.analysis.figures.style import render
from hpcpar.analysis.scaling.pipelines import axis
from hpcpar.analysis.scaling.timeline import order, timeline
from hpcpar.records import Cause, Diagnosis
from hpcpar.schedules import bubble

DDP = Oracle(truths={"ddp": Truth(0.01, 0.002)}, nodes=(1, 2, 4), repeats=2, steps=30)
PIPE = Oracle(
    truths={"pp": Truth(0.01, 0.002)},
    nodes=(1, 2, 4),
    repeats=2,
    steps=30,
    ranks_per_node=1,
    options={"pp": {"mesh": "pp=-1", "schedule": "1f1b"}},
)


def page(results, head):
    text = results.to_markdown()
    begin = text.index(f"## {head}")
    return text[begin : text.find("\n## ", begin)]


def with_micro_batches(runs, m):
    for run in runs:
        spec = run.spec()
        identity = msgspec.structs.replace(spec.identity, grad_accum=m, micro_batch=spec.identity.global_batch // m)
        run.write_spec(msgspec.structs.replace(spec, identity=identity))


# ---------------------------------------------------------------- efficiency factors


def test_factors_multiply_to_the_efficiency(tmp_path):
    PIPE.write(tmp_path)
    results = hpcpar.collect(tmp_path)
    cells = {cell.nodes: cell for table in results.tables for cell in table.cells}

    assert [one.nodes for one in results.factored] == [2, 4]
    for one in results.factored:
        known = [one.data, one.balance, one.pipeline, one.communication, one.rest]
        assert math.prod(f for f in known if f is not None) == pytest.approx(one.efficiency, rel=1e-12)
        assert one.efficiency == pytest.approx(cells[one.nodes].efficiency.value, rel=1e-9)  # nobody waited for data


def test_waits_for_data_are_a_factor_of_their_own(tmp_path):
    waits = {1: 0.0, 2: 0.05}
    for nodes, wait_s in waits.items():
        for repeat in (1, 2):
            run = DDP.write_run(tmp_path, "ddp", nodes, repeat)
            path = run.steps_path(run.attempts()[0])
            lines = [msgspec.json.decode(line) | {"data_s": wait_s} for line in path.read_bytes().splitlines()]
            path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))

    (one,) = hpcpar.collect(tmp_path).factored

    step_s = {nodes: DDP.step_time_s("ddp", nodes) for nodes in waits}
    assert one.data == pytest.approx(step_s[2] / (step_s[2] + 0.05), rel=1e-9)
    assert one.efficiency == pytest.approx(step_s[1] / 2 / (step_s[2] + 0.05), rel=1e-9)
    assert one.rest == pytest.approx(step_s[1] / 2 / step_s[2], rel=1e-9)  # the oracle's ranks are all as even


def test_communication_that_was_measured_is_a_factor_of_its_own(tmp_path):
    exposed = {1: 0.0, 2: 0.2}
    for nodes, share in exposed.items():
        for repeat in (1, 2):
            run = DDP.write_run(tmp_path, "ddp", nodes, repeat)
            exposed_s = share * DDP.step_time_s("ddp", nodes)
            seconds = {"wall_s": 1.0, "communication_s": exposed_s, "exposed_s": exposed_s, "compute_s": 0.5}
            change_record(run, diagnosis=Diagnosis(after_step=30, profiled_steps=5, **seconds))
    results = hpcpar.collect(tmp_path)

    (one,) = results.factored

    assert one.communication == pytest.approx(0.8)
    assert one.rest == pytest.approx(one.efficiency / 0.8)
    assert "exposed communication" in page(results, "Efficiency factors")


def test_a_baseline_has_no_factors_and_a_failed_size_neither(tmp_path):
    replace(DDP, failures={("ddp", 4, r): Cause.OOM_HOST for r in (1, 2)}).write(tmp_path)

    assert [one.nodes for one in hpcpar.collect(tmp_path).factored] == [2]


# ---------------------------------------------------------------- pipelines


def test_bubbles_are_those_of_the_formula(tmp_path):
    with_micro_batches(PIPE.write(tmp_path), 8)

    two, four = hpcpar.collect(tmp_path).pipelined

    assert (two.ranks, two.micro_batches, two.share) == (2, 8, pytest.approx(1 / 9))
    assert (four.ranks, four.share) == (4, pytest.approx(3 / 11))
    assert (two.micro_batches_for_tenth, four.micro_batches_for_tenth) == (9, 27)
    assert bubble("1f1b", 4, 27, 1).share == pytest.approx(0.1)


@pytest.mark.parametrize("options", [{"schedule": "unheard-of"}, {"schedule": ["1f1b"]}, {"virtual_stages": "two"}])
def test_options_that_make_no_sense_stop_nothing(tmp_path, options):
    oracle = replace(PIPE, options={"pp": {"mesh": "pp=-1", **options}})
    oracle.write(tmp_path)

    found = hpcpar.collect(tmp_path).pipelined

    assert [one.nodes for one in found] == ([2, 4] if "virtual_stages" in options else [])


def test_a_schedule_without_a_formula_has_no_number(tmp_path):
    replace(PIPE, options={"pp": {"mesh": "pp=-1", "schedule": "zbv"}}).write(tmp_path)
    results = hpcpar.collect(tmp_path)

    assert {one.share for one in results.pipelined} == {None}
    assert "no formula" in page(results, "Pipelines")
    assert pipeline.why_not(results.tables[0]) == "no pipeline has an order that can be drawn"


def test_an_axis_is_read_out_of_a_label():
    assert [axis("pp=2 dp_replicate=4", name) for name in ("pp", "dp_replicate", "tp")] == [2, 4, 1]
    assert axis("1", "pp") == 1


@pytest.mark.parametrize("name", ["gpipe", "1f1b", "looped-bfs", "interleaved-1f1b"])
@pytest.mark.parametrize(("p", "m"), [(2, 4), (4, 8), (4, 4)])
def test_what_is_drawn_has_the_formulas_bubble(name, p, m):
    v = 2 if name in ("looped-bfs", "interleaved-1f1b") else 1
    orders = order(name, p, m, v)

    passes = timeline(orders, v)

    assert len(passes) == 2 * p * m * v
    end = max(one.end for one in passes)
    assert 1 - 3 * m / end == pytest.approx(bubble(name, p, m, v).share)
    for rank in range(p):  # nobody does two things at a time
        mine = sorted((one.begin, one.end) for one in passes if one.rank == rank)
        assert all(end <= begin + 1e-9 for (_, end), (begin, _) in pairwise(mine))


def test_pipelines_are_drawn(tmp_path):
    with_micro_batches(PIPE.write(tmp_path), 8)
    (table,) = hpcpar.collect(tmp_path).tables

    assert pipeline.why_not(table) == ""
    svg = render(lambda figure: pipeline.compose(figure, table), ("svg",))["svg"].decode()
    assert "bubble 11.1 %" in svg
    assert "By the schedule, not measured" in svg


# ---------------------------------------------------------------- memory, failures


def test_memory_is_split_by_what_holds_it(tmp_path):
    for run in replace(DDP, nodes=(1,)).write(tmp_path):
        ranks = msgspec.to_builtins(run.record().ranks)
        held = {"parameters": 4 * 2**20, "gradients": 3 * 2**20, "optimizer": 2 * 2**20}
        change_record(run, ranks=[rank | {"held_bytes": held, "peak_memory_bytes": 10 * 2**20} for rank in ranks])
    results = hpcpar.collect(tmp_path)

    said = page(results, "Memory of a rank")
    assert "buffers" not in said  # nobody counted them
    assert [cell.strip() for cell in said.rstrip().splitlines()[-1].split("|")[3:7]] == [
        "4.0 MiB",
        "3.0 MiB",
        "2.0 MiB",
        "10.0 MiB",
    ]
    parts = bars._memory(results.rows)
    assert sum(parts.values()) == pytest.approx(10 / 1024)
    assert parts["the rest of the process"] == pytest.approx(1 / 1024)


def test_failures_are_counted_by_their_cause(tmp_path):
    lost = {("ddp", 4, 1): Cause.OOM_HOST, ("ddp", 4, 2): Cause.OOM_HOST, ("ddp", 2, 1): Cause.TIMEOUT}
    replace(DDP, failures=lost).write(tmp_path)

    said = page(hpcpar.collect(tmp_path), "Failures by cause")

    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in said.splitlines() if line.startswith("| ")][1:]
    assert rows == [["oom_host", "2", "ddp@4: 2"], ["timeout", "1", "ddp@2: 1"]]


def test_where_there_is_nothing_to_take_apart_there_are_no_pages(tmp_path):
    replace(DDP, nodes=(1,)).write(tmp_path)
    text = hpcpar.collect(tmp_path).to_markdown()

    for head in ("Efficiency factors", "Pipelines", "Memory of a rank", "Failures by cause"):
        assert f"## {head}" not in text
