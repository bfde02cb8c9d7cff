"""Whether a study can be paid: what was spent, what may still be spent, and what it would add at worst."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from hpcpar.control.forecast.forecast import Forecast
from hpcpar.control.forecast.price import NOTHING, Ledger, Price, ledger
from hpcpar.errors import InputError, Problem
from hpcpar.profile import ClusterProfile
from hpcpar.runs import StudyFolder


class Bill(Struct, frozen=True, kw_only=True):
    """What a study adds to a ledger."""

    ledger: Ledger
    expected: Price | None
    """Of all runs and repeats; None where the time of one is not known."""
    worst: Price
    """Every run takes all of its time limit."""
    unit: str

    def amount(self, price: Price) -> float:
        """Return a price in the unit of the budget: the site's own, or node-hours where its price is not known."""
        return price.node_hours if self.worst.units is None or price.units is None else price.units


def bill(found: Forecast, studies: Sequence[StudyFolder], profile: ClusterProfile) -> Bill:
    """Add up a study."""
    expected: Price | None = NOTHING
    worst = NOTHING
    for row in found.rows:
        worst = worst.plus(row.worst.times(found.repeats))
        expected = expected.plus(row.price.times(found.repeats)) if expected and row.price else None
    unit = found.charge_unit if worst.units is not None else "node-hours"
    return Bill(ledger=ledger(studies, profile), expected=expected, worst=worst, unit=unit)


def check_budget(
    found: Forecast,
    studies: Sequence[StudyFolder],
    profile: ClusterProfile,
    budget: float,
    *,
    open_choice: bool = False,
) -> None:
    """Refuse a study that could cost more than is left of a budget.

    Raises:
        InputError: it could; with the ledger.
    """
    made = bill(found, studies, profile)
    if open_choice and found.rows:  # a table of choices: none of them should be dearer than the budget
        one = min(found.rows, key=lambda row: made.amount(row.worst))
        made = Bill(ledger=made.ledger, expected=one.price, worst=one.worst.times(found.repeats), unit=made.unit)
    spent, worst = made.amount(made.ledger.spent), made.amount(made.worst)
    if spent + worst <= budget:
        return
    settled, open_ = made.amount(made.ledger.settled), made.amount(made.ledger.in_flight)
    parts = f"{settled:.2f} settled + {open_:.2f} in flight + {worst:.2f} at worst for this"
    what = f"{parts} = {spent + worst:.2f} {made.unit}"
    fix = "fewer repeats or nodes, or a shorter --time: the worst case is every run at its time limit"
    raise InputError(Problem(f"--budget {budget:g}", f"is exceeded: {what}", fix))
