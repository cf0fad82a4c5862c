"""Weight normalisation on the convolutions that carry it in the published models; it is folded before weights are kept.

Each output channel's kernel is `g v / |v|` (Salimans, Kingma 2016, arXiv 1602.07868).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from srs_ray.models.mdeq.model import MDEQ, PostFusion, ResidualBlock
from srs_ray.models.weights import STORED_START


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
    tensors = {name: tensor for name, tensor in model.state_dict().items() if ".parametrizations." not in name}
    if "stored_D" in tensors:  # a start that was trained with the weights; one that was not is none of theirs
        tensors[STORED_START] = tensors.pop("stored_D")
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module, "weight"):
            tensors[f"{name}.weight"] = module.weight
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
