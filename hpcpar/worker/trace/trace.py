"""Trace a workload in all cases that a forecast asks for. Imports torch."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from hpcpar.shapes import Answer, Case, Line, Model, Pass
from hpcpar.worker.neural import NeuralWorkload
from hpcpar.worker.trace.tally import Tally
from hpcpar.worker.trace.units import Tracer

_NUMBERS = 1024


def trace(workload: NeuralWorkload, cases: Sequence[Case]) -> Answer:
    """Return shapes and work of a workload; a case that cannot be traced has the reason in its place."""
    logging.disable(logging.WARNING)
    tally = Tally()
    with tally:
        tracer = Tracer(workload, tally)
        models = tuple(_model(tracer, case) for case in cases)
        moments, update = _update(workload, tally)
    return Answer(
        models=models,
        moments=moments,
        update=update,
        sample_bytes=tracer.sample_bytes,
        versions={"torch": str(torch.__version__)},
    )


def _model(tracer: Tracer, case: Case) -> Model | str:
    try:
        return tracer.model(case)
    except Exception as error:  # the model is the user's own: whatever it does, the other cases have their answer
        words = str(error).strip().splitlines() or [""]
        return f"its units cannot be traced with fake tensors: {type(error).__name__}: {words[0][:200]}"


def _update(workload: NeuralWorkload, tally: Tally) -> tuple[int, Pass]:
    """Let the optimizer update one parameter, twice: it makes its moments the first time."""
    parameter: Any = torch.nn.Parameter(torch.empty(_NUMBERS))
    parameter.grad = torch.empty_like(parameter)
    optimizer = workload.optimizer([parameter])
    tally.begin()
    optimizer.step()
    moments = sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, torch.Tensor) and value.numel() == _NUMBERS
    )
    tally.begin()
    optimizer.step()
    return moments // _NUMBERS, Pass(
        peak=(Line(0.0, max(tally.history, default=0) / _NUMBERS),),
        flops=Line(0.0, 0.0),
        traffic=Line(0.0, tally.traffic / _NUMBERS),
        operators=tally.operators,
    )
