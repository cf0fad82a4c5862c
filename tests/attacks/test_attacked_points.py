"""Attacks on single points, against a classifier whose smoothed decision distance is known."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from srs_ray.attacks.gradients import refuse_without_gradient
from srs_ray.attacks.point import Attacker, Certified
from srs_ray.attacks.settings import AttackSettings
from srs_ray.data import open_dataset
from srs_ray.data.rounding import rounded
from srs_ray.errors import JobError, PointError
from srs_ray.models.opened import opened
from srs_ray.smoothing.noise import noise_generator
from srs_ray.smoothing.row import pixel_digest

SIGMA = 0.25


def attacker(model, generator: str = "grid", batch: int = 16, **settings) -> Attacker:
    made = AttackSettings(**{"steps": 10, "draws": 8, **settings}).with_radii(())
    return Attacker(model, SIGMA, noise_generator(generator, "cpu"), made, batch)


@pytest.mark.parametrize("generator", ["grid", "philox4x64"])
def test_a_break_is_found_outside_the_true_distance_and_none_inside(halfspace, image, generator):
    model = halfspace(0.3)
    inside = attacker(model, generator, radii=[0.1, 0.2, 0.28]).attack(image, 0, 1, Certified(1, 0.29))
    assert (inside.distance, inside.contradicts, inside.attacked, inside.correct) == (None, False, 1, True)
    assert inside.tried_radii == [0.0, 0.1, 0.2, 0.28, pytest.approx(0.29, abs=1e-5)]
    outside = attacker(model, generator, radii=[0.1, 0.4]).attack(image, 0, 1, Certified(1, 0.2))
    assert 0.3 < outside.distance <= 0.4
    assert (outside.found_class, outside.contradicts) == (0, False)
    assert outside.check_counts[-1] > outside.check_hits[-1]
    assert outside.check_hits[-1] + outside.check_counts[-1] == 1000


def test_the_base_classifier_is_broken_outside_its_margin_alone(halfspace, image):
    row = attacker(halfspace(0.3), kinds=["pgd"], radii=[0.1, 0.28]).attack(image, 0, 1, Certified(1, 0.2))
    assert (row.base_class, row.base_distance, row.distance) == (1, None, None)
    assert row.tried_radii == []
    row = attacker(halfspace(0.3), kinds=["pgd"], radii=[0.1, 0.32]).attack(image, 0, 1, Certified(1, 0.2))
    assert 0.3 < row.base_distance <= 0.32


def test_a_certificate_that_reaches_too_far_is_contradicted(halfspace, image):
    row = attacker(halfspace(0.3), radii=[0.1]).attack(image, 0, 1, Certified(1, 0.6))
    assert row.contradicts
    assert 0.3 < row.distance < 0.6


def test_a_point_that_abstains_is_attacked_as_its_label_and_contradicts_nothing(halfspace, image):
    row = attacker(halfspace(0.3), radii=[0.1, 0.5]).attack(image, 0, 1, Certified(-1, 0.0))
    assert (row.attacked, row.contradicts, row.correct) == (1, False, True)
    assert row.distance is not None
    row = attacker(halfspace(0.3), radii=[0.1]).attack(image, 0, 0, Certified(-1, 0.0))
    assert (row.attacked, row.distance, row.found_class) == (0, 0.0, 1), "the image itself is of another class"


def test_checks_of_an_image_on_the_boundary_find_no_more_than_alpha(halfspace, image):
    """Both classes are equally likely there: of 200 points a break at the level 0.05 is found at 10 in the mean."""
    probe = attacker(halfspace(0.0), radii=[0.1], alpha=0.15, n_check=100, steps=1)
    assert probe.settings.alpha_of_a_check == pytest.approx(0.05)
    found = sum(
        dataclasses.replace(probe, settings=probe.settings.model_copy(update={"kinds": ("smooth-pgd",)}))
        .attack(image, index, 1, Certified(-1, 0.0))
        .distance
        == 0.0
        for index in range(200)
    )
    assert found <= 20  # P(Binomial(200, 0.05) > 20) < 0.002; one of the two classes is the attacked one: half of it


@pytest.mark.parametrize("states", ["final", "both"])
def test_rows_are_the_same_in_any_order_and_batch(digits_model, states):
    digits = open_dataset("digits", None, "test", (1, 16, 16))

    def rows(indices, batch):
        made = attacker(digits_model, batch=batch, radii=[1.5], steps=2, states=states, n_check=100, restarts=2)
        points = [made.attack(rounded(digits.image(i)), i, digits.label(i), Certified(-1, 0.0)) for i in indices]
        plain = [dataclasses.asdict(row) for row in points]
        return {row["index"]: {k: v for k, v in row.items() if k not in TIMES} for row in plain}

    there = rows([3, 12], 16)
    assert there == rows([12, 3], 16)
    assert there == {index: {**row, "batch": 16} for index, row in rows([12, 3], 32).items()}
    assert any(row["distance"] is not None for row in there.values())


TIMES = ("seconds", "worker", "finished_at")


def test_another_seed_draws_other_noise(halfspace, image):
    one, other = (
        attacker(halfspace(0.3), radii=[0.33], seed=seed).attack(image, 0, 1, Certified(1, 0.2)) for seed in (0, 1)
    )
    assert one.check_hits != other.check_hits


def test_other_pixels_than_the_certified_ones_are_refused(halfspace, image):
    made = attacker(halfspace(0.3), radii=[0.1])
    made.attack(image, 0, 1, Certified(1, 0.2, pixel_digest(image)))
    with pytest.raises(PointError, match="not those that were certified"):
        made.attack(image, 0, 1, Certified(1, 0.2, "0" * 64))


class Thresholds(nn.Module):
    def forward(self, x_BCHW):
        share_B = torch.from_numpy((x_BCHW.detach().numpy() > 0.5).mean(axis=(1, 2, 3))).float()
        return torch.stack([share_B, 1 - share_B], dim=1)


class Numpy(nn.Module):
    def forward(self, x_BCHW):
        return torch.from_numpy(x_BCHW.numpy().reshape(len(x_BCHW), -1)[:, :2].copy())


@pytest.mark.parametrize("network", [Thresholds(), Numpy()])
def test_a_model_without_gradient_is_refused_in_words(network):
    model = opened(network, label="my net", input_shape=(1, 8, 8), classes=2, device=torch.device("cpu"))
    with pytest.raises(JobError, match="my net gives no gradient"):
        refuse_without_gradient(model, "final")


def test_settings_that_no_check_could_pass_or_without_radii_are_refused():
    with pytest.raises(JobError, match=r"attack\.n_check is 10"):
        AttackSettings(n_check=10).with_radii([0.5])
    with pytest.raises(JobError, match=r"attack\.radii"):
        AttackSettings().with_radii([0.0])
    assert AttackSettings().with_radii([0.0, 0.5, 0.25]).radii == (0.25, 0.5)
