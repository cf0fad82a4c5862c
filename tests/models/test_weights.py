from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from srs_ray.errors import WeightsError
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import (
    build_model,
    describe,
    fitting_architectures,
    load_model,
    random_weights,
    read_weights,
)
from srs_ray.models.mdeq.model import MDEQ
from srs_ray.models.weights import Weights, write_weights

ARCH = "mdeq-tiny-digits"
NORMALISED = ("conv1.weight", "conv2.weight")


def published(weights: Weights) -> dict[str, torch.Tensor]:
    """A state dict as the published checkpoints have it: some convolutions as a gain and a direction of any length."""
    tensors = {}
    for name, tensor in weights.tensors.items():
        if name.startswith("fullstage") and name.endswith((*NORMALISED, "conv.weight")) and "fuse_layers.0" not in name:
            tensors[name + "_g"] = tensor.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
            tensors[name + "_v"] = tensor * 3.7
        else:
            tensors[name] = tensor
    return tensors


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_published_checkpoints_are_read_bare_or_wrapped_with_weight_normalisation_folded(tmp_path, wrapped, prefix):
    weights = random_weights(ARCH)
    content = {prefix + name: tensor for name, tensor in published(weights).items()}
    torch.save({"state_dict": content, "epoch": 3} if wrapped else content, tmp_path / "w.pth.tar")
    read = read_weights(tmp_path / "w.pth.tar")
    assert read.tensors.keys() == weights.tensors.keys()
    for name, tensor in weights.tensors.items():
        assert torch.allclose(read.tensors[name], tensor, atol=1e-6), name


def test_a_converted_checkpoint_is_the_same_model(tmp_path):
    torch.save(published(random_weights(ARCH)), tmp_path / "w.pth")
    original = read_weights(tmp_path / "w.pth")
    write_weights(original, tmp_path / "w.safetensors")
    converted = read_weights(tmp_path / "w.safetensors")
    assert converted.digest == original.digest
    x_BCHW = torch.rand(3, 1, 16, 16)
    before, after = build_model(ARCH, original), build_model(ARCH, converted)
    assert torch.equal(before.logits(x_BCHW), after.logits(x_BCHW))


def test_a_digest_tells_weights_apart_and_nothing_else():
    weights = random_weights(ARCH, seed=1)
    assert weights.digest == random_weights(ARCH, seed=1).digest
    assert weights.digest != random_weights(ARCH, seed=2).digest
    assert weights.digest == Weights(weights.tensors, {"note": "other metadata"}).digest
    changed = {name: tensor.clone() for name, tensor in weights.tensors.items()}
    changed["classifier.bias"][0] = torch.nextafter(changed["classifier.bias"][0], torch.tensor(2.0))
    assert weights.digest != Weights(changed, {}).digest


def test_what_does_not_fit_is_named():
    weights = random_weights(ARCH)
    tensors = dict(weights.tensors)
    del tensors["classifier.bias"]
    tensors["classifier.scale"] = torch.ones(1)
    tensors["stage0.0.weight"] = torch.ones(4, 4, 1, 1)
    tensors["classifier.weight"] = torch.full_like(tensors["classifier.weight"], torch.nan)
    with pytest.raises(WeightsError) as error:
        build_model(ARCH, Weights(tensors, {}))
    message = str(error.value)
    assert "missing: classifier.bias" in message
    assert "classifier.scale" in message
    assert "stage0.0.weight: found shape (4, 4, 1, 1), expected (8, 8, 1, 1)" in message
    assert "classifier.weight: holds values that are not finite" in message


def test_weights_of_another_architecture_are_refused_with_the_one_they_fit():
    with pytest.raises(WeightsError, match="these weights fit mdeq-tiny-digits"):
        build_model("mdeq-small-cifar10", random_weights(ARCH))


def test_every_architecture_takes_its_own_random_weights_and_no_other():
    for name in ("mdeq-tiny-digits", "mdeq-small-cifar10"):
        assert fitting_architectures(random_weights(name)) == [name]


class Malicious:
    def __reduce__(self):
        return Path.touch, (Path("executed"),)


def test_code_in_a_checkpoint_is_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for save in (torch.save, lambda content, path: Path(path).write_bytes(pickle.dumps(content, protocol=2))):
        save({"state_dict": Malicious()}, tmp_path / "bad.pth")
        with pytest.raises(WeightsError, match=r"bad\.pth"):
            read_weights("bad.pth")
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
@pytest.mark.parametrize("name", ["w.pth.tar", "w.safetensors"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name):
        read_weights(tmp_path / name)


def test_a_truncated_checkpoint_is_named(tmp_path):
    torch.save(random_weights(ARCH).tensors, tmp_path / "whole.pth")
    data = (tmp_path / "whole.pth").read_bytes()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "cut.pth").write_bytes(data[: int(share * len(data))])
        with pytest.raises(WeightsError, match=r"cut\.pth"):
            read_weights(tmp_path / "cut.pth")


def test_a_state_dict_of_something_else_is_refused(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="holds no state dict"):
        read_weights(tmp_path / "w.pth")
    torch.save({"a.weight_g": torch.ones(2, 1, 1, 1)}, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"a\.weight_g is there, a\.weight_v is not"):
        read_weights(tmp_path / "w.pth")


def test_missing_weights_say_what_was_looked_for():
    with pytest.raises(WeightsError, match=r"no weights at nowhere\.pth"):
        load_model(ARCH, "nowhere.pth")
    with pytest.raises(WeightsError, match="no architecture 'mdeq-huge'"):
        random_weights("mdeq-huge")


def test_inspect_tells_size_digest_and_fit():
    described = describe(random_weights(ARCH))
    assert described["fits"] == [ARCH]
    assert described["types"] == ["float32"]
    assert described["digest"] == random_weights(ARCH).digest


def test_parameter_counts_are_those_published():
    """With one gain per output channel of each weight-normalised convolution, as the published counts have it."""
    for name, expected in (("mdeq-small-cifar10", 249_883), ("mdeq-large-cifar10", 11_097_438)):
        with torch.device("meta"):
            model = MDEQ(ARCHITECTURES[name])
        gains = sum(6 * c + c for c in ARCHITECTURES[name].channels)
        assert sum(p.numel() for p in model.parameters()) + gains == expected
