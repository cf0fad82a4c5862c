"""What a batch does: which losses it has and what they are of, schedule, moving average, shares of processes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from srs_ray.models.mdeq.checkpoints import build_model, random_weights
from srs_ray.models.mdeq.weight_normalization import folded_tensors
from srs_ray.models.weights import Weights
from srs_ray.training.settings import TrainingSettings
from srs_ray.training.share import Share
from srs_ray.training.trainer import Trainer, _Extras

ARCH, SIGMA, BATCHES = "mdeq-tiny-digits", 0.25, 4
X_BCHW = torch.rand(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
Y_B = torch.tensor([0, 1, 2, 3, 4, 5])
PHASES: dict[str, Any] = {"unrolled_epochs": 1, "equilibrium_epochs": 3, "unrolled_steps": 3, "learning_rate": 1e-2}


def trainer(share: Share = Share(), **settings: Any) -> Trainer:
    model = build_model(ARCH, random_weights(ARCH))
    return Trainer(model, TrainingSettings.model_validate(PHASES | settings), SIGMA, 0, BATCHES, share)


def test_each_part_of_a_recipe_is_there_in_its_batches_and_in_no_others() -> None:
    training = trainer(
        jacobian={"weight": 1.0, "every": 2, "last_epoch": 3},
        serial={"weight": 1.0, "every": 2, "first_epoch": 3},
        intermediate={"weight": 0.5},
    )
    told = {
        (epoch, batch): set(training.step(epoch, batch, X_BCHW, Y_B)) - {"loss", "gradient"}
        for epoch in (1, 2, 3, 4)
        for batch in (0, 1)
    }
    assert told == {
        (1, 0): {"intermediate"},
        (1, 1): {"intermediate"},
        (2, 0): {"intermediate", "jacobian"},
        (2, 1): {"intermediate"},
        (3, 0): {"intermediate", "jacobian", "serial"},
        (3, 1): {"intermediate"},
        (4, 0): {"intermediate", "serial"},
        (4, 1): {"intermediate"},
    }


@pytest.mark.parametrize("name", ["jacobian", "serial", "intermediate", "start"])
def test_the_weight_of_a_part_changes_what_is_learnt(name: str) -> None:
    digests = set()
    for weight in (1.0, 2.0):
        training = trainer(**{name: {"weight": weight}})
        training.step(2, 0, X_BCHW, Y_B)
        digests.add(float(sum(p.detach().double().sum() for p in training.model.parameters())))
    assert len(digests) == 2


def test_the_serial_state_is_one_evaluation_from_the_equilibrium_of_the_next_copy_of_the_same_image() -> None:
    training = trainer(solve_steps=[3, 3], solver="naive")
    model = training.model.eval()
    copies, images = 3, len(X_BCHW)
    noise = torch.randn(copies, *X_BCHW.shape, generator=torch.Generator().manual_seed(1))
    x_NCHW = (X_BCHW + SIGMA * noise).flatten(0, 1)
    states = training._solve(x_NCHW, "equilibrium", _Extras(serial=copies))
    assert states.serial_ND is not None
    for copy in range(copies):
        for image in range(images):
            here, before = copy * images + image, (copy - 1) % copies * images + image
            own, other = (model.inject(x_NCHW[row : row + 1]) for row in (here, before))
            z_1D = model.zero_state(1)
            for _ in range(3):
                z_1D = model.f(z_1D, other)
            expected_1D = model.f(z_1D, own)
            assert torch.allclose(states.serial_ND[here], expected_1D[0], atol=1e-4)  # other batches, other rounding


def test_aimed_at_anchors_it_is_one_evaluation_from_the_mean_of_all_other_copies() -> None:
    training = trainer(solve_steps=[3, 3], solver="naive", serial={"weight": 1.0, "copies": 3, "aim": "anchor"})
    model, images = training.model.eval(), len(X_BCHW)
    noise = torch.randn(3, *X_BCHW.shape, generator=torch.Generator().manual_seed(1))
    x_NCHW = (X_BCHW + SIGMA * noise).flatten(0, 1)
    states = training._solve(x_NCHW, "equilibrium", _Extras(serial=3))
    assert states.serial_ND is not None
    injection, z_ND = model.inject(x_NCHW), model.zero_state(len(x_NCHW))
    for _ in range(3):
        z_ND = model.f(z_ND, injection)
    rows = torch.arange(images)
    for copy in range(3):
        others = [z_ND[other * images + rows] for other in range(3) if other != copy]
        expected_BD = model.f(torch.stack(others).mean(dim=0), injection[copy * images + rows])
        assert torch.allclose(states.serial_ND[copy * images + rows], expected_BD, atol=1e-4)
    with pytest.raises(ValueError, match=r"needs serial.copies of at least 3"):
        trainer(serial={"weight": 1.0, "aim": "anchor"})


@pytest.mark.parametrize("steps", [1, 2])
def test_solves_begin_from_the_start_that_is_trained_and_its_first_evaluations_bear_a_loss(steps: int) -> None:
    training = trainer(
        start={"weight": 0.5, "steps": steps},
        solve_steps=[2, 2],
        solver="naive",
        gradient={"kind": "phantom", "steps": 1},
    )
    model = training.model.eval()
    start_D = model.stored_D
    assert isinstance(start_D, torch.nn.Parameter)
    with torch.no_grad():
        start_D.normal_(generator=torch.Generator().manual_seed(1))
    injection = model.inject(X_BCHW)
    passed = [start_D.expand(len(X_BCHW), -1).contiguous()]
    for _ in range(steps + 3):
        passed.append(model.f(passed[-1], injection))
    for phase, last in (("equilibrium", steps + 3), ("unrolled", 3)):
        states = training._solve(X_BCHW, phase, _Extras())  # type: ignore[arg-type]
        assert states.early_ND is not None
        assert torch.allclose(states.early_ND, passed[steps], atol=1e-4)
        assert torch.allclose(states.final_ND, passed[last], atol=1e-4)
        losses = training._losses(states, Y_B)
        expected = F.cross_entropy(model.head(passed[steps]), Y_B)
        assert losses["start"].item() == pytest.approx(expected.item(), rel=1e-4)
        (through_start,) = torch.autograd.grad(losses["start"], start_D)
        assert through_start.any()


def test_the_start_is_learnt_averaged_kept_in_a_checkpoint_and_written_with_the_weights() -> None:
    training = trainer(start={"weight": 1.0}, ema=0.5)
    first = training.model.stored_D
    assert first is not None
    assert not first.any(), "without a start of the weights it begins as zero"
    for batch in range(2):
        assert "start" in training.step(2, batch, X_BCHW, Y_B)
    assert first.any()
    tensors = folded_tensors(training.trained)
    average = training.trained.stored_D
    assert average is not None
    assert torch.equal(tensors["start"], average.detach())
    assert not torch.equal(tensors["start"], first)
    again = trainer(start={"weight": 1.0}, ema=0.5)
    again.restore(training.state())
    assert torch.equal(folded_tensors(again.trained)["start"], tensors["start"])
    unchanged = tensors["start"].clone()
    further = Trainer(build_model(ARCH, Weights(tensors, {})), training.settings, SIGMA, 0, BATCHES)
    assert torch.equal(folded_tensors(further.model)["start"], tensors["start"]), "it goes on from that of the weights"
    further.step(2, 0, X_BCHW, Y_B)
    assert torch.equal(tensors["start"], unchanged), "the weights that it began with stay what they were"
    without = Trainer(build_model(ARCH, Weights(tensors, {})), trainer().settings, SIGMA, 0, BATCHES)
    assert "start" not in folded_tensors(without.model), "a start that is not trained is none of the new weights"


def test_the_serial_loss_teaches_the_chains_answer_the_copys_own_and_not_the_other_way_round() -> None:
    training = trainer(serial={"weight": 1.0}, solver="naive", solve_steps=[2, 2])
    model = training.model.eval()
    x_NCHW = torch.cat([X_BCHW, X_BCHW + 0.3 * torch.rand(X_BCHW.shape)])
    states = training._solve(x_NCHW, "equilibrium", _Extras(serial=2))
    loss = training._losses(states, Y_B.repeat(2))["serial"]
    assert states.serial_ND is not None
    own, chain = (F.softmax(model.head(z_ND), dim=1) for z_ND in (states.final_ND, states.serial_ND))
    assert float(loss.detach()) == pytest.approx(float((own * (own / chain).log()).sum(1).mean().detach()), rel=1e-2)
    (through_own,) = torch.autograd.grad(loss, states.final_ND, allow_unused=True, retain_graph=True)
    assert through_own is None or not through_own.any()
    (through_chain,) = torch.autograd.grad(loss, states.serial_ND)
    assert through_chain.any()


def test_intermediate_states_are_those_before_the_last_and_as_many_as_asked_for() -> None:
    training = trainer(intermediate={"weight": 1.0, "states": 2}, solve_steps=[4, 4], solver="naive")
    model = training.model.eval()
    injection_BCHW = model.inject(X_BCHW)
    passed = [model.zero_state(len(X_BCHW))]
    for _ in range(5):
        passed.append(model.f(passed[-1], injection_BCHW))
    seen = set()
    for seed in range(12):
        training.generator.manual_seed(seed)
        states = training._solve(X_BCHW, "equilibrium", _Extras(intermediate=2))
        # 4 steps without a gradient, 2 with one.
        assert torch.allclose(states.final_ND, model.f(passed[5], injection_BCHW), atol=1e-4)
        places = [
            next(k for k in range(1, 5) if torch.allclose(z_BD, passed[k], atol=1e-5)) for z_BD in states.intermediate
        ]
        assert len(set(places)) == 2
        seen |= set(places)
    assert seen == {1, 2, 3, 4}


def test_random_depth_takes_every_number_of_steps_between_least_and_most() -> None:
    training = trainer(solve_steps=[2, 4], solver="naive", gradient={"kind": "phantom", "steps": 1})
    calls: list[int] = []
    for seed in range(20):
        training.generator.manual_seed(seed)
        count = 0

        def counted(module: Any, inputs: Any, output: Any) -> None:
            nonlocal count
            count += 1

        hook = training.model.fullstage.register_forward_hook(counted)
        training._solve(X_BCHW, "equilibrium", _Extras())
        hook.remove()
        calls.append(count)
    assert set(calls) == {3, 4, 5}  # one more with its gradient


def test_the_learning_rate_rises_linearly_and_falls_along_a_cosine_to_zero() -> None:
    training = trainer(warmup=0.25)
    total = 4 * BATCHES
    rates = []
    for step in range(total):
        rates.append(training.optimizer.param_groups[0]["lr"])
        training.step(1 + step // BATCHES, step % BATCHES, X_BCHW, Y_B)
    assert rates[:4] == pytest.approx([1e-2 * k / 5 for k in (1, 2, 3, 4)])
    assert rates[4:] == pytest.approx([1e-2 * 0.5 * (1 + math.cos(math.pi * k / 12)) for k in range(12)])
    assert training.optimizer.param_groups[0]["lr"] == pytest.approx(0.0)


def test_the_moving_average_is_what_is_evaluated() -> None:
    training = trainer(ema=0.75)
    name = "classifier.weight"
    weights: list[Tensor] = [training.model.state_dict()[name].clone()]
    for batch in range(3):
        training.step(1, batch, X_BCHW, Y_B)
        weights.append(training.model.state_dict()[name].clone())
    average = weights[1]  # the first update is taken as it is
    for later in weights[2:]:
        average = 0.75 * average + 0.25 * later
    assert torch.allclose(training.trained.state_dict()[name], average, atol=1e-7)
    assert training.trained is not training.model
    assert trainer().trained.state_dict().keys() == training.trained.state_dict().keys()


def test_attacked_images_are_as_far_as_the_radius_which_grows_over_the_warm_up() -> None:
    training = trainer(adversary={"steps": 2, "radius": 0.5, "samples": 2, "warmup_epochs": 3})
    noise_MBCHW = SIGMA * torch.randn(2, *X_BCHW.shape, generator=torch.Generator().manual_seed(1))
    before = {name: p.detach().clone() for name, p in training.model.named_parameters()}
    for epoch, radius in ((1, 0.125), (2, 0.25), (4, 0.5)):
        moved_BCHW = training._attacked(X_BCHW, Y_B, noise_MBCHW, epoch) - X_BCHW
        assert moved_BCHW.flatten(1).norm(dim=1) == pytest.approx(torch.full((6,), radius), rel=0.2)
    assert all(torch.equal(p, before[name]) for name, p in training.model.named_parameters())
    assert all(p.requires_grad and p.grad is None for p in training.model.parameters())
    assert training.model.training


def test_mixed_precision_computes_the_layer_in_bfloat16_and_keeps_states_and_losses_in_float32() -> None:
    training = trainer(precision="bfloat16")
    seen: set[torch.dtype] = set()
    convolution = training.model.fullstage.branches[0].blocks[0].conv1
    convolution.register_forward_hook(lambda module, inputs, output: seen.add(output.dtype))
    losses = training.step(2, 0, X_BCHW, Y_B)
    assert seen == {torch.bfloat16}
    assert losses["loss"].dtype == torch.float32
    assert {p.dtype for p in training.model.parameters()} == {torch.float32}


def test_processes_share_a_batch_and_draw_noise_of_their_own() -> None:
    order_B = torch.arange(10)
    assert [Share(rank, 3).rows(order_B).tolist() for rank in range(3)] == [[0, 3, 6, 9], [1, 4, 7], [2, 5, 8]]
    assert [Share(rank, 3).rows(order_B[:2]).tolist() for rank in range(3)] == [[0], [1], [0]]
    first, second = trainer(Share(0, 2)), trainer(Share(1, 2))
    assert torch.equal(first.order(1, 50), second.order(1, 50))
    assert not torch.equal(first.order(1, 50), first.order(2, 50))
    drawn = []
    for training in (first, second):
        training.share = Share(training.share.rank, 1)  # alone: no process to average with
        drawn.append(float(training.step(1, 0, X_BCHW, Y_B)["loss"]))
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"serial": {"weight": 1.0, "first_epoch": 5}}, "no epoch has the serial loss"),
        ({"serial": {"weight": 1.0}, "equilibrium_epochs": 0}, "no epoch has the serial loss"),
        ({"jacobian": {"weight": 1.0, "last_epoch": 1}}, "no epoch is regularised"),
        ({"intermediate": {"weight": 1.0}, "equilibrium_epochs": 0, "unrolled_steps": 1}, "no state is intermediate"),
    ],
)
def test_a_part_that_could_never_act_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainingSettings.model_validate(PHASES | settings)
