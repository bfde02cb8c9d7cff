"""llama-lora: low-rank adapters on a frozen Llama, a random one or that of a folder."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from hpcpar.errors import Problem, RunError
from hpcpar.records import Cause
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data import text
from hpcpar.worker.workloads import llama_folder
from hpcpar.worker.workloads.llama import LlamaOptions, Preset, Size, declaration, workload
from hpcpar.worker.workloads.llama_folder import FolderError, LlamaFolder

_DEFAULTS = Preset("", {}, global_batch=32, steps=60)


class ModelOptions(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The frozen model."""

    path: str = ""
    """A folder as transformers' save_pretrained writes it (config.json, *.safetensors), with its tokenizer.json where
    there is one; it says what shape the model has. "" takes random weights."""
    export: bool = False
    """Write the trained adapters into the run's folder `adapter`, as peft does; needs `path`."""


class LoraOptions(LlamaOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the frozen model and of its adapters, its text, and how they learn."""

    model: ModelOptions = ModelOptions()
    """The frozen model."""
    lr: Annotated[float, Meta(gt=0)] = 5e-3
    """Learning rate, constant over the run."""
    rank: Size = 8
    """Rank r of an adapter."""
    alpha: Annotated[float, Meta(gt=0)] = 16.0
    """An adapter's output counts alpha / r times."""
    adapt: Literal["all", "attention"] = "all"
    """Which linear layers of a block have an adapter: all seven, or the four of the attention."""


class LlamaLora:
    """Text in, the next byte out; only adapters are trained."""

    name = "llama-lora"
    summary = "LoRA on a frozen Llama that reads bytes: 0.2 of 1.5 million parameters are trained"
    extras = ("torch",)
    Options = LoraOptions

    def declare(self, options: LoraOptions) -> Declaration:
        """Describe the work. An adapter's small matrices need whole sequences."""
        with contextlib.suppress(FolderError):  # `check` says it
            options, _ = _resolved(options)
        dense = declaration(options, options.hidden, _DEFAULTS)
        assert dense.tensor is not None
        return msgspec.structs.replace(
            dense,
            kind="adapters",
            num_units=options.layers,
            tensor=TensorPlan(divides=dense.tensor.divides, loss_parallel=True, sequence_parallel=False),
        )

    def check(self, options: LoraOptions) -> list[Problem]:
        """Say whether the text or the model is not there, or is not what the options say."""
        where = f"workload {self.name}"
        shaped = options
        with contextlib.suppress(FolderError):  # said below
            shaped, _ = _resolved(options)
        return text.check(options.data, where, shaped.vocabulary) + _model_problems(options, where)

    def load(self, options: LoraOptions, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.workloads import llama_model, lora_model, lora_weights

        try:
            options, folder = _resolved(options)
        except FolderError as error:
            raise RunError(Cause.DATA, f"model.path: {error}") from error
        layers = lora_model.ATTENTION + (lora_model.FEED_FORWARD if options.adapt == "all" else ())
        adapters = lora_model.Adapters(options.rank, options.alpha, layers)
        shape = llama_model.shape_of(options)
        initialise = partial(lora_model.initialise, layers=options.layers)
        if folder is None:
            units = lora_model.units(shape, options.vocabulary, options.layers, adapters)
            loaded = workload(self.declare(options), units, options, seed)
            return msgspec.structs.replace(loaded, initialise=initialise)
        shape = shape._replace(norm_eps=folder.norm_eps, scaling=folder.scaling)
        units = lora_model.units(shape, options.vocabulary, options.layers, adapters)
        tokens = text.Tokens(lora_weights.encoder(folder), {"model": folder.facts()})
        loaded = workload(self.declare(options), units, options, seed, tokens)
        return msgspec.structs.replace(
            loaded,
            initialise=partial(lora_weights.fill, folder=folder, adapter=initialise),
            export=partial(lora_weights.peft_files, folder=folder, adapters=adapters) if options.model.export else None,
        )


def _resolved(options: LoraOptions) -> tuple[LoraOptions, LlamaFolder | None]:
    """Give the options the shape of the model in the folder, where one is named."""
    if not options.model.path:
        return options, None
    folder = llama_folder.read(options.model.path)
    return msgspec.structs.replace(options, **folder.options), folder


def _model_problems(options: LoraOptions, where: str) -> list[Problem]:
    if not options.model.path:
        fix = "name the model, or leave it out"
        return [Problem(f"{where}: model.export", "needs model.path", fix)] if options.model.export else []
    try:
        folder = llama_folder.read(options.model.path)
    except FolderError as error:
        fix = "name a folder that transformers' save_pretrained has written"
        return [Problem(f"{where}: model.path", str(error), fix)]
    given = {name: getattr(options, name) for name in folder.options}
    return [
        Problem(f"{where}: {name}", f"is {value}, the model has {folder.options[name]}", "leave it out")
        for name, value in given.items()
        if value not in (getattr(_PLAIN, name), folder.options[name])
    ]


_PLAIN = LoraOptions()
WORKLOAD = LlamaLora()
