"""What a study may cost at worst, and whether that must be asked or refused: every job at its time limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hpcpar.control.forecast import price
from hpcpar.control.forecast.forecast import Forecast
from hpcpar.control.forecast.price import NOTHING, Price, ledger
from hpcpar.control.forecast.summary import total
from hpcpar.control.plan import PlannedRun
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.runs import StudyFolder


def at_worst(runs: Iterable[PlannedRun], profile: ClusterProfile) -> Price:
    """Add up what runs cost that take all of their time limit."""
    worst = NOTHING
    for spec, resources in runs:
        each = price.factor(profile, profile.node_types[spec.identity.node_type], resources)
        worst = worst.plus(price.price(resources.nodes, resources.time_s, each))
    return worst


def to_ask(worst: Price, profile: ClusterProfile) -> str:
    """Return the question that the profile wants asked before this is sent; "" where it wants none."""
    most = profile.allocation.ask_above
    if most is None:
        return ""
    unit = profile.charge_unit
    if worst.units is None:
        return f"what this costs in {unit} is not known ({worst.node_hours:.2f} node-hours at worst)"
    return f"this may cost {worst.units:.2f} {unit}, more than {most:g}" if worst.units > most else ""


def refuse_above(worst: Price, budget: float, studies: Sequence[StudyFolder], profile: ClusterProfile) -> None:
    """Refuse what may exceed what is left of a budget.

    Args:
        worst: what is to be sent.
        budget: in the site's unit, or in node-hours where the price is not known.
        studies: whose runs have cost something, and may still.
        profile: the cluster.

    Raises:
        InputError: it may; with the ledger.
    """
    spent = ledger(studies, profile)
    known = worst.units is not None

    def amount(one: Price) -> float:
        return one.units if known and one.units is not None else one.node_hours

    whole = amount(spent.spent) + amount(worst)
    if whole <= budget:
        return
    parts = f"{amount(spent.settled):.2f} settled + {amount(spent.in_flight):.2f} in flight"
    unit = profile.charge_unit if known else "node-hours"
    what = f"is exceeded: {parts} + {amount(worst):.2f} at worst for this = {whole:.2f} {unit}"
    fix = "fewer repeats, nodes or --steps, or a shorter --time: the worst case is every job at its time limit"
    raise InputError(Problem(f"--budget {budget:g}", what, fix))


def check_budget(
    found: Forecast,
    studies: Sequence[StudyFolder],
    profile: ClusterProfile,
    budget: float,
    *,
    open_choice: bool = False,
) -> None:
    """Refuse a study that could cost more than is left of a budget; of a table of choices, the cheapest counts.

    Raises:
        InputError: it could; with the ledger.
    """
    worst = total(found)[1]
    if open_choice and found.rows:
        each = [row.worst for row in found.rows]
        worst = min(each, key=lambda one: one.node_hours if one.units is None else one.units).times(found.repeats)
    refuse_above(worst, budget, studies, profile)
