"""One rule for all strategies: fp32 is what is kept, added up over ranks and compared; bfloat16 is what is multiplied.

Every unit computes under autocast (weights, gradients and optimizer state stay fp32, so what ranks add up is fp32), and
the loss sees fp32. What goes from unit to unit has the same type under every strategy. A sharded weight is cast before
it is gathered (half the bytes): a matrix is the same then as one that is cast after; embeddings and the weights of
norms, which autocast would leave alone, are rounded too.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from hpcpar.errors import MissingExtraError, RunError
from hpcpar.mesh_options import EngineOptions
from hpcpar.records import Cause
from hpcpar.worker.neural import Loss, Unit

FLOAT8_CAPABILITY = (8, 9)
"""The first CUDA capability with float8 matrix products (Ada; NVIDIA, CUDA C++ Programming Guide, appendix)."""
FLOAT8_MULTIPLE = 16
"""Both sizes of a float8 matrix must be multiples of it (torch._scaled_mm)."""


def check(device: torch.device, options: EngineOptions) -> None:
    """Refuse fp8 where it cannot run.

    Raises:
        RunError: the device has no float8 matrix products.
        MissingExtraError: torchao is not installed.
    """
    if options.precision != "fp8":
        return
    if device.type != "cuda":
        raise RunError(Cause.LAUNCH, f"precision fp8 needs a GPU with float8, this rank is on {device.type}: use bf16")
    capability = torch.cuda.get_device_capability(device)
    if capability < FLOAT8_CAPABILITY:
        name, have = torch.cuda.get_device_name(device), ".".join(map(str, capability))
        raise RunError(Cause.LAUNCH, f"precision fp8 needs CUDA capability 8.9, {name} has {have}: use bf16")
    try:
        import torchao  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("torchao", "fp8", "precision fp8") from error


def apply(module: nn.Module, unit: Unit, device: torch.device, options: EngineOptions) -> None:
    """Have a unit multiply in low precision, in place: its forward method is exchanged."""
    if options.precision == "fp32":
        return
    if options.precision == "fp8":
        _multiply_in_float8(module, unit)
    inner = module.forward

    def forward(*inputs: Any) -> Any:
        with torch.autocast(device.type, torch.bfloat16):
            return inner(*inputs)

    module.forward = forward


def _multiply_in_float8(module: nn.Module, unit: Unit) -> None:
    from torchao.float8 import convert_to_float8_training

    def suits(layer: nn.Module, path: str) -> bool:
        is_linear = isinstance(layer, nn.Linear)
        sizes_fit = is_linear and not (layer.in_features % FLOAT8_MULTIPLE or layer.out_features % FLOAT8_MULTIPLE)
        return sizes_fit and unit.tensor.get(path) != "logits"  # the last layer stays bf16, as torchtitan has it

    convert_to_float8_training(module, module_filter_fn=suits)


def loss(function: Loss, options: EngineOptions) -> Loss:
    """Let a workload's loss read fp32."""
    if options.precision == "fp32":
        return function

    def of_fp32(output: Any, targets: Any) -> tuple[Any, float]:
        return function(output.float(), targets)

    return of_fp32


def policy(options: EngineOptions) -> dict[str, Any]:
    """Return what FSDP2 must know: weights travel as bfloat16, gradients as fp32."""
    if options.precision == "fp32":
        return {}
    from torch.distributed.fsdp import MixedPrecisionPolicy

    # On CPUs a norm of fp32 with bfloat16 weights takes a slower path; torch says so once a process.
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight", category=UserWarning)
    return {
        "mp_policy": MixedPrecisionPolicy(
            param_dtype=torch.bfloat16,
            reduce_dtype=torch.float32,
            output_dtype=torch.float32,
            cast_forward_inputs=False,
        )
    }
