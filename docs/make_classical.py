"""Measure trees and estimators on this machine, and put the tables into docs/classical.md. Nobody types numbers.

    python docs/make_classical.py [RUNS_FOLDER]

On a quiet machine with two CPUs, half an hour; what is done is not done again. Every estimator with 1 and 2 workers
(jobs/estimators.toml); boosted trees under xgb-collective and xgb-dask on 1 and 2 "nodes", strong and weak; a forest
under joblib-dask, the same. Replaces what stands between the markers `<!-- classical NAME: begin -->` and
`<!-- classical NAME: end -->`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from hpcpar.analysis.collect import collect
from hpcpar.analysis.judging import fits, support
from hpcpar.analysis.results import Results
from hpcpar.analysis.text import law_tables, sheet, tables
from hpcpar.analysis.text.captions import facts, title

PAGE = Path(__file__).resolve().parent / "classical.md"
TREES = ("--workload", "xgboost", "--strategy", "xgb-collective,xgb-dask", "--warmup-steps", "5")
FOREST = (
    *("--workload", "estimator", "--set", "estimator=RandomForestClassifier", "--strategy", "joblib-dask"),
    *("--warmup-steps", "2"),
)
LADDER = ("--nodes", "1", "2", "--repeats", "3", "--ranks-per-node", "1", "--cpus-per-rank", "1")


def commands(runs: Path) -> list[list[str]]:
    """Return what is typed: a submission for every study."""
    where = ["--cluster", "local", "--runs", str(runs)]
    return [
        ["submit", "estimators", *where],
        ["submit", *TREES, *LADDER, "--name", "trees", *where],
        ["submit", *TREES, *LADDER, "--name", "trees-weak", "--scaling", "weak", *where],
        ["submit", *FOREST, *LADDER, "--name", "forest", *where],
        ["submit", *FOREST, *LADDER, "--name", "forest-weak", "--scaling", "weak", *where],
    ]


def run(runs: Path) -> None:
    """Submit everything, and stay until it has ended."""
    environment = {**os.environ, "HPCPAR_STATE": str(runs / "state")}
    *first, last = commands(runs)
    for words in (*first, [*last, "--wait"]):
        subprocess.run([sys.executable, "-m", "hpcpar", *words], check=True, env=environment, stdout=subprocess.DEVNULL)


def machine(results: Results) -> str:
    """Say where and with what the runs were done, from their records."""
    rows = [row for row in results.rows if row.usable]
    processors = "; ".join(sorted({row.processors for row in rows if row.processors})) or "unknown processor"
    cpus = max((row.usable_cpus or 0 for row in rows), default=0)
    wanted = ("hpcpar", "python", "scikit-learn", "joblib", "xgboost", "xgboost-cpu", "distributed")
    versions: dict[str, str] = {}
    for row in rows:
        versions.update(msgspec.json.decode(row.versions))
    software = ", ".join(f"{name} {versions[name]}" for name in wanted if name in versions)
    day = time.strftime("%Y-%m-%d", time.localtime(max((row.ended or 0 for row in rows), default=0)))
    drifts = sum(one.name == "baseline-drift" for one in results.lint)
    warning = f" Something else used the machine: {drifts} findings `baseline-drift` of `collect`." if drifts else ""
    return f"Made by `python docs/make_classical.py` on {day}: {processors}, {cpus} CPUs to use. {software}.{warning}"


def estimators(runs: Path) -> str:
    """Return the section of the estimators: support, and what a fit takes."""
    results = collect([runs / "estimators"])
    said = "\n".join(f"- {text}" for text in (*support.FACTS, *fits.FACTS))
    body = [sheet.markdown(support.sheet(results.supports)), sheet.markdown(fits.sheet(results.fits))]
    return "\n\n".join([machine(results), body[0], body[1], said])


def ladders(runs: Path) -> str:
    """Return the section of both families' ladders: speed-up, scale-up, size-up."""
    results = collect([runs / name for name in ("trees", "trees-weak", "forest", "forest-weak")])
    parts = [machine(results)]
    for table in results.tables:
        said = "\n".join(f"- {text}" for text in facts(table))
        parts += [f"**{title(table)}**", said, sheet.markdown(tables.sheet(table))]
    parts += [
        "**Size-up**: the machine stays, the rows grow.",
        sheet.markdown(law_tables.sizeup_sheet(results.sized_up)),
    ]
    return "\n\n".join(parts)


def replaced(page: str, name: str, content: str) -> str:
    """Return the page with `content` between the markers of that name."""
    begin, end = f"<!-- classical {name}: begin -->", f"<!-- classical {name}: end -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise SystemExit(f"{PAGE.name}: the markers '{begin}' and '{end}' must stand there once each")
    before, _, rest = page.partition(begin)
    return f"{before}{begin}\n{content}\n{end}{rest.partition(end)[2]}"


def main(arguments: list[str]) -> int:
    """Run what is not there yet, and write the page."""
    runs = Path(arguments[0] if arguments else tempfile.mkdtemp(prefix="hpcpar-classical-")).absolute()
    runs.mkdir(parents=True, exist_ok=True)
    run(runs)
    page = PAGE.read_text(encoding="utf-8")
    page = replaced(page, "estimators", estimators(runs))
    PAGE.write_text(replaced(page, "ladders", ladders(runs)), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
