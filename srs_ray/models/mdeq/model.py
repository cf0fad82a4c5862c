"""The multiscale deep equilibrium model (MDEQ) for image classification, after Bai, Koltun, Kolter (NeurIPS 2020).

Shapes: B samples, C channels, H and W pixels, D elements of the equilibrium state: all branches of one sample,
flattened and joined, highest resolution first. Module names are those of the published checkpoints. In evaluation
mode every sample is computed for itself.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from functools import reduce
from itertools import pairwise

import torch
from torch import Tensor, nn

from srs_ray.models.mdeq.config import MDEQConfig
from srs_ray.models.opened import equilibrium_logits
from srs_ray.solvers.iteration import SolverSetting

BLOCK_EXPANSION = 5
HEAD_EXPANSION = 4


def _conv3x3(inputs: int, outputs: int, stride: int = 1, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def in_parts(function: Callable[[Tensor], Tensor], x_BCHW: Tensor, at_once: int | None) -> Tensor:
    """The function on parts of a batch, joined, `at_once` samples or a divisor of it each.

    The parts are equal, so that every sample goes through the same kernels; a batch that can only be cut into far
    smaller ones stays whole.
    """
    size = equal_parts(len(x_BCHW), at_once)
    if size == len(x_BCHW):
        return function(x_BCHW)
    return torch.cat([function(part) for part in x_BCHW.split(size)])


def equal_parts(batch: int, at_once: int | None) -> int:
    """How many samples each of the parts has that `in_parts` cuts a batch into."""
    size = batch if at_once is None else math.gcd(batch, at_once)
    return batch if at_once is None or 4 * size < at_once else size


def _needs_derivatives(*inputs: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in inputs)


class ResidualBlock(nn.Module):
    """One branch's part of the layer; the input injection enters between the second convolution and its norm."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        inner = BLOCK_EXPANSION * channels
        self.conv1 = _conv3x3(channels, inner)
        self.gn1 = nn.GroupNorm(groups, inner)
        self.conv2 = _conv3x3(inner, channels)
        self.gn2 = nn.GroupNorm(groups, channels)
        self.gn3 = nn.GroupNorm(groups, channels)
        self.at_once: int | None = None  # samples whose inner, wide activations are there at a time; None: all

    def forward(self, z_BCHW: Tensor, injection_BCHW: Tensor | None) -> Tensor:
        """Where all states are one (`expand`ed, as the first of solves from a constant start), it is convolved once."""
        batch = len(z_BCHW)
        if batch > 1 and z_BCHW.stride(0) == 0:
            z_BCHW = z_BCHW[:1]
        out = in_parts(lambda part: self.conv2(self.gn1(self.conv1(part)).relu_()), z_BCHW, self.at_once)
        if injection_BCHW is not None:
            out = out.add_(injection_BCHW) if len(out) == batch else out + injection_BCHW
        out = self.gn3(self.gn2(out).add_(z_BCHW).relu_())
        return out if len(out) == batch else out.expand(batch, -1, -1, -1)


class Branch(nn.Module):
    """A branch is a sequence of blocks in published checkpoints; all published architectures have one."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([ResidualBlock(channels, groups)])

    def forward(self, z_BCHW: Tensor, injection_BCHW: Tensor | None) -> Tensor:
        return self.blocks[0](z_BCHW, injection_BCHW)


class CarryUp(nn.Module):
    """Carries a branch to one of 2^`levels` times its resolution."""

    def __init__(self, inputs: int, outputs: int, levels: int, groups: int) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv"] = nn.Conv2d(inputs, outputs, 1, bias=False)
        layers["gnorm"] = nn.GroupNorm(groups, outputs)
        layers["upsample"] = nn.Upsample(scale_factor=2**levels, mode="nearest")
        self.net = nn.Sequential(layers)

    def forward(self, z_BCHW: Tensor) -> Tensor:
        return self.net(z_BCHW)


class CarryDown(nn.Module):
    """Carries a branch to one of 2^-`levels` times its resolution; the channels change at the last convolution."""

    def __init__(self, inputs: int, outputs: int, levels: int, groups: int) -> None:
        super().__init__()
        steps = []
        for level in range(levels):
            last = level == levels - 1
            width = outputs if last else inputs
            layers: OrderedDict[str, nn.Module] = OrderedDict()
            layers["conv"] = _conv3x3(inputs, width, stride=2)
            layers["gnorm"] = nn.GroupNorm(groups, width)
            if not last:
                layers["relu"] = nn.ReLU(inplace=True)
            steps.append(nn.Sequential(layers))
        self.net = nn.Sequential(*steps)

    def forward(self, z_BCHW: Tensor) -> Tensor:
        return self.net(z_BCHW)


class Fusion(nn.ModuleList):
    """The carries of all branches to one of them, and their sum."""

    def forward(self, z_branches: list[Tensor]) -> Tensor:
        first, second, *others = [carry(z) for carry, z in zip(self, z_branches, strict=True)]
        return reduce(Tensor.add_, others, first + second)


class PostFusion(nn.Module):
    """What each branch goes through after fusion, whose sum it overwrites."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.gnorm = nn.GroupNorm(groups // 2, channels, affine=False)

    def forward(self, z_BCHW: Tensor) -> Tensor:
        return self.gnorm(self.conv(z_BCHW.relu_()))


class MDEQLayer(nn.Module):
    """f: one residual block per branch, then fusion across all resolutions."""

    def __init__(self, config: MDEQConfig) -> None:
        super().__init__()
        channels, groups = config.channels, config.groups
        self.branches = nn.ModuleList([Branch(c, groups) for c in channels])
        self.fuse_layers = nn.ModuleList(
            [
                Fusion([self._carry(channels[source], c, source - target, groups) for source in range(len(channels))])
                for target, c in enumerate(channels)
            ]
        )
        self.post_fuse_layers = nn.ModuleList([PostFusion(c, groups) for c in channels])

    @staticmethod
    def _carry(inputs: int, outputs: int, levels_up: int, groups: int) -> nn.Module:
        if levels_up == 0:
            return nn.Identity()
        if levels_up > 0:
            return CarryUp(inputs, outputs, levels_up, groups)
        return CarryDown(inputs, outputs, -levels_up, groups)

    def forward(self, z_branches: list[Tensor], injection_BCHW: Tensor) -> list[Tensor]:
        injections: list[Tensor | None] = [injection_BCHW, *[None] * (len(z_branches) - 1)]
        z_branches = [branch(z, u) for branch, z, u in zip(self.branches, z_branches, injections, strict=True)]
        return [post(fusion(z_branches)) for fusion, post in zip(self.fuse_layers, self.post_fuse_layers, strict=True)]


class HeadBottleneck(nn.Module):
    """The head's block for one branch; only the shortcut's norm has parameters of its own."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        outputs = HEAD_EXPANSION * width
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width, affine=False)
        self.conv2 = _conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width, affine=False)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs, affine=False)
        self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, z_BCHW: Tensor) -> Tensor:
        out = self.bn1(self.conv1(z_BCHW)).relu_()
        out = self.bn2(self.conv2(out)).relu_()
        return self.bn3(self.conv3(out)).add_(self.downsample(z_BCHW)).relu_()


class MDEQ(nn.Module):
    """Stem, equilibrium layer and head. Images are in [0, 1]; standardisation is part of the model.

    `channels_last` says in which order a state holds a branch: (C, H, W), or (H, W, C); `stem_at_once` and
    `head_at_once`, how many samples go through the stem and the head at a time (None: all).
    """

    mean: Tensor
    std: Tensor
    stored_D: Tensor | None  # a start that the weights hold, in the order of (C, H, W)
    channels_last = False
    stem_at_once: int | None = None
    head_at_once: int | None = None

    def __init__(self, config: MDEQConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.tensor(config.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(-1, 1, 1), persistent=False)
        self.register_buffer("stored_D", None, persistent=False)
        width = config.channels[0]
        strides = [2 if config.downsample_times >= times else 1 for times in (1, 2)]
        self.downsample = nn.Sequential(
            _conv3x3(config.input_shape[0], width, stride=strides[0]),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            _conv3x3(width, width, stride=strides[1]),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        )
        self.stage0 = nn.Sequential(
            nn.Conv2d(width, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(inplace=True)
        )
        self.fullstage = MDEQLayer(config)
        head = [HEAD_EXPANSION * c for c in config.head_channels]
        self.incre_modules = nn.ModuleList(
            [nn.Sequential(HeadBottleneck(c, h)) for c, h in zip(config.channels, config.head_channels, strict=True)]
        )
        self.downsamp_modules = nn.ModuleList(
            [
                nn.Sequential(
                    _conv3x3(fine, coarse, stride=2, bias=True), nn.BatchNorm2d(coarse), nn.ReLU(inplace=True)
                )
                for fine, coarse in pairwise(head)
            ]
        )
        self.final_layer = nn.Sequential(
            nn.Conv2d(head[-1], config.final_channels, 1), nn.BatchNorm2d(config.final_channels), nn.ReLU(inplace=True)
        )
        self.classifier = nn.Linear(config.final_channels, config.classes)
        # f, and the head up to its classifier, in fewer steps, without derivatives.
        self.fused_layer: Callable[[Tensor, Tensor], Tensor] | None = None
        self.fused_features: Callable[[Tensor], Tensor] | None = None

    @property
    def state_shape(self) -> tuple[int, ...]:
        """(D,): all branches of a sample, flattened and joined."""
        return (self.config.state_size,)

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.classifier.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """In what precision images, states and logits are, and all that a solver does between evaluations."""
        return self.mean.dtype

    @property
    def network_dtype(self) -> torch.dtype:
        """In what precision stem, layer and head compute: that of states, or a lower one."""
        return self.classifier.weight.dtype

    def inject(self, x_BCHW: Tensor) -> Tensor:
        """The stem: the injection into branch 0 of images in [0, 1], which a solve computes once."""
        return in_parts(self._stem, x_BCHW, self.stem_at_once)

    def _stem(self, x_BCHW: Tensor) -> Tensor:
        return self.stage0(self.downsample(((x_BCHW - self.mean) / self.std).to(self.network_dtype)))

    def f(self, z_BD: Tensor, injection_BCHW: Tensor) -> Tensor:
        """One function evaluation."""
        if self.fused_layer is not None and not _needs_derivatives(z_BD, injection_BCHW):
            return self.fused_layer(z_BD, injection_BCHW)
        return self.join(self.fullstage(self.split(z_BD.to(self.network_dtype)), injection_BCHW)).to(self.dtype)

    def head(self, z_BD: Tensor) -> Tensor:
        """The logits, shape (B, classes), read off a state."""
        features = None if _needs_derivatives(z_BD) else self.fused_features
        read_BC = in_parts(features or self._features, z_BD.to(self.network_dtype), self.head_at_once)
        return self.classifier(read_BC).to(self.dtype)

    def _features(self, z_BD: Tensor) -> Tensor:
        """What the classifier is given, (B, final channels)."""
        z_branches = self.split(z_BD)
        y = self.incre_modules[0](z_branches[0])
        for incre, down, z in zip(list(self.incre_modules)[1:], self.downsamp_modules, z_branches[1:], strict=True):
            y = incre(z) + down(y)
        return self.final_layer(y).mean(dim=(2, 3))

    def split(self, z_BD: Tensor) -> list[Tensor]:
        """The branches of a state, each (B, C, H, W)."""
        shapes = self.config.branch_shapes
        parts = z_BD.split([c * h * w for c, h, w in shapes], dim=1)
        if self.channels_last:
            return [
                part.unflatten(1, (h, w, c)).permute(0, 3, 1, 2) for part, (c, h, w) in zip(parts, shapes, strict=True)
            ]
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def join(self, z_branches: list[Tensor]) -> Tensor:
        """The state that `split` takes apart."""
        if self.channels_last:
            z_branches = [z.permute(0, 2, 3, 1) for z in z_branches]
        return torch.cat([z.flatten(1) for z in z_branches], dim=1)

    def stored_state(self) -> Tensor | None:
        """The start that the weights hold, shape (D,), as a state; None without one."""
        if self.stored_D is None:
            return None
        shapes = self.config.branch_shapes
        parts = self.stored_D.to(self.device, self.dtype).split([c * h * w for c, h, w in shapes])
        return self.join([part.view(1, *shape) for part, shape in zip(parts, shapes, strict=True)])[0]

    def storable(self, z_D: Tensor) -> Tensor:
        """A state, shape (D,), in the order in which weights hold a start."""
        return torch.cat([branch.flatten() for branch in self.split(z_D.unsqueeze(0))])

    def zero_state(self, batch: int) -> Tensor:
        """The zero start, shape (B, D)."""
        return torch.zeros(batch, self.config.state_size, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def logits(
        self, x_BCHW: Tensor, solver: str | None = None, steps: int | None = None, tolerance: float | None = None
    ) -> Tensor:
        """Logits, shape (B, classes), of images in [0, 1], solved from a zero start.

        With no setting given it is the architecture's reference, 30A or 14B at a tolerance of 1e-3: the base
        classifier. Otherwise solver and steps not given are the reference's, and without `tolerance` all steps are
        taken. Raises ValueError for an unknown solver, steps below 1, or a tolerance that is not above 0.
        """
        setting = reference = self.config.reference
        if (solver, steps, tolerance) != (None, None, None):
            setting = SolverSetting.named(
                reference.solver.name if solver is None else solver,
                reference.steps if steps is None else steps,
                tolerance,
            )
        return equilibrium_logits(self, x_BCHW.to(self.device, self.dtype), setting)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The base classifier's logits, shape (B, classes), of images in [0, 1]; differentiable, as attacks need it."""
        return equilibrium_logits(self, x_BCHW.to(self.device, self.dtype), self.config.reference)
