"""What a neural workload hands to the strategies: units, loss, data and optimizer. Light at import.

No strategy names a workload and no workload names a strategy; this is all that they know of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from msgspec import Struct

from hpcpar.registry import Declaration

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay


class Samples(Protocol):
    """A data set in memory, addressed by sample number."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def fetch(self, ids_B: np.ndarray) -> tuple[Any, Any]:
        """Return inputs and targets of these samples as CPU tensors, the batch outermost, then the sequence if any."""

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record: name, num_samples, sha256, synthetic."""


TensorStyle = Literal["vocabulary", "gather", "norm", "column", "row", "replica", "logits"]
"""What a module of a unit is to tensor parallelism.

"vocabulary": an embedding, split by rows. "gather": a part that needs the whole sequence on its way in. "norm": works
on every token by itself. "column": a linear layer split by its outputs. "row": one split by its inputs, which are the
outputs of columns; its results are added up. "replica": whole on every rank, between a "gather" and a column.
"logits": a last layer split by its classes. What is not named is the
same on every rank, and gets whole inputs.
"""
Nonfinite = Literal["record", "skip", "stop"]
SequenceStyle = Literal["attention", "positions", "counts"]
"""What a module of a unit is to a rank that has a slice of the sequence.

"attention": causal attention, called with queries [B, H, S, E], keys and values [B, K, S, E]. "positions": has an
attribute `part`: which slice this is, counted from 0. "counts": counts tokens of samples, and has an attribute
`add_up`: a function that turns counts of this slice [B, E] into those of all slices.
"""
ExpertStyle = Literal["router", "dispatch", "experts"]
"""What a module of a unit is to a mixture of experts (E experts in all, K of them a token).

"router": decides who gets a token. Its attributes and methods are those of `Router`. "dispatch": without parameters,
called with tokens [B, S, D], the numbers of their experts [B, S, K] and the module of the experts; returns what these
made of them [B, S, K, D]. "experts": called with rows [N, D] that are sorted by expert and the number of rows of each;
its parameters have the experts on their first axis, and it reads them through its method `weights()`, in order.
"""
Loss = Callable[[Any, Any], tuple[Any, float]]
"""(output, targets) -> (sum of the losses as a tensor, their weight)."""


class Unit(NamedTuple):
    """A place where the model may be cut: a part that takes one tensor and returns one tensor."""

    name: str
    build: Callable[[], Any]
    """Make the torch.nn.Module; under the meta device it costs nothing."""
    tensor: Mapping[str, TensorStyle] = MappingProxyType({})
    """The tensor-parallel plan: path of a module inside the unit ("" is the unit) -> what it is."""
    sequence: Mapping[str, SequenceStyle] = MappingProxyType({})
    """The same for context parallelism: the modules that must know that they see a slice. None has parameters."""
    experts: Mapping[str, ExpertStyle] = MappingProxyType({})
    """The same for a mixture of experts."""


class Router(Protocol):
    """What the engine knows of a router. The rest is its own: scores, a balance loss, a bias against imbalance.

    A router may do something to keep its experts evenly busy. So that this is the same on every mesh, it goes by what
    the whole global batch did (`settle`), or by a sample alone; and it counts in the backward pass, which happens once
    for every micro-batch, where a forward pass may be computed again.
    """

    slots: int | None
    """How many tokens of a sample an expert takes; None: any number. More are dropped, and counted as dropped."""
    counts: Any
    """int64 [E + 1]: how many tokens of this rank's share were sent to each expert, and how many were dropped."""

    def begin(self, scale: float) -> None:
        """Begin to count anew. The summed loss of a micro-batch is multiplied by `scale` before its backward pass."""

    def settle(self, counts: Any) -> None:
        """Take notice of the counts of the global batch, after its last backward pass."""


Score = Callable[[Any, Any], tuple[Any, float]]
"""(output, targets) -> (sum of the scores as a tensor, what it is summed over); their ratio is the metric."""


class Evaluation(Struct, frozen=True, kw_only=True):
    """What a trained model is asked: samples that it has never seen, and a metric beside the loss."""

    samples: Samples
    metric: str
    """The metric's name, e.g. "accuracy"; more is better."""
    score: Score


class NeuralWorkload(Struct, frozen=True, kw_only=True):
    """A model as a sequence of units, and how it learns."""

    declared: Declaration
    """What the workload says of itself on the login node: the engine refuses by the same rules as the plan."""
    units: tuple[Unit, ...]
    initialise: Callable[[str, Any, Any], None]
    """(full parameter name, tensor, CPU generator): fill the tensor in place, from nothing else."""
    loss: Loss
    weigh: Callable[[Any], float]
    """targets -> the weight that `loss` will return for them."""
    sample_weight: float | None
    """The weight of every sample where they all weigh the same; None: it is added up over the ranks in each step."""
    samples: Samples
    optimizer: Callable[[Iterable[Any]], Any]
    """parameters -> torch.optim.Optimizer."""
    seed: int
    max_grad_norm: float = 0.0
    """The longest that a gradient may be; 0: as long as it is."""
    nonfinite: Nonfinite = "record"
    """What becomes of an update whose loss or gradient is not finite."""
    evaluation: Evaluation | None = None
    """None: it is not evaluated after the training."""
    export: Callable[[Mapping[str, Any]], Mapping[str, bytes]] | None = None
    """Trained parameters, whole and by full name -> the files of folder `adapter` of the run; None: there are none."""
    model_flops: Mapping[str, float] = MappingProxyType({})
    """Operations that the model needs for a sample, forward and backward, by convention (workloads/flops.py)."""
