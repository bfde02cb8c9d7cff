"""Put what `make demo` made into README.md: its status, its table, its figure. Nobody types numbers.

    make demo && python docs/make_readme_example.py          (`make readme` does both)

Replaces what stands between the markers `<!-- demo NAME: begin -->` and `<!-- demo NAME: end -->`, and copies the
figure to docs/images/.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
IMAGES = ROOT / "docs" / "images"


def main() -> int:
    """Read the demo's folder and rewrite README.md."""
    parser = argparse.ArgumentParser(description="Put what `make demo` made into README.md.")
    parser.add_argument("demo", nargs="?", type=Path, default=ROOT / "demo", help="the demo's folder (default: demo)")
    demo = parser.parse_args().demo
    report = demo / "report"
    if not (report / "scaling.md").is_file():
        print(f"{report / 'scaling.md'} is missing: run `make demo` first", file=sys.stderr)
        return 2
    text = README.read_text(encoding="utf-8")
    text = replaced(text, "status", status(demo / "runs"))
    text = replaced(text, "table", table(report))
    README.write_text(text, encoding="utf-8")
    IMAGES.mkdir(exist_ok=True)
    for name in ("scaling.png", "scaling.svg"):
        shutil.copyfile(report / "figures" / name, IMAGES / name)
    return 0


def replaced(text: str, name: str, content: str) -> str:
    """Return `text` with `content` between the markers of that name."""
    begin, end = f"<!-- demo {name}: begin -->", f"<!-- demo {name}: end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"README.md: the markers '{begin}' and '{end}' must stand there once each")
    before, _, rest = text.partition(begin)
    return f"{before}{begin}\n{content.strip()}\n{end}{rest.partition(end)[2]}"


def status(runs: Path) -> str:
    """Return what `hpcpar status` prints of the demo's runs."""
    command = [sys.executable, "-m", "hpcpar", "status", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    lines = [line.rstrip() for line in done.stdout.splitlines()]
    return "```console\n$ hpcpar status\n" + "\n".join(line for line in lines if line) + "\n```"


def table(report: Path) -> str:
    """Return the demo's scaling table with its captions, the report's first chapter, and when it was made."""
    with (report / "runs.csv").open(encoding="utf-8", newline="") as file:
        last = max(float(row["ended"]) for row in csv.DictReader(file) if row["ended"])
    date = time.strftime("%Y-%m-%d", time.gmtime(last))
    body = (report / "scaling.md").read_text(encoding="utf-8")
    body = re.split(r"\n(?=## )", body.strip())[0]
    body = re.sub(r"^#+ (.*)$", r"**\1**", body, flags=re.MULTILINE)
    body = re.sub(r" {2,}", " ", body)  # the padding of wide tables
    body = re.sub(r"^\|[-:|]+$", lambda found: re.sub(r"-+", "---", found[0]), body, flags=re.MULTILINE)
    return f"Made by `make demo` on {date}:\n\n{body}"


if __name__ == "__main__":
    sys.exit(main())
