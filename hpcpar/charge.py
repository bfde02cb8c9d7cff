"""What nodes cost that were held: one arithmetic for what is foreseen, what was measured, and what was billed."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from hpcpar.records import Event

_LARGEST = 1e12


def node_hours(nodes: float, seconds: float) -> float:
    """Return the price of so many nodes for so many seconds."""
    return nodes * seconds / 3600


def in_units(hours: float, each: float | None) -> float | None:
    """Return node-hours in the site's own unit; None where nobody knows what one (`each`) costs."""
    return None if each is None else hours * each


def units_per_node_hour(billing: dict[str, Any]) -> float | None:
    """Return what a node-hour cost when the run was planned, from its spec.json; None where the profile did not say."""
    each = billing.get("units_per_node_hour")
    if not isinstance(each, int | float) or isinstance(each, bool):
        return None
    return float(each) if math.isfinite(each) and 0 <= each < _LARGEST else None


def held_s(events: Iterable[Event]) -> float:
    """Return how long an attempt held its nodes by its own word: from its first event to its last."""
    times = [event.time for event in events]
    return max(times) - min(times) if times else 0.0
