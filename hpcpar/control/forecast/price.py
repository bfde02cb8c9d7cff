"""What runs cost: node-hours, and the site's own unit where the profile says how it counts. Pure but for the ledger."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from hpcpar import charge
from hpcpar.outcome import decide
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.runs import StudyFolder
from hpcpar.spec import Resources

_UNDER_WAY = ("submitted", "queued", "running")


class Price(Struct, frozen=True, kw_only=True):
    """Node-hours and units of the site; units are None where the profile does not say what they cost."""

    node_hours: float
    units: float | None

    def plus(self, other: Price) -> Price:
        """Add another price of the same cluster."""
        both = None if self.units is None or other.units is None else self.units + other.units
        return Price(node_hours=self.node_hours + other.node_hours, units=both)

    def times(self, number: float) -> Price:
        """Multiply."""
        units = None if self.units is None else self.units * number
        return Price(node_hours=self.node_hours * number, units=units)


NOTHING = Price(node_hours=0.0, units=0.0)


def factor(profile: ClusterProfile, node_type: NodeType, resources: Resources) -> float | None:
    """Return what a node-hour costs in the site's unit; None where one of the factors is not known."""
    rate = node_type.charge_rate
    if rate is None:
        rate = 1.0 if profile.charge_unit == "node-hours" else None
    factors = [rate]
    if resources.qos and profile.qos:
        factors.append(profile.qos[resources.qos].charge_factor if resources.qos in profile.qos else None)
    if resources.partition and profile.partitions:
        found = profile.partitions.get(resources.partition)
        factors.append(found.charge_factor if found is not None else None)
    product = 1.0
    for one in factors:
        if one is None:
            return None
        product *= one
    return product


def price(nodes: int, seconds: float, each: float | None) -> Price:
    """Return the price of so many nodes for so long."""
    node_hours = charge.node_hours(nodes, seconds)
    return Price(node_hours=node_hours, units=charge.in_units(node_hours, each))


class Ledger(Struct, frozen=True, kw_only=True):
    """What the runs of some studies on a cluster have cost, and may still cost."""

    settled: Price
    """Of attempts that have ended, by their own events."""
    in_flight: Price
    """Of runs that wait or run, each at its time limit."""
    unpriced: int = 0
    """Runs of which the units are not known."""

    @property
    def spent(self) -> Price:
        """Both together: what cannot be spent again."""
        return self.settled.plus(self.in_flight)


def ledger(studies: Iterable[StudyFolder], profile: ClusterProfile) -> Ledger:
    """Add up what the runs on this cluster cost; what was charged for is in their spec.json."""
    settled = in_flight = NOTHING
    unpriced = 0
    for study in studies:
        for run in study.runs():
            spec = run.spec()
            if spec is None or spec.identity.cluster != profile.name:
                continue
            each = charge.units_per_node_hour(spec.billing)
            unpriced += each is None
            nodes = spec.identity.nodes
            state, attempts = decide(run).state, run.attempts()
            for attempt in attempts[:-1] if state == "running" else attempts:
                settled = settled.plus(
                    price(nodes, charge.held_s(run.events(attempt).records), each if each is not None else 0.0)
                )
            if state in _UNDER_WAY:
                in_flight = in_flight.plus(price(nodes, spec.time_s, each if each is not None else 0.0))
    return Ledger(settled=settled, in_flight=in_flight, unpriced=unpriced)
