"""Bounds on norms and eigenvalues that are proved in float64, rounding included: never an estimate.

Unit roundoff is u = 2^-53. A sum of n products, in any order and with or without fused operations, is off by at most
gamma(n) times the sum of the absolute products (Higham 2002, section 3.1). Nothing here may underflow or overflow,
which matrices of ordinary numbers do not.
"""

from __future__ import annotations

from math import inf, isfinite, sqrt

import numpy as np

UNIT = 2.0**-53
ENTRY = 32 * UNIT  # by which entries of factors may be off, relatively, where they were scaled before
_FEW = 2.0**-40  # covers the roundings of a formula of up to 4,000 operations on positive numbers


def gamma(n: int) -> float:
    """n u / (1 - n u), rounded up, for n up to 1e12."""
    return 1.01 * n * UNIT


def up(value: float) -> float:
    """A number above a positive one that was computed by a few operations on positive numbers."""
    return value * (1.0 + _FEW)


def down(value: float) -> float:
    """A number below a positive one that was computed so."""
    return value * (1.0 - _FEW)


def frobenius(matrix: np.ndarray) -> float:
    """An upper bound on the Frobenius norm (the l2 norm of a vector): its sum of squares has n relative roundings."""
    return up(float(np.sqrt(np.square(np.abs(matrix)).sum())) * (1.0 + gamma(matrix.size + 4)))


def smallest_eigenvalue(matrix: np.ndarray, error: float = 0.0) -> float:
    """A lower bound on the smallest eigenvalue of every symmetric matrix within `error` of this one, in spectral norm.

    Proof (Rump 2006): where the Cholesky decomposition of A, symmetric n x n in float64, runs to its end, A + E is
    positive semidefinite for an E with |E|_2 <= (n + 1) u / (1 - (n + 1) u) trace(A) up to second order. A is the
    matrix less s on its diagonal, where s is a little below the estimate by eigvalsh; the subtraction rounds each
    diagonal entry by at most u. So the smallest eigenvalue is at least s less these terms and `error` (Weyl).
    -inf where there is no finite estimate, or no decomposition ends.
    """
    n = len(matrix)
    if not np.isfinite(matrix).all() or not isfinite(error):
        return -inf
    matrix = (matrix + matrix.T) / 2
    estimate = float(np.linalg.eigvalsh(matrix)[0])
    scale = float(np.abs(np.diag(matrix)).sum()) + n * abs(estimate)
    for widening in (1.0, 8.0, 64.0, 4096.0, 2.0**20):
        shift = estimate - widening * (n + 2) * UNIT * scale
        shifted = matrix.copy()
        shifted[np.diag_indices(n)] -= shift
        try:
            np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            continue
        diagonal = np.abs(np.diag(shifted))
        lost = 1.05 * (n + 3) * UNIT * float(diagonal.sum()) + 2 * UNIT * float(diagonal.max()) + error
        lost += 2 * UNIT * frobenius(matrix)  # of taking the mean with the transpose
        return shift - up(lost) - 4 * UNIT * abs(shift)
    return -inf


def largest_singular_value(matrix: np.ndarray, rounds: int = 12) -> float:
    """An upper bound on the largest singular value of a matrix, or of all matrices of a batch (..., rows, columns).

    Proof (Gram iteration): |M|_2^2 = |M'M|_2 for every matrix, again and again, and |M|_2 <= |M|_F at the end, which
    leaves a factor of n^(1 / 2^(rounds + 2)). Each matrix is divided by its Frobenius norm first, so that a product of
    k terms is off by at most gamma(4 k + 16) in Frobenius norm (4: complex numbers); the division itself is exact up to
    u. These terms are added on the way back.
    """
    if not np.isfinite(matrix).all():
        return inf
    flat = matrix.reshape(-1, *matrix.shape[-2:])
    if flat.shape[1] < flat.shape[2]:
        flat = flat.conj().transpose(0, 2, 1)
    size = np.sqrt(np.square(np.abs(flat)).sum(axis=(1, 2)))
    size = np.where(size > 0, size, 1.0)
    unit = flat / size[:, None, None]
    lost_first = gamma(4 * unit.shape[1] + 16)
    product = unit.conj().transpose(0, 2, 1) @ unit
    lost = gamma(4 * product.shape[1] + 16)
    scales = []
    for _ in range(rounds):
        scale = np.sqrt(np.square(np.abs(product)).sum(axis=(1, 2)))
        scale = np.where(scale > 0, scale, 1.0)
        scales.append(scale)
        product = product / scale[:, None, None]
        product = product.conj().transpose(0, 2, 1) @ product
    terms = flat.shape[1] * flat.shape[2] + 16
    bound = np.sqrt(np.square(np.abs(product)).sum(axis=(1, 2))) * (1 + gamma(terms))
    for scale in reversed(scales):
        bound = np.sqrt(bound + lost) * scale * (1 + gamma(terms))
    bound = np.sqrt(bound + lost_first) * size * (1 + gamma(terms))
    return up(float(bound.max()) * (1 + 8 * UNIT))


class PositiveDefinite:
    """A symmetric matrix S that is known up to `error` in spectral norm, with S >= m I, m > 0 proved: bounds on S^-1.

    All methods take columns and bound what they say for the true S. With y a computed solution of S y = a and the
    residual rho = a - S y (its norm bounded with the roundings of its own computation and `error` |y|):
    a'S^-1 a = a'y + y'rho + rho'S^-1 rho, and |S^-1 rho| <= |rho| / m. Entries of a and Q may be off by ENTRY,
    relatively: what that adds is ENTRY |a| / sqrt(m) and the like.
    """

    def __init__(self, matrix: np.ndarray, error: float, at_least: float = 0.0) -> None:
        self.matrix, self.error = (matrix + matrix.T) / 2, error + 2 * UNIT * frobenius(matrix)
        self.smallest = max(smallest_eigenvalue(self.matrix, self.error), at_least)

    def _solved(self, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Solutions, and upper bounds on the norms of their residuals, a column each."""
        n = len(self.matrix)
        solved = np.linalg.solve(self.matrix, columns)
        residual = np.abs(columns - self.matrix @ solved)
        residual = residual + gamma(n + 4) * (np.abs(columns) + np.abs(self.matrix) @ np.abs(solved))
        norms = np.sqrt(np.square(residual).sum(axis=0)) + self.error * np.sqrt(np.square(solved).sum(axis=0))
        return solved, norms * (1 + gamma(2 * n + 16)) * (1 + _FEW)

    def weighted_norms(self, columns: np.ndarray) -> np.ndarray:
        """Upper bounds on |S^-1/2 a| for each column a."""
        n = len(self.matrix)
        solved, rho = self._solved(columns)
        size = np.sqrt(np.square(solved).sum(axis=0)) * (1 + gamma(n + 4))
        products = (columns * solved).sum(axis=0) + gamma(n + 4) * np.abs(columns * solved).sum(axis=0)
        squares = np.maximum(products, 0.0) + size * rho + np.square(rho) / self.smallest
        entries = ENTRY * np.sqrt(np.square(columns).sum(axis=0)) / sqrt(self.smallest)
        return (np.sqrt(squares) + entries) * (1 + gamma(n + 16)) * (1 + _FEW)

    def images(self, wide: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Upper bounds on |Q'S^-1 a| for each column a, Q = `wide`: |Q'y| + |Q| |rho| / m."""
        n = len(self.matrix)
        solved, rho = self._solved(columns)
        image = np.abs(wide.T @ solved) + gamma(n + 4) * (np.abs(wide).T @ np.abs(solved))
        size = np.sqrt(np.square(image).sum(axis=0)) * (1 + gamma(wide.shape[1] + n + 16))
        norm, length = largest_singular_value(wide), np.sqrt(np.square(columns).sum(axis=0))
        entries = 2 * ENTRY * length * frobenius(wide) / self.smallest
        return (size + norm * rho / self.smallest + entries) * (1 + gamma(n + 16)) * (1 + _FEW)

    def weighted_norm_of_matrix(self, wide: np.ndarray) -> float:
        """An upper bound on |S^-1/2 Q|_2: the root of a t for which t S - QQ' >= 0 is proved.

        inf where none is found near the estimate.
        """
        outer = wide @ wide.T
        off = gamma(wide.shape[1] + 8) * frobenius(np.abs(wide) @ np.abs(wide).T)
        factor = np.linalg.cholesky(self.matrix)
        inner = np.linalg.solve(factor, np.linalg.solve(factor, outer).T)
        estimate = max(float(np.linalg.eigvalsh((inner + inner.T) / 2)[-1]), UNIT)
        for widening in (1e-9, 1e-7, 1e-5, 1e-3, 1e-1):
            t = estimate * (1 + widening)
            rounded = 4 * UNIT * (t * frobenius(self.matrix) + frobenius(outer))
            if smallest_eigenvalue(t * self.matrix - outer, up(t * self.error + off + rounded)) >= 0:
                return up(sqrt(t) + ENTRY * frobenius(wide) / sqrt(self.smallest))
        return inf
