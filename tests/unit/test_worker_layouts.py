"""What strategies and workloads say on the login node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from hpcpar import registry
from hpcpar.mesh import Mesh
from hpcpar.registry import World


@pytest.mark.parametrize(
    ("strategy", "options", "world", "mesh"),
    [
        ("single", {}, World(1, 1), Mesh()),
        ("ddp", {}, World(2, 4), Mesh(dp_replicate=8)),
        ("ddp", {}, World(1, 1), Mesh()),
        ("layerwise", {"cuts": [1, 3]}, World(1, 1), Mesh()),
        ("dp", {}, World(1, 1), Mesh()),
        ("localsgd", {}, World(2, 2), Mesh(dp_replicate=4)),
        ("async", {"staleness_bound": 0}, World(2, 2), Mesh(dp_replicate=4)),
        ("localsgd", {"outer": "nesterov"}, World(1, 1), Mesh()),
        ("fsdp", {}, World(2, 2), Mesh(dp_shard=4)),
        ("fsdp", {"shard_size": 2}, World(2, 4), Mesh(dp_replicate=4, dp_shard=2)),
        ("tp", {}, World(2, 2), Mesh(tp=4)),
        ("tp", {"degree": 2}, World(2, 4), Mesh(dp_replicate=4, tp=2)),
        ("cp", {}, World(2, 2), Mesh(cp=4)),
        ("cp", {"degree": 2}, World(2, 4), Mesh(dp_replicate=4, cp=2)),
        ("ep", {}, World(2, 2), Mesh(dp_replicate=4, ep=4)),
        ("ep", {"degree": 2}, World(2, 4), Mesh(dp_replicate=8, ep=2)),
        ("ep", {}, World(1, 1), Mesh()),
        ("hybrid", {"mesh": "pp=2,dp_shard=-1,ep=2"}, World(2, 4), Mesh(pp=2, dp_shard=4, ep=2)),
        ("deepspeed-zero", {"stage": 3}, World(2, 2), Mesh(dp_shard=4)),
        ("deepspeed-tp", {}, World(2, 2), Mesh(tp=4)),
        ("deepspeed-tp", {"degree": 2}, World(2, 4), Mesh(dp_replicate=4, tp=2)),
        ("deepspeed-pp", {}, World(2, 2), Mesh(pp=4)),
        ("deepspeed-pp", {"stages": 2}, World(2, 4), Mesh(pp=2, dp_replicate=4)),
        ("horovod", {"compression": "fp16"}, World(2, 2), Mesh(dp_replicate=4)),
        ("pp", {}, World(4, 1), Mesh(pp=4)),
        ("pp", {}, World(1, 1), Mesh()),
        ("hybrid", {}, World(2, 2), Mesh(pp=2, dp_replicate=2)),
        ("hybrid", {}, World(1, 1), Mesh()),
        ("hybrid", {"mesh": "pp=2,dp_shard=-1"}, World(2, 4), Mesh(pp=2, dp_shard=4)),
        ("hybrid", {"mesh": "pp=4,dp=2"}, World(2, 4), Mesh(pp=4, dp_replicate=2)),
    ],
)
def test_layouts(strategy: str, options: dict[str, Any], world: World, mesh: Mesh) -> None:
    spread = registry.get_strategy(strategy)
    assert spread.layout(world, msgspec.convert(options, spread.Options)) == mesh


@pytest.mark.parametrize(
    ("strategy", "options", "world", "words"),
    [
        ("single", {}, World(2, 1), "single is one process"),
        ("single", {}, World(1, 2), "single is one process"),
        ("dp", {}, World(2, 1), "dp is one process, this world has 2 x 1 ranks: .* or ddp, which replicates"),
        ("dp", {}, World(1, 2), "dp is one process, this world has 1 x 2 ranks: .* or ddp, which replicates"),
        ("layerwise", {}, World(2, 1), "layerwise is one process, this world has 2 x 1 ranks: .* or pp, which spreads"),
        ("layerwise", {}, World(1, 2), "layerwise is one process, this world has 1 x 2 ranks: .* or pp, which spreads"),
        ("hybrid", {}, World(3, 1), "does not divide 3 ranks"),
        ("hybrid", {"mesh": "pp=2,dp=2"}, World(1, 8), "has 4 ranks, the run has 8"),
        ("tp", {"degree": 3}, World(1, 4), "degree 3 does not divide 4 ranks"),
        ("cp", {"degree": 3}, World(1, 4), "degree 3 does not divide 4 ranks"),
        ("ep", {"degree": 3}, World(1, 4), "degree 3 does not divide 4 ranks"),
        ("deepspeed-tp", {"degree": 3}, World(1, 4), "degree 3 does not divide 4 ranks"),
        ("deepspeed-pp", {"stages": 3}, World(1, 4), "a pipeline of 3 stages does not divide 4 ranks"),
        ("fsdp", {"shard_size": 3}, World(1, 4), "shard_size 3 does not divide 4 ranks"),
    ],
)
def test_layouts_that_are_refused(strategy: str, options: dict[str, Any], world: World, words: str) -> None:
    spread = registry.get_strategy(strategy)
    with pytest.raises(ValueError, match=words):
        spread.layout(world, msgspec.convert(options, spread.Options))


def test_text_that_is_not_there_is_a_problem_with_its_place(tmp_path: Path) -> None:
    llama = registry.get_workload("llama-tiny")
    options = msgspec.convert({"data": {"path": str(tmp_path / "nowhere")}}, llama.Options)
    problems = llama.check(options)
    assert [problem.where for problem in problems] == ["workload llama-tiny: data.path"]
    assert "nowhere" in problems[0].what
    assert llama.check(msgspec.convert({"data": {"path": str(tmp_path)}}, llama.Options)) == []
    assert llama.check(llama.Options()) == []


@pytest.mark.parametrize(
    ("workload", "options", "words"),
    [
        ("llama-tiny", {"dim": 100, "heads": 3}, "not a multiple of 2 x heads"),
        ("llama-tiny", {"heads": 4, "kv_heads": 3}, "not a multiple of kv_heads"),
        ("llama-tiny", {"optimizer": "sdg"}, "Invalid enum value"),
        ("llama-tiny", {"data": {"pth": "x"}}, "unknown field"),
        ("mlp", {"lr": 0}, "> 0"),
        ("llama-7b", {"heads": 3}, "not a multiple of 2 x heads"),
        ("llama-1b", {"vocabulary": 255}, ">= 256"),
        ("llama-moe", {"top_k": 9}, "top_k 9 is more than the 8 experts"),
        ("llama-moe", {"heads": 3}, "not a multiple of 2 x heads"),
    ],
)
def test_options_that_are_refused(workload: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(options, registry.get_workload(workload).Options)


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        ("async", {"staleness_bound": -1}, ">= 0"),
        ("ep", {"capacity": -1}, ">= 0"),
        ("localsgd", {"period": 0}, ">= 1"),
        ("localsgd", {"outer": "adam"}, "Invalid enum value"),
        ("deepspeed-zero", {"stage": 0}, "Invalid enum value 0"),
        ("deepspeed-zero", {"stage": 2, "offload_parameters": True}, "needs stage 3, this is stage 2"),
        ("deepspeed-zero", {"persistence_threshold": -1}, ">= 0"),
        ("horovod", {"compression": "bf16"}, "Invalid enum value"),
        ("localsgd", {"outer_momentum": 1.0}, "< 1"),
    ],
)
def test_options_of_strategies_that_are_refused(strategy: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert(options, registry.get_strategy(strategy).Options)


@pytest.mark.parametrize("cuts", [[0], [2, 2], [3, 1], [-1]])
def test_cuts_that_do_not_rise_are_refused(cuts: list[int]) -> None:
    with pytest.raises(msgspec.ValidationError, match="must rise and begin at 1 or more"):
        msgspec.convert({"cuts": cuts}, registry.get_strategy("layerwise").Options)


def test_units_follow_the_options() -> None:
    mlp, llama = registry.get_workload("mlp"), registry.get_workload("llama-tiny")
    assert mlp.declare(mlp.Options(layers=3)).num_units == 4  # type: ignore[call-arg]
    declared = llama.declare(llama.Options(layers=3, sequence=16))  # type: ignore[call-arg]
    assert (declared.num_units, declared.tokens_per_sample) == (5, 16)


def test_a_preset_is_nothing_but_defaults() -> None:
    tiny, large = registry.get_workload("llama-tiny"), registry.get_workload("llama-8b")
    fields = tiny.Options.__struct_fields__
    assert set(large.Options.__struct_fields__) == set(fields)
    defaults = {name: getattr(tiny.Options(), name) for name in fields}
    assert large.declare(msgspec.convert(defaults, large.Options)) == msgspec.structs.replace(
        tiny.declare(tiny.Options()), steps=large.declare(large.Options()).steps
    )


@pytest.mark.parametrize(
    ("name", "divides"),
    [("llama-tiny", 2), ("llama-15m", 6), ("llama-160m", 4), ("llama-1b", 4), ("llama-7b", 32), ("llama-8b", 8)],
)
def test_over_how_many_ranks_a_preset_can_be_split(name: str, divides: int) -> None:
    """Heads 6, 12, 32 (4 and 8 of them for keys and values), widths, and a vocabulary of 2^8 x 125 or 2^8 x 501."""
    workload = registry.get_workload(name)
    tensor = workload.declare(workload.Options()).tensor
    assert tensor is not None
    assert divides % tensor.divides == 0
