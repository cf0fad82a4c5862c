"""A ResNet-20 for CIFAR-10 that is trained under Gaussian noise, as a model of one's own to certify.

    python examples/resnet20_cifar10.py --train cifar10-train.parquet --minutes 60
    python examples/resnet20_cifar10.py --evaluate cifar10-test.parquet

The network is the one of He et al. (2015) with 1x1 convolutions as shortcuts where the shape changes. The training is
Cohen et al.'s (2019): every image gets a fresh draw of the noise under which it is later certified. The Parquet file
has the columns `image`, an encoded image of 32 x 32 pixels, and `label`, 0 to 9. A folder of such files reads as one.

The learning rate follows the clock, so a training takes as long as it was told to on any machine. The seed is fixed,
but the number of steps is not: two trainings give weights that differ.

The weights beside this file come from one hour on one thread of a shared AMD EPYC: 6.6 epochs. On the 10,000 test
images they classify 56.8% correctly under one draw of noise of sigma 0.5, and 49.6% without noise.
"""

from __future__ import annotations

import argparse
import time
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

SIGMA = 0.5
SEED = 0
HELD_OUT = 1000  # the file's last images, which only measure
BATCH = 128
PEAK_RATE = 0.2
WARM_UP = 0.2  # the share of the time in which the learning rate rises
WEIGHT_DECAY = 2e-4
PADDING = 4  # pixels on each side of an image before its random crop
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions, added to the input; the input goes through a 1x1 convolution where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            convolution = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(convolution, nn.BatchNorm2d(channels_out))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The block's output."""
        hidden_BCHW = F.relu(self.norm1(self.conv1(x_BCHW)))
        return F.relu(self.norm2(self.conv2(hidden_BCHW)) + self.shortcut(x_BCHW))


class ResNet(nn.Module):
    """A ResNet for small images with pixels in [0, 1]: three stages of basic blocks, which it standardises for itself.

    The standardisation is part of the model, so that noise is added to the pixels and sigma counts in their scale.
    """

    def __init__(self, blocks_per_stage: int, classes: int = 10) -> None:
        super().__init__()
        self.mean_C11: Tensor
        self.std_C11: Tensor
        self.register_buffer("mean_C11", torch.tensor(MEAN).view(3, 1, 1))
        self.register_buffer("std_C11", torch.tensor(STD).view(3, 1, 1))
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)
        blocks: list[nn.Module] = []
        channels_in = 16
        for channels, first_stride in ((16, 1), (32, 2), (64, 2)):
            for index in range(blocks_per_stage):
                blocks.append(BasicBlock(channels_in, channels, first_stride if index == 0 else 1))
                channels_in = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(channels_in, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """The logits of each image."""
        standard_BCHW = (x_BCHW - self.mean_C11) / self.std_C11
        features_BCHW = self.blocks(F.relu(self.norm(self.conv(standard_BCHW))))
        return self.head(features_BCHW.mean(dim=(2, 3)))


def resnet20() -> nn.Module:
    """A ResNet-20 for CIFAR-10 with fresh weights: 19 convolutions in a row and a linear layer."""
    return ResNet(blocks_per_stage=3)


def read_images(path: Path) -> tuple[Tensor, Tensor]:
    """All images of a Parquet file as bytes, and their labels."""
    table = pq.read_table(path, columns=["image", "label"])
    decoded = [np.asarray(Image.open(BytesIO(image)).convert("RGB")) for image in table["image"].to_pylist()]
    return torch.from_numpy(np.stack(decoded)), torch.from_numpy(table["label"].to_numpy())


def to_input(bytes_BHWC: Tensor) -> Tensor:
    """The model's input: pixels in [0, 1], whose channels lie last in memory, which CPUs convolve faster."""
    return bytes_BHWC.permute(0, 3, 1, 2).float() / 255


def crop_and_flip(bytes_BHWC: Tensor) -> Tensor:
    """Each image shifted by up to four pixels each way, and mirrored with probability 1/2."""
    batch, height, width, _ = bytes_BHWC.shape
    padded_BHWC = F.pad(bytes_BHWC, (0, 0, PADDING, PADDING, PADDING, PADDING))
    rows_BH1 = torch.randint(0, 2 * PADDING + 1, (batch, 1, 1)) + torch.arange(height).view(1, -1, 1)
    columns_B1W = torch.randint(0, 2 * PADDING + 1, (batch, 1, 1)) + torch.arange(width).view(1, 1, -1)
    cropped_BHWC = padded_BHWC[torch.arange(batch).view(-1, 1, 1), rows_BH1, columns_B1W]
    mirrored_B111 = torch.rand(batch, 1, 1, 1) < 0.5
    return torch.where(mirrored_B111, cropped_BHWC.flip(2), cropped_BHWC)


@torch.inference_mode()
def accuracy(model: nn.Module, bytes_NHWC: Tensor, y_N: Tensor, sigma: float) -> float:
    """The share of images that are classified correctly under one draw of noise, the same draw at each call."""
    model.eval()
    generator = torch.Generator().manual_seed(SEED)
    correct = 0
    for bytes_BHWC, y_B in zip(bytes_NHWC.split(500), y_N.split(500), strict=True):
        x_BCHW = to_input(bytes_BHWC)
        x_BCHW += sigma * torch.randn(x_BCHW.shape, generator=generator)
        correct += int((model(x_BCHW).argmax(dim=1) == y_B).sum())
    return correct / len(y_N)


def learning_rate(progress: float) -> float:
    """One cycle: a straight rise to the peak, then half a cosine down to zero; `progress` goes from 0 to 1."""
    if progress < WARM_UP:
        return PEAK_RATE * progress / WARM_UP
    return PEAK_RATE * (1 + float(np.cos(np.pi * (progress - WARM_UP) / (1 - WARM_UP)))) / 2


def train(bytes_NHWC: Tensor, y_N: Tensor, minutes: float) -> tuple[nn.Module, str]:
    """A ResNet-20 trained for `minutes`, and a sentence on its training."""
    torch.manual_seed(SEED)
    model = resnet20().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    trained_on = len(y_N) - HELD_OUT
    begin, progress, epoch, images = time.monotonic(), 0.0, 0, 0
    while progress < 1:
        epoch += 1
        losses = []
        model.train()
        for index_B in torch.randperm(trained_on).split(BATCH):
            progress = (time.monotonic() - begin) / (60 * minutes)
            if progress >= 1:
                break
            optimizer.param_groups[0]["lr"] = learning_rate(progress)
            x_BCHW = to_input(crop_and_flip(bytes_NHWC[index_B]))
            loss = F.cross_entropy(model(x_BCHW + SIGMA * torch.randn_like(x_BCHW)), y_N[index_B])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
            images += len(index_B)
        seconds = time.monotonic() - begin
        held_out = accuracy(model, bytes_NHWC[trained_on:], y_N[trained_on:], SIGMA)
        mean_loss = float(np.mean(losses)) if losses else float("nan")
        text = f"epoch {epoch}: loss {mean_loss:.3f}, noisy accuracy {held_out:.3f} on {HELD_OUT} held-out images"
        print(f"{text}, {seconds:.0f} s, {images / seconds:.0f} images/s", flush=True)
    return model, (
        f"{images / trained_on:.1f} epochs of {trained_on} images under Gaussian noise, random crops and flips; "
        f"SGD, batches of {BATCH}, one cycle to {PEAK_RATE}, weight decay {WEIGHT_DECAY}, seed {SEED}; "
        f"noisy accuracy {held_out:.3f} on {HELD_OUT} held-out images"
    )


def save(model: nn.Module, training: str, path: Path) -> None:
    """Writes the weights, whole or not at all."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    aside = path.with_name(f"{path.name}.new")
    save_file(tensors, aside, metadata={"sigma": str(SIGMA), "training": training})
    aside.replace(path)


def main() -> None:
    """Trains or evaluates, as the command line says."""
    parser = argparse.ArgumentParser(description="Train or evaluate a ResNet-20 on CIFAR-10 under Gaussian noise.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--train", type=Path, metavar="PARQUET", help="the images to train on")
    what.add_argument("--evaluate", type=Path, metavar="PARQUET", help="the images to measure the weights on")
    parser.add_argument("--minutes", type=float, default=60, help="how long to train")
    weights = Path(__file__).with_suffix(".safetensors")
    parser.add_argument("--output", type=Path, default=weights, help="the weights that a training writes")
    parser.add_argument("--weights", type=Path, default=weights, help="the weights to evaluate")
    arguments = parser.parse_args()
    if arguments.train:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        model, training = train(*read_images(arguments.train), arguments.minutes)
        save(model, training, arguments.output)
        return
    model = resnet20().to(memory_format=torch.channels_last)
    model.load_state_dict(load_file(arguments.weights))
    bytes_NHWC, y_N = read_images(arguments.evaluate)
    for sigma in (0, SIGMA):
        print(f"sigma {sigma}: accuracy {accuracy(model, bytes_NHWC, y_N, sigma):.4f} on {len(y_N)} images", flush=True)


if __name__ == "__main__":
    main()
