"""One worker of a driver, a task of the workers' job.

    PYTHON -m hpcpar.worker.fleet.member RUN_FOLDER NAME      (worker.sh starts it with srun; HPCPAR_ATTEMPT is set)

It ends when the driver sends it home (exit code 0), and by itself when the driver is gone or was never there (75).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any

from hpcpar.runs import RunFolder
from hpcpar.worker.fleet import contact
from hpcpar.worker.fleet.contact import Contact

DRIVER_GONE = 75
"""sysexits.h: EX_TEMPFAIL. worker.sh knows it."""


def main(arguments: list[str]) -> int:
    """Work until the driver says that it is enough, or says nothing any more."""
    folder, name = RunFolder(Path(arguments[0])), arguments[1]
    place = folder.fleet(os.environ["HPCPAR_ATTEMPT"])
    found = contact.read(place)
    if found is None:
        print(f"hpcpar: {place} is gone, and the driver with it", file=sys.stderr, flush=True)
        return DRIVER_GONE
    spec = folder.spec()
    if spec is None:
        print(f"hpcpar: {folder.spec_path} is missing or damaged", file=sys.stderr, flush=True)
        return 1
    contact.settle(place)
    if spec.identity.world_size > 1:  # so dask-jobqueue expects them
        name += f"-{os.environ['SLURM_PROCID']}"
    return asyncio.run(_work(found, name, spec.identity.cpus_per_rank, str(place)))


async def _work(found: Contact, name: str, threads: int, place: str) -> int:
    from distributed import Worker

    why: list[str] = []

    class Member(Worker):
        async def close(self, *arguments: Any, reason: str = "worker-close", **more: Any) -> Any:
            why.append(reason)
            return await super().close(*arguments, reason=reason, **more)

    worker = Member(
        found.address,
        name=name,
        nthreads=threads,
        memory_limit=0,
        death_timeout=contact.JOIN_WITHIN_S,
        security=contact.security_of(found),
        local_directory=place,
        dashboard=False,
        dashboard_address="127.0.0.1:0",
    )
    try:
        await worker
    except (OSError, TimeoutError) as error:
        print(f"hpcpar: no driver at {found.address}: {error}", file=sys.stderr, flush=True)
        return DRIVER_GONE
    await worker.finished()
    return DRIVER_GONE if "connection-broken" in "".join(why[:1]) else 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    # A fit or a collective in another thread would keep the interpreter from ending.
    os._exit(code)
