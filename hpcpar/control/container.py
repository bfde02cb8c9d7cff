"""The words by which a rank is started in a container, by runtime. Pure.

Sources, read 2026-11-21: apptainer-exec(1) (--bind, --nv, --rocm); README of github.com/NVIDIA/pyxis
(--container-image, --container-mounts); users' scripts on Perlmutter (srun shifter --image, --volume with semicolons).
None was run here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from hpcpar.control.safe import option_problems, path_problems
from hpcpar.errors import Problem
from hpcpar.profile import ClusterProfile, Container, NodeType


def words(container: Container, node_type: NodeType, study: Path) -> tuple[str, ...]:
    """Return what stands before the interpreter. The study's folder is always seen inside, at the same place."""
    if container.runtime in ("apptainer", "singularity"):
        devices = ["--rocm" if node_type.accelerator.startswith("AMD") else "--nv"] * bool(node_type.gpus_per_node)
        binds = [f"--bind={bind}" for bind in (str(study), *container.binds)]
        return (container.runtime, "exec", *devices, *binds, *container.args, container.image)
    if container.runtime == "shifter":
        # Sites mount their shared file systems into every container themselves, the study's folder with them.
        volumes = [f"--volume={';'.join(map(_pair, container.binds))}"] * bool(container.binds)
        return ("shifter", f"--image={container.image}", *volumes, *container.args)
    return ()


def srun_options(container: Container, study: Path) -> tuple[str, ...]:
    """Return the options of srun with which Pyxis starts ranks in a container."""
    if container.runtime != "pyxis":
        return ()
    mounts = ",".join(_pair(bind) for bind in (str(study), *container.binds))
    return (f"--container-image={container.image}", f"--container-mounts={mounts}", *container.args)


def _pair(bind: str) -> str:
    return bind if ":" in bind else f"{bind}:{bind}"


def problems(profile: ClusterProfile, study_folder: str) -> Iterator[Problem]:
    """Yield what cannot be said to the runtime, or would be read as something else."""
    container = profile.environment.container
    where = f"cluster {profile.name}: environment.container"
    if container.runtime == "none":
        return
    if profile.scheduler != "slurm":
        yield Problem(where, "containers are started on Slurm only", "leave it out, or start hpcpar inside of one")
    if profile.environment.conda:
        yield Problem(where, "a conda environment is not seen inside of a container", "leave environment.conda out")
    yield from option_problems(container.args, f"{where}.args")
    names = {f"{where}.image": container.image}
    yield from path_problems({**names, **{f"{where}.binds[{i}]": bind for i, bind in enumerate(container.binds)}})
    for place, text in [("runs folder", study_folder), *((f"{where}.binds", bind) for bind in container.binds)]:
        source = text if place == "runs folder" else text.partition(":")[0]
        if set(",;") & set(text) or ":" in source:
            what = f"the path holds a comma, a semicolon or a colon, which separate mounts: {text}"
            yield Problem(place, what, "another folder")
