"""Horovod computes what one process computes; where nobody has built it, the job says what to do."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from test_parity import LLAMA, MLP, SGD, STEPS, TOLERANCE, Cell, _losses, _oracle
from worker_runs import finish, make_run, start

from hpcpar.outcome import decide
from hpcpar.worker.horovod_ring import variables

INSTALLED = importlib.util.find_spec("horovod") is not None
needs_horovod = pytest.mark.skipif(not INSTALLED, reason="Horovod is not installed: it must be built by hand")
CLIPPED = {"workload": "llama-tiny", "workload_options": {**LLAMA, **SGD, "max_grad_norm": 0.1}, "global_batch": 16}
PLAIN = {"workload": "mlp", "workload_options": {**MLP, **SGD}, "global_batch": 16}


@needs_horovod
@pytest.mark.parametrize(("work", "ranks", "accum"), [(CLIPPED, 2, 2), (PLAIN, 2, 1), (PLAIN, 4, 2)])
def test_equals_one_process(pools: Any, work: dict[str, Any], ranks: int, accum: int) -> None:
    got = _losses(pools, Cell("horovod", {}, ranks, accum), work)
    assert got == pytest.approx(_oracle(pools, work), abs=TOLERANCE, rel=0)


@needs_horovod
def test_compressed_gradients_are_near(pools: Any) -> None:
    """fp16 rounds a gradient by at most 2^-11 of its size: the band is ten times what was measured (9e-6)."""
    got = _losses(pools, Cell("horovod", {"compression": "fp16"}, 2, 2), CLIPPED, STEPS)
    assert got == pytest.approx(_oracle(pools, CLIPPED), abs=1e-4, rel=0)


@pytest.mark.skipif(INSTALLED, reason="Horovod is installed")
def test_a_job_without_horovod_says_which_version_fits(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", "horovod", ranks_per_node=1)
    assert finish(folder, start(folder)) != 0
    message = decide(folder).message
    assert "strategy horovod: needs the package 'horovod'" in message
    assert "0.28.1 (the newest) works with torch 2.13" in message


def test_a_rank_gets_the_variables_that_horovodrun_would_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import msgspec
    from cases import rank_info

    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    place = {"local_rank": 1, "node_rank": 1, "nodes": 2, "scheduler": "slurm", "launch_address": "10.0.0.1"}
    found = variables(msgspec.structs.replace(rank_info(3, 4), **place), 1234)
    assert found == {
        "HOROVOD_RANK": "3",
        "HOROVOD_SIZE": "4",
        "HOROVOD_LOCAL_RANK": "1",
        "HOROVOD_LOCAL_SIZE": "2",
        "HOROVOD_CROSS_RANK": "1",
        "HOROVOD_CROSS_SIZE": "2",
        "HOROVOD_HOSTNAME": "node1",
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": "10.0.0.1",
        "HOROVOD_GLOO_RENDEZVOUS_PORT": "1234",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": "lo",
    }
