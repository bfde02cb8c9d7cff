"""vgg11, cnn and conv-autoencoder: convolutional networks on real images."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from msgspec import Meta

from hpcpar.errors import Problem
from hpcpar.registry import Declaration, TensorPlan
from hpcpar.worker.data.images import ImageOptions, check
from hpcpar.worker.workloads.optimizer import OptimizerOptions, make_optimizer

Size = Annotated[int, Meta(ge=1)]
GroupedSize = Annotated[int, Meta(ge=4, multiple_of=4)]
Rate = Annotated[float, Meta(gt=0)]


class VggOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the network, its images, and how it learns."""

    data: ImageOptions = ImageOptions()
    """Which images; their size is a multiple of 32."""
    width: Size = 64
    """Channels of the first convolution; the last ones have eight times as many. 64 as published."""
    classifier: Size = 512
    """Width of the linear layers; 4096 as published for pictures of 224 x 224."""
    lr: Rate = 3e-4
    """Learning rate, constant over the run."""

    def __post_init__(self) -> None:
        _divides(self.data.size, 32, "five poolings halve it")


class CnnOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the network, its images, and how it learns."""

    data: ImageOptions = ImageOptions(size=16)
    """Which images; their size is a multiple of 4."""
    width: GroupedSize = 16
    """Channels of the first convolution; the third has four times as many."""
    lr: Rate = 3e-3
    """Learning rate, constant over the run."""

    def __post_init__(self) -> None:
        _divides(self.data.size, 4, "two strides halve it")


class AutoencoderOptions(OptimizerOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shape of the network, its images, and how it learns."""

    data: ImageOptions = ImageOptions(size=16)
    """Which images; their size is a multiple of 4. Labels are not used."""
    width: Size = 16
    """Channels of the first convolution; the second has twice as many."""
    code: Size = 16
    """Numbers that are left of a picture in the middle."""
    lr: Rate = 3e-3
    """Learning rate, constant over the run."""

    def __post_init__(self) -> None:
        _divides(self.data.size, 4, "two strides halve it")


def _divides(size: int, unit: int, why: str) -> None:
    if size % unit:
        raise ValueError(f"data.size {size} is not a multiple of {unit}: {why}")


class _Images:
    """What the three have in common; a subclass adds its Options, `declare` and `_model`."""

    name: str
    extras = ("torch",)

    def check(self, options: Any) -> list[Problem]:
        """Say what is wrong with the user's images."""
        return check(options.data, f"workload {self.name}")

    def load(self, options: Any, seed: int) -> Any:
        """Build it (job)."""
        from hpcpar.worker.data.images import read
        from hpcpar.worker.neural import Evaluation, NeuralWorkload
        from hpcpar.worker.workloads import image_models, score

        classifies = self._classifies
        training, evaluation = read(options.data, inputs_are_targets=not classifies)
        measured = ("accuracy", score.correct) if classifies else ("explained_variance", score.explained(training))
        return NeuralWorkload(
            declared=self.declare(options),
            units=self._units(options),
            initialise=image_models.initialise,
            loss=image_models.classification_loss if classifies else image_models.reconstruction_loss,
            weigh=len,
            sample_weight=1.0,
            samples=training,
            optimizer=partial(make_optimizer, options),
            seed=seed,
            max_grad_norm=options.max_grad_norm,
            nonfinite=options.nonfinite,
            evaluation=Evaluation(samples=evaluation, metric=measured[0], score=measured[1]),
        )

    _classifies = True

    def declare(self, options: Any) -> Declaration:
        """Describe the work."""
        raise NotImplementedError

    def _units(self, options: Any) -> tuple[Any, ...]:
        raise NotImplementedError


class Vgg11(_Images):
    """Pictures in, classes out: many weights for little work, the classic test of gradient exchange."""

    name = "vgg11"
    summary = "VGG11 without normalisation on real digits (9.5 million parameters), or your images"
    Options = VggOptions

    def declare(self, options: VggOptions) -> Declaration:
        """Describe the work."""
        return Declaration(
            kind="neural", num_units=11, tensor=TensorPlan(divides=options.classifier), global_batch=64, steps=60
        )

    def _units(self, options: VggOptions) -> tuple[Any, ...]:
        from hpcpar.worker.workloads import image_models

        return image_models.vgg11(options.data, options.width, options.classifier)


class Cnn(_Images):
    """Pictures in, classes out, small."""

    name = "cnn"
    summary = "a small convolutional network with group normalisation on real digits, or your images"
    Options = CnnOptions

    def declare(self, options: CnnOptions) -> Declaration:
        """Describe the work."""
        return Declaration(kind="neural", num_units=4, global_batch=128, steps=100)

    def _units(self, options: CnnOptions) -> tuple[Any, ...]:
        from hpcpar.worker.workloads import image_models

        return image_models.cnn(options.data, options.width)


class ConvAutoencoder(_Images):
    """Pictures in, the same pictures out, through a narrow code."""

    name = "conv-autoencoder"
    summary = "a convolutional autoencoder that rebuilds real digits from 16 numbers, or your images"
    Options = AutoencoderOptions
    _classifies = False

    def declare(self, options: AutoencoderOptions) -> Declaration:
        """Describe the work."""
        return Declaration(kind="neural", num_units=6, global_batch=128, steps=150)

    def _units(self, options: AutoencoderOptions) -> tuple[Any, ...]:
        from hpcpar.worker.workloads import image_models

        return image_models.autoencoder(options.data, options.width, options.code)


VGG11 = Vgg11()
CNN = Cnn()
AUTOENCODER = ConvAutoencoder()
