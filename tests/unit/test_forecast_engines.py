"""What strategies beside the mesh's own engine hold and send, on shapes that are given."""

from __future__ import annotations

import msgspec
import pytest

from hpcpar import assets, registry
from hpcpar.control.forecast import clock
from hpcpar.control.forecast.engines import BUCKET, ENGINES, LIVE, PREFETCH, Engine, Meeting, Ring, Server, Zero, delays
from hpcpar.control.forecast.explore import with_all_strategies
from hpcpar.control.forecast.holdings import gathered_at_most, held
from hpcpar.control.forecast.layout import Layout, layout_of
from hpcpar.control.forecast.memory import DDP_PIECES, need
from hpcpar.control.forecast.work import Link, work
from hpcpar.control.plan import survey
from hpcpar.decode import decode, read_toml
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.profile import ClusterProfile
from hpcpar.shapes import Answer, Line, Model, Pass, UnitShape
from hpcpar.spec import Study

N = 1_000_000
NOTHING = Line(0.0, 0.0)
PASS = Pass(peak=(Line(0.0, 100.0),), flops=Line(0.0, 1e9), traffic=NOTHING, operators=10)
UNIT = UnitShape(
    parameters=N // 4, whole=N // 4, largest=1000, input=Line(0, 100), output=Line(0, 100), kept=Line(0, 500),
    keeps_input=True, keeps_output=False, forward=PASS, backward=PASS, backward_again=(Line(0.0, 100.0),),
)  # fmt: skip
LOSS = msgspec.structs.replace(UNIT, parameters=0, whole=0)
MODEL = Model(kinds=(UNIT,), order=(0,) * 4, loss=LOSS)
UPDATE = Pass(peak=(Line(0.0, 8.0),), flops=NOTHING, traffic=Line(0.0, 28.0), operators=5)
ANSWER = Answer(models=(MODEL,), moments=8, update=UPDATE)


def layout(mesh: Mesh, beside: Engine | None) -> Layout:
    return Layout(mesh, EngineOptions(), 1, 1, False, 4, beside)


def holds(mesh: Mesh, beside: Engine | None):
    return held(MODEL.units, layout(mesh, beside), 8)


def sent(mesh: Mesh, beside: Engine | None) -> float:
    done = work(MODEL, MODEL, layout(mesh, beside), ANSWER)
    links = (done.inside, done.outside, done.behind_inside, done.behind_outside)
    return sum(link.wire_bytes for link in links)


def test_zero_shards_state_then_gradients_then_weights() -> None:
    mesh = Mesh(dp_shard=4)
    one, two, three = (holds(mesh, Zero(stage, 4)) for stage in (1, 2, 3))
    assert [stage.parameters for stage in (one, two, three)] == [4 * N, 4 * N, N]
    assert {stage.moments for stage in (one, two, three)} == {12 * N / 4}  # the moments, and a copy of the weights
    assert one.gradients == 4 * N
    assert two.gradients == N
    assert three.gradients == 4 * N + N  # the bucket that it keeps, of a model that is smaller, and the part
    offloaded = holds(mesh, Zero(2, 4, offload_optimizer=True))
    assert (offloaded.moments, offloaded.gradients) == (0, 0)


@pytest.mark.parametrize("stage", [1, 2])
def test_a_backward_pass_ends_with_the_bucket_and_what_it_is_filled_from_or_sent_by(stage: int) -> None:
    spread = layout(Mesh(dp_shard=2), Zero(stage, 2))
    on_cpu, on_gpu = (need(MODEL, spread._replace(gpu=gpu), ANSWER) for gpu in (False, True))
    assert on_cpu.moment == "the reduction"
    assert (on_cpu.gradients, on_cpu.buffers) == (0, 2 * 4 * N)
    assert on_gpu.buffers + on_gpu.gradients == pytest.approx(4 * BUCKET + 4 * N, rel=1e-3), "a GPU has all of it"
    several = need(MODEL, spread._replace(grad_accum=2), ANSWER)
    part = 4 * N / 2 if stage == 2 else 0
    assert (several.moment, several.gradients, several.buffers) == ("the reduction", part, 2 * 4 * N)


def test_ddp_brings_frozen_weights_to_all_ranks_when_it_is_built() -> None:
    frozen = msgspec.structs.replace(UNIT, frozen=UNIT.parameters - 1000)
    model = Model(kinds=(frozen,), order=(0,) * 4, loss=LOSS)
    needed = need(model, layout(Mesh(dp_replicate=2), None), ANSWER)
    assert (needed.moment, needed.gradients, needed.buffers) == ("the start", 0, 4 * N)
    assert need(model, layout(Mesh(), None), ANSWER).moment != "the start"
    large = msgspec.structs.replace(frozen, parameters=10**9, whole=10**9, frozen=10**9 - 1000)
    most = need(Model(kinds=(large,), order=(0,), loss=LOSS), layout(Mesh(dp_replicate=2), None), ANSWER)
    assert most.buffers == DDP_PIECES


def test_the_bucket_and_what_stays_gathered_are_bounded() -> None:
    large = msgspec.structs.replace(UNIT, parameters=2 * BUCKET, whole=2 * BUCKET)
    mesh, zero = Mesh(dp_shard=4), Zero(3, 4)
    found = held([large] * 4, layout(mesh, zero), 8)
    assert found.gradients == 4 * BUCKET + 4 * 8 * BUCKET / 4
    assert gathered_at_most(layout(mesh, zero), [large] * 4) == LIVE + PREFETCH
    assert gathered_at_most(layout(mesh, zero), [UNIT]) == 2 * UNIT.parameters
    assert gathered_at_most(layout(mesh, Zero(2, 4)), [large]) == 0


def test_replicas_that_meet_copy_what_they_average() -> None:
    mesh = Mesh(dp_replicate=2)
    plain = need(MODEL, layout(mesh, Meeting(8, moments=False, outer=False)), ANSWER)
    state = need(MODEL, layout(mesh, Meeting(8, moments=True, outer=False)), ANSWER)
    assert plain.moment == state.moment == "the meeting"
    assert (plain.buffers, state.buffers) == (2 * 4 * N, 2 * 12 * N)
    outer = need(MODEL, layout(mesh, Meeting(8, moments=False, outer=True)), ANSWER)
    assert outer.moments - plain.moments == 12 * N
    # What is averaged travels every eighth step.
    assert sent(mesh, Meeting(8, moments=True, outer=False)) == pytest.approx(12 * N / 8)


def test_the_server_holds_the_model_twice_and_vectors_of_every_rank() -> None:
    two, four = (holds(Mesh(dp_replicate=ranks), Server(2)) for ranks in (2, 4))
    assert two.parameters == 8 * N
    assert four.copies - two.copies == 2 * 2 * 4 * N
    assert sent(Mesh(dp_replicate=4), Server(2)) == 3 * 2 * 4 * N


def test_a_ring_has_a_buffer_and_halves_what_it_compresses() -> None:
    mesh = Mesh(dp_replicate=2)
    assert holds(mesh, Ring(4)).copies == 4 * N
    assert holds(mesh, Ring(2)).copies == 2 * N
    assert sent(mesh, Ring(2)) * 2 == sent(mesh, Ring(4)) == 4 * N


def test_frozen_weights_have_no_gradient_and_no_moments() -> None:
    adapted = msgspec.structs.replace(UNIT, frozen=UNIT.parameters - 1000)
    found = held([adapted] * 4, layout(Mesh(), None), 8)
    assert (found.parameters, found.gradients, found.moments) == (4 * N, 4 * 4000, 8 * 4000)
    half = held([adapted] * 4, layout(Mesh(dp_shard=2), None), 8)
    assert (half.parameters, half.gradients) == (2 * N, 2 * 4000)


@pytest.mark.parametrize(("stage", "vectors"), [(1, 1 + 1), (2, 1 + 4), (3, 2 * 4 + 4)])
def test_zero_2_and_3_add_gradients_up_for_every_micro_batch(stage: int, vectors: int) -> None:
    spread = layout(Mesh(dp_shard=4), Zero(stage, 4))._replace(grad_accum=4)
    done = work(MODEL, MODEL, spread, ANSWER)
    assert done.behind_inside.wire_bytes == vectors * 4 * N * 3 / 4
    assert done.behind_outside.wire_bytes == done.inside.wire_bytes == 0


EXPERTS = N // 5
"""Of every unit, on one rank; the others are N // 20."""
MIXED = msgspec.structs.replace(UNIT, spread=EXPERTS, largest=EXPERTS // 2)
MIXTURE = Model(kinds=(MIXED,), order=(0,) * 4, loss=LOSS)


def test_shards_do_not_cut_the_experts_that_are_updated() -> None:
    shards = layout(Mesh(dp_shard=2, ep=2), None)
    on_cpu, on_gpu = (need(MIXTURE, shards._replace(gpu=gpu), ANSWER) for gpu in (False, True))
    assert on_cpu.moment == on_gpu.moment == "the update"
    assert on_cpu.gradients == 4 * (4 * N // 20 // 2 + 4 * EXPERTS)
    assert on_cpu.buffers == 8 * EXPERTS // 2  # of one parameter, what the optimizer takes of a number
    assert on_gpu.buffers == 4 * 4 * EXPERTS  # all of them, after all shards
    done = work(MIXTURE, MIXTURE, shards, ANSWER)
    assert done.traffic == pytest.approx(28 * (4 * N / 20 / 2 + 4 * EXPERTS))


def test_gradients_of_experts_are_no_part_of_the_buckets_of_ddp() -> None:
    keeps = msgspec.structs.replace(MIXED, kept=Line(0.0, 1e9))
    model = Model(kinds=(keeps,), order=(0,) * 4, loss=msgspec.structs.replace(LOSS, kept=Line(0.0, 0.0)))
    spread = layout(Mesh(dp_replicate=2, ep=2), None)
    needed = need(model, spread, ANSWER)
    assert needed.moment.endswith("unit 5"), "the loss: nothing of a gradient has been made"
    assert needed.gradients == 4 * 4 * N // 20
    several = need(model, spread._replace(grad_accum=2), ANSWER)
    assert several.gradients == 4 * (4 * N // 20 + 4 * EXPERTS), "those of the pass before"


def test_gradients_of_experts_stay_while_others_are_accumulated() -> None:
    needed = need(MIXTURE, layout(Mesh(dp_shard=2, ep=2), None)._replace(grad_accum=2), ANSWER)
    assert needed.moment.startswith("backward, end of unit")
    gathered, twice = 4 * 2 * N // 20, 2 * 4 * N // 20
    assert needed.buffers == 4 * N + gathered + twice


def test_ranks_with_the_same_experts_add_their_gradients_up_in_one_piece() -> None:
    same = layout(Mesh(dp_replicate=4, ep=2), None)
    needed = need(MIXTURE, same, ANSWER)
    assert (needed.moment, needed.buffers) == ("the update", 4 * 4 * EXPERTS)
    done = work(MIXTURE, MIXTURE, same, ANSWER)
    assert done.behind_inside.wire_bytes == 1.5 * 4 * 4 * N // 20 + 4 * 4 * EXPERTS
    along = work(MIXTURE, MIXTURE, layout(Mesh(dp_shard=2, cp=2, ep=2), None), ANSWER)
    assert along.inside.wire_bytes == 4 * (4 * N // 20 / 2 + 4 * EXPERTS)


def test_what_learns_otherwise_says_so() -> None:
    assert delays(Meeting(8, moments=True, outer=False)) == "replicas meet every 8 steps: learns otherwise"
    assert delays(Server(2)) == "gradients up to 2 updates late: learns otherwise"
    assert not delays(Meeting(1, moments=True, outer=False))
    assert not delays(Server(0))
    assert not delays(Zero(2, 4))


def profile(name: str) -> ClusterProfile:
    path = assets.find("clusters", name)
    return decode(ClusterProfile, read_toml(path), str(path))


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_every_strategy_of_neural_workloads_has_a_layout(name: str) -> None:
    alone = name in {"layerwise", "dp"}
    study = Study(workload="llama-tiny", strategies=(name,), nodes=(1,), ranks_per_node=1 if alone else 2)
    (run,) = survey(study, profile("slurm-test"), "flags").runs
    assert isinstance(layout_of(run.spec.identity, gpu=False), Layout)


def test_a_process_with_several_gpus_has_no_forecast() -> None:
    study = Study(workload="llama-tiny", strategies=("layerwise",), nodes=(1,), ranks_per_node=1)
    (run,) = survey(study, profile("perlmutter"), "flags").runs
    found = layout_of(run.spec.identity, gpu=True)
    assert found == "no model of several GPUs in one process: on a GPU, layerwise has one"


@pytest.mark.parametrize("workload", ["llama-tiny", "llama-moe", "llama-lora"])
def test_all_strategies_that_can_are_looked_at(workload: str) -> None:
    study = with_all_strategies(Study(workload=workload, nodes=(2,)), profile("slurm-test"), "flags")
    kinds = {"llama-tiny": "neural", "llama-moe": "mixture-of-experts", "llama-lora": "adapters"}
    able = {name for name in registry.names("strategy") if kinds[workload] in registry.get_strategy(name).kinds}
    assert {choice.name for choice in study.choices()} == able


def test_ranks_that_share_processors_take_turns() -> None:
    done = work(MODEL, MODEL, layout(Mesh(), None), ANSWER)
    values = {name: rate.value for name, rate in clock.cpu_rates(1).items()}
    shared = msgspec.structs.replace(done, sharing=2.0)
    assert clock.seconds(shared, values) == pytest.approx(2 * clock.seconds(done, values))
    # A bubble of a half is nothing where the others take the processor meanwhile.
    waits = msgspec.structs.replace(done, bubble=0.5)
    both = msgspec.structs.replace(waits, sharing=2.0)
    assert clock.seconds(both, values) == pytest.approx(clock.seconds(waits, values))


def test_a_message_of_a_pipeline_is_waited_for_while_others_go_on() -> None:
    values = {name: rate.value for name, rate in clock.cpu_rates(1).items()}
    alone = work(MODEL, MODEL, layout(Mesh(), None), ANSWER)
    passes = msgspec.structs.replace(alone, passed_outside=Link(calls=10, wire_bytes=1e6))
    late, copied = 10 * values["s_per_call_outside"], 1e6 * values["s_per_wire_outside"]
    assert clock.seconds(passes, values) == pytest.approx(clock.seconds(alone, values) + late + copied)
    shared = msgspec.structs.replace(passes, sharing=2.0)
    assert clock.seconds(shared, values) == pytest.approx(2 * (clock.seconds(alone, values) + copied))
    slow = {**values, "s_per_call_outside": 1.0}
    assert clock.seconds(shared, slow) == pytest.approx(clock.seconds(alone, values) + copied + 10.0)
    assert clock.parts_of(shared, slow)["bubble"] == 0


def test_what_is_sent_meanwhile_stands_out_in_part() -> None:
    done = work(MODEL, MODEL, layout(Mesh(dp_replicate=4), None), ANSWER)
    values = {name: rate.value for name, rate in clock.cpu_rates(1).items()}
    assert done.behind_inside.wire_bytes == 1.5 * 4 * N
    assert done.inside.wire_bytes == 0
    whole = clock.parts_of(done, {**values, "exposed": 1.0})["inside nodes"]
    assert clock.parts_of(done, {**values, "exposed": 0.25})["inside nodes"] == pytest.approx(whole / 4)
