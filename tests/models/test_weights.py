from __future__ import annotations

import argparse
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from srs_ray.errors import WeightsError
from srs_ray.models.mdeq.architectures import ARCHITECTURES
from srs_ray.models.mdeq.checkpoints import (
    build_model,
    describe,
    fitting_architectures,
    inference_model,
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


@pytest.mark.parametrize("prefix", ["model.", "module.model.", "_orig_mod.module."])
@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model", None])
def test_names_may_have_a_prefix_and_the_state_dict_a_key_of_other_trainings(tmp_path, prefix, key):
    weights = random_weights(ARCH)
    content = {prefix + name: tensor for name, tensor in weights.tensors.items()}
    torch.save(content if key is None else {key: content, "optimizer": {"state": {}}}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").digest == weights.digest


def test_weight_norm_as_newer_versions_of_torch_save_it_gives_the_same_weights(tmp_path):
    older = published(random_weights(ARCH))
    newer = {
        name.replace("weight_g", "parametrizations.weight.original0").replace(
            "weight_v", "parametrizations.weight.original1"
        ): tensor
        for name, tensor in older.items()
    }
    assert newer.keys() != older.keys()
    torch.save(older, tmp_path / "older.pth")
    torch.save(newer, tmp_path / "newer.pth")
    assert read_weights(tmp_path / "newer.pth").digest == read_weights(tmp_path / "older.pth").digest
    convolution = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv2d(2, 3, 1))
    names = {name for name in convolution.state_dict() if name != "bias"}
    assert names == {"parametrizations.weight.original0", "parametrizations.weight.original1"}


def test_the_copy_of_the_stage_that_the_authors_program_keeps_is_left_out(tmp_path):
    weights = random_weights(ARCH)
    copy = {
        name.replace("fullstage.", "fullstage_copy.", 1): tensor + 1
        for name, tensor in weights.tensors.items()
        if name.startswith("fullstage.")
    }
    assert copy
    torch.save({**weights.tensors, **copy}, tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").digest == weights.digest
    torch.save(copy, tmp_path / "alone.pth")
    with pytest.raises(WeightsError, match=r"not in this architecture: fullstage_copy\."):
        build_model(ARCH, read_weights(tmp_path / "alone.pth"))


def test_tensors_that_share_memory_are_written_each_by_itself(tmp_path):
    tensors = dict(random_weights(ARCH).tensors)
    names = [name for name, tensor in tensors.items() if tensor.shape == tensors["classifier.bias"].shape]
    whole = torch.zeros(2, *tensors["classifier.bias"].shape)
    tensors |= dict.fromkeys(names[:2], whole[0])
    tensors["classifier.bias"] = whole[0]
    write_weights(Weights(tensors, {}), tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").digest == Weights(tensors, {}).digest


def test_numbers_of_other_libraries_beside_the_tensors_are_left_out(tmp_path):
    weights = random_weights(ARCH)
    beside = {
        "epoch": 3,
        "best": np.float64(0.9),
        "seen": np.int64(7),
        "half": np.float16(1),
        "note": "x",
        "none": None,
    }
    for content in ({"state_dict": weights.tensors, **beside}, {**weights.tensors, **beside}):
        torch.save(content, tmp_path / "w.pth")
        assert read_weights(tmp_path / "w.pth").digest == weights.digest


def test_objects_of_other_code_are_refused_by_name_with_what_to_do_and_no_advice_to_run_them(tmp_path):
    torch.save({"state_dict": random_weights(ARCH).tensors, "args": argparse.Namespace(lr=1)}, tmp_path / "w.pth")
    (tmp_path / "text.pth").write_bytes(b"hello world, no pickle")
    torch.save({"state_dict": {"a": torch.ones(1), "b": {}}}, tmp_path / "nested.pth")
    for name, reason in (
        ("w.pth", r"holds argparse\.Namespace beside or among its tensors.*torch\.save\(model\.state_dict\(\)"),
        ("text.pth", "damaged or of another format"),
        ("nested.pth", "'b' is a dict"),
    ):
        with pytest.raises(WeightsError, match=reason) as error:
            read_weights(tmp_path / name)
        assert "weights_only" not in str(error.value)
        assert "trust" not in str(error.value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_taken_as_the_numbers_that_they_are(tmp_path, dtype):
    weights = random_weights(ARCH)
    tensors = {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.tensors.items()
    }
    write_weights(Weights(tensors, {}), tmp_path / "w.safetensors")
    model = load_model(ARCH, tmp_path / "w.safetensors")
    assert model.dtype == torch.float32
    expected = {name: tensor.to(dtype).float() for name, tensor in weights.tensors.items()}
    x_BCHW = torch.rand(2, 1, 16, 16)
    assert torch.equal(model.logits(x_BCHW), inference_model(ARCH, Weights(expected, {})).logits(x_BCHW))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.complex64])
def test_numbers_that_are_no_floats_are_refused(dtype):
    tensors = dict(random_weights(ARCH).tensors)
    tensors["classifier.bias"] = tensors["classifier.bias"].to(dtype)
    with pytest.raises(WeightsError, match=r"classifier\.bias: holds \w+, expected one of float16"):
        build_model(ARCH, Weights(tensors, {}))


def test_a_home_directory_in_the_path_is_expanded_or_named(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_weights(random_weights(ARCH), tmp_path / "w.safetensors")
    assert read_weights("~/w.safetensors").digest == random_weights(ARCH).digest
    with pytest.raises(WeightsError, match="~nobody-here/w names a home directory that there is not"):
        read_weights("~nobody-here/w")


def test_the_cases_of_checkpoints(shared, tmp_path):
    tied = read_weights(shared / "cases" / "weights-shared-tensors" / "tied.pth.tar")
    write_weights(tied, tmp_path / "w.safetensors")
    assert read_weights(tmp_path / "w.safetensors").digest == tied.digest
