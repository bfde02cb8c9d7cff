"""Settings of the network that are known to be slow, to hang or to corrupt. Pure; each rule has its source."""

from __future__ import annotations

from collections.abc import Iterator

from hpcpar.errors import Problem
from hpcpar.profile import ClusterProfile, NodeType

_ALWAYS_BAD = {
    ("NCCL_P2P_DISABLE", "1"): "copies between GPUs of a node go through the host's memory",
    ("NCCL_SHM_DISABLE", "1"): "ranks of a node speak over the network",
    ("CUDA_LAUNCH_BLOCKING", "1"): "every kernel is waited for: a debugging aid, and times mean nothing",
    ("AMD_SERIALIZE_KERNEL", "3"): "every kernel is waited for: a debugging aid, and times mean nothing",
}
_OVER_TCP = {
    ("NCCL_IB_DISABLE", "1"): "NCCL falls back to TCP",
    ("NCCL_NET", "Socket"): "NCCL uses TCP",
    ("FI_PROVIDER", "tcp"): "libfabric uses TCP",
    ("FI_PROVIDER", "sockets"): "libfabric uses TCP",
}
_NO_WAY_OUT = ("lo", "docker0", "virbr0")
_PLUGINS = ("AWS Libfabric", "OFI")
"""Names under which the libfabric plug-in of NCCL has been known (HewlettPackard/shs-ccl-docs#35)."""


def known_bad(profile: ClusterProfile, kind: NodeType, nodes: int) -> Iterator[Problem]:
    """Yield what is known to be wrong with the network settings of jobs of up to `nodes` nodes."""
    where = f"cluster {profile.name}: environment"
    several = {**profile.environment.set, **profile.environment.multi_node}
    for (name, value), what in _ALWAYS_BAD.items():
        if several.get(name) == value:
            yield Problem(f"{where}: {name}={value}", what, "leave it out")
    for (name, value), what in _OVER_TCP.items():
        if several.get(name, "").lower() == value.lower():
            yield Problem(f"{where}: {name}={value}", f"{what}: times are those of the slow network", "leave it out")
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        if several.get(name, "") in _NO_WAY_OUT:
            fix = "the interface of the fast network"
            yield Problem(f"{where}: {name}={several[name]}", "leads to no other node", fix)
    if profile.socket_interface in _NO_WAY_OUT:
        what = f"{profile.socket_interface} leads to no other node"
        yield Problem(f"cluster {profile.name}: socket_interface", what, "the interface of the fast network")
    if kind.gpus_per_node:
        yield from _libfabric(where, several, profile, kind, nodes)


def _libfabric(
    where: str, several: dict[str, str], profile: ClusterProfile, kind: NodeType, nodes: int
) -> Iterator[Problem]:
    if profile.environment.set.get("NCCL_NET") in _PLUGINS:
        # github.com/HewlettPackard/shs-ccl-docs, 2026-04: not for jobs of one node.
        what = "is not for jobs of one node"
        yield Problem(f"{where}: set.NCCL_NET", what, "put it into [environment.multi_node]")
    if nodes < 2 or not _slingshot(several):
        return
    if "GH200" in kind.accelerator.upper() and not _without_ll128(several.get("NCCL_PROTO", "")):
        # NVIDIA/nccl#2001 and #2053, HewlettPackard/shs-ccl-docs#21: seen on GH200 with Slingshot.
        what = "nothing turns NCCL's LL128 protocol off, which was seen to corrupt data on GH200 with Slingshot"
        yield Problem(where, what, 'NCCL_PROTO = "^LL128" in [environment.multi_node]')
    brings = [*profile.environment.modules, profile.environment.activate, profile.python]
    if several.get("NCCL_NET") in _PLUGINS and not any(brings):
        # CliMA/Oceananigans.jl#5445: without the plug-in NCCL says nothing and is three times slower.
        what = (
            f"NCCL_NET={several['NCCL_NET']} needs a plug-in, and no module or environment of this profile brings one"
        )
        yield Problem(where, what, "the module with aws-ofi-nccl (or rccl), in environment.modules")


def _slingshot(variables: dict[str, str]) -> bool:
    named = variables.get("NCCL_NET") in _PLUGINS or variables.get("FI_PROVIDER") == "cxi"
    return named or any(name.startswith("FI_CXI_") or value.startswith("hsn") for name, value in variables.items())


def _without_ll128(protocols: str) -> bool:
    words = [word.strip().upper() for word in protocols.lstrip("^").split(",") if word.strip()]
    return bool(words) and ("LL128" in words) == protocols.startswith("^")
