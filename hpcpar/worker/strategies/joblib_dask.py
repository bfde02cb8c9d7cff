"""joblib over Dask: a driver starts a job with workers, and what an estimator gives to joblib is done there."""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from hpcpar.mesh import Mesh
from hpcpar.registry import Trainer, World


class JoblibDaskOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Nothing is to be chosen."""


class JoblibDask:
    """All workers of all nodes, as many tasks at a time as they have CPUs."""

    name = "joblib-dask"
    summary = "joblib over Dask: an estimator's tasks on the workers of many nodes"
    kinds = frozenset({"estimator"})
    extras = ("torch", "dask")
    drives = True
    Options = JoblibDaskOptions

    def layout(self, world: World, options: JoblibDaskOptions) -> Mesh:
        """Take all workers."""
        return Mesh(dp_replicate=world.size)

    def build(self, context: Any, workload: Any, options: JoblibDaskOptions) -> Trainer:
        """Build the trainer."""
        from hpcpar.worker.fits.driven import build

        return build(context, workload)


STRATEGY = JoblibDask()
