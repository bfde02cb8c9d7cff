"""How a driver and its workers find and trust each other, and where Dask may write. Imports Dask inside functions only.

Whoever reaches a scheduler of Dask's can have it run code. So all of them speak TLS, with a key that is made for the
attempt and lies in the run folder, which is private to the user, for as long as the driver works.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar.errors import MissingExtraError
from hpcpar.storage import make_folder, write_file

JOIN_WITHIN_S = 30
"""How long a worker looks for its driver before it ends."""
MISSED_AFTER_S = 30
"""How long a dead connection counts as one: workers and driver notice each other's end within about this time."""
SILENT_AFTER_S = 300
"""How long a worker may be connected and say nothing; on a crowded machine one was silent for 75 s and well."""
_SETTINGS = {
    "distributed.admin.tick.limit": "1h",  # a worker that boosts is busy, and need not say so
    "distributed.comm.timeouts.connect": f"{JOIN_WITHIN_S}s",
    "distributed.comm.timeouts.tcp": f"{MISSED_AFTER_S}s",
    "distributed.scheduler.worker-ttl": f"{SILENT_AFTER_S}s",
    "distributed.scheduler.work-stealing": False,  # rows stay where they were made
    "distributed.scheduler.http.routes": [],
    "distributed.worker.http.routes": [],
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": False,
}


class Contact(Struct, frozen=True, kw_only=True):
    """Written by the driver, read by its workers."""

    address: str
    ca: str
    """PEM, as the other two."""
    certificate: str
    key: str


def settle(place: Path) -> None:
    """Import Dask so that it writes nothing outside of `place`, and set what the fleet needs.

    Raises:
        MissingExtraError: a package is not installed.
    """
    make_folder(place)
    os.environ["DASK_CONFIG"] = str(place)  # else an import alone writes into ~/.config/dask
    try:
        import cryptography  # noqa: F401
        import dask
        import distributed  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError(str(error.name), "dask", "Dask's workers") from error
    dask.config.set({**_SETTINGS, "temporary-directory": str(place)})


def own_security() -> Any:
    """Make a key for this attempt: distributed.Security."""
    from distributed.security import Security

    return Security.temporary()


def publish(place: Path, address: str, security: Any) -> None:
    """Tell the workers where the driver listens, and give them the key."""
    worker = security.get_tls_config_for_role("worker")
    contact = Contact(address=address, ca=worker["ca_file"], certificate=worker["cert"], key=worker["key"])
    write_file(place / "contact.json", msgspec.json.encode(contact))


def read(place: Path) -> Contact | None:
    """Read where the driver listens; None where it is gone."""
    try:
        return msgspec.json.decode((place / "contact.json").read_bytes(), type=Contact)
    except (OSError, msgspec.DecodeError):
        return None


def security_of(contact: Contact) -> Any:
    """Return distributed.Security with the driver's key."""
    from distributed.security import Security

    return Security(
        require_encryption=True,
        tls_ca_file=contact.ca,
        tls_worker_cert=contact.certificate,
        tls_worker_key=contact.key,
    )
