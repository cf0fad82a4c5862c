"""Proved bounds on norms and eigenvalues: against exact arithmetic, never below, and near."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from srs_ray.models.monotone.circular import norm_of
from srs_ray.models.monotone.proven import PositiveDefinite, gamma, largest_singular_value, smallest_eigenvalue

RANDOM = np.random.default_rng(0)


def with_eigenvalues(values: np.ndarray) -> np.ndarray:
    turned, _ = np.linalg.qr(RANDOM.normal(size=(len(values), len(values))))
    return turned @ np.diag(values) @ turned.T


@pytest.mark.parametrize("smallest", [1.0, 1e-6, 0.0, -1e-6, -1.0])
def test_the_smallest_eigenvalue_is_bounded_from_below_and_closely(smallest: float) -> None:
    matrix = with_eigenvalues(np.array([smallest, *RANDOM.uniform(2.0, 50.0, 30)]))
    found = smallest_eigenvalue(matrix)
    assert smallest - 1e-10 < found < smallest + 1e-13


def test_a_matrix_that_is_singular_is_not_proved_positive() -> None:
    factor = RANDOM.integers(-3, 4, (12, 5)).astype(float)
    assert smallest_eigenvalue(factor @ factor.T) <= 0.0


def test_an_error_lowers_the_smallest_eigenvalue_and_a_value_that_is_not_finite_has_none() -> None:
    matrix = np.diag([1.0, 2.0, 3.0])
    assert smallest_eigenvalue(matrix, 0.25) <= 0.75
    matrix[0, 0] = np.nan
    assert smallest_eigenvalue(matrix) == -np.inf
    assert largest_singular_value(matrix) == np.inf


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (20, 20), (1, 7), (7, 1)])
def test_the_largest_singular_value_is_bounded_from_above_and_closely(shape: tuple[int, int]) -> None:
    matrix = RANDOM.normal(size=shape)
    exact = np.linalg.svd(matrix, compute_uv=False)[0]
    assert exact * (1 - 1e-14) <= largest_singular_value(matrix) <= exact * 1.001


def test_a_norm_that_is_known_exactly_is_not_undercut() -> None:
    """A rank-one matrix of whole numbers has the norm |u| |v|."""
    u, v = np.arange(1.0, 9.0), np.arange(2.0, 7.0)
    squared = Fraction(int((u**2).sum())) * Fraction(int((v**2).sum()))
    assert Fraction(largest_singular_value(np.outer(u, v))) ** 2 >= squared


def test_power_iteration_is_below_where_the_bound_is_not() -> None:
    """A few rounds from a start that lies badly: what released programs take for a norm."""
    matrix = np.diag([1.0, 0.98, 0.97, 0.5])
    vector = np.array([0.1, 1.0, 1.0, 1.0])
    for _ in range(3):
        vector = matrix.T @ (matrix @ vector)
        vector /= np.linalg.norm(vector)
    assert np.linalg.norm(matrix @ vector) < 0.99 < 1.0 <= largest_singular_value(matrix)


@pytest.mark.parametrize("size", [4, 5, 7])
def test_the_norm_of_a_circular_correlation_is_that_of_its_matrix(size: int) -> None:
    kernel = RANDOM.normal(size=(3, 2, 3, 3))
    dense = np.zeros((3, size, size, 2, size, size))
    for i in range(size):
        for j in range(size):
            for a in range(3):
                for b in range(3):
                    dense[:, i, j, :, (i + a - 1) % size, (j + b - 1) % size] += kernel[:, :, a, b]
    exact = np.linalg.svd(dense.reshape(3 * size * size, -1), compute_uv=False)[0]
    assert exact * (1 - 1e-13) <= norm_of(kernel, size) <= exact * 1.001


def test_bounds_on_an_inverse_are_above_and_near_what_they_bound() -> None:
    matrix = with_eigenvalues(RANDOM.uniform(0.5, 20.0, 25))
    matrix = (matrix + matrix.T) / 2
    wide, columns = RANDOM.normal(size=(25, 40)), RANDOM.normal(size=(25, 6))
    known = PositiveDefinite(matrix, 0.0)
    inverse = np.linalg.inv(matrix)
    norms = np.sqrt(np.einsum("ik,ij,jk->k", columns, inverse, columns))
    images = np.linalg.norm(wide.T @ inverse @ columns, axis=0)
    whole = np.sqrt(np.linalg.eigvalsh(wide.T @ inverse @ wide)[-1])
    for found, exact in (
        (known.weighted_norms(columns), norms),
        (known.images(wide, columns), images),
        (known.weighted_norm_of_matrix(wide), whole),
    ):
        assert (found >= exact * (1 - 1e-13)).all()
        assert (found <= exact * (1 + 1e-6)).all()


def test_an_uncertain_matrix_has_larger_bounds_that_hold_for_all_it_may_be() -> None:
    matrix, columns = np.diag([1.0, 4.0]), np.array([[1.0], [1.0]])
    known = PositiveDefinite(matrix, 0.1)
    assert known.smallest <= 0.9
    worst = np.sqrt(1 / 0.9 + 1 / 3.9)
    assert known.weighted_norms(columns)[0] >= worst


def test_gamma_covers_a_long_sum_in_single_terms() -> None:
    """n additions of 1/3 in float64, against the exact sum of what was added."""
    n, term, total = 3000, 1 / 3, 0.0
    for _ in range(n):
        total += term
    assert abs(Fraction(total) - n * Fraction(term)) <= Fraction(gamma(n)) * n * Fraction(term)
