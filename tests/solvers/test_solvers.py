from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from srs_ray.solvers import anderson, broyden
from srs_ray.solvers.iteration import (
    SOLVERS,
    Anderson,
    Broyden,
    FixedPointIteration,
    Naive,
    SolverSetting,
    solve,
)
from srs_ray.solvers.settings import SolverSettings, solver_title


@pytest.fixture(autouse=True, params=["as on a CPU", "as on a GPU"])
def arithmetic(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What solvers do with states: by compiled loops, or by torch's operations."""
    if request.param == "as on a GPU":
        for method in (anderson, broyden):
            monkeypatch.setattr(method, "by_loops", lambda z_BD: False)


EVERY_SOLVER = [pytest.param(solver(), id=name) for name, solver in SOLVERS.items()]


@dataclass(frozen=True)
class Problem:
    """A batch of fixed-point problems of one dimension, with their solutions."""

    f: Callable[[Tensor], Tensor]
    start_BD: Tensor
    solution_BD: Tensor

    def part(self, rows: Tensor) -> Problem:
        """Only some of the batch: f of the whole batch, its other rows left at the start."""

        def f(z_BD: Tensor) -> Tensor:
            whole_BD = self.start_BD.clone()
            whole_BD[rows] = z_BD
            return self.f(whole_BD)[rows]

        return Problem(f, self.start_BD[rows], self.solution_BD[rows])


def linear(batch: int = 5, size: int = 8, norm: float = 0.6) -> Problem:
    generator = torch.Generator().manual_seed(3)
    a_BDD = torch.randn(batch, size, size, generator=generator, dtype=torch.float64)
    a_BDD = norm * a_BDD / torch.linalg.matrix_norm(a_BDD, ord=2).view(-1, 1, 1)
    b_BD = torch.randn(batch, size, generator=generator, dtype=torch.float64)
    solution_BD = torch.linalg.solve(torch.eye(size, dtype=torch.float64) - a_BDD, b_BD)
    return Problem(
        lambda z_BD: torch.bmm(a_BDD, z_BD.unsqueeze(2)).squeeze(2) + b_BD, torch.zeros_like(b_BD), solution_BD
    )


def hyperbolic(batch: int = 5, size: int = 8) -> Problem:
    problem = linear(batch, size, norm=0.9)
    b_BD = problem.f(problem.start_BD)

    def f(z_BD: Tensor) -> Tensor:
        return torch.tanh(problem.f(z_BD) - b_BD) + b_BD

    solution_BD = problem.start_BD
    for _ in range(2000):
        solution_BD = f(solution_BD)
    return Problem(f, problem.start_BD, solution_BD)


PROBLEMS = [pytest.param(linear(), id="linear"), pytest.param(hyperbolic(), id="hyperbolic")]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_every_solver_finds_the_solution(solver, problem):
    found = solve(problem.f, problem.start_BD, SolverSetting(solver, 200, tolerance=1e-9))
    assert found.converged_B.all()
    assert torch.allclose(found.z_BD, problem.solution_BD, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_k_steps_cost_k_evaluations(solver, steps):
    problem, calls = linear(), []

    def counted(z_BD: Tensor) -> Tensor:
        calls.append(len(z_BD))
        return problem.f(z_BD)

    found = solve(counted, problem.start_BD, SolverSetting(solver, steps))
    assert len(calls) == steps
    assert found.evaluations_B.tolist() == [steps] * 5


def test_one_step_of_every_solver_is_one_evaluation_of_f():
    problem = hyperbolic()
    start_BD = problem.start_BD + 0.3
    for solver in SOLVERS.values():
        found = solve(problem.f, start_BD, SolverSetting(solver(), 1))
        assert torch.equal(found.z_BD, problem.f(start_BD))


def anderson_by_definition(f: Callable[[Tensor], Tensor], z_D: Tensor, steps: int, memory: int, ridge: float) -> Tensor:
    zs, fs = [], []
    for _ in range(steps):
        zs.append(z_D)
        fs.append(f(z_D))
        zs, fs = zs[-memory:], fs[-memory:]
        g_MD = torch.stack([fz - z for fz, z in zip(fs, zs, strict=True)])
        m = len(zs)
        system = torch.zeros(m + 1, m + 1, dtype=z_D.dtype)
        system[0, 1:] = system[1:, 0] = 1.0
        system[1:, 1:] = g_MD @ g_MD.T + ridge * torch.eye(m, dtype=z_D.dtype)
        right = torch.zeros(m + 1, dtype=z_D.dtype)
        right[0] = 1.0
        z_D = torch.linalg.solve(system, right)[1:] @ torch.stack(fs)
    return z_D


def broyden_by_definition(f: Callable[[Tensor], Tensor], z_D: Tensor, steps: int) -> Tensor:
    inverse = -torch.eye(len(z_D), dtype=z_D.dtype)
    g_D = f(z_D) - z_D
    for k in range(steps):
        dz_D = -inverse @ g_D
        z_D = z_D + dz_D
        if k == steps - 1:
            break
        new_D = f(z_D) - z_D
        dg_D, g_D = new_D - g_D, new_D
        row_D = dz_D @ inverse
        inverse = inverse + torch.outer(dz_D - inverse @ dg_D, row_D) / (row_D @ dg_D)
    return z_D


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_anderson_is_its_definition_on_each_sample(steps):
    problem = hyperbolic()
    found = solve(problem.f, problem.start_BD, SolverSetting(Anderson(memory=4), steps))
    for row in range(5):
        part = problem.part(torch.tensor([row]))
        expected = anderson_by_definition(
            lambda z_D, f=part.f: f(z_D.unsqueeze(0))[0], problem.start_BD[row], steps, 4, 1e-4
        )
        assert torch.allclose(found.z_BD[row], expected, atol=1e-9)


@pytest.mark.parametrize("steps", [2, 5, 9])
def test_broyden_is_its_definition_on_each_sample(steps):
    problem = hyperbolic()
    found = solve(problem.f, problem.start_BD, SolverSetting(Broyden(), steps))
    for row in range(5):
        part = problem.part(torch.tensor([row]))
        expected = broyden_by_definition(lambda z_D, f=part.f: f(z_D.unsqueeze(0))[0], problem.start_BD[row], steps)
        assert torch.allclose(found.z_BD[row], expected, atol=1e-9)


@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_a_sample_is_solved_alike_in_any_company(solver):
    problem = hyperbolic()
    setting = SolverSetting(solver, 40, tolerance=1e-4)
    together = solve(problem.f, problem.start_BD, setting)
    assert len(set(together.evaluations_B.tolist())) > 1, "the samples must stop at different steps for this test"
    for rows in ([0], [3], [1, 4], [4, 2, 0]):
        part = problem.part(torch.tensor(rows))
        apart = solve(part.f, part.start_BD, setting)
        assert torch.allclose(apart.z_BD, together.z_BD[rows], atol=1e-12)
        assert torch.equal(apart.evaluations_B, together.evaluations_B[rows])


@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_a_stopped_sample_keeps_the_iterate_of_the_step_that_found_it_below_the_tolerance(solver):
    problem = hyperbolic()
    found = solve(problem.f, problem.start_BD, SolverSetting(solver, 60, tolerance=1e-5))
    for row, steps in enumerate(found.evaluations_B.tolist()):
        same_steps, one_less = (
            solve(problem.f, problem.start_BD, SolverSetting(solver, max(count, 1), tolerance=1e-300))
            for count in (steps, steps - 1)
        )
        assert torch.allclose(found.z_BD[row], same_steps.z_BD[row], atol=1e-12)
        assert same_steps.residual_B[row] < 1e-5
        assert steps == 1 or one_less.residual_B[row] >= 1e-5


@pytest.mark.parametrize("solver", EVERY_SOLVER)
@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_solves_without_a_tolerance_take_the_same_steps(solver, steps):
    problem = hyperbolic()
    alone = solve(problem.f, problem.start_BD, SolverSetting(solver, steps))
    watched = solve(problem.f, problem.start_BD, SolverSetting(solver, steps, tolerance=1e-300))
    assert torch.allclose(alone.z_BD, watched.z_BD, atol=1e-11)
    assert torch.equal(alone.evaluations_B, watched.evaluations_B)
    assert alone.residual_B.isnan().all()


def test_the_residual_is_that_of_the_last_evaluated_iterate():
    problem = linear()
    found = solve(problem.f, problem.start_BD, SolverSetting(Naive(), 3, tolerance=1e-300))
    z_BD = problem.f(problem.f(problem.start_BD))
    fz_BD = problem.f(z_BD)
    expected_B = (fz_BD - z_BD).norm(dim=1) / (fz_BD.norm(dim=1) + 1e-8)
    assert torch.allclose(found.residual_B, expected_B)


@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_a_value_that_is_not_finite_stops_and_marks_its_sample_alone(solver):
    problem = hyperbolic()
    calls = 0

    def breaking(z_BD: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        fz_BD = problem.f(z_BD).clone()
        if calls == 3:
            fz_BD[1, 0] = torch.inf
        return fz_BD

    setting = SolverSetting(solver, 40, tolerance=1e-6)
    broken, whole = solve(breaking, problem.start_BD, setting), solve(problem.f, problem.start_BD, setting)
    others = torch.tensor([0, 2, 3, 4])
    assert broken.finite_B.tolist() == [True, False, True, True, True]
    assert broken.evaluations_B[1] == 3
    assert not broken.converged_B[1]
    assert torch.allclose(broken.z_BD[others], whole.z_BD[others], atol=1e-12)


def test_anderson_takes_the_naive_step_where_its_system_is_singular_and_counts_it():
    problem = Problem(lambda z_BD: z_BD + torch.tensor([[1.0], [0.0]]), torch.zeros(2, 1), torch.zeros(2, 1))
    found = solve(problem.f, problem.start_BD, SolverSetting(Anderson(ridge=0.0), 4))
    assert found.z_BD[0] == 4.0, "g is the same at every iterate, so only naive steps are left"
    assert found.fell_back_B.tolist() == [True, True]
    assert not solve(linear().f, linear().start_BD, SolverSetting(Anderson(), 4)).fell_back_B.any()


def test_anderson_takes_the_naive_step_where_a_weight_is_too_large():
    problem = linear()
    strict = solve(problem.f, problem.start_BD, SolverSetting(Anderson(largest_weight=0.0), 6))
    naive = solve(problem.f, problem.start_BD, SolverSetting(Naive(), 6))
    assert torch.equal(strict.z_BD, naive.z_BD)
    assert strict.fell_back_B.all()


def test_broyden_skips_an_update_whose_denominator_is_zero():
    found = solve(lambda z_BD: torch.full_like(z_BD, 2.0), torch.full((1, 3), 2.0), SolverSetting(Broyden(), 5))
    assert torch.equal(found.z_BD, torch.full((1, 3), 2.0))
    assert found.finite_B.all()


@pytest.mark.parametrize("tolerance", [None, 1e-300])
def test_broyden_takes_naive_steps_where_g_is_the_same_everywhere_and_its_secants_are_singular(tolerance):
    problem = hyperbolic()
    moving_B1 = torch.tensor([[1.0], [0.0], [1.0], [0.0], [1.0]], dtype=torch.bool)

    def f(z_BD: Tensor) -> Tensor:
        return torch.where(moving_B1, z_BD + 1.0, problem.f(z_BD))

    setting = SolverSetting(Broyden(), 6, tolerance)
    found, alone = (solve(g, problem.start_BD, setting) for g in (f, problem.f))
    others = ~moving_B1[:, 0]
    assert torch.equal(found.z_BD[moving_B1[:, 0]], problem.start_BD[moving_B1[:, 0]] + 6.0)
    assert torch.allclose(found.z_BD[others], alone.z_BD[others], atol=1e-12)


@pytest.mark.parametrize("huge", [1e200, torch.inf])
def test_broyden_leaves_nothing_infinite_to_the_next_solve_in_a_slot(huge):
    """A step whose square overflows is kept as 0, with the weight 0."""
    problem = linear()
    huge_B1 = torch.zeros(5, 1, dtype=torch.float64)
    huge_B1[2] = huge
    iteration = FixedPointIteration(
        lambda z_BD: problem.f(z_BD) + huge_B1, problem.start_BD, SolverSetting(Broyden(), 9)
    )
    for _ in range(4):
        iteration.advance()
    huge_B1.zero_()
    iteration.restart(torch.arange(5))
    for _ in range(9):
        iteration.advance()
    expected = solve(problem.f, problem.start_BD, SolverSetting(Broyden(), 9))
    assert torch.allclose(iteration.solution().z_BD, expected.z_BD, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-3, 1e-300])
@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_a_slot_that_is_given_to_another_solve_forgets_the_first(solver, tolerance):
    problem = hyperbolic()
    setting = SolverSetting(solver, 12, tolerance)
    fresh = solve(problem.f, problem.start_BD, setting)
    iteration = FixedPointIteration(problem.f, problem.start_BD.clone(), setting)
    for advance in range(40):
        if advance == 5:
            iteration.restart(torch.tensor([1, 3]))
        iteration.advance()
    again = iteration.solution()
    assert torch.allclose(again.z_BD, fresh.z_BD, atol=1e-12)
    assert torch.equal(again.evaluations_B, fresh.evaluations_B)


@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_a_solve_is_the_same_to_the_last_bit_wherever_in_the_life_of_its_slot_it_begins(solver):
    size, setting = 50, SolverSetting(solver, 9, tolerance=1e-300)
    generator = torch.Generator().manual_seed(5)
    a_D, b_BD = torch.randn(size, generator=generator), torch.randn(3, size, generator=generator)

    def f(z_BD: Tensor) -> Tensor:
        return 0.8 * torch.tanh(a_D * z_BD.roll(1, dims=1) + b_BD)

    iteration = FixedPointIteration(f, torch.zeros(3, size), setting)
    for _ in range(9):
        iteration.advance()
    first_BD = iteration.solution().z_BD.clone()
    for wait in (0, 1, 4, 8):
        for _ in range(wait):
            iteration.advance()
        iteration.restart(torch.tensor([1]))
        for _ in range(9):
            iteration.advance()
        assert torch.equal(iteration.solution().z_BD, first_BD)


@pytest.mark.parametrize("name", SOLVERS)
def test_what_reads_results_without_torch_writes_a_setting_as_the_setting_itself(name):
    assert solver_title(name, 14) == str(SolverSetting.named(name, 14))
    assert SolverSettings(solver=name, steps=3).title == str(SolverSetting.named(name, 3))


def test_settings_are_written_as_in_the_literature_and_refuse_nonsense():
    assert [str(SolverSetting.named(*s)) for s in (("naive", 1), ("anderson", 30), ("broyden", 14))] == [
        "1N",
        "30A",
        "14B",
    ]
    with pytest.raises(ValueError, match="newton"):
        SolverSetting.named("newton", 3)
    with pytest.raises(ValueError, match="at least 1"):
        SolverSetting.named("naive", 0)
    with pytest.raises(ValueError, match="tolerance"):
        SolverSetting.named("naive", 1, 0.0)
