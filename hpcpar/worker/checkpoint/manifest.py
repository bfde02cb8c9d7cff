"""The manifest of a checkpoint: JSON of known types under a digest. It takes the place of torch's pickled metadata."""

from __future__ import annotations

import hashlib
import re

import msgspec
from msgspec import Struct

from hpcpar.records import Span

_FILE = re.compile(r"__\d{1,9}_\d{1,9}\.distcp", re.ASCII)
"""The only names that files of a checkpoint have: what is read never leads out of its folder."""


class DamagedError(Exception):
    """A checkpoint is not what was written; the sentence says how."""


class Chunk(Struct, frozen=True, kw_only=True):
    """A rectangle of a tensor, and where its bytes are."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: str
    begin: int
    length: int


class SavedTensor(Struct, frozen=True, kw_only=True):
    """A whole tensor, however many ranks had a part of it."""

    dtype: str
    """A name of torch's, e.g. "float32"."""
    size: tuple[int, ...]
    chunks: tuple[Chunk, ...]


class SavedFile(Struct, frozen=True, kw_only=True):
    """What a file must be."""

    sha256: str
    num_bytes: int


class Origin(Struct, frozen=True, kw_only=True):
    """Where in which run a checkpoint was taken."""

    key: str
    """Of the run."""
    step: int
    """Updates that are in it."""
    time: float
    """Seconds since the epoch."""
    lineage: tuple[Span, ...]
    """Which attempts did these updates."""
    loss_first: float | None
    loss_last: float | None


class Manifest(Struct, frozen=True, kw_only=True):
    """All that is known of a checkpoint without opening its tensors."""

    origin: Origin
    optimizer: str
    """The class of the optimizer."""
    tensors: dict[str, SavedTensor]
    """model.NAME, buffer.NAME, and optimizer.NAME.STATE for what the optimizer keeps of that parameter."""
    files: dict[str, SavedFile]


class _Sealed(Struct, frozen=True):
    sha256: str
    """Of the bytes of `manifest`."""
    manifest: msgspec.Raw


def seal(manifest: Manifest) -> bytes:
    """Return the bytes of manifest.json."""
    content = msgspec.json.encode(manifest)
    return msgspec.json.encode(_Sealed(hashlib.sha256(content).hexdigest(), msgspec.Raw(content)))


def unseal(content: bytes) -> Manifest:
    """Read the bytes of manifest.json.

    Raises:
        DamagedError: they are not what `seal` returned.
    """
    try:
        sealed = msgspec.json.decode(content, type=_Sealed)
        if hashlib.sha256(sealed.manifest).hexdigest() != sealed.sha256:
            raise DamagedError("its manifest does not have the digest that was written with it")
        manifest = msgspec.json.decode(sealed.manifest, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedError("its manifest cannot be read") from error
    named = {chunk.file for saved in manifest.tensors.values() for chunk in saved.chunks}
    if not all(_FILE.fullmatch(name) for name in (*manifest.files, *named)) or not named <= manifest.files.keys():
        raise DamagedError("its manifest names files that no checkpoint has")
    return manifest
