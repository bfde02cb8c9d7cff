"""What is left of an allocation: days until it ends, and the balance where the user lets the site's command say it."""

from __future__ import annotations

import datetime
import re
import subprocess
from collections.abc import Sequence

from msgspec import Struct

from hpcpar.errors import HpcparError
from hpcpar.profile import ClusterProfile

PATIENCE_S = 60.0
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


class Balance(Struct, frozen=True, kw_only=True):
    """What the site says is left."""

    command: tuple[str, ...]
    units: float
    """In the site's own unit, as its command prints it."""


def time_left(profile: ClusterProfile, now: float) -> float | None:
    """Return the seconds until the end of the allocation's last day, local time; None where no end is known.

    Args:
        profile: says when it ends.
        now: seconds since 1970.
    """
    if not profile.allocation.ends:
        return None
    last = datetime.date.fromisoformat(profile.allocation.ends) + datetime.timedelta(days=1)
    return datetime.datetime.combine(last, datetime.time()).timestamp() - now


def ask_balance(profile: ClusterProfile) -> Balance:
    """Run the profile's command for the balance, without a shell; the last number that it prints is the balance.

    Raises:
        HpcparError: there is no such command, or it fails, or it prints no number.
    """
    command = profile.allocation.balance
    if not command:
        raise HpcparError(f"profile {profile.name} has no command that says the balance (allocation.balance)")
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HpcparError(f"{_words(command)}: {error}") from error
    numbers = _NUMBER.findall(done.stdout)
    if done.returncode or not numbers:
        said = (done.stderr.strip().splitlines() or ["it printed no number"])[-1]
        raise HpcparError(f"{_words(command)}: {said}")
    return Balance(command=command, units=float(numbers[-1].replace(",", "")))


def _words(command: Sequence[str]) -> str:
    return f"the balance ({' '.join(command)})"
