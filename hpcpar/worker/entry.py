"""The worker's entry, which a payload refers to: light, as `submit` imports it to pickle the reference."""

from __future__ import annotations


def run(run_folder: str) -> None:
    """Run this rank of the run in `run_folder`; see hpcpar.worker.main."""
    from hpcpar.worker import main

    main.run(run_folder)
