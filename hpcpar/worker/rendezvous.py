"""How the ranks of a run meet: rank 0 listens and says where, the others come; nobody waits for ever.

Rank 0 binds a free port on its own address and keeps the socket: it goes to the store as it is, so that no other
process can take the port in between. Host and port are published in the run folder under the attempt's name. PyTorch's
store has no authentication: whoever reaches the port can speak to it, so it listens on one address only, and where the
profile says `closed_rendezvous`, other machines than the job's do not reach it.
"""

from __future__ import annotations

import os
import socket
import time
from datetime import timedelta
from typing import Any

import msgspec
from msgspec import Struct

from hpcpar import storage
from hpcpar.errors import RunError
from hpcpar.records import Cause
from hpcpar.runs import RunFolder
from hpcpar.spec import RunSpec
from hpcpar.worker.addresses import addresses_of_job, addresses_to_meet_at, one_machine, source_address
from hpcpar.worker.doorkeeper import admit_only
from hpcpar.worker.rank import RankInfo

_MAX_PATIENCE_S = 300.0
_MAX_COLLECTIVE_S = 1800.0
_CLOSED = "closed_rendezvous of the profile"


def patience_s(spec: RunSpec) -> float:
    """Return how long ranks wait for each other to arrive: half the run's time limit, at most five minutes."""
    return min(_MAX_PATIENCE_S, spec.time_s / 2)


def collective_timeout(spec: RunSpec) -> timedelta:
    """Return how long a rank waits inside a collective: half the run's time limit, at most half an hour."""
    return timedelta(seconds=min(_MAX_COLLECTIVE_S, spec.time_s / 2))


class Place(Struct, frozen=True):
    """Where rank 0 listens."""

    host: str
    port: int


class Meeting:
    """A world whose ranks have met: the store for small messages that must not touch a device. Made by `meet`."""

    def __init__(self, store: Any, info: RankInfo, patience: float, place: Place) -> None:
        self.store, self.place, self._info, self._patience = store, place, info, patience

    def tell(self, topic: str, content: bytes) -> None:
        """Leave a message on a topic, under this rank's number."""
        self.store.set(f"{topic}/{self._info.rank}", content)

    def hear(self, topic: str, patience_s: float | None = None) -> list[bytes]:
        """Return the messages of all ranks on a topic, in their order, once all are there.

        Where ranks may be later than usual, `patience_s` says how much.

        Raises:
            RunError: some ranks did not leave theirs in time; the sentence names them.
        """
        keys = [f"{topic}/{rank}" for rank in range(self._info.world_size)]
        try:
            self.store.wait(keys, timedelta(seconds=patience_s or self._patience))
        except RuntimeError as error:
            raise RunError(Cause.NETWORK, self._absence(topic, keys)) from error
        return [self.store.get(key) for key in keys]

    @property
    def patience_s(self) -> float:
        """How long ranks wait for each other."""
        return self._patience

    def share(self, topic: str, content: bytes) -> None:
        """Let every rank `learn` this."""
        self.store.set(topic, content)

    def learn(self, topic: str) -> bytes:
        """Wait until a rank shares the topic and return what it said.

        Raises:
            ConnectionError: none did in time.
        """
        self.await_word(topic)
        content: bytes = self.store.get(topic)
        return content

    def announce(self, topic: str) -> None:
        """Let the ranks that `await_word` of this topic go on."""
        self.store.set(topic, b"1")

    def await_word(self, topic: str) -> None:
        """Wait until a rank announces the topic.

        Raises:
            ConnectionError: it did not in time, or the store is gone; rank 0 knows why.
        """
        try:
            # Longer than rank 0 waits for the others, so that its own sentence about them comes first.
            self.store.wait([topic], timedelta(seconds=self._patience + 10))
        except RuntimeError as error:
            raise ConnectionError(f"rank 0 was not heard of again (waiting for '{topic}')") from error

    def _absence(self, topic: str, keys: list[str]) -> str:
        missing = [rank for rank, key in enumerate(keys) if not self.store.check([key])]
        listing = ", ".join(str(rank) for rank in missing[:20]) + (", ..." if len(missing) > 20 else "")
        per_node = max(1, self._info.world_size // self._info.nodes)
        names = self._info.hostnames
        nodes = sorted({names[rank // per_node] for rank in missing if rank // per_node < len(names)})
        where = f" (on {', '.join(nodes[:20])})" if nodes else ""
        plural = "ranks" if len(missing) > 1 else "rank"
        return f"{plural} {listing}{where} did not arrive within {self._patience:g} s (waiting for '{topic}')"


def meet(spec: RunSpec, info: RankInfo, folder: RunFolder) -> Meeting:
    """Bring all ranks to one store; return on rank 0 as soon as it listens, on the others once they are connected.

    Raises:
        RunError: rank 0 cannot listen, or was not found in time.
    """
    patience = patience_s(spec)
    _choose_interfaces(spec, info)
    if info.rank == 0:
        store, place = _listen(spec, info, folder, patience)
    else:
        place = _find(folder, info, patience)
        store = _connect(spec, place, info, patience)
    return Meeting(store, info, patience, place)


def _choose_interfaces(spec: RunSpec, info: RankInfo) -> None:
    if spec.socket_interface:
        os.environ["GLOO_SOCKET_IFNAME"] = spec.socket_interface
        os.environ["NCCL_SOCKET_IFNAME"] = spec.socket_interface
    elif one_machine(info) and "lo" in [name for _, name in socket.if_nameindex()]:
        # gloo would look its own host name up, which need not resolve, and would listen to the network without need.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")


def _is_closed(spec: RunSpec, info: RankInfo) -> bool:
    """Say whether rank 0's port is closed to other machines: on a single one it listens where none of them comes."""
    return spec.closed_rendezvous and not one_machine(info)


# ---------------------------------------------------------------- rank 0


def _listen(spec: RunSpec, info: RankInfo, folder: RunFolder, patience: float) -> tuple[Any, Place]:
    from torch import distributed

    listener, address = _bind(spec, info)
    if _is_closed(spec, info):
        _close(listener, address, spec, info)
    listener.listen(4096)
    place = Place(address, listener.getsockname()[1])
    try:
        store = distributed.TCPStore(
            place.host,
            place.port,
            info.world_size,
            True,
            timedelta(seconds=patience),
            wait_for_workers=False,
            master_listen_fd=listener.detach(),
        )
    except RuntimeError as error:
        what = f"rank 0 does not reach its own port at {place.host}:{place.port}"
        raise RunError(Cause.NETWORK, f"{what}: {str(error).splitlines()[0]}") from error
    storage.write_file(folder.rendezvous_path(info.attempt), msgspec.json.encode(place))
    return store, place


def _bind(spec: RunSpec, info: RankInfo) -> tuple[socket.socket, str]:
    tried = []
    for address in addresses_to_meet_at(spec, info):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((address, 0))
        except OSError as error:  # not an address of this machine
            listener.close()
            tried.append(f"{address}: {error.strerror}")
            continue
        return listener, address
    names = f"'{info.node_name}{spec.host_suffix}'"
    what = "; ".join(tried) or f"the node's name {names} does not resolve, and the scheduler gave no address"
    raise RunError(Cause.NETWORK, f"rank 0 found no address to listen on: {what}")


def _close(listener: socket.socket, own: str, spec: RunSpec, info: RankInfo) -> None:
    admitted, nameless = addresses_of_job(spec, info, like=own)
    if nameless:
        names = ", ".join(nameless[:20]) + (", ..." if len(nameless) > 20 else "")
        what = f"{_CLOSED} needs the addresses of the job's nodes, and nobody knows those of {names}"
        raise RunError(Cause.NETWORK, what)
    try:
        # What this node says to itself need not come from the address that it listens on.
        admit_only(listener, {own, *admitted, *filter(None, [source_address(*listener.getsockname()[:2])])})
    except OSError as error:
        raise RunError(Cause.NETWORK, f"{_CLOSED}: the port cannot be closed to others: {error}") from error


# ---------------------------------------------------------------- the other ranks


def _find(folder: RunFolder, info: RankInfo, patience: float) -> Place:
    path = folder.rendezvous_path(info.attempt)
    deadline = time.monotonic() + patience
    pause_s = 0.02
    while True:
        try:
            os.listdir(
                path.parent
            )  # NFS remembers for up to a minute that a file is missing; listing the folder asks anew
            return msgspec.json.decode(path.read_bytes(), type=Place)
        except FileNotFoundError:
            pass
        except (OSError, msgspec.DecodeError) as error:
            raise RunError(Cause.NETWORK, f"cannot read where rank 0 listens: {path}: {error}") from error
        if time.monotonic() > deadline:
            raise RunError(Cause.NETWORK, f"rank 0 did not say within {patience:g} s where it listens ({path.name})")
        time.sleep(pause_s)
        pause_s = min(0.5, pause_s * 1.5)


def _connect(spec: RunSpec, place: Place, info: RankInfo, patience: float) -> Any:
    from torch import distributed

    try:
        return distributed.TCPStore(
            place.host, place.port, info.world_size, False, timedelta(seconds=patience), wait_for_workers=False
        )
    except RuntimeError as error:
        what = f"rank {info.rank} on {info.node_name} cannot reach rank 0 at {place.host}:{place.port}"
        why = str(error).splitlines()[0]
        if _is_closed(spec, info):
            own = source_address(place.host, place.port) or "no way to it"
            why += f" ({_CLOSED} lets the addresses of the nodes' names in, and this is {own})"
        raise RunError(Cause.NETWORK, f"{what}: {why}") from error
