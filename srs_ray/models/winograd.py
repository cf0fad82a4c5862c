"""3x3 convolutions by Winograd's minimal filtering over the rows of an image: fewer products for more sums.

Four neighbouring rows of outputs are, for each column of the kernel, twelve products of a row of inputs with a weight.
F(4, 3) makes them from six, between sums of rows (Winograd 1980; Lavin and Gray, CVPR 2016, whose matrices these are).
A product is here a convolution by a kernel of one row. Only rows are taken together: filtering columns too saves more
products, but moves several times as much and rounds worse.

Shapes: B samples of a batch, H and W pixels, C channels, T tiles of four rows each, of which the last may be cut off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        outputs, inputs = weight_OIHW.shape[:2]
        self.products = nn.ModuleList()
        for row in torch.tensor(_KERNELS, dtype=weight_OIHW.dtype, device=weight_OIHW.device):
            product = nn.Conv2d(inputs, outputs, (1, 3), padding=(0, 1), bias=False)
            product.weight = nn.Parameter(torch.einsum("h,oihw->oiw", row, weight_OIHW).unsqueeze(2), False)
            self.products.append(product)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x_BCHW.requires_grad:
            return self.convolution(x_BCHW)
        batch, _, height, width = x_BCHW.shape
        y_BHWC = x_BCHW.new_empty(batch, height, width, self.convolution.out_channels)
        # A tile's rows and its outputs. Rows outside of the image are 0, and there the last tile has no outputs.
        x0, x1, x2, x3 = _rows_of_tiles(x_BCHW.permute(0, 2, 3, 1))
        y0, y1, y2, y3 = (y_BHWC[:, row::4] for row in range(4))

        # Factors of sums are powers of two, which round nothing. Sums and products are made when they are needed, and
        # taken up while they are in the cache.
        even, odd = torch.sub(x3, x1, alpha=4), torch.sub(x2, x0, alpha=4)
        p1, p2 = self._product(1, even + odd), self._product(2, even - odd)
        sum_12, difference_12 = p1 + p2, p1.sub_(p2)
        even, odd = x3 - x1, x2 - x0
        p3, p4 = self._product(3, torch.add(even, odd, alpha=2)), self._product(4, torch.sub(even, odd, alpha=2))
        sum_34, difference_34 = p3 + p4, p3.sub_(p4)
        _add(difference_12, difference_34, 2, y1)
        _add(sum_12, sum_34, 4, y2)

        first = even.sub_(x1, alpha=4)
        first[:, 1:].add_(x3[:, :-1], alpha=4)  # 4 times the row before the tile - 5 x1 + x3
        _add(self._product(0, first).add_(sum_12), sum_34, 1, y0)
        last = torch.add(x2, odd, alpha=4)
        last[:, :-1] -= x0[:, 1:]  # 5 x2 - 4 x0 - the row after the tile
        _add(self._product(5, last).add_(difference_12), difference_34, 8, y3)
        return y_BHWC.permute(0, 3, 1, 2)

    def _product(self, number: int, sum_BTWC: Tensor) -> Tensor:
        return self.products[number](sum_BTWC.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _rows_of_tiles(x_BHWC: Tensor) -> list[Tensor]:
    """The first to fourth rows of all tiles, (B, T, W, C) each."""
    rows, tiles = [x_BHWC[:, row::4] for row in range(4)], -(-x_BHWC.shape[1] // 4)
    return [row if row.shape[1] == tiles else F.pad(row, (0, 0, 0, 0, 0, 1)) for row in rows]


def _add(a_BTWC: Tensor, b_BTWC: Tensor, factor: int, y_BTWC: Tensor) -> None:
    """Writes `a + factor b` to y, for the tiles that have this output."""
    tiles = y_BTWC.shape[1]
    torch.add(a_BTWC[:, :tiles], b_BTWC[:, :tiles], alpha=factor, out=y_BTWC)
