"""From an exception to a class of causes. Pure, and without importing the libraries whose exceptions it knows."""

from __future__ import annotations

import errno
import re

from hpcpar.errors import RunError, StorageError
from hpcpar.records import Cause

_NETWORK_TYPES = frozenset({"DistNetworkError", "DistStoreError", "DistBackendError", "ConnectionError"})
_NETWORK_WORDS = re.compile(
    r"connection (closed|reset|refused)|broken pipe|gloo/transport|timed? ?out|socket ?timeout|"
    r"ncclRemoteError|ncclSystemError|NCCL communicator was aborted|connectFullMesh|peer",
    re.IGNORECASE,
)
"""Words of gloo, NCCL and the store for a peer that is gone: they raise plain RuntimeErrors (torch 2.11 to 2.13)."""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_HOST_MEMORY_WORDS = re.compile(r"DefaultCPUAllocator|can't allocate memory|cannot allocate memory", re.IGNORECASE)


def tells_of_a_lost_peer(text: str) -> bool:
    """Say whether a program's last words are those of a rank whose peer is gone."""
    return bool(_NETWORK_WORDS.search(text))


def classify(error: BaseException) -> Cause:
    """Say which class of causes an exception belongs to."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if isinstance(error, RunError):
        return Cause(error.cause)
    if isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _UNWRITABLE):
        return Cause.STORAGE
    if isinstance(error, MemoryError):
        return Cause.OOM_HOST
    if "OutOfMemoryError" in names:
        return Cause.OOM_DEVICE
    if names & _NETWORK_TYPES:
        return Cause.NETWORK
    if isinstance(error, RuntimeError):
        message = str(error)
        if _HOST_MEMORY_WORDS.search(message):
            return Cause.OOM_HOST
        if _NETWORK_WORDS.search(message):
            return Cause.NETWORK
    return Cause.PYTHON_ERROR
