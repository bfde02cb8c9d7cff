"""Floating-point operations that a language model needs for a sample, by the published conventions. Imports torch.

None counts what is computed again (activation checkpointing). A frozen matrix has no gradient of its own: 4 operations
a parameter and token in place of 6. N parameters that a token meets, E of them in the table that tokens are looked up
in, L blocks of width d, S tokens a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from hpcpar.worker.neural import Unit

PALM = "palm"
"""6 (N - E) + 12 L d S a token: Chowdhery et al. 2022 (arXiv:2204.02311), appendix B. It is what `mfu` means here."""
EMBEDDING = "with-embedding"
"""6 N + 12 L d S: as nanoGPT and llm-foundry count."""
CAUSAL = "causal"
"""6 (N - E) + 6 L d S: the half of the attention that a causal mask leaves, as Megatron-LM counts."""


class Attended(NamedTuple):
    """What attention costs beside parameters."""

    layers: int
    dim: int
    sequence: int


def of_sample(units: Sequence[Unit], attended: Attended, chosen: float = 1.0) -> dict[str, float]:
    """Return the operations of a sample, forward and backward, by convention.

    Args:
        units: the model's; built without memory, and counted.
        attended: its shape.
        chosen: the share of the experts that a token is sent to.
    """
    looked_up, others = 0.0, 0.0
    with torch.device("meta"):
        for unit in units:
            module = unit.build()
            experts = tuple(path for path, style in unit.experts.items() if style == "experts")
            tables = {id(part.weight) for part in module.modules() if isinstance(part, nn.Embedding)}
            for name, parameter in module.named_parameters():
                operations = (6 if parameter.requires_grad else 4) * parameter.numel()
                operations *= chosen if name.startswith(experts) else 1.0
                if id(parameter) in tables:
                    looked_up += operations
                else:
                    others += operations
    attention = 12.0 * attended.layers * attended.dim * attended.sequence
    a_token = {PALM: others + attention, EMBEDDING: looked_up + others + attention, CAUSAL: others + attention / 2}
    return {name: operations * attended.sequence for name, operations in a_token.items()}
