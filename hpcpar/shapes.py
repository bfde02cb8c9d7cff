"""What a model's own code says of its size and its work: data that the worker's tracer writes and a forecast reads.

All sizes are of one rank and in bytes. What grows with the micro-batch is a `Line`: so much whatever it is, so much
more for every sample of it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from msgspec import Struct, field

from hpcpar.mesh_options import CheckpointingName, PrecisionName


class Line(NamedTuple):
    """fixed + per_sample x samples."""

    fixed: float
    per_sample: float

    def at(self, samples: float) -> float:
        """Return the value for a micro-batch of so many samples."""
        return self.fixed + self.per_sample * samples


Envelope = tuple[Line, ...]
"""The most of several lines: a peak is at one place of a pass for few samples and at another for many."""


def highest(envelope: Envelope, samples: float) -> float:
    """Return the most of an envelope's lines for a micro-batch."""
    return max((line.at(samples) for line in envelope), default=0.0)


class Case(Struct, frozen=True, kw_only=True):
    """How the units of a model are computed on one rank: all that changes the shapes inside them."""

    tp: int = 1
    cp: int = 1
    ep: int = 1
    precision: PrecisionName = "fp32"
    activation_checkpointing: CheckpointingName = "none"
    sequence_parallel: bool = False
    loss_parallel: bool = False
    capacity: float = 0.0
    gpu: bool = False
    """Attention takes the kernels of a GPU: in fp32, heads that share keys take the one that keeps all scores."""
    matrices_only: bool = False
    """tp splits the columns and rows of a plan and nothing else, as DeepSpeed's AutoTP does."""


class Question(Struct, frozen=True, kw_only=True):
    """What the tracer is asked."""

    workload: str
    """A name, or path/to/file.py:NAME."""
    options: dict[str, Any]
    cases: tuple[Case, ...]
    seed: int = 0


class Pass(Struct, frozen=True, kw_only=True):
    """One direction through a unit."""

    peak: Envelope
    """The most that is alive at a time beside what was alive before it began."""
    flops: Line
    """Floating-point operations but for attention."""
    attention: Line = Line(0.0, 0.0)
    """Those of fused attention; half of a causal one is not computed."""
    traffic: Line
    """Bytes that operators read and write."""
    operators: int
    """How many operators torch calls."""


class Message(Struct, frozen=True, kw_only=True):
    """Collectives of one kind inside a unit, both directions together, for one micro-batch."""

    axis: str
    """"tp", "cp" or "ep"."""
    collective: str
    calls: int
    payload: Line
    """In bytes, as docs/communication.md counts them."""


class UnitShape(Struct, frozen=True, kw_only=True):
    """One unit of a model, or its loss."""

    parameters: int
    """Numbers that this rank has, before any sharding over dp_shard."""
    whole: int
    """Numbers in all: what the cut of a pipeline goes by."""
    spread: int = 0
    """Of `parameters`, those of experts: ep has cut them, dp_shard does not."""
    frozen: int = 0
    """Of `parameters`, those that are not trained: they have no gradient and no moments. No expert is one."""
    buffers: int = 0
    """Bytes of buffers."""
    largest: int = 0
    """Numbers of the largest parameter that is trained."""
    input: Line
    output: Line
    kept: Line
    """What lives from its forward to its backward pass, without its input and output."""
    keeps_input: bool
    keeps_output: bool
    forward: Pass
    backward: Pass
    """The first one of a step: it makes the gradients of its weights."""
    backward_again: Envelope
    """The peak of a further one, which adds to gradients that are there; these are not in it."""
    messages: tuple[Message, ...] = ()

    @property
    def dense(self) -> int:
        """Numbers that are not those of experts: what shards and replicas share."""
        return self.parameters - self.spread

    @property
    def trained(self) -> int:
        """Of those, the ones that have a gradient."""
        return self.dense - self.frozen


class Model(Struct, frozen=True, kw_only=True):
    """A whole model in one case: unit after unit, then the loss."""

    kinds: tuple[UnitShape, ...]
    order: tuple[int, ...]
    """The units, as places in `kinds`: blocks that are alike are traced once."""
    loss: UnitShape

    @property
    def units(self) -> list[UnitShape]:
        """All units in their order."""
        return [self.kinds[place] for place in self.order]


class Answer(Struct, frozen=True, kw_only=True):
    """What the tracer found."""

    models: tuple[Model | str, ...] = ()
    """One for each case; a sentence where it could not be traced."""
    moments: int = 0
    """Bytes that the optimizer keeps for a number of the model."""
    update: Pass | None = None
    """An update, of which the `samples` are the numbers of the model."""
    sample_bytes: int = 0
    """Inputs and targets of one sample."""
    problem: str = ""
    """Why there is nothing, for a person."""
    versions: dict[str, str] = field(default_factory=dict)
