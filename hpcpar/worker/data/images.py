"""Images with a class each: the digits that come with scikit-learn, or the user's own arrays or folders.

Legend: N images, B images of a batch, C channels, H and W the size of a picture as it is stored.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from msgspec import Meta, Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause
from hpcpar.storage import expand_home
from hpcpar.worker.data import digits, parquet, places, synthetic
from hpcpar.worker.data.arrays import Parts, Rows, split

if TYPE_CHECKING:
    import numpy as np  # 0.1 s that the login node does not pay

_COLUMNS = ("image", "label")
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"})


class ImageOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which images, and the shape in which the model gets them."""

    path: str = ""
    """A file .npz with the arrays `images` [N, H, W] or [N, H, W, C] (uint8, or numbers from 0 to 1) and `labels` [N],
    or a folder with one folder of pictures a class (needs Pillow), or Parquet (a file, or a folder of them) with
    pictures in `image`, as files, and `label`. "synthetic:" takes random pictures, "" scikit-learn's digits."""
    size: Annotated[int, Meta(ge=4, le=4096)] = 32
    """Height and width; images of another size are scaled (bilinear)."""
    channels: Literal[1, 3] = 1
    """1: grey. 3: colours; a grey image gets its grey three times."""
    classes: Annotated[int, Meta(ge=2)] = 10
    """How many classes there are; labels are 0 .. classes - 1, folders are numbered in sorted order."""


def check(options: ImageOptions, where: str) -> list[Problem]:
    """Say what is wrong with the user's images, as far as one look tells."""
    if not options.path:
        return []
    path, key = expand_home(options.path), f"{where}: data.path"
    if synthetic.asked(options.path):
        return []
    if denied := places.unreadable(options.path, key):
        return denied
    if found := parquet.files(options.path):
        return parquet.check(found, key, _COLUMNS) + _without_pillow(key)
    if not path.exists():
        return [Problem(key, f"'{options.path}' does not exist", "name a file .npz or a folder with a folder a class")]
    if path.is_file() and path.suffix != ".npz":
        fix = "name a file .npz with the arrays images and labels, or a folder with a folder a class"
        return [Problem(key, f"'{options.path}' is no file .npz", fix)]
    if path.is_dir() and len(_classes(path)) != options.classes:
        what = f"'{options.path}' has {len(_classes(path))} folders, data.classes is {options.classes}"
        return [Problem(key, what, "one folder a class, or set data.classes")]
    return _without_pillow(key) if path.is_dir() else []


def _without_pillow(key: str) -> list[Problem]:
    if importlib.util.find_spec("PIL") is not None:
        return []
    return [Problem(key, "reading pictures needs Pillow", "pip install pillow, or make a file .npz")]


class Pictures:
    """Rows whose inputs become float images [B, C, size, size] when they are fetched."""

    def __init__(self, rows: Rows, options: ImageOptions, *, inputs_are_targets: bool = False) -> None:
        self._rows, self._options, self._inputs_are_targets = rows, options, inputs_are_targets

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def fetch(self, ids_B: np.ndarray) -> tuple[Any, Any]:
        """Return images [B, C, size, size] and labels [B], or the images once more."""
        stored_BHWC, labels_B = self._rows.fetch(ids_B)
        images = shaped(stored_BHWC, self._options)
        return images, images if self._inputs_are_targets else labels_B

    def facts(self) -> dict[str, Any]:
        """Describe the data for the record."""
        return self._rows.facts()


def read(options: ImageOptions, *, inputs_are_targets: bool = False) -> Parts:
    """Return the images in two parts.

    Raises:
        RunError: they are missing, damaged, or not of the declared kind (a cause data).
    """
    if synthetic.asked(options.path):
        rows = _random(options)
    elif options.path:
        rows = _own(expand_home(options.path), options)
    else:
        rows = Parts(*(Rows(_square(part.inputs_N), part.targets_N, part.facts()) for part in digits.read()))
    return Parts(*(Pictures(part, options, inputs_are_targets=inputs_are_targets) for part in rows))


def shaped(stored_BHWC: Any, options: ImageOptions) -> Any:
    """Return images as floats from 0 to 1, with the channels first, in the size that the options ask for."""
    import torch
    from torch.nn import functional as F

    images = stored_BHWC.movedim(-1, 1)
    images = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    if images.shape[1] > options.channels:
        images = images.mean(1, keepdim=True)
    images = images.expand(-1, options.channels, -1, -1)
    if images.shape[-2:] != (options.size, options.size):
        images = F.interpolate(images, (options.size, options.size), mode="bilinear", align_corners=False)
    return images.contiguous()


def _random(options: ImageOptions) -> Parts:
    import numpy as np

    shape = (options.size, options.size, options.channels)
    count = synthetic.samples_of(options.size**2 * options.channels * 8)
    images: np.ndarray = synthetic.whole_numbers(256, count, *shape).astype(np.uint8)
    return split(images, synthetic.whole_numbers(options.classes, count), synthetic.facts())


def _square(pixels_NP: np.ndarray) -> np.ndarray:
    return pixels_NP.reshape(-1, 8, 8, 1)


def _own(path: Path, options: ImageOptions) -> Parts:
    import numpy as np

    if not path.exists():
        raise RunError(Cause.DATA, f"data.path '{path}' does not exist on this node")
    if found := parquet.files(str(path)):
        images, labels = _from_parquet(found, options)
    else:
        images, labels = _from_folder(path, options) if path.is_dir() else _from_file(path)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or labels.shape != images.shape[:1] or not len(labels):
        what = f"images {list(images.shape)} and labels {list(labels.shape)} do not go together"
        raise RunError(Cause.DATA, f"{path}: {what}: N images of H x W or H x W x C, and N labels, are needed")
    if not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0 or labels.max() >= options.classes:
        what = f"labels must be whole numbers from 0 to {options.classes - 1} (data.classes)"
        raise RunError(Cause.DATA, f"{path}: {what}, not {labels.min()} to {labels.max()}")
    digest = hashlib.sha256(np.ascontiguousarray(images)).hexdigest()[:16]
    return split(images, labels.astype(np.int64), {"name": str(path), "sha256": digest, "synthetic": False})


def _from_file(path: Path) -> tuple[np.ndarray, np.ndarray]:
    import zipfile

    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["labels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise RunError(Cause.DATA, f"cannot read images and labels from {path}: {error}") from error


def _from_folder(path: Path, options: ImageOptions) -> tuple[np.ndarray, np.ndarray]:
    return _decoded(((label, str(file), file) for label, file in _pictures(path)), options)


def _from_parquet(found: list[Path], options: ImageOptions) -> tuple[np.ndarray, np.ndarray]:
    """Read pictures as Hugging Face's data sets keep them: `image` has bytes, or a field of that name."""
    columns = parquet.read(found, _COLUMNS)
    stored = (one.get("bytes") if isinstance(one, dict) else one for one in columns["image"].to_pylist())
    rows = zip(columns["label"].to_pylist(), stored, strict=True)
    named = ((label, f"{found[0]}, row {i}", io.BytesIO(content or b"")) for i, (label, content) in enumerate(rows))
    return _decoded(named, options)


def _decoded(pictures: Iterable[tuple[Any, str, Any]], options: ImageOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures [N, size, size, 3] and labels [N] of (label, what it is called, file)."""
    import numpy as np
    from PIL import Image, UnidentifiedImageError

    images, labels = [], []
    for label, name, file in pictures:
        try:
            with Image.open(file) as picture:
                images.append(np.asarray(picture.convert("RGB").resize((options.size, options.size))))
        except (OSError, UnidentifiedImageError) as error:
            raise RunError(Cause.DATA, f"cannot read {name}: {error}") from error
        labels.append(label)
    return np.array(images), np.array(labels)


def _pictures(path: Path) -> Iterator[tuple[int, Path]]:
    for label, folder in enumerate(_classes(path)):
        yield from ((label, file) for file in sorted(folder.rglob("*")) if file.suffix.lower() in _PICTURES)


def _classes(path: Path) -> list[Path]:
    return sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
