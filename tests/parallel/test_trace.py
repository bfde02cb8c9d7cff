"""What the tracer reads off models, beside what real tensors show and what formulas say."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import formulas
import matrix
import msgspec
import numpy as np
import pytest
import torch
from matrix import Job
from torch.utils._python_dispatch import TorchDispatchMode

from hpcpar import registry
from hpcpar.control.forecast.layout import Layout, layout_of
from hpcpar.control.forecast.memory import need
from hpcpar.control.forecast.work import work
from hpcpar.shapes import Answer, Case, Model, highest
from hpcpar.worker.trace.tally import Tally
from hpcpar.worker.trace.trace import trace
from hpcpar.worker.trace.units import Tracer, _Top
from hpcpar.worker.workloads import llama_model

SAMPLES = 3
TOLERANCE = 0.02
"""Of a peak: torch's fakes and its kernels differ in small results that an operator only needs for itself."""
LLAMA = {"dim": 64, "heads": 8, "kv_heads": 4, "hidden": 96, "layers": 6, "sequence": 32, "optimizer": "adamw"}


@pytest.fixture(autouse=True, scope="module")
def no_fakes_left() -> Iterator[None]:
    """Fakes must not meet real tensors: the tracer has a process of its own, and here a model's cache is emptied."""
    yield
    llama_model._cached_tables.cache_clear()


def load(name: str, **options: Any) -> Any:
    llama_model._cached_tables.cache_clear()
    workload = registry.get_workload(name)
    return workload.load(msgspec.convert(options, workload.Options), 0)


class Alive(TorchDispatchMode):
    """The most bytes of real tensors that live at a time, from now on."""

    def __init__(self) -> None:
        super().__init__()
        self._known: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()
        self.now = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage() not in self._known:
                self._meet(tensor.untyped_storage())
        return result

    def meet_all(self, tensors: Any) -> None:
        """Take tensors that are there already for known: they are not counted."""
        for tensor in tensors:
            self._known[tensor.untyped_storage()] = 0

    def _meet(self, storage: Any) -> None:
        size = storage.nbytes()
        self._known[storage] = size
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._part, size)

    def _part(self, size: int) -> None:
        self.now -= size


def real_passes(unit: Any, value: Any) -> tuple[float, float, float, Any]:
    """Return what a unit keeps, the peaks of its passes, and its output, with real tensors."""
    module = unit.build()
    given = value.detach()
    if given.is_floating_point():
        given.requires_grad_()
    module(given).sum().backward()
    for parameter in module.parameters():
        parameter.grad = None
    given.grad = None
    with Alive() as alive:
        alive.meet_all([given, *module.parameters(), *module.buffers()])
        output = module(given)
        forward, kept = alive.most, alive.now - output.untyped_storage().nbytes()
        result = output.detach().clone()
        alive.now -= result.untyped_storage().nbytes()
        top = _Top.apply(output)
        del output  # in a model, the unit behind it has it, or nobody
        alive.most = 0
        top.backward()
        backward = alive.most
    return kept, forward, backward, result


@pytest.mark.parametrize(
    "name",
    [
        "llama-tiny",
        "mlp",
        *(pytest.param(name, marks=pytest.mark.full) for name in ("vgg11", "nbow", "conv-autoencoder", "cnn")),
    ],
)
def test_what_units_keep_and_their_peaks_are_those_of_real_tensors(name: str) -> None:
    workload = load(name)
    tally = Tally()
    with tally:
        model = Tracer(workload, tally).model(Case())
    llama_model._cached_tables.cache_clear()
    value, _ = workload.samples.fetch(np.arange(SAMPLES))
    for unit, shape in zip(workload.units, model.units, strict=True):
        kept, forward, backward, value = real_passes(unit, value)
        assert shape.kept.at(SAMPLES) == pytest.approx(kept, rel=TOLERANCE, abs=256), unit.name
        assert highest(shape.forward.peak, SAMPLES) == pytest.approx(forward, rel=TOLERANCE, abs=256), unit.name
        assert highest(shape.backward.peak, SAMPLES) == pytest.approx(backward, rel=TOLERANCE, abs=256), unit.name


@pytest.mark.full
def test_blocks_that_are_alike_are_alike() -> None:
    workload = load("llama-tiny")
    tally = Tally()
    with tally:
        tracer = Tracer(workload, tally)
        short, whole = tracer.model(Case()), tracer.model(Case(), alike=False)
    assert len(short.kinds) == 3
    assert len(whole.kinds) == len(workload.units)
    assert short.units == whole.units


def test_operations_are_those_of_the_published_formula() -> None:
    """6 N for every token, N without the embedding, and 6 S D a token and block for causal attention (PaLM, halved)."""
    options = {"dim": 64, "heads": 8, "kv_heads": 8, "hidden": 96, "layers": 3, "sequence": 32}
    answer = trace(load("llama-tiny", **options), [Case()])
    model = answer.models[0]
    assert isinstance(model, Model)
    passes = [one for unit in [*model.units, model.loss] for one in (unit.forward, unit.backward)]
    counted = sum(one.flops.at(1) for one in passes)
    matrices = sum(unit.parameters for unit in model.units[1:]) - (2 * 3 + 1) * 64
    # Backward attention computes the scores once more: 7 products instead of 6 (Dao 2022, arXiv:2205.14135).
    attention = 3 * 7 * 32 * 32 * 64
    assert counted == pytest.approx(6 * matrices * 32, rel=1e-3)
    assert sum(one.attention.at(1) for one in passes) == pytest.approx(attention, rel=1e-3)


ROWS = [
    ("ddp", {}, 4),
    ("fsdp", {}, 4),
    ("fsdp", {"reshard_after_forward": False}, 4),
    ("fsdp", {"shard_size": 2}, 4),
    ("tp", {}, 4),
    ("tp", {"sequence_parallel": True, "loss_parallel": True}, 4),
    ("cp", {}, 4),
    ("pp", {}, 4),
    ("pp", {"schedule": "interleaved-1f1b"}, 2),
    ("hybrid", {"mesh": "pp=2,dp_shard=2,tp=2"}, 8),
]
WIRE = {"all-reduce": 2.0, "all-gather": 1.0, "reduce-scatter": 1.0}


@pytest.fixture(scope="module")
def jobs() -> list[tuple[Job, Layout]]:
    made = []
    for strategy, options, ranks in ROWS:
        job = Job(matrix._plan(strategy, options, "llama-tiny", LLAMA, ranks, 16, None))
        layout = layout_of(job.identity, gpu=False)
        assert isinstance(layout, Layout)
        made.append((job, layout))
    return made


@pytest.fixture(scope="module")
def traced(jobs: list[tuple[Job, Layout]]) -> tuple[dict[Case, Model], Answer]:
    cases = list(dict.fromkeys([Case(), *(layout.case for _, layout in jobs)]))
    answer = trace(load("llama-tiny", **LLAMA), cases)
    assert all(isinstance(model, Model) for model in answer.models), answer.models
    return dict(zip(cases, answer.models, strict=True)), answer  # type: ignore[arg-type]


@pytest.mark.full
@pytest.mark.parametrize("place", range(len(ROWS)), ids=[f"{s} {o}" for s, o, _ in ROWS])
def test_a_rank_holds_what_was_counted(place: int, jobs: Any, traced: Any) -> None:
    (job, layout), (models, answer) = jobs[place], traced
    needed = need(models[layout.case], layout, answer)
    rank = needed.place * (job.identity.mesh.world_size // job.identity.mesh.pp)
    parameters, _, moments = formulas.held(job, rank)
    assert needed.parameters == pytest.approx(parameters, rel=1e-3)
    assert needed.moments == pytest.approx(moments, rel=1e-3)
    assert needed.total > parameters + moments


ONE_AXIS = [place for place, (_, options, _) in enumerate(ROWS) if not {"mesh", "shard_size"} & options.keys()]
"""With several axes the formula of payloads does not say which goes over which."""


@pytest.mark.full
@pytest.mark.parametrize("place", ONE_AXIS, ids=[f"{ROWS[i][0]} {ROWS[i][1]}" for i in ONE_AXIS])
def test_a_step_moves_what_was_counted(place: int, jobs: Any, traced: Any) -> None:
    """docs/communication.md counts payloads; on a mesh of one axis, a ring of n ranks turns them into bytes sent."""
    (job, layout), (models, answer) = jobs[place], traced
    mesh = job.identity.mesh
    sizes = [size for size in (mesh.pp, mesh.dp_replicate, mesh.dp_shard, mesh.cp, mesh.tp) if size > 1]
    todo = work(models[layout.case], models[Case()], layout, answer)
    n = sizes[0]
    sent = 0.0
    most = 0.0
    for rank in range(n):
        moved = formulas.moved(job, rank)
        sent = sum(size * (1.0 if kind == "send" else WIRE[kind] * (n - 1) / n) for kind, size in moved.items())
        most = max(most, sent)
    # tp: the sums of the gradients of norms are left out (4 D each: nothing beside activations).
    links = (todo.inside, todo.outside, todo.behind_inside, todo.behind_outside)
    assert sum(link.wire_bytes for link in links) == pytest.approx(most, rel=0.02)
