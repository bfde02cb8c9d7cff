"""fp8 and async_tp are refused by name where they cannot run; blocks that are alike are compiled once."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hpcpar.errors import MissingExtraError, RunError  # noqa: E402
from hpcpar.mesh import Mesh  # noqa: E402
from hpcpar.mesh_options import EngineOptions  # noqa: E402
from hpcpar.worker.mesh_engine import compiling, precision, recompute, tensor  # noqa: E402
from hpcpar.worker.workloads import llama_model  # noqa: E402

FP8 = EngineOptions(precision="fp8")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


def test_async_tensor_parallelism_needs_gpus() -> None:
    context = SimpleNamespace(device=torch.device("cpu"), mesh=Mesh(tp=2))
    with pytest.raises(RunError, match="async_tp needs GPUs that see each other's memory, this rank is on cpu"):
        tensor.prepare(context, EngineOptions(async_tp=True, sequence_parallel=True, compile=True))
    tensor.prepare(context, EngineOptions())


def test_fp8_needs_a_gpu() -> None:
    with pytest.raises(RunError, match="precision fp8 needs a GPU with float8, this rank is on cpu: use bf16"):
        precision.check(CPU, FP8)
    precision.check(CPU, EngineOptions(precision="bf16"))


def test_fp8_needs_a_gpu_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    with pytest.raises(RunError, match=r"precision fp8 needs CUDA capability 8.9, A100 has 8.0: use bf16"):
        precision.check(GPU, FP8)


def test_fp8_needs_torchao(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(MissingExtraError, match="precision fp8: needs the package 'torchao'") as caught:
        precision.check(GPU, FP8)
    assert "pip install 'hpcpar[fp8]'" in str(caught.value)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at inputs
@pytest.mark.parametrize("more", [{}, {"precision": "bf16"}, {"activation_checkpointing": "selective"}], ids=str)
def test_blocks_that_are_alike_are_compiled_once(monkeypatch: pytest.MonkeyPatch, more: dict[str, Any]) -> None:
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiling, "BACKEND", backend)
    torch._dynamo.reset()
    units = llama_model.units(llama_model.Shape(16, 2, 1, 16, 1e4), 32, 12)
    options = EngineOptions(compile=True, **more)
    model = torch.nn.Sequential(*(unit.build() for unit in units))
    for unit, module in zip(units, model, strict=True):
        precision.apply(module, unit, CPU, options)
        recompute.apply(module, options)
        compiling.apply(module, unit, options)
    before = compiling.phases()["compile"]
    model(torch.zeros(1, 4, dtype=torch.int64))
    assert len(graphs) == 2, "one for all blocks, one for the head"
    assert compiling.phases()["compile"] > before
