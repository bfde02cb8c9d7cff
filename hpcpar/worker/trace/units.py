"""Trace the units of a model one after the other, as the mesh engine prepares them, with tensors that are not there.

Every unit is traced for one sample and for two: what an operator leaves alive grows on a straight line, so that the
peak of any micro-batch is known from these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hpcpar.mesh import Mesh
from hpcpar.mesh_options import EngineOptions
from hpcpar.shapes import Case, Envelope, Line, Message, Model, Pass, UnitShape
from hpcpar.worker.mesh_engine import experts, precision, recompute, ring, shard, tensor
from hpcpar.worker.neural import NeuralWorkload, TensorStyle, Unit
from hpcpar.worker.trace import world
from hpcpar.worker.trace.gpu_attention import gpu_attention
from hpcpar.worker.trace.tally import Tally

SAMPLES = (1, 2)
MATRICES: tuple[TensorStyle, ...] = ("column", "row")
"""What of a plan DeepSpeed splits (deepspeed_engine/autotp.py)."""


class _Direction(NamedTuple):
    history: list[int]
    peak: int
    flops: int
    attention: int
    traffic: int
    operators: int
    calls: dict[str, int]
    payload: dict[str, int]


class _Seen(NamedTuple):
    """A unit with a certain number of samples."""

    shape: dict[str, int]
    """Sizes that do not depend on the samples."""
    input: int
    output: int
    kept: int
    keeps_input: bool
    keeps_output: bool
    forward: _Direction
    backward: _Direction
    again: _Direction
    result: Any
    """The output, cut off from its graph."""


class Tracer:
    """Traces one workload; fakes of one mode must not meet those of another, so one mode serves all cases."""

    def __init__(self, workload: NeuralWorkload, tally: Tally) -> None:
        self._workload, self._tally = workload, tally
        # Really, and as many samples as are traced: how a batch lies in memory decides which copies convolutions make.
        with unset_fake_temporarily():
            self._fetched = {samples: workload.samples.fetch(_first_samples(samples)) for samples in SAMPLES}
        self._spread = False

    @property
    def sample_bytes(self) -> int:
        """Inputs and targets of one sample."""
        return sum(tensor.nbytes for tensor in self._fetched[1])

    def model(self, case: Case, *, alike: bool = True) -> Model:
        """Trace all units in one case; `alike` traces blocks once that are made the same way."""
        mesh = Mesh(dp_replicate=case.ep, cp=case.cp, tp=case.tp, ep=case.ep)
        options = EngineOptions(
            precision=case.precision,
            activation_checkpointing=case.activation_checkpointing,
            sequence_parallel=case.sequence_parallel,
            loss_parallel=case.loss_parallel,
            capacity=case.capacity,
        )
        with world.fake(mesh, options) as context, gpu_attention(case.gpu):
            self._spread = case.tp * case.ep > 1
            values = [self._batch(samples, case.cp) for samples in SAMPLES]
            kinds: dict[Any, UnitShape] = {}
            order: list[int] = []
            outputs: dict[Any, list[Any]] = {}
            current = [inputs for inputs, _ in values]
            for unit in self._workload.units:
                key = (_made_by(unit) if alike else unit.name, _look(current[0]), _look(current[1]))
                if key not in kinds:
                    module = self._prepare(unit, context, options, case)
                    seen = [self._unit(module, value) for value in current]
                    outputs[key] = [one.result for one in seen]
                    whole = sum(p.numel() for p in unit_on_meta(unit).parameters())
                    kinds[key] = _shape(seen, whole, case, recomputes=case.activation_checkpointing != "none")
                order.append(list(kinds).index(key))
                current = outputs[key]
            loss = self._loss(current, [targets for _, targets in values], context, options, case)
        return Model(kinds=tuple(kinds.values()), order=tuple(order), loss=loss)

    def _batch(self, samples: int, parts: int) -> tuple[Any, Any]:
        made = []
        for tensor_B in self._fetched[samples]:
            fake = self._tally.from_tensor(tensor_B)
            made.append(fake.chunk(parts, dim=1)[-1].contiguous() if parts > 1 else fake)
        return made[0], made[1]

    def _prepare(self, unit: Unit, context: Any, options: EngineOptions, case: Case) -> Any:
        module = unit.build()
        split = unit
        if case.matrices_only:
            split = unit._replace(tensor={path: how for path, how in unit.tensor.items() if how in MATRICES})
        tensor.apply(module, split, context, options)
        ring.apply(module, unit, context)
        experts.apply(module, unit, context, self._workload.declared, options)
        experts.mark(module, unit, context)
        world.balance(module, unit, options, self._workload.declared)
        precision.apply(module, unit, context.device, options)
        recompute.apply(module, options)
        return module

    def _unit(self, module: Any, value: Any) -> _Seen:
        given = value.detach()
        if given.is_floating_point():
            given.requires_grad_()
        sizes = _sizes(module)
        seen = self._passes(module, given, lambda: _forget_gradients(module))
        return seen._replace(shape=sizes)

    def _passes(self, compute: Callable[[Any], Any], given: Any, forget: Callable[[], None]) -> _Seen:
        """Go forward and back, and once more on top of the gradients of the first time."""
        # What a model or torch makes once and keeps (tables of angles, plans of a DTensor) is no part of a step.
        # Without a DTensor nothing is planned when a gradient is added to one that is there.
        for _ in range(2 if self._spread else 1):
            _Top.apply(compute(given)).backward()
        forget()
        given.grad = None
        tally, saved = self._tally, set[int]()
        tally.begin()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: _note(saved, t), lambda t: t):
            output = compute(given)
        forward = self._direction()
        size, out_size = (shard.local(value).untyped_storage().nbytes() for value in (given, output))
        kept, keeps = tally.now - out_size, (_storage(given) in saved, _storage(output) in saved)
        top, result = _Top.apply(output), partial(torch.empty, output.shape, dtype=output.dtype)
        del output  # in a model, the unit behind it has it, or nobody
        self._direction()
        top.backward()
        backward = self._direction()
        del top
        given.grad = None
        gradients = tally.now
        top = _Top.apply(compute(given))
        self._direction()
        top.backward()
        again = self._direction(-gradients)
        del top
        forget()
        given.grad = None
        return _Seen({}, size, out_size, max(0, kept), *keeps, forward, backward, again, result())

    def _direction(self, base: int = 0) -> _Direction:
        tally = self._tally
        history = [now + base for now in tally.history]
        found = _Direction(
            history, max(history, default=0), tally.flops, tally.attention, tally.traffic, tally.operators,
            dict(tally.calls), dict(tally.payload),
        )  # fmt: skip
        tally.history = []
        tally.flops = tally.attention = tally.traffic = tally.operators = 0
        tally.calls.clear()
        tally.payload.clear()
        return found

    def _loss(
        self, outputs: Sequence[Any], targets: Sequence[Any], context: Any, options: EngineOptions, case: Case
    ) -> UnitShape:
        function = tensor.loss(self._workload.loss, context, options)
        seen = []
        for output, target in zip(outputs, targets, strict=True):
            given = output.detach().requires_grad_()
            with tensor.loss_region(context, options):
                seen.append(self._passes(partial(_loss_of, function, target), given, lambda: None))
        return _shape([one._replace(shape=_sizes(None)) for one in seen], 0, case, recomputes=False)


class _Top(torch.autograd.Function):
    """Stands for the rest of the model: takes an output, lets go of it, and hands a gradient of its size back."""

    @staticmethod
    def forward(ctx: Any, output: Any) -> Any:
        ctx.like = tuple(output.shape), output.dtype
        return output.new_empty(())

    @staticmethod
    def backward(ctx: Any, _: Any) -> Any:
        shape, dtype = ctx.like
        return torch.empty(shape, dtype=dtype)


def _loss_of(function: Any, target: Any, output: Any) -> Any:
    return function(output, target)[0]


def unit_on_meta(unit: Unit) -> Any:
    """Build a unit without memory, as it is before anything is spread."""
    with torch.device("meta"):
        return unit.build()


def _first_samples(number: int) -> Any:
    import numpy as np

    return np.zeros(number, dtype=np.int64)


def _made_by(unit: Unit) -> Any:
    """Return what tells units apart: two that the same function makes from the same arguments are alike."""
    made = unit.build
    how = (made.func, repr(made.args), repr(made.keywords)) if isinstance(made, partial) else unit.name
    return how, repr(dict(unit.tensor)), repr(dict(unit.sequence)), repr(dict(unit.experts))


def _look(value: Any) -> tuple[Any, ...]:
    return tuple(value.shape), value.dtype


def _storage(value: Any) -> int:
    return int(shard.local(value).untyped_storage()._cdata)


def _note(saved: set[int], value: Any) -> Any:
    saved.add(_storage(value))
    return value


def _forget_gradients(module: Any) -> None:
    for parameter in module.parameters():
        parameter.grad = None


def _sizes(module: Any) -> dict[str, int]:
    parameters = list(module.parameters()) if module is not None else []
    sizes = [shard.local(parameter).numel() for parameter in parameters]
    trained = [size for size, parameter in zip(sizes, parameters, strict=True) if parameter.requires_grad]
    spread = sum(shard.local(parameter).numel() for parameter in parameters if shard.is_expert(parameter))
    buffers = sum(buffer.nbytes for buffer in module.buffers()) if module is not None else 0
    return {
        "parameters": sum(sizes),
        "spread": spread,
        "frozen": sum(sizes) - sum(trained),
        "buffers": buffers,
        "largest": max(trained, default=0),
    }


def _shape(seen: Sequence[_Seen], whole: int, case: Case, *, recomputes: bool) -> UnitShape:
    one, two = seen
    return UnitShape(
        whole=whole,
        **one.shape,
        input=_line(one.input, two.input),
        output=_line(one.output, two.output),
        kept=_line(one.kept, two.kept),
        keeps_input=one.keeps_input or recomputes,
        keeps_output=one.keeps_output,
        forward=_pass(one.forward, two.forward),
        backward=_pass(one.backward, two.backward),
        backward_again=_envelope(one.again, two.again),
        messages=tuple(_messages(one, two, case)),
    )


def _line(one: float, two: float) -> Line:
    return Line(2 * one - two, two - one)


def _pass(one: _Direction, two: _Direction) -> Pass:
    return Pass(
        peak=_envelope(one, two),
        flops=_line(one.flops, two.flops),
        attention=_line(one.attention, two.attention),
        traffic=_line(one.traffic, two.traffic),
        operators=one.operators,
    )


def _envelope(one: _Direction, two: _Direction) -> Envelope:
    """Return the lines that are highest somewhere from one sample on."""
    same = len(one.history) == len(two.history)
    pairs = set(zip(one.history, two.history, strict=True)) if same else {(one.peak, two.peak)}
    lines = sorted({(two_ - one_, one_) for one_, two_ in pairs}, reverse=True)
    found: list[Line] = []
    highest = -1
    for slope, at_one in lines:  # from the steepest on: a flatter one counts only where it begins higher
        if at_one > highest:
            highest = at_one
            found.append(Line(at_one - slope, slope))
    return tuple(found)


def _messages(one: _Seen, two: _Seen, case: Case) -> list[Message]:
    """Say on which axis a unit speaks. With several axes, sends are of cp, all-to-alls of ep, the others of tp."""
    found = []
    for first, second in ((one.forward, two.forward), (one.backward, two.backward)):
        for collective, calls in first.calls.items():
            axis = {"send": "cp", "all-to-all": "ep"}.get(collective, "tp" if case.tp > 1 else "cp")
            payload = _line(first.payload[collective], second.payload.get(collective, 0))
            found.append(Message(axis=axis, collective=collective, calls=calls, payload=payload))
    return found
