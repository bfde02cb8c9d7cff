"""Plan every workload under every strategy, and put what comes out into docs/workloads.md.

python docs/make_workload_matrix.py          writes the page's table
python docs/make_workload_matrix.py --check  exits with 1 where the page has another one
"""

from __future__ import annotations

import sys
from pathlib import Path

from hpcpar import assets, registry
from hpcpar.control.plan import make_plan
from hpcpar.decode import decode, read_toml
from hpcpar.errors import InputError
from hpcpar.profile import ClusterProfile
from hpcpar.spec import Study

PAGE = Path(__file__).resolve().parent / "workloads.md"
BEGIN, END = "<!-- matrix: begin -->", "<!-- matrix: end -->"
WORLDS = (1, 2, 4)
"""A cell runs where one of these worlds is planned: some strategies are one process, others need several."""
ONE_PROCESS = ("single", "layerwise", "dp", "threads", "processes")
OPTIONS = {"script": {"command": ["./program", "{micro_batch}"]}}
"""What a workload cannot do without."""


def matrix() -> dict[tuple[str, str], str]:
    """Return for every pair of workload and strategy why it is refused on every world; "" where it runs."""
    profile = decode(ClusterProfile, read_toml(assets.find("clusters", "local")), "local")
    return {
        (workload, strategy): _refusal(profile, workload, strategy)
        for workload in registry.WORKLOADS
        for strategy in registry.STRATEGIES
    }


def _refusal(profile: ClusterProfile, workload: str, strategy: str) -> str:
    reasons = []
    for ranks in reversed(WORLDS):
        study = Study(
            workload=workload, workload_options=OPTIONS.get(workload, {}), strategies=(strategy,), nodes=(ranks,)
        )
        try:
            make_plan(study, profile, "matrix")
        except InputError as error:
            reasons.append("; ".join(_sentence(problem.what) for problem in error.problems))
        else:
            if ranks > 1 or strategy in ONE_PROCESS:
                return ""
    return reasons[-1]


def _sentence(what: str) -> str:
    # The kind of a workload is said once, not with every workload's name.
    _, found, kind = what.partition("(it is of the kind ")
    return f"its kind is {kind.rstrip(')')}, which this strategy does not accept" if found else what


def table(cells: dict[tuple[str, str], str]) -> str:
    """Print the matrix as Markdown, reasons below."""
    reasons = list(dict.fromkeys(reason for reason in cells.values() if reason))
    workloads = list(registry.WORKLOADS)
    lines = [f"| strategy | {' | '.join(workloads)} |", "|---|" + "---|" * len(workloads)]
    for strategy in registry.STRATEGIES:
        words = [cells[workload, strategy] for workload in workloads]
        shown = [f"no ({reasons.index(word) + 1})" if word else "yes" for word in words]
        lines.append(f"| `{strategy}` | {' | '.join(shown)} |")
    return "\n".join([*lines, "", *(f"{number}. {reason}" for number, reason in enumerate(reasons, 1))])


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    made = f"{before}{BEGIN}\n{table(matrix())}\n{END}{after}"
    if arguments == ["--check"]:
        return int(made != text)
    PAGE.write_text(made, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
