"""Forecasts without torch: what is needed, how long it takes, what it costs, what is refused."""

from __future__ import annotations

import math
import random

import msgspec
import pytest

from hpcpar import assets
from hpcpar.control.forecast import clock, explore, price
from hpcpar.control.forecast import forecast as forecasts
from hpcpar.control.forecast import job as job_of_all
from hpcpar.control.forecast.ask import Shapes
from hpcpar.control.forecast.attach import attach
from hpcpar.control.forecast.clock import Seen
from hpcpar.control.forecast.layout import Layout, in_flight
from hpcpar.control.forecast.memory import need, verdict
from hpcpar.control.forecast.spend import at_worst, check_budget
from hpcpar.control.forecast.summary import total
from hpcpar.control.forecast.work import Link, Work, bubble_of, reaches_out
from hpcpar.control.plan import make_plan
from hpcpar.decode import decode, read_toml
from hpcpar.errors import InputError
from hpcpar.mesh import Mesh, parse_mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.profile import ClusterProfile
from hpcpar.shapes import Answer, Line, Model, Pass, UnitShape
from hpcpar.spec import Checkpointing, Study

NOTHING = Line(0.0, 0.0)


def shape(numbers: int, kept: float, flops: float = 1e9) -> UnitShape:
    """A unit of which a sample keeps some bytes; its peaks are what it keeps, and its gradient."""
    there = Pass(peak=(Line(0.0, kept + 100),), flops=Line(0.0, flops), traffic=NOTHING, operators=10)
    back = Pass(peak=(Line(4 * numbers, kept),), flops=Line(0.0, 2 * flops), traffic=NOTHING, operators=20)
    return UnitShape(
        parameters=numbers, whole=numbers, largest=numbers, input=Line(0.0, 100), output=Line(0.0, 100),
        kept=Line(0.0, kept), keeps_input=True, keeps_output=False, forward=there, backward=back,
        backward_again=(Line(0.0, kept),),
    )  # fmt: skip


LOSS = shape(0, 50.0, 0.0)
MODEL = Model(kinds=(shape(1000, 500.0),), order=(0, 0, 0, 0), loss=LOSS)
ANSWER = Answer(models=(MODEL,), moments=8, sample_bytes=16)


def layout(mesh: Mesh, micro: int = 2, accum: int = 1, *, ranks_per_node: int = 4, **options) -> Layout:
    return Layout(mesh, EngineOptions(**options), micro, accum, False, ranks_per_node)


def test_replicas_hold_everything_and_shards_their_part() -> None:
    alone, shards = need(MODEL, layout(Mesh()), ANSWER), need(MODEL, layout(Mesh(dp_shard=4)), ANSWER)
    assert alone.parameters == 4 * 4000
    assert alone.moments == 8 * 4000
    assert (shards.parameters, shards.moments) == (alone.parameters / 4, alone.moments / 4)
    assert shards.buffers > 0


def test_activations_grow_with_the_micro_batch_and_not_with_accumulation() -> None:
    one, two = need(MODEL, layout(Mesh(), 1), ANSWER), need(MODEL, layout(Mesh(), 64), ANSWER)
    again = need(MODEL, layout(Mesh(), 1, 64), ANSWER)
    # Four units keep 500 bytes and their input of 100 (the first has the batch), the loss 50 and its input.
    assert two.activations == pytest.approx(64 * (4 * 500 + 4 * 100 + 50), rel=0.05)
    assert again.activations <= one.activations + 1
    assert again.batch == two.batch == 64 * 16


def test_a_pipeline_keeps_as_many_passes_as_its_schedule_says() -> None:
    pipeline = Mesh(pp=4)
    assert [in_flight(layout(pipeline, 1, 8), rank) for rank in range(4)] == [4, 3, 2, 1]
    assert in_flight(layout(pipeline, 1, 8, schedule="gpipe"), 3) == 8
    first, last = need(MODEL, layout(pipeline, 1, 8), ANSWER), need(MODEL, layout(pipeline, 1, 32), ANSWER)
    assert first.place == last.place
    gpipe = need(MODEL, layout(pipeline, 1, 32, schedule="gpipe"), ANSWER)
    assert gpipe.activations > 20 * 500 > last.activations


@pytest.mark.parametrize(
    ("p", "m", "schedule", "bubble"),
    [(4, 8, "1f1b", 27.3), (4, 8, "interleaved-1f1b", 15.8), (8, 32, "gpipe", 17.9), (2, 8, "looped-bfs", 5.9)],
)
def test_bubbles_are_the_published_ones(p: int, m: int, schedule: str, bubble: float) -> None:
    assert bubble_of(layout(Mesh(pp=p), 1, m, schedule=schedule)) == (pytest.approx(bubble / 100, abs=5e-4), True)


def test_zero_bubble_with_one_stage_is_zb_h1() -> None:
    h1 = layout(Mesh(pp=4), 1, 8, schedule="zero-bubble", virtual_stages=1)
    assert bubble_of(h1) == (pytest.approx(3 / 27), True)
    assert bubble_of(layout(Mesh(pp=4), 1, 8, schedule="zbv"))[1] is False


LARGE = 10**6
"""Numbers of a unit beside which no activation counts."""


def buffers(mesh: Mesh, units: int, **options) -> float:
    """What the rank that needs most has of copies at its worst moment, in bytes a number of one unit."""
    model = Model(kinds=(shape(LARGE, 500.0),), order=(0,) * units, loss=LOSS)
    needed = need(model, layout(mesh, 1, 4, **options), ANSWER)
    assert needed.moment.startswith("backward, end of unit")
    return needed.buffers / LARGE


def test_where_no_weights_are_given_back_those_of_all_stages_of_a_rank_are_there() -> None:
    # At the end of a unit its whole gradient is there twice, and those that were accumulated of all units of the rank.
    for schedule in ("zero-bubble", "zbv", "dualpipev"):
        found = buffers(Mesh(pp=2, dp_shard=2), 4, schedule=schedule)
        assert found == pytest.approx(4 * (2 + 2 + 2), rel=0.01)
    # torch has three stages of a rank gathered at a time.
    four = buffers(Mesh(pp=2, dp_shard=2), 8, schedule="zero-bubble", virtual_stages=4)
    assert four == pytest.approx(4 * (3 + 4 + 2), rel=0.01)
    alone = buffers(Mesh(dp_shard=2), 4, reshard_after_forward=False)
    assert alone == pytest.approx(4 * (4 + 4 + 2), rel=0.01)


def test_a_pipeline_keeps_what_it_has_gathered_on_the_way_back() -> None:
    # In looped-bfs all micro-batches go back through one stage of a rank before any goes back through the other.
    for schedule, stays in (("gpipe", 4), ("1f1b", 4), ("interleaved-1f1b", 4), ("looped-bfs", 2)):
        found = buffers(Mesh(pp=2, dp_shard=2), 8, schedule=schedule)
        assert found == pytest.approx(4 * (stays + 4 + 2), rel=0.01), schedule


def test_axes_leave_a_node_from_the_innermost_on() -> None:
    mesh = layout(Mesh(pp=2, dp_shard=2, tp=4))
    assert [reaches_out(mesh, axis) for axis in ("tp", "dp_shard", "pp")] == [False, True, True]


def test_fits_for_certain_only_with_every_margin() -> None:
    needed = need(MODEL, layout(Mesh()), ANSWER)
    assert verdict(needed, None, gpu=True) == "unknown"
    assert verdict(needed, needed.total - 1, gpu=True) == "no"
    assert verdict(needed, needed.total * 1.05, gpu=True) == "tight"
    assert verdict(needed, needed.total * 1.1 + 2**30, gpu=True) == "yes"
    assert verdict(needed, needed.total * 1.1 + 2**30 - 1, gpu=True) == "tight"


# ---------------------------------------------------------------- time


def job(scale: float, sent: float = 0.0, bubble: float = 0.0) -> Work:
    return Work(
        flops=scale * 1e11, traffic=scale * 1e9, operators=1000, inside=Link(calls=sent / 1e6, wire_bytes=sent),
        outside=Link(), bubble=bubble, bubble_known=True, useful_flops=scale * 1e11,
    )  # fmt: skip


TRUE = {"s_per_flop": 1 / 80e9, "s_per_attention": 1 / 40e9, "s_per_byte": 1 / 6e9, "s_per_operator": 2e-5,
        "s_per_call_inside": 3e-4, "s_per_wire_inside": 1 / 0.7e9, "s_per_call_outside": 1e-4,
        "s_per_wire_outside": 1e-9, "exposed": 1.0}  # fmt: skip


def test_a_bubble_stretches_what_is_computed_and_nothing_else() -> None:
    plain, stretched = job(1.0, 1e8), job(1.0, 1e8, bubble=0.25)
    sent = clock.parts_of(plain, TRUE)["inside nodes"]
    whole = clock.seconds(plain, TRUE)
    assert clock.seconds(stretched, TRUE) == pytest.approx((whole - sent) / 0.75 + sent)


def test_finished_runs_correct_the_clock_and_narrow_the_band() -> None:
    draw = random.Random(7)
    seen = [
        Seen(work=one, ranks=2, time_s=clock.seconds(one, TRUE) * math.exp(draw.gauss(0, 0.02)))
        for one in (job(1.0), job(4.0), job(1.0, 2e8), job(0.2, 1e7))
    ]
    before = clock.first_clock(clock.cpu_rates(1))
    after = clock.calibrated(before, seen)
    asked = job(2.0, 1e8)
    truth = clock.seconds(asked, TRUE)
    wild, sure = clock.step_time(asked, before, 2), clock.step_time(asked, after, 2)
    assert sure.expected == pytest.approx(truth, rel=0.1)
    assert abs(wild.expected / truth - 1) > 0.3
    assert sure.low < truth < sure.high
    assert sure.high / sure.low < wild.high / wild.low / 2
    assert after.runs == 4
    assert abs(sure.expected / truth - 1) < abs(sure.naive / truth - 1)


def test_cells_without_a_matrix_product_say_nothing_of_the_naive_estimate() -> None:
    before = clock.first_clock(clock.cpu_rates(1))
    none = Seen(work=msgspec.structs.replace(job(1.0), flops=0.0, useful_flops=0.0), ranks=2, time_s=0.5)
    assert clock.calibrated(before, [none]).naive == before.naive
    some = Seen(work=job(1.0), ranks=2, time_s=3.0)
    assert clock.calibrated(before, [none, some]).naive == pytest.approx(3.0 * 2 / 1e11)


def test_without_runs_the_clock_stays_as_it_is() -> None:
    before = clock.first_clock(clock.cpu_rates(4))
    assert clock.calibrated(before, []) is before


def test_no_peak_is_guessed() -> None:
    assert clock.gpu_rates({"bf16": 1e14}, "fp32", "somewhere") is None


# ---------------------------------------------------------------- whole studies, with shapes that are given


def profile(name: str) -> ClusterProfile:
    path = assets.find("clusters", name)
    return decode(ClusterProfile, read_toml(path), str(path))


def study(**more) -> Study:
    return Study(workload="llama-tiny", global_batch=more.pop("global_batch", 64), **more)


@pytest.fixture
def shapes(monkeypatch):
    """Let every case have the same shapes: a model of ten units with a quarter of a GiB of weights each."""
    unit = shape(2**26, 2.0**28, 1e12)
    model = Model(kinds=(unit,), order=(0,) * 10, loss=LOSS)

    def ask(workload, options, cases, *, trace=True):
        return Shapes(models=dict.fromkeys(cases, model), answer=ANSWER)

    monkeypatch.setattr(forecasts, "ask", ask)


def test_what_fits_comes_first_then_the_soonest(shapes) -> None:
    found = forecasts.forecast(study(strategies=("ddp", "fsdp"), nodes=(1, 16)), profile("perlmutter"), "flags")
    order = {"yes": 0, "tight": 1, "unknown": 2, "no": 3}
    keys = [(order[row.fits], row.run_s) for row in found.rows]
    assert keys == sorted(keys)
    assert len(found.rows) == 4
    assert found.calibrated_with == 0
    for row in found.rows:
        assert row.time.low < row.time.expected < row.time.high
        assert row.price.node_hours == pytest.approx(row.nodes * row.run_s / 3600)


def test_what_does_not_fit_says_which_number_and_which_change(shapes) -> None:
    found = forecasts.forecast(
        study(strategies=("ddp",), nodes=(1,), global_batch=1024), profile("perlmutter"), "flags"
    )
    (row,) = found.rows
    assert row.fits == "no"
    assert row.need.total > row.capacity_bytes == 40 * 2**30 * job_of_all.GIVE
    assert "GiB of activations at its worst moment" in row.reason
    assert row.change.flags.startswith("--micro-batch ")
    assert row.change.need_bytes < row.capacity_bytes


def test_on_cpus_a_rank_has_its_part_of_the_node_or_of_what_is_asked_for(shapes) -> None:
    def capacity(where: ClusterProfile, **more) -> float | None:
        asked = study(nodes=(1,), ranks_per_node=2, **more)
        (row,) = forecasts.forecast(asked, where, "flags", advise=False).rows
        return row.capacity_bytes

    slurm, local, gpus = profile("slurm-test"), profile("local"), profile("perlmutter")
    assert capacity(slurm) == 16 * 2**30 / 2
    assert capacity(slurm, memory="8GiB") == 8 * 2**30 / 2
    assert capacity(of_cpus(slurm, request_memory="whole-node"), memory="8GiB") == 16 * 2**30 / 2
    assert capacity(of_cpus(slurm, memory=""), memory="8GiB") == 8 * 2**30 / 2
    assert capacity(of_cpus(local, memory="16GiB"), memory="8GiB") == 16 * 2**30 / 2  # nobody is held to it there
    assert capacity(gpus, memory="8GiB") == capacity(gpus)


def of_cpus(where: ClusterProfile, **more) -> ClusterProfile:
    """The profile with another kind of node "cpu"."""
    kind = msgspec.structs.replace(where.node_types["cpu"], **more)
    return msgspec.structs.replace(where, node_types={"cpu": kind})


def test_a_quick_look_is_planned_as_it_is_sent(shapes) -> None:
    lumi, asked = profile("lumi"), study(nodes=(2,), time="30m", steps=500, repeats=5, quick=True)
    found = forecasts.forecast(asked, lumi, "flags")
    assert (found.steps, found.repeats) == (30, 1)
    worst = at_worst(make_plan(asked, lumi, "flags").runs, lumi)
    assert total(found)[1] == worst
    check_budget(found, [], lumi, worst.units)


def test_a_cell_that_cannot_be_stands_beside_the_others(shapes) -> None:
    found = forecasts.forecast(study(strategies=("ddp", "pp"), nodes=(4,)), profile("perlmutter"), "flags")
    assert [row.strategy for row in found.rows] == ["ddp"]
    (refused,) = found.refused
    assert (refused.strategy, refused.nodes) == ("pp", 4)
    assert "a pipeline of 16 stages is deeper than the model's 10 units" in refused.what


def test_without_shapes_the_price_has_an_upper_end(monkeypatch) -> None:
    reason = "torch is not installed here: pip install 'hpcpar[torch]'"
    monkeypatch.setattr(forecasts, "ask", lambda *_, **__: reason)
    found = forecasts.forecast(study(nodes=(2,), time="30m"), profile("lumi"), "flags")
    (row,) = found.rows
    assert (row.fits, row.time, row.price) == ("unknown", None, None)
    assert (row.worst.node_hours, row.worst.units) == (1.0, 4.0)
    assert found.notes == (f"memory and time are not known: {reason}",)


def test_an_accelerator_without_a_known_peak_has_no_times(shapes) -> None:
    found = forecasts.forecast(study(nodes=(1,)), profile("lumi"), "flags")
    assert found.rows[0].time is None
    assert "no peak of 'AMD MI250X (one of two dies)' in fp32 is known" in found.notes[0]


def test_four_thousand_ranks_are_planned(shapes) -> None:
    wide = explore.with_all_strategies(study(nodes=(1024,), global_batch=8192), profile("perlmutter"), "flags")
    found = forecasts.forecast(wide, profile("perlmutter"), "flags", advise=False)
    assert all(row.ranks == 4096 for row in found.rows)
    assert {"ddp", "fsdp", "hybrid"} <= {row.strategy for row in found.rows}
    assert len(found.rows) + len(found.refused) > 30


@pytest.mark.parametrize(("nodes", "ranks"), [(1, 4), (3, 8), (1024, 4)])
def test_meshes_that_are_looked_at_have_all_ranks_once(nodes: int, ranks: int) -> None:
    texts = list(explore.meshes(nodes, ranks))
    assert len(set(texts)) == len(texts) > 3
    for text in texts:
        mesh = parse_mesh(text, nodes * ranks)
        assert mesh.tp <= ranks


# ---------------------------------------------------------------- prices


def test_a_price_is_a_product_of_factors_and_unknown_where_one_is(shapes) -> None:
    lumi, perlmutter = profile("lumi"), profile("perlmutter")

    def cost(where, **more):
        (run,) = make_plan(study(account="a", **more), where, "flags").runs
        return price.factor(where, where.node_types[run.spec.identity.node_type], run.resources)

    assert cost(lumi) == 4.0
    assert cost(lumi, partition="small-g") is None
    assert cost(perlmutter) == 1.0
    assert cost(perlmutter, qos="premium") == 2.0
    assert cost(perlmutter, qos="preempt") is None


def test_a_budget_is_refused_with_the_ledger(shapes) -> None:
    lumi = profile("lumi")
    found = forecasts.forecast(study(nodes=(2,), time="30m", repeats=3), lumi, "flags")
    check_budget(found, [], lumi, 12.0)
    with pytest.raises(InputError) as refusal:
        check_budget(found, [], lumi, 11.9)
    assert "0.00 settled + 0.00 in flight + 12.00 at worst for this = 12.00 GPU-hours" in str(refusal.value)


# ---------------------------------------------------------------- submit


def test_submit_notes_what_is_expected_and_keeps_the_key(shapes) -> None:
    where = profile("perlmutter")
    asked = study(strategies=("fsdp",), nodes=(16,), repeats=2, account="a", steps=1000)
    plain = make_plan(asked, where, "flags")
    made = attach(plain, asked, where, "flags", studies=[], force=False)
    assert [run.spec.key for run in made.runs] == [run.spec.key for run in plain.runs]
    for run in made.runs:
        noted = run.spec.prediction
        assert noted["step_s"]["low"] < noted["step_s"]["expected"] < noted["step_s"]["high"]
        assert msgspec.convert(noted["work"], Work).flops > 0
        assert run.spec.billing == {"unit": "node-hours", "units_per_node_hour": 1.0}
        assert run.resources.time_s == run.spec.time_s >= noted["run_s"]
        assert run.resources.time_s % 60 == 0


def test_a_time_that_was_given_stays(shapes) -> None:
    where = profile("perlmutter")
    asked = study(strategies=("fsdp",), nodes=(16,), account="a", steps=1000, time="7m")
    made = attach(make_plan(asked, where, "flags"), asked, where, "flags", studies=[], force=False)
    assert made.runs[0].resources.time_s == 420


def test_a_time_limit_that_ends_a_run_before_its_end_is_said_where_nothing_is_saved(shapes) -> None:
    where = profile("perlmutter")

    def said(**more) -> list[str]:
        asked = study(strategies=("fsdp",), nodes=(16,), account="a", repeats=3, steps=20_000, **more)
        made = attach(make_plan(asked, where, "flags"), asked, where, "flags", studies=[], force=False)
        return [problem.what for problem in made.warnings]

    (killed,) = said(time="7m")
    assert killed.endswith("its time limit of 7m00s would kill it before its end")
    assert said() == []
    assert said(time="7m", checkpoint=Checkpointing(every=100)) == []


def test_what_cannot_fit_is_refused_unless_somebody_insists(shapes) -> None:
    where = profile("perlmutter")
    asked = study(strategies=("ddp",), nodes=(1,), global_batch=1024, account="a")
    plan = make_plan(asked, where, "flags")
    with pytest.raises(InputError) as refusal:
        attach(plan, asked, where, "flags", studies=[], force=False)
    assert "strategy ddp on 1 node: does not fit: its tensors need" in str(refusal.value)
    assert "--force" in str(refusal.value)
    assert attach(plan, asked, where, "flags", studies=[], force=True).runs[0].spec.prediction["memory_bytes"] > 0
