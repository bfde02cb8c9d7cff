"""How the ranks reach the server of the parameters: rank 0 calls it, the others speak to a thread of rank 0 each.

One exchange a step: the rank asks for the parameters of a step (int64 [1]), gets their version (int64 [1]) and values,
and brings its gradient and the gradient's weight (float64 [1]). Gloo over host memory, whatever the device. Imports
torch.
"""

from __future__ import annotations

import threading
from typing import Any, Protocol

import torch
from torch import distributed

from hpcpar.worker.delayed.server import Gradient, Pulled, Server


class Link(Protocol):
    """A rank's way to the server."""

    def pull(self, step: int) -> Pulled:
        """Get the parameters for a step."""

    def push(self, step: int, gradient: Gradient) -> None:
        """Bring the gradient of a step."""


class Near:
    """Rank 0's way: it is the server's own process."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def pull(self, step: int) -> Pulled:
        """Get the parameters for a step."""
        return self._server.pull(step)

    def push(self, step: int, gradient: Gradient) -> None:
        """Bring the gradient of a step."""
        self._server.push(0, step, gradient)


class Far:
    """The way of every other rank; `like` is a vector of the parameters' size and kind."""

    def __init__(self, like: torch.Tensor, group: Any) -> None:
        self._like, self._group = like, group

    def pull(self, step: int) -> Pulled:
        """Get the parameters for a step."""
        version, flat = torch.empty(1, dtype=torch.int64), torch.empty_like(self._like)
        distributed.send(torch.tensor([step]), 0, group=self._group)
        distributed.recv(version, 0, group=self._group)
        distributed.recv(flat, 0, group=self._group)
        return Pulled(int(version), flat)

    def push(self, step: int, gradient: Gradient) -> None:
        """Bring the gradient of a step."""
        distributed.send(gradient.flat, 0, group=self._group)
        distributed.send(torch.tensor([gradient.weight], dtype=torch.float64), 0, group=self._group)


def serve(server: Server, ranks: range, steps: int, like: torch.Tensor, group: Any) -> list[threading.Thread]:
    """Start a thread for each rank; it ends after `steps` steps, or when the rank is lost, which the server is told.

    The threads do not keep the process alive.
    """
    threads = []
    for rank in ranks:
        arguments = (server, rank, steps, like, group)
        thread = threading.Thread(target=_serve_rank, args=arguments, name=f"parameters-of-{rank}", daemon=True)
        thread.start()
        threads.append(thread)
    return threads


def _serve_rank(server: Server, rank: int, steps: int, like: torch.Tensor, group: Any) -> None:
    asked, weight = torch.empty(1, dtype=torch.int64), torch.empty(1, dtype=torch.float64)
    try:
        for _ in range(steps):
            distributed.recv(asked, rank, group=group)
            step = int(asked)
            pulled = server.pull(step)
            distributed.send(torch.tensor([pulled.version]), rank, group=group)
            distributed.send(pulled.flat, rank, group=group)
            flat = torch.empty_like(like)
            distributed.recv(flat, rank, group=group)
            distributed.recv(weight, rank, group=group)
            server.push(rank, step, Gradient(pulled.version, flat, float(weight)))
    except Exception as error:  # a thread has nobody else to tell
        server.fail(error)
