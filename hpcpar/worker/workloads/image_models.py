"""The convolutional models. Imports torch; knows nothing of parallelism.

None of them has batch normalisation: its statistics would be those of a rank's samples, and the model another one on
every number of ranks. Legend: B samples, C channels or classes, H and W height and width, F features.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from hpcpar.worker.data.images import ImageOptions
from hpcpar.worker.neural import Unit

_VGG11 = ((1, True), (2, True), (4, False), (4, True), (8, False), (8, True), (8, False), (8, True))
"""Channels of each convolution in multiples of the first one's, and whether pooling follows.

Simonyan, Zisserman 2014 (arXiv:1409.1556), table 1, column A.
"""
VGG11_HALVINGS = sum(pooled for _, pooled in _VGG11)
CNN_HALVINGS = 2
AUTOENCODER_HALVINGS = 2


class Plain(nn.Module):
    """Brings a picture to the layout that its shape says.

    On CPUs convolutions of one channel choose another one, and a pipeline could not send that.
    """

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """Return the same numbers."""
        return x_BCHW.contiguous()


def vgg11(images: ImageOptions, width: int, classifier: int) -> tuple[Unit, ...]:
    """Return the eight convolutions and three linear layers of VGG11; published with width 64, classifier 4096."""
    channels = [images.channels, *(width * multiple for multiple, _ in _VGG11)]
    convolutions = [
        Unit(f"conv{i}", partial(_convolution, channels[i], channels[i + 1], pooled=pooled))
        for i, (_, pooled) in enumerate(_VGG11)
    ]
    features = channels[-1] * (images.size // 2**VGG11_HALVINGS) ** 2
    return (
        *convolutions,
        Unit("linear0", partial(_flat_linear, features, classifier), {"1": "column"}),
        Unit("linear1", partial(_linear, classifier, classifier), {"0": "row"}),
        Unit("output", partial(nn.Linear, classifier, images.classes)),
    )


def _convolution(inputs: int, outputs: int, *, pooled: bool) -> nn.Module:
    pooling = nn.MaxPool2d(2) if pooled else nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(), pooling, Plain())


def _flat_linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs), nn.ReLU())


def _linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())


def cnn(images: ImageOptions, width: int) -> tuple[Unit, ...]:
    """Return three convolutions with group normalisation, and a linear layer on the mean over the picture."""
    sizes = [images.channels, width, 2 * width, 4 * width]
    strides = [1, 2, 2]
    convolutions = [Unit(f"conv{i}", partial(_normed, sizes[i], sizes[i + 1], strides[i])) for i in range(3)]
    return (*convolutions, Unit("output", partial(_pooled_linear, sizes[-1], images.classes)))


def _normed(inputs: int, outputs: int, stride: int) -> nn.Module:
    # Four groups: normalised within a sample, whatever the batch (Wu, He 2018, arXiv:1803.08494). The norm has a
    # bias; one before it would have a gradient of (nearly) 0, and AdamW would follow its rounding errors.
    convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(4, outputs), nn.GELU(), Plain())


def _pooled_linear(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs))


def autoencoder(images: ImageOptions, width: int, code: int) -> tuple[Unit, ...]:
    """Return an encoder that halves the picture twice and keeps `code` numbers of it, and its mirror image."""
    small = images.size // 2**AUTOENCODER_HALVINGS
    shape = (2 * width, small, small)
    features = 2 * width * small * small
    return (
        Unit("encode0", partial(_half, images.channels, width)),
        Unit("encode1", partial(_half, width, 2 * width)),
        Unit("code", partial(_code, features, code)),
        Unit("expand", partial(_expand, code, shape)),
        Unit("decode0", partial(_double, 2 * width, width, nn.GELU)),
        Unit("decode1", partial(_double, width, images.channels, nn.Identity)),
    )


def _half(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.GELU(), Plain())


def _code(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs, outputs))


def _expand(inputs: int, shape: tuple[int, int, int]) -> nn.Module:
    channels, height, width = shape
    return nn.Sequential(nn.Linear(inputs, channels * height * width), nn.Unflatten(1, shape), nn.GELU())


def _double(inputs: int, outputs: int, activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1), activation(), Plain())


def initialise(name: str, values: Any, generator: torch.Generator) -> None:
    """Fill a parameter: He's normal initialisation (He et al. 2015, equation 10); one and zero for norms and biases.

    Of a transposed convolution the fan-in is that of its mirror image, which is right up to the stride.
    """
    if values.dim() == 1:
        values.fill_(1.0 if name.endswith("weight") else 0.0)
    else:
        values.normal_(0.0, (2.0 / values[0].numel()) ** 0.5, generator=generator)


def classification_loss(logits_BC: Any, labels_B: Any) -> tuple[Any, float]:
    """Return the summed cross-entropy and the number of samples."""
    return F.cross_entropy(logits_BC, labels_B, reduction="sum"), float(len(labels_B))


def reconstruction_loss(output_BCHW: Any, images_BCHW: Any) -> tuple[Any, float]:
    """Return the sum over samples of the mean squared error of a picture, and the number of samples."""
    errors_B = (output_BCHW - images_BCHW).square().flatten(1).mean(1)
    return errors_B.sum(), float(len(images_BCHW))
