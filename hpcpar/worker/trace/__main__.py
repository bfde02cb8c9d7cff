"""Answer one question about a workload's shapes.

    python -m hpcpar.worker.trace <QUESTION

QUESTION is a shapes.Question as JSON. Writes a shapes.Answer; what the workload's own code prints goes to stderr.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import msgspec

from hpcpar import registry, workload_files
from hpcpar.shapes import Answer, Question


def answer(question: Question) -> Answer:
    """Load the workload and trace it in every case."""
    workload = _workload(question.workload)
    try:
        import torch  # noqa: F401
    except ModuleNotFoundError:
        return Answer(problem="torch is not installed here: pip install 'hpcpar[torch]'")
    from hpcpar.worker.neural import NeuralWorkload

    loaded = workload.load(msgspec.convert(question.options, workload.Options), question.seed)
    if not isinstance(loaded, NeuralWorkload):
        return Answer(problem="the workload is no neural network: it has no units whose shapes could be read")
    warnings.filterwarnings("ignore")
    from hpcpar.worker.trace.trace import trace

    return trace(loaded, question.cases)


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
    content = msgspec.json.encode(answer(msgspec.json.decode(sys.stdin.buffer.read(), type=Question)))
    with os.fdopen(out, "wb") as file:
        file.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
