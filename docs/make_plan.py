"""Put what `hpcpar plan` predicts beside what was measured; rewrite the tables in docs/plan.md.

    make plan                      # an hour on two quiet processors
    make plan ONLY=time            # one of memory, time, published
    make plan RUNS=... FEW=ddp     # in a folder that is kept; only lines with a word, as a try: nothing is rewritten

What is done in RUNS already is not run again.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import plan_memory
import plan_published
import plan_time

PAGE = Path(__file__).resolve().parent / "plan.md"
PARTS = ("memory", "time", "published")


def main() -> int:
    """Run, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="Where the runs lie (default: a new folder).")
    parser.add_argument("--only", choices=PARTS, help="One of the tables.")
    parser.add_argument("--few", default="", metavar="WORD", help="Only lines with this word; prints only.")
    flags = parser.parse_args()
    root = (flags.runs or Path(tempfile.mkdtemp(prefix="hpcpar-plan-"))).absolute()
    for part in [flags.only] if flags.only else PARTS:
        text = _part(part, root / part, flags.few)
        print(text)
        if not flags.few:
            _rewrite(part, text)
    return 0


def _part(part: str, root: Path, few: str) -> str:
    if part == "published":
        return plan_published.table(plan_published.published(root))
    if part == "time":
        plan_time.run(root, few)
        return plan_time.table(plan_time.cells(root))
    plan_memory.run(root, few)
    return plan_memory.table(plan_memory.compare(root))


def _rewrite(part: str, text: str) -> None:
    begin, end = f"<!-- {part}: begin -->\n", f"<!-- {part}: end -->\n"
    page = PAGE.read_text(encoding="utf-8")
    assert begin in page, part
    PAGE.write_text(page.partition(begin)[0] + begin + text + end + page.partition(end)[2], encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
