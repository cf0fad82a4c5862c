"""Weight normalisation on the convolutions that carry it in the published models; it is folded before weights are kept.

Each output channel's kernel is `g v / |v|` (Salimans, Kingma 2016, arXiv 1602.07868).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from srs_ray.models.mdeq import MDEQ, PostFusion, ResidualBlock


def normalized_convolutions(model: MDEQ) -> Iterator[nn.Module]:
    """Both convolutions of every residual block of the layer, and the one after every fusion."""
    for module in model.fullstage.modules():
        if isinstance(module, ResidualBlock):
            yield from (module.conv1, module.conv2)
        elif isinstance(module, PostFusion):
            yield module.conv


def add_weight_normalization(model: MDEQ) -> None:
    """Trains gain and direction of these convolutions apart; the function that the model computes stays the same."""
    for convolution in list(normalized_convolutions(model)):
        weight_norm(convolution, "weight", dim=0)


def folded_tensors(model: MDEQ) -> dict[str, Tensor]:
    """The tensors of a weight-normalised model under their plain names, bit for bit those that it computes with."""
    model = copy.deepcopy(model)
    for convolution in normalized_convolutions(model):
        parametrize.remove_parametrizations(convolution, "weight", leave_parametrized=True)
    return {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
