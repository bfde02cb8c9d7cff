"""Performance sections of compute-time proposals, filled with what was measured; and a list of what they still lack.

What each programme asks for is from its pages and public filled forms, read in autumn 2026; programmes change their
forms, so hold the result against the present one.
"""

from __future__ import annotations

from typing import NamedTuple

from hpcpar.analysis.report import proposal_parts as parts
from hpcpar.analysis.report.proposal_parts import Builder, Request
from hpcpar.analysis.results import Results
from hpcpar.analysis.text.sheet import one_line


class _Heading(NamedTuple):
    title: str
    build: Builder
    required: bool = True


class Programme(NamedTuple):
    """What one programme wants to read, in its order and its words."""

    title: str
    source: str
    headings: tuple[_Heading, ...]


class Proposal(NamedTuple):
    """The text, and what it lacks."""

    text: str
    gaps: list[str]
    """Of required parts: what must be measured before it is sent."""


_STRONG = _Heading("Strong scaling", parts.strong)
_WEAK = _Heading("Weak scaling", parts.weak)
_COSTS = _Heading("Milestones and cost", parts.costs)
_METHOD = _Heading("How it was measured", parts.mechanism)

PROGRAMMES = {
    "eurohpc": Programme(
        "EuroHPC Regular and Extreme Scale Access, Performance of Software",
        "sub-headings of the form's section, as in public filled forms; at most two pages there",
        (
            _Heading("Testing on the requested machine", parts.machine),
            _Heading("Strong scalability", parts.strong),
            _Heading("Weak scalability", parts.weak),
            _Heading("Plots", parts.figures),
            _Heading("Precision", parts.precision),
            _Heading("Time to solution", parts.yours),
            _Heading("System scale", parts.largest_efficient),
            _Heading("Measurement mechanism", parts.mechanism),
            _Heading("Memory usage", parts.memory_usage),
            _Heading("Share of peak performance (optional)", parts.yours, required=False),
            _Heading("Milestone table", parts.costs),
        ),
    ),
    "archer2": Programme(
        "ARCHER2 technical assessment",
        "archer2.ac.uk, Support and access, Technical assessment",
        (
            _STRONG,
            _Heading("Speed-up plot", parts.figures),
            _Heading("Largest and smallest jobs", parts.jobs),
            _Heading("Cost (CU are node-hours)", parts.costs),
            _Heading("Machine", parts.machine),
            _METHOD,
        ),
    ),
    "ncar": Programme(
        "NCAR large allocation request",
        "arc.ucar.edu, knowledge base, Preparing a large allocation request",
        (
            _Heading("Cost by configuration", parts.costs),
            _Heading("Benchmarks", parts.strong),
            _Heading("Largest node count that is used efficiently", parts.largest_efficient),
            _Heading("Machine", parts.machine),
            _METHOD,
        ),
    ),
    "nersc": Programme(
        "NERSC ERCAP request, code performance",
        "docs.nersc.gov, ERCAP form; the present form is behind a login",
        (
            _Heading("Share of the allocation by code", parts.yours),
            _Heading("Typical and maximum nodes, and what decided them", parts.largest_efficient),
            _STRONG,
            _Heading("Weak scaling", parts.weak, required=False),
            _Heading("Node-hours (CPU and GPU nodes apart)", parts.costs),
            _Heading("Memory", parts.memory_usage),
            _Heading("Machine", parts.machine),
            _METHOD,
        ),
    ),
    "generic": Programme(
        "Compute-time proposal: performance",
        "all parts that any of the programmes asks for",
        (
            _Heading("Machine", parts.machine),
            _STRONG,
            _WEAK,
            _Heading("Plots", parts.figures),
            _Heading("Largest node count that is used efficiently", parts.largest_efficient),
            _Heading("Precision", parts.precision),
            _Heading("Memory", parts.memory_usage),
            _Heading("Jobs", parts.jobs),
            _COSTS,
            _METHOD,
        ),
    ),
}


def write(results: Results, programme: str, request: Request) -> Proposal:
    """Fill the sections of a programme with what was measured, as Markdown.

    Args:
        results: what was collected.
        programme: a key of PROGRAMMES.
        request: what will be asked for.
    """
    chosen = PROGRAMMES[programme]
    sections: list[str] = []
    gaps: list[str] = []
    for heading in chosen.headings:
        part = heading.build(results, request)
        if heading.required:
            gaps += [f"{heading.title}: {gap}" for gap in part.gaps]
        missing = [f"MISSING: {gap}." for gap in part.gaps] if heading.required else []
        body = "\n".join([*part.lines, *(f"- {line}" for line in missing)]).strip() or "Nothing was measured."
        sections.append(f"## {heading.title}\n\n{body}")
    gaps = list(dict.fromkeys(one_line(gap) for gap in gaps))
    lacks = "\n".join(f"- {gap}" for gap in gaps) or "- Nothing that can be measured."
    head = f"# {chosen.title}\n\nAfter: {chosen.source}. What is marked {parts.YOURS} no measurement can fill."
    return Proposal("\n\n".join([head, f"## What is still missing\n\n{lacks}", *sections]) + "\n", gaps)
