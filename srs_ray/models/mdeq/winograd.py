"""3x3 convolutions by Winograd's minimal filtering over the rows of an image: fewer products for more sums.

Four neighbouring rows of outputs are, for each column of the kernel, twelve products of a row of inputs with a weight.
F(4, 3) makes them from six, between sums of rows (Winograd 1980; Lavin and Gray, CVPR 2016, whose matrices these are).
A product is here a convolution by a kernel of one row. Only rows are taken together: filtering columns too saves more
products, but moves several times as much and rounds worse.

Shapes: B samples of a batch, H and W pixels, C channels, T tiles of four rows each; the last may be cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from srs_ray.models.mdeq.loops import filter_rows, join_rows

LEAST_WIDTH = 8  # pixels from which on a row is an image of its own, by measurement on a CPU

# From a kernel's three rows to those of the six products. The last one's sign is turned, which saves a sum.
_KERNELS = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, -1),
)


class WinogradConvolution(nn.Module):
    """A 3x3 convolution of stride 1 and padding 1 without bias, for channels-last images.

    Where derivatives are asked for, it is the convolution itself. Raises ValueError for other convolutions.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        shape = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
        if shape != ((3, 3), (1, 1), (1, 1), (1, 1)) or convolution.groups != 1 or convolution.bias is not None:
            raise ValueError(f"not a plain 3x3 convolution without bias: {convolution}")
        self.convolution = convolution
        weight_OIHW = convolution.weight.detach()
        kernels = torch.tensor(_KERNELS, dtype=weight_OIHW.dtype, device=weight_OIHW.device)
        weight_KOIHW = torch.einsum("kh,oihw->koiw", kernels, weight_OIHW).unsqueeze(3)
        self.products = nn.ParameterList([nn.Parameter(weight_OIHW, False) for weight_OIHW in weight_KOIHW])

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x_BCHW.requires_grad:
            return self.convolution(x_BCHW)
        x_BHWC = x_BCHW.permute(0, 2, 3, 1).contiguous()
        batch, height, width, inputs = x_BHWC.shape
        tiles = batch * -(-height // 4)
        # Narrow rows stand side by side in one image, with a pixel of 0 between two and at both ends.
        apart = int(width < LEAST_WIDTH)
        make = x_BHWC.new_zeros if apart else x_BHWC.new_empty
        sum_KWC = make(len(self.products), tiles * (width + apart) + 2 * apart, inputs)
        places = apart * inputs, (width + apart) * inputs
        filter_rows(x_BHWC.flatten(2).numpy(), sum_KWC.flatten(1).numpy(), *places)
        sums = sum_KWC.unflatten(1, (1, -1) if apart else (tiles, width)).unbind()
        products = [
            F.conv2d(sum_TWC.unsqueeze(1).permute(0, 3, 1, 2), weight_OIHW, padding=(0, 1 - apart))
            for weight_OIHW, sum_TWC in zip(self.products, sums, strict=True)
        ]
        y_BHWC = x_BHWC.new_empty(batch, height, width, self.convolution.out_channels)
        join_rows(
            *(product.permute(0, 2, 3, 1).flatten().numpy() for product in products),
            (width + apart) * y_BHWC.shape[3],
            y_BHWC.flatten(2).numpy(),
        )
        return y_BHWC.permute(0, 3, 1, 2)
