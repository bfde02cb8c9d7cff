"""How long a run is, how much of it is warm-up, and how often it is repeated. Pure."""

from __future__ import annotations

from hpcpar.registry import Declaration
from hpcpar.spec import Study

LEAST_WARMUP = 10
"""Steps that are cut where a study declares no warm-up; more, until the step time is steady."""
QUICK_STEPS = 30
"""The most steps of a run that is only to be looked at."""


def steps(study: Study, declared: Declaration) -> int:
    """Return the updates of a run."""
    asked = study.steps or declared.steps
    return min(asked, QUICK_STEPS) if study.quick and declared.declares_steps else asked


def warmup(study: Study, declared: Declaration, planned: int) -> int:
    """Return the warm-up of a run of so many steps, or the least of it: at most half of what is known to come."""
    asked = LEAST_WARMUP if study.warmup_steps is None else study.warmup_steps
    return min(asked, planned // 2) if declared.declares_steps else asked


def repeats(study: Study) -> int:
    """Return how often a cell is run."""
    return 1 if study.quick else study.repeats
