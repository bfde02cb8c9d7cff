"""Describe a workload of a file, for a plan.

    python -m hpcpar.worker.describe FILE NAME <OPTIONS

OPTIONS is JSON: [where, options]. Writes a workload_files.Description as JSON; what the file prints goes to stderr.
"""

from __future__ import annotations

import os
import sys

import msgspec

from hpcpar.decode import find_problems
from hpcpar.worker.workload_file import load
from hpcpar.workload_files import Description


def describe(path: str, name: str, given: bytes) -> Description:
    """Run the file and ask the workload."""
    where, options = msgspec.json.decode(given)
    workload = load(path, name)
    problems = find_problems(workload.Options, options, where)
    about = {"summary": workload.summary, "extras": tuple(workload.extras)}
    if problems:
        return Description(**about, problems=tuple(problems))
    decoded = msgspec.convert(options, workload.Options)
    return Description(
        **about,
        options=msgspec.to_builtins(decoded),
        declaration=workload.declare(decoded),
        problems=tuple(workload.check(decoded)),
    )


def main(arguments: list[str]) -> int:
    """Describe one workload and return the exit code."""
    answer = os.dup(1)
    os.dup2(2, 1)
    path, name = arguments
    content = msgspec.json.encode(describe(path, name, sys.stdin.buffer.read()))
    with os.fdopen(answer, "wb") as out:
        out.write(content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
