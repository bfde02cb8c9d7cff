"""What a job leaves in the environment of those who submit from inside it."""

from __future__ import annotations

import os


def clean_environment() -> dict[str, str]:
    """Return the environment without what an outer job left: SBATCH_* would override the script's directives."""
    return {
        name: value
        for name, value in os.environ.items()
        if name == "SLURM_CONF" or not name.startswith(("SBATCH_", "SLURM_", "SRUN_"))
    }
