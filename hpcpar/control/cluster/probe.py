"""The smallest job of every kind of node, shown to `sbatch --test-only`: options that a site forbids come to light."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from hpcpar.control import slurm
from hpcpar.control.cluster.verify import Difference
from hpcpar.control.plan import make_plan
from hpcpar.control.render import Shape, job_text, render
from hpcpar.errors import InputError, SchedulerError
from hpcpar.profile import ClusterProfile, NodeType
from hpcpar.spec import Study


def forbidden(profile: ClusterProfile) -> Iterator[Difference]:
    """Yield the kinds of nodes for which Slurm would refuse the smallest job, in its own words.

    Raises:
        NoSchedulerError: there is no sbatch here.
    """
    for name, kind in profile.node_types.items():
        try:
            slurm.test_only(_script(profile, name, kind))
        except InputError as error:
            yield Difference(f"node_types.{name}", "its smallest job", str(error), "see `hpcpar doctor`")
        except SchedulerError as error:
            words = " ".join(error.stderr.split())
            fix = "the key that stands for that option, or `directives`"
            yield Difference(f"node_types.{name}", "its smallest job", f"sbatch --test-only says: {words}", fix)


def _script(profile: ClusterProfile, name: str, kind: NodeType) -> str:
    tables = [table for table in (profile.qos.get(kind.qos), profile.partitions.get(kind.partition)) if table]
    nodes = max((table.min_nodes for table in tables), default=1)
    batch = nodes * kind.ranks_per_node
    study = Study(workload="mlp", nodes=(nodes,), node_type=name, global_batch=batch, steps=1)
    run = make_plan(study, profile, f"node_types.{name}").runs[0]
    here = Path("/")
    shape = Shape("probe", "probe", ("probe",), here, here, sys.executable, run.resources, profile, kind)
    return render(job_text(shape), profile).text
