"""Which axes go together, on which workloads: a pinned list of refusals."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from hpcpar import registry
from hpcpar.composition import batch_refusals, check, layout_refusals, reshards
from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.registry import Declaration, ExpertPlan, TensorPlan
from hpcpar.schedules import SCHEDULES, ScheduleName, stages_of

DECLARED = Declaration(kind="neural", num_units=6)
PLANNED = Declaration(kind="neural", num_units=6, sequence=24, tensor=TensorPlan(divides=16, loss_parallel=True))
SEQUENCE = msgspec.structs.replace(PLANNED, context_parallel=True)
NO_SEQUENCE = Declaration(kind="neural", num_units=6, tensor=TensorPlan(divides=16))
REFUSED_TENSOR = [
    (DECLARED, 2, {}, "no tensor-parallel plan", "ddp, fsdp and pp need none"),
    (PLANNED, 6, {}, "tp=6 does not divide the 16 parts", "choose tp from 1, 2, 4, 8, 16"),
    (NO_SEQUENCE, 2, {"sequence_parallel": True}, "no sequence axis", "leave it out"),
    (PLANNED, 16, {"sequence_parallel": True}, "sequence of 24 does not divide over tp=16", "multiple of tp"),
    (NO_SEQUENCE, 2, {"loss_parallel": True}, "does not split its logits", "leave it out"),
    (PLANNED, 2, {"static_graph": True}, "static_graph and tp", "leave static_graph out"),
    (PLANNED, 2, {"compression": "fp16"}, "compression and tp", "leave compression out"),
    (PLANNED, 2, {"async_tp": True, "compile": True}, "messages of sequence_parallel", "choose sequence_parallel"),
    (PLANNED, 2, {"async_tp": True, "sequence_parallel": True}, "in compiled units", "choose sequence_parallel"),
    (PLANNED, 2, {"precision": "fp8"}, "fp8 and tp", "use bf16"),
]
REFUSED = [
    (Mesh(pp=7), {}, "deeper than the model's 6 units"),
    (Mesh(pp=4), {"schedule": "interleaved-1f1b"}, "a pipeline of 8 stages (4 ranks x 2) is deeper"),
    (Mesh(pp=2), {"schedule": "looped-bfs", "virtual_stages": 4}, "a pipeline of 8 stages (2 ranks x 4) is deeper"),
    (Mesh(pp=4), {"schedule": "zbv"}, "a pipeline of 8 stages (4 ranks x 2) is deeper"),
    (Mesh(pp=2), {"schedule": "zbv", "virtual_stages": 3}, "the zbv schedule has 2 stages a rank"),
    (Mesh(pp=2), {"schedule": "1f1b", "virtual_stages": 2}, "the 1f1b schedule has 1 stages a rank"),
    (Mesh(pp=2, dp_shard=2), {"schedule": "zero-bubble", "reshard_after_forward": True}, "trains a wrong model"),
    (Mesh(pp=2, dp_shard=2), {"schedule": "zbv", "reshard_after_forward": True}, "trains a wrong model"),
    (Mesh(pp=2, dp_shard=2), {"schedule": "dualpipev", "reshard_after_forward": True}, "trains a wrong model"),
    (Mesh(dp_replicate=4, ep=2), {}, "ep: the workload has no experts"),
    (Mesh(dp_replicate=4), {"capacity": 1.0}, "capacity: the workload has no experts"),
    (Mesh(pp=2), {"schedule": "zero-bubble", "compile": True}, "compile under the zero-bubble schedule"),
    (Mesh(pp=2), {"schedule": "zbv", "compile": True}, "compile under the zbv schedule"),
    (Mesh(pp=2), {"schedule": "dualpipev", "compile": True}, "compile under the dualpipev schedule"),
    (Mesh(pp=2), {"schedule": "zbv", "activation_checkpointing": "selective"}, "selective checkpointing under the zbv"),
    (Mesh(dp_shard=2), {"compression": "fp16"}, "FSDP2 scatters the gradients"),
    (Mesh(pp=2, dp_replicate=2), {"compression": "bf16"}, "replicas of a pipeline send gradients without DDP"),
    (Mesh(dp_replicate=2), {"compression": "powersgd", "static_graph": True}, "powersgd with static_graph"),
]
MIXTURE = msgspec.structs.replace(
    SEQUENCE,
    kind="mixture-of-experts",
    experts=ExpertPlan(number=8, chosen=2),
    tensor=TensorPlan(divides=16, sequence_parallel=False),
)
REFUSED_EXPERTS = [
    (Mesh(dp_replicate=3, ep=3), {}, "ep=3 does not divide the workload's 8 experts", "choose ep from 1, 2, 4, 8"),
    (Mesh(dp_replicate=6, ep=4), {}, "ep=4 does not divide the 6 data ranks", "choose ep or the data axes to fit"),
    (Mesh(pp=2, dp_replicate=2, ep=4), {}, "ep=4 does not divide the 2 data ranks", "different samples"),
    (Mesh(dp_replicate=2, tp=2, ep=2), {}, "ep and tp together", "leave tp out"),
    (Mesh(dp_shard=2, ep=2), {"cpu_offload": True}, "cpu_offload and ep", "leave cpu_offload out"),
    (Mesh(cp=2), {"capacity": 1.0}, "capacity and cp", "leave capacity out, or cp"),
    (Mesh(), {"precision": "bf16"}, "precision and a mixture of experts", "leave it out"),
    (Mesh(), {"compile": True}, "compile and a mixture of experts", "leave it out"),
    (Mesh(dp_replicate=2), {"compression": "fp16"}, "compression and a mixture of experts", "leave it out"),
    (Mesh(), {"activation_checkpointing": "selective"}, "selective and a mixture of experts", "leave it out"),
    (Mesh(tp=2), {"sequence_parallel": True}, "need whole sequences between its matrices", "tp works without it"),
]
REFUSED_BATCHES = [
    (Mesh(pp=4), {"schedule": "1f1b"}, 3, "at least as many micro-batches as ranks"),
    (Mesh(pp=3), {"schedule": "interleaved-1f1b"}, 2, "at least as many micro-batches as ranks"),
    (Mesh(pp=2), {"schedule": "interleaved-1f1b"}, 5, "sends equal rounds"),
    (Mesh(pp=2), {"schedule": "zero-bubble"}, 7, "sends equal rounds"),
    (Mesh(pp=3), {"schedule": "zbv"}, 2, "at least as many micro-batches as ranks"),
    (Mesh(pp=2), {"schedule": "dualpipev"}, 3, "at least as many micro-batches as stages"),
]


@pytest.mark.parametrize(("mesh", "options", "words"), REFUSED)
def test_what_is_refused_whatever_the_batch(mesh: Mesh, options: dict[str, Any], words: str) -> None:
    found = list(layout_refusals(mesh, EngineOptions(**options), DECLARED))
    assert [words in refusal.what for refusal in found] == [True], found


@pytest.mark.parametrize(("declared", "size", "options", "words", "fix"), REFUSED_TENSOR)
def test_what_tensor_parallelism_refuses(
    declared: Declaration, size: int, options: dict[str, Any], words: str, fix: str
) -> None:
    found = list(layout_refusals(Mesh(dp_replicate=2, tp=size), EngineOptions(**options), declared))
    assert [words in refusal.what and fix in refusal.fix for refusal in found] == [True], found


@pytest.mark.parametrize(("mesh", "options", "words", "fix"), REFUSED_EXPERTS)
def test_what_mixtures_of_experts_refuse(mesh: Mesh, options: dict[str, Any], words: str, fix: str) -> None:
    found = list(layout_refusals(mesh, EngineOptions(**options), MIXTURE))
    assert [words in refusal.what and fix in refusal.fix for refusal in found] == [True], found


@pytest.mark.parametrize(
    "mesh", [Mesh(dp_replicate=8, ep=8), Mesh(pp=2, dp_replicate=2, dp_shard=2, cp=2, ep=4), Mesh(tp=2), Mesh()]
)
def test_what_mixtures_of_experts_do_not_refuse(mesh: Mesh) -> None:
    check(mesh, EngineOptions(), MIXTURE, 4)


@pytest.mark.parametrize(
    "mesh",
    [
        Mesh(dp_replicate=4, ep=2),
        Mesh(pp=2, dp_replicate=2, dp_shard=2, cp=2, ep=4),
        Mesh(dp_replicate=3, dp_shard=2, tp=2, ep=3),
        Mesh(dp_shard=4, ep=1),
    ],
)
def test_experts_are_shared_by_consecutive_data_ranks(mesh: Mesh) -> None:
    share, same = mesh.expert_groups()
    everyone = list(range(mesh.world_size))
    for groups, size in ((share, mesh.ep), (same, mesh.data_ranks // mesh.ep)):
        assert sorted(itertools.chain(*groups)) == everyone
        assert {len(group) for group in groups} == {size}
    for group in (*share, *same):
        assert len({tuple(mesh.coordinates(rank)[axis] for axis in ("pp", "cp", "tp")) for rank in group}) == 1
    assert all(len(set(one) & set(other)) <= 1 for one in share for other in same)


@pytest.mark.parametrize(
    ("declared", "size", "words"),
    [(DECLARED, 2, "no sequence that could be cut"), (SEQUENCE, 5, "sequence of 24 does not divide over cp=5")],
)
def test_what_context_parallelism_refuses(declared: Declaration, size: int, words: str) -> None:
    found = list(layout_refusals(Mesh(cp=size), EngineOptions(), declared))
    assert [words in refusal.what for refusal in found] == [True], found


def test_context_and_sequence_parallelism_cut_the_same_axis() -> None:
    check(Mesh(cp=3, tp=8), EngineOptions(sequence_parallel=True), SEQUENCE, 1)
    (found,) = layout_refusals(Mesh(cp=3, tp=16), EngineOptions(sequence_parallel=True), SEQUENCE)
    assert "does not divide over cp=3 x tp=16" in found.what


def test_what_tensor_parallelism_does_not_refuse() -> None:
    options = EngineOptions(sequence_parallel=True, loss_parallel=True)
    check(Mesh(pp=2, dp_shard=2, tp=8), options, PLANNED, 2)
    check(Mesh(tp=16), EngineOptions(), NO_SEQUENCE, 1)


@pytest.mark.parametrize(("mesh", "options", "micro_batches", "words"), REFUSED_BATCHES)
def test_what_is_refused_for_its_batch(mesh: Mesh, options: dict[str, Any], micro_batches: int, words: str) -> None:
    found = list(batch_refusals(mesh, EngineOptions(**options), micro_batches))
    assert [words in refusal.what for refusal in found] == [True], found
    with pytest.raises(ValueError, match=words):
        check(mesh, EngineOptions(**options), DECLARED, micro_batches)


def test_weights_are_given_back_only_where_that_is_right() -> None:
    mesh = Mesh(pp=2, dp_shard=2)
    assert {name: reshards(mesh, EngineOptions(schedule=name)) for name in SCHEDULES} == {
        "gpipe": True, "1f1b": True, "looped-bfs": True, "interleaved-1f1b": True,
        "zero-bubble": False, "zbv": False, "dualpipev": False,
    }  # fmt: skip
    assert reshards(Mesh(dp_shard=4), EngineOptions(schedule="zbv"))
    assert not reshards(Mesh(dp_shard=4), EngineOptions(reshard_after_forward=False))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_stage_is_on_one_rank(name: ScheduleName) -> None:
    turns = SCHEDULES[name].stages_per_rank
    stages = [stage for rank in range(4) for stage in stages_of(SCHEDULES[name], rank, 4, turns)]
    assert sorted(stages) == list(range(4 * turns))


@pytest.mark.parametrize("mesh", [Mesh(), Mesh(dp_replicate=2, dp_shard=2), Mesh(pp=6, dp_replicate=2, dp_shard=2)])
def test_what_is_not_refused(mesh: Mesh) -> None:
    check(mesh, EngineOptions(), DECLARED, 6)


@pytest.mark.parametrize(
    "name", [name for name in registry.STRATEGIES if hasattr(registry.get_strategy(name), "engine")]
)
def test_a_strategy_offers_the_engines_options_under_their_names(name: str) -> None:
    """An option that the engine does not know would be ignored without a word; one with another default would lie."""
    strategy: Any = registry.get_strategy(name)
    own = {"mesh", "shard_size", "degree"}  # these are about the layout
    fields = set(strategy.Options.__struct_fields__)
    assert fields - own <= set(EngineOptions.__struct_fields__)
    engine = strategy.engine(strategy.Options())
    for field in fields - own:
        assert getattr(engine, field) == getattr(EngineOptions(), field)
        assert _annotation(strategy.Options, field) == _annotation(EngineOptions, field)


def _annotation(options: type, field: str) -> str:
    return next(
        kind.__annotations__[field] for kind in options.__mro__ if field in vars(kind).get("__annotations__", {})
    )
