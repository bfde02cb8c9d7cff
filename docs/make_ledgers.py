"""Count what every rank holds and moves, beside its formula; write docs/sharding.md and docs/communication.md.

    make ledgers

Exit code 1: a count is not what its formula says.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "parallel"))

import formulas  # noqa: E402
import matrix  # noqa: E402
import test_scale  # noqa: E402
import thousands  # noqa: E402
from matrix import Column, Job, Row  # noqa: E402
from pool import Pool  # noqa: E402

WORKLOAD = "llama-tiny"
PAPER = ("all-reduce", "all-gather", "reduce-scatter", "send")
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "send")
ON_EIGHT = ("fsdp", "tp sequence_parallel", "hybrid pp=2,dp_shard=2,tp=-1 sequence_parallel")


class Place(NamedTuple):
    """A row of the pages: what was asked, what rank 0 shows, and what each formula says."""

    row: Row
    job: Job
    found: Any
    held: tuple[int, int, int]
    moved: dict[str, int]
    agree: bool
    """On all ranks."""


class Paper(NamedTuple):
    """A rank of a mesh that was only built on paper."""

    mesh: str
    rank: int
    job: Job
    found: thousands.Counted
    held: int
    moved: dict[str, int]

    @property
    def agree(self) -> bool:
        """Whether everything is what its formula says."""
        return self.found.parameters == self.held and self.found.moved == self.moved


def main() -> int:
    """Count, write, judge."""
    places = measure(4, formulas.rows())
    places += measure(8, [row for row in matrix.ROWS if str(row) in ON_EIGHT])
    facts = {"torch": torch.__version__.partition("+")[0], **_facts(places)}
    papers = list(on_paper())
    facts |= {"paper": ", ".join(f"{name} {value}" for name, value in test_scale.LLAMA.items())}
    text = SHARDING.format(rows=sharding(places), papers=thousands_of_ranks(papers), **facts)
    (ROOT / "docs" / "sharding.md").write_text(text, encoding="utf-8")
    text = COMMUNICATION.format(rows=communication(places), **facts)
    (ROOT / "docs" / "communication.md").write_text(text, encoding="utf-8")
    wrong = [str(place.row) for place in places if not place.agree]
    wrong += [f"{paper.mesh}, rank {paper.rank}" for paper in papers if not paper.agree]
    total = len(places) + len(papers)
    print(f"{total - len(wrong)} of {total} rows are what their formulas say", *wrong, sep="\n")
    return 1 if wrong else 0


def measure(ranks: int, rows: list[Row]) -> list[Place]:
    """Count on all ranks."""
    pool, places = Pool(ranks, Path(tempfile.mkdtemp(prefix="hpcpar-ledgers-"))), []
    for row in rows:
        job = matrix.cell(formulas.workload_of(row), row, Column("", ranks, "adamw")).job
        if job is None or job.identity.mesh.world_size != ranks:
            continue
        found = pool.run("ledger_cases.ledger", job=job)
        expected = [(formulas.held(job, rank), formulas.moved(job, rank)) for rank in range(ranks)]
        agree = [(tuple(one[2:]), one.moved) for one in found] == expected
        places.append(Place(row, job, found[0], *expected[0], agree))
    pool.close()
    return places


def on_paper() -> Iterator[Paper]:
    """Count one step of a few ranks of every large mesh."""
    for text in test_scale.MESHES:
        job = test_scale.job_of(text)
        for rank in (0, job.identity.mesh.world_size // 2 + 1, job.identity.mesh.world_size - 1):
            held, moved = formulas.held(job, rank)[0], formulas.moved(job, rank)
            yield Paper(text, rank, job, thousands.count(job, rank), held, moved)


def thousands_of_ranks(papers: list[Paper]) -> str:
    """Return the table of meshes that no machine here has."""
    lines = []
    for paper in papers:
        where = ", ".join(f"{axis} {at}" for axis, at in paper.job.identity.mesh.coordinates(paper.rank).items())
        moved = [_pair(paper.found.moved[name], paper.moved[name]) if name in paper.moved else "" for name in PAPER]
        parameters = _pair(paper.found.parameters, paper.held)
        lines.append(f"| {paper.mesh} | {paper.rank}: {where} | {parameters} | {' | '.join(moved)} | {_yes(paper)} |")
    return "\n".join(lines)


def _facts(places: list[Place]) -> dict[str, Any]:
    options = places[0].job.identity.workload_options
    names = ("dim", "heads", "kv_heads", "hidden", "sequence")
    whole = sum(formulas.size_of(formulas.load(places[0].job).units))
    shape = ", ".join(f"{name} {options[name]}" for name in names)
    batch = places[0].job.identity.global_batch
    return {
        "workload": WORKLOAD,
        "shape": shape,
        "parameters": f"{whole:,}",
        "batch": batch,
        "experts": matrix.SHAPES["llama-moe"].options["experts"],
    }


def sharding(places: list[Place]) -> str:
    """Return the table of bytes held."""
    lines = []
    for place in places:
        pairs = [_pair(a, b) for a, b in zip(place.found[2:], place.held, strict=True)]
        whole = sum(formulas.size_of(formulas.load(place.job).units))
        each = f"{sum(place.found[2:]) / whole:.2f}"
        lines.append(
            f"| {place.row} | {place.job.identity.mesh.label()} | {' | '.join(pairs)} | {each} | {_yes(place)} |"
        )
    return "\n".join(lines)


def communication(places: list[Place]) -> str:
    """Return the table of bytes moved."""
    lines = []
    for place in places:
        cells = []
        for name in COLLECTIVES:
            counted, said = place.found.moved.get(name, 0), place.moved.get(name, 0)
            cells.append(f"{_pair(counted, said)} in {place.found.calls[name]}" if counted or said else "")
        identity = place.job.identity
        label = f"{identity.mesh.label()}, m={identity.grad_accum}"
        lines.append(f"| {place.row} | {label} | {' | '.join(cells)} | {_yes(place)} |")
    return "\n".join(lines)


def _pair(counted: int, said: int) -> str:
    return f"{counted:,} / {said:,}"


def _yes(place: Place | Paper) -> str:
    return "yes" if place.agree else "**NO**"


HEAD = """Made by `make ledgers` with torch {torch} on CPUs (gloo): `{workload}` with {shape} (pipelines have as many
blocks as they need), fp32, AdamW, a global batch of {batch}. {parameters} parameters where no pipeline makes it deeper.
`ep` is counted on `llama-moe`, a mixture of {experts} experts a block.
Nothing in the table is typed.
"""
SHARDING = (
    """# Sharding: what a rank holds

"""
    + HEAD
    + """
The formula: 4 bytes a parameter, 4 its gradient, 8 the moments of AdamW (4 with SGD and momentum): **16 bytes a
parameter that the rank has**. It has

- of a pipeline, the parameters of its stages;
- of those, all that `tp` does not split, and 1/tp of the others;
- of those, 1/dp_shard, and 1/ep of the experts. `dp_replicate` and `cp` share nothing out.

Counted are the tensors of rank 0: its parameters, their gradients after a step, the moments of its optimizer
(`counted / formula`); the last column says whether *every* rank has what its formula says. What FSDP gathers during
a step is not in it, nor are activations. The number "bytes a parameter" is what rank 0 holds over the parameters of
the whole model: 16 for `ddp`, 16/n for `fsdp`.

| strategy | mesh | parameters | gradients | moments | bytes a parameter | all ranks agree |
|---|---|---|---|---|---|---|
{rows}

## On thousands of ranks

One rank at a time of meshes that need no machine: the process group is torch's fake one, in which nobody answers. What
the rank computes is nonsense; where it stands, what it holds and what it sends, to which group, is what it would be.
`llama-tiny` with {paper}, two samples a micro-batch; bytes, `counted / formula`, messages of one step as in
[communication.md](communication.md).

| mesh | rank | parameters | all-reduce | all-gather | reduce-scatter | send | agree |
|---|---|---|---|---|---|---|---|
{papers}
"""
)
COMMUNICATION = (
    """# Communication: what a step moves

"""
    + HEAD
    + """
Counted is every communication operator that torch dispatches in one step of rank 0 (`counted / formula in calls`),
in bytes of payload: of an all-reduce what is added up, of an all-gather what comes out, of a reduce-scatter what
goes in, of a send what is sent. On the wire, a ring of n ranks moves 2(n-1)/n of the payload of an all-reduce
through each, and (n-1)/n of the others'. The last column says whether *every* rank's count is its formula.

The formulas. N: parameters of the rank's stages (over tp as in [sharding.md](sharding.md)); T: tokens of a step on
one data rank (over cp: of one slice); D: width; V: classes; L: blocks of the rank's stages; m: micro-batches.

- `dp_replicate`: an all-reduce of 4N (`static_graph`: m of them). Under a pipeline, one too.
- `dp_shard`: a reduce-scatter of 4N; and all-gathers of 2m x 4N, m x 4N with `reshard_after_forward=false`; under a
  pipeline (m + 1) x 4N, and 4N once where the schedule computes gradients of weights later. With `dp_replicate`, an
  all-reduce of 4N/dp_shard.
- `tp`: 4L + 2 all-reduces of 4TD (two a block and pass, the embedding's output, the gradient of the head's input),
  an all-gather of the logits, 4TV. With `sequence_parallel` each of the 4L + 2 is an all-gather and a
  reduce-scatter of 4TD, and the gradients of 2L + 1 norms are added up (4D each). With `loss_parallel` 3 x 4T are
  added up instead of gathering logits.
- `cp`: 3cp - 2 hops a block, of the keys and values of a slice: cp - 1 forward, cp - 1 back, cp of their gradients;
  and an all-reduce of 4N.
- `pp`: 4TD to every stage that is a neighbour on another rank (over tp with `sequence_parallel`).
- `ep`: 4L all-to-alls of 4ECD (E experts with room for C tokens each in the samples of a rank: there and back, in
  both passes), an all-reduce of the counts of every router, 8L(E + 1), and of 4 bytes for each parameter of the
  rank's experts where other ranks hold the same. Without `capacity` as many rows travel as tokens are sent to
  experts, on average over the ranks, and their numbers ahead of them.
- `localsgd`: at a meeting 4 bytes a parameter and 4 for every moment, and one number.

`async` is not in the table (threads of rank 0 send): a rank gets 4N and sends 4N a step, see
[delayed.md](delayed.md). Neither are the strategies of DeepSpeed and Horovod, which send by themselves.

| strategy | mesh | all-reduce | all-gather | reduce-scatter | all-to-all | send | all ranks agree |
|---|---|---|---|---|---|---|---|
{rows}
"""
)

if __name__ == "__main__":
    raise SystemExit(main())
