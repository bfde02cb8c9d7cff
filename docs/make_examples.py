"""Put the examples into docs/verdicts.md, laws.md, lint.md and breakdown.md: tables and figures of known runs.

    python docs/make_examples.py

Needs the checkout, as the runs are written by tests/unit/records_oracle.py, and for figures the extra `report`. The
same code gives the same bytes, and a test holds the pages to that.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from hpcpar import records
from hpcpar.analysis.collect import collect
from hpcpar.analysis.results import Results
from hpcpar.analysis.text import sheet
from hpcpar.analysis.text.pages import Page, pages
from hpcpar.records import Cause
from hpcpar.spec import Accounting, Submission

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS.parent / "tests" / "unit"))
from records_oracle import Oracle, Truth, change_record  # noqa: E402

HELD_BYTES = {"parameters": 12 * 2**20, "gradients": 12 * 2**20, "optimizer": 24 * 2**20}

LADDERS = Oracle(
    truths={
        "ddp": Truth(0.010, 0.0010),
        "fsdp": Truth(0.0088, 0.00088),
        "pp": Truth(0.0030, 0.00135),
        "tp": Truth(0.010, 0.0010),
    },
    nodes=(1, 2, 4, 6, 8, 12),
    repeats=5,
    noise=0.01,
    ranks_per_node=1,
    global_batch=128,
    steps=120,
    study="example",
)
PITFALLS = replace(
    LADDERS, truths={"ddp": Truth(0.010, 0.0010), "pp": Truth(0.060, 0.0008)}, nodes=(1, 2, 4, 8), repeats=2
)


PIPES = replace(
    PITFALLS,
    truths={"ddp": Truth(0.010, 0.0010), "pp": Truth(0.012, 0.0011), "pp/i": Truth(0.016, 0.0010)},
    repeats=3,
    global_batch=64,
    options={
        "pp": {"mesh": "pp=-1", "schedule": "1f1b"},
        "pp/i": {"mesh": "pp=-1", "schedule": "interleaved-1f1b", "virtual_stages": 2},
    },
    failures={("ddp", 8, 1): Cause.OOM_HOST, ("pp", 8, 2): Cause.TIMEOUT},
)
MICRO_BATCHES = 8
APART = {
    "factors": "Efficiency factors",
    "pipelines": "Pipelines",
    "memory": "Memory of a rank",
    "failures": "Failures by cause",
    "cost": "Cost",
}
"""Marker to the title of a page."""
FIGURES = ("scaling", "throughput", "loss", "phases", "memory", "pipeline", "verdicts")


def examples() -> Iterator[tuple[str, str, str]]:
    """Yield page, marker and text of every example."""
    ladders = _collected(LADDERS)
    found = pages(ladders, narrow=False)
    comparisons = [page for page in found if page.title.startswith(("Strategies against", "Verdicts"))]
    yield "verdicts.md", "verdicts", "\n\n".join(_markdown(page, most=4) for page in comparisons)
    (laws,) = (page for page in found if page.title == "Laws")
    crossings = "\n".join(f"- {one.sentence}" for one in ladders.crossovers)
    yield "laws.md", "laws", f"{_truth(LADDERS)}\n\n{_markdown(laws)}\n\n{crossings}\n\n{_markdown(_sized_up())}"
    (findings,) = (
        page
        for page in pages(_collected(replace(PITFALLS, oversubscribed_from=8)), narrow=False)
        if page.title == "Findings"
    )
    yield "lint.md", "findings", _markdown(findings)
    with tempfile.TemporaryDirectory() as folder:
        apart = {page.title: page for page in pages(_apart(Path(folder)), narrow=False)}
    for marker, title in APART.items():
        yield "breakdown.md", marker, _markdown(apart[title])


def _truth(oracle: Oracle) -> str:
    """Say what the runs were made with: the serial shares, and where ddp and pp take equally long."""
    batch, truths = oracle.global_batch, oracle.truths
    shares = {name: one.serial_s / (one.serial_s + one.sample_s * batch) for name, one in truths.items()}
    ddp, pp = truths["ddp"], truths["pp"]
    crossing = batch * (pp.sample_s - ddp.sample_s) / (ddp.serial_s - pp.serial_s)
    said = ", ".join(f"{name} {share:.2%}" for name, share in shares.items())
    return f"Truth: serial shares {said}; ddp and pp cross at {crossing:.3g} nodes."


def _collected(*oracles: Oracle) -> Results:
    with tempfile.TemporaryDirectory() as folder:
        for oracle in oracles:
            oracle.write(Path(folder))
        return collect([Path(folder)], reference="ddp")


def _apart(folder: Path) -> Results:
    """Collect runs with pipelines, with what their memory holds, and with an account of all that have ended well."""
    for run in PIPES.write(folder):
        spec, record = run.spec(), run.record()
        assert spec is not None
        identity = spec.identity
        if identity.mesh.pp > 1:
            micro = identity.global_batch // MICRO_BATCHES
            identity = msgspec.structs.replace(identity, grad_accum=MICRO_BATCHES, micro_batch=micro)
        billing = {"unit": "GPU-hours", "units_per_node_hour": 4.0}
        run.write_spec(msgspec.structs.replace(spec, identity=identity, billing=billing))
        if record is not None:
            held = {name: size // identity.mesh.pp for name, size in HELD_BYTES.items()}
            ranks = [msgspec.structs.replace(rank, held_bytes=held) for rank in record.ranks]
            change_record(run, ranks=ranks)
            used = Accounting(
                state="COMPLETED", elapsed_s=130.0, node_s=130.0 * identity.nodes, nodes=identity.nodes,
                peak_memory_bytes=120 * 2**20, energy_j=130.0 * 400 * identity.nodes,
            )  # fmt: skip
            job_id = run.submissions()[0].job_id
            line = Submission(kind="accounted", time=1.0, batch="b", scheduler="slurm", job_id=job_id, accounting=used)
            records.append(run.submission_path, line)
    return collect([folder], reference="ddp")


def draw() -> None:
    """Draw every figure of the same runs."""
    from hpcpar.analysis.figures import style
    from hpcpar.analysis.figures.gallery import plans

    style.DPI = 100  # enough for a page that is read on a screen
    with tempfile.TemporaryDirectory() as folder:
        for plan in plans(_apart(Path(folder))):
            if plan.stem in FIGURES:
                assert not plan.reason, f"{plan.stem}: {plan.reason}"
                path = DOCS / "images" / f"example-{plan.stem}.png"
                path.write_bytes(style.render(plan.compose, ("png",))["png"])


def _sized_up() -> Page:
    one = replace(LADDERS, truths={"ddp": LADDERS.truths["ddp"]}, nodes=(4,))
    batches = [replace(one, global_batch=b, study=f"batch-{b}", begun_s=1e9 + 1e6 * b) for b in (64, 128, 256)]
    (page,) = (page for page in pages(_collected(*batches), narrow=False) if page.title == "Size-up")
    return page


def _markdown(page: Page, most: int | None = None) -> str:
    """Print a page; of the sentences below its table no more than `most`."""
    after = [*page.after, *page.last][:most]
    lists = ["\n".join(f"- {sheet.one_line(line)}" for line in lines) for lines in (page.before, after)]
    table = sheet.markdown(page.sheet) if page.sheet is not None else ""
    return "\n\n".join(filter(None, (f"**{page.title}**", lists[0], table, lists[1])))


def main() -> None:
    """Rewrite the pages."""
    for name, marker, text in examples():
        path = DOCS / name
        begin, end = f"<!-- example {marker}: begin -->", f"<!-- example {marker}: end -->"
        head, _, rest = path.read_text(encoding="utf-8").partition(begin)
        _, _, tail = rest.partition(end)
        path.write_text(f"{head}{begin}\n{text}\n{end}{tail}", encoding="utf-8")
    draw()


if __name__ == "__main__":
    main()
