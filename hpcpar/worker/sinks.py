"""Live sinks: what other tools show while a run goes on. Optional, off by default, and never in the way.

Steps are handed over between two windows and sent by a thread of their own; whatever goes wrong there becomes an event
"warning", and the sink is left alone from then on. The records are complete without any of this.
"""

from __future__ import annotations

import contextlib
import os
import queue
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import msgspec

from hpcpar.records import Step
from hpcpar.spec import RunSpec, SinkName

_PATIENCE_S = 10.0
"""How long the end of a run waits for a sink."""
_ROOM = 100
"""Windows that may wait to be sent; more are dropped, and the warning says so."""
Warn = Callable[[str], None]


class Sink(Protocol):
    """A tool that takes numbers by step."""

    def log(self, step: int, values: dict[str, float]) -> None:
        """Take the numbers of a step."""

    def close(self) -> None:
        """Finish."""


class Sinks:
    """All sinks of a run; none where there is no spec, as on other ranks than 0."""

    def __init__(self, spec: RunSpec | None, folder: Path, warn: Warn) -> None:
        self._warn = warn
        self._waiting: queue.Queue[Sequence[Step] | None] = queue.Queue(_ROOM)
        self._full = False
        self._thread: threading.Thread | None = None
        if spec is not None and spec.sinks:
            self._thread = threading.Thread(target=self._work, args=(spec, folder), daemon=True)
            self._thread.start()

    def __call__(self, steps: Sequence[Step]) -> None:
        """Hand the steps of a window over; never waits."""
        if self._thread is None or self._full:
            return
        try:
            self._waiting.put_nowait(tuple(steps))
        except queue.Full:
            self._full = True
            self._warn(f"live sinks are behind by {_ROOM} windows and get no more")

    def close(self) -> None:
        """Let the sinks finish, for a bounded time."""
        if self._thread is None:
            return
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_PATIENCE_S)
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            self._warn(f"live sinks had not finished {_PATIENCE_S:g} s after the training and were left behind")

    def _work(self, spec: RunSpec, folder: Path) -> None:
        live: dict[str, Sink] = {}
        for name in spec.sinks:
            self._guard(live, name, partial(_open, live, name, spec, folder))
        while (steps := self._waiting.get()) is not None:
            for opened, sink in list(live.items()):
                self._guard(live, opened, partial(_send, sink, steps))
        for opened, sink in list(live.items()):
            self._guard(live, opened, sink.close)

    def _guard(self, live: dict[str, Sink], name: str, act: Callable[[], Any]) -> None:
        try:
            act()
        except Exception as error:  # whatever other people's libraries raise, the run goes on
            live.pop(name, None)
            self._warn(f"sink {name} gave up: {type(error).__name__}: {error}")


def _open(live: dict[str, Sink], name: SinkName, spec: RunSpec, folder: Path) -> None:
    live[name] = OPENERS[name](spec, folder)


def _send(sink: Sink, steps: Sequence[Step]) -> None:
    for step in steps:
        values = {"step_time_s": step.time_s, "data_wait_s": step.data_s}
        sink.log(step.step, values if step.loss is None else {**values, "loss": step.loss})


class _TensorBoard:
    def __init__(self, spec: RunSpec, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def log(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb:
    def __init__(self, spec: RunSpec, folder: Path) -> None:
        import wandb

        mode: Any = os.environ.get("WANDB_MODE", "offline")
        config = msgspec.to_builtins(spec.identity)
        self._run: Any = wandb.init(project=spec.study, name=spec.run_name, dir=str(folder), mode=mode, config=config)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class _Mlflow:
    def __init__(self, spec: RunSpec, folder: Path) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        if "MLFLOW_TRACKING_URI" not in os.environ:
            # MLflow 3 wants a database; one on a parallel file system is worse than its files.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            mlflow.set_tracking_uri((folder / "mlflow").absolute().as_uri())
        mlflow.set_experiment(spec.study)
        mlflow.start_run(run_name=spec.run_name)

    def log(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self) -> None:
        self._mlflow.end_run()


OPENERS: dict[SinkName, Callable[[RunSpec, Path], Sink]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
    "mlflow": _Mlflow,
}
"""Sources: PyTorch, torch.utils.tensorboard; Weights & Biases, wandb.init (mode "offline"); MLflow, tracking API."""
