"""Answer questions about shapes of workloads, until there are no more.

    python -m hpcpar.worker.trace <QUESTIONS

A question is a line: a shapes.Question as JSON. To each a line is written, a shapes.Answer; what the workload's own
code prints goes to stderr.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import msgspec

from hpcpar import registry, workload_files
from hpcpar.shapes import Answer, Question


class Tracers:
    """Answers questions; a workload that was loaded for one of them is there for the next."""

    def __init__(self) -> None:
        self._asked: tuple[Any, ...] = ()
        self._loaded: Any = None

    def answer(self, question: Question) -> Answer:
        """Load the workload and trace it in every case."""
        workload = _workload(question.workload)
        try:
            import torch  # noqa: F401
        except ModuleNotFoundError:
            return Answer(problem="torch is not installed here: pip install 'hpcpar[torch]'")
        from hpcpar.worker.neural import NeuralWorkload

        asked = question.workload, question.options, question.seed
        if asked != self._asked:
            self._asked = asked
            self._loaded = workload.load(msgspec.convert(question.options, workload.Options), question.seed)
        if not isinstance(self._loaded, NeuralWorkload):
            return Answer(problem="the workload is no neural network: it has no units whose shapes could be read")
        warnings.filterwarnings("ignore")
        from hpcpar.worker.trace.trace import trace

        return trace(self._loaded, question.cases)


def _workload(name: str) -> Any:
    found = workload_files.split(name)
    if found is None:
        return registry.get_workload(name)
    from hpcpar.worker.workload_file import load

    return load(str(found[0].absolute()), found[1])


def main() -> int:
    """Answer and return the exit code."""
    out = os.dup(1)
    os.dup2(2, 1)
    tracers = Tracers()
    with os.fdopen(out, "wb") as file:
        for line in sys.stdin.buffer:
            file.write(msgspec.json.encode(tracers.answer(msgspec.json.decode(line, type=Question))) + b"\n")
            file.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
