from __future__ import annotations

import torch
from torch import Tensor

from srs_ray.data import load_all, open_dataset
from srs_ray.train_job import JacobianSettings, TrainingSettings
from srs_ray.models.weights import Weights, build_model, random_weights
from srs_ray.training.evaluation import evaluate
from srs_ray.training.trainer import Trainer
from srs_ray.training.weight_normalization import folded_tensors

ARCH = "mdeq-tiny-digits"
SIGMA = 0.25
BRIEF = TrainingSettings(
    unrolled_epochs=3,
    equilibrium_epochs=2,
    unrolled_steps=3,
    solve_steps=(3, 5),
    gradient=PhantomGradient(kind="phantom", steps=1),
    jacobian=JacobianSettings(weight=1.0, every=2),
    batch=32,
    learning_rate=1e-2,
)


def digits(split: str) -> tuple[Tensor, Tensor]:
    return load_all(open_dataset("digits", None, split, (1, 16, 16)))


def test_a_brief_training_lowers_loss_and_jacobian_and_classifies_noisy_digits_of_other_writers() -> None:
    x_NCHW, y_N = digits("train")
    model = build_model(ARCH, random_weights(ARCH))
    trainer = Trainer(model, BRIEF, SIGMA, seed=0, points=len(x_NCHW))
    epochs = [trainer.train_epoch(x_NCHW, y_N) for _ in range(BRIEF.epochs)]

    unrolled = [epoch.loss for epoch in epochs[:3]]
    assert unrolled[2] < unrolled[1] < unrolled[0] < 2.303  # ln 10, the loss of knowing nothing
    assert epochs[4].loss < epochs[3].loss < 1.0
    assert epochs[3].jacobian is not None
    assert epochs[4].jacobian is not None
    assert epochs[4].jacobian < epochs[3].jacobian

    test_NCHW, test_N = digits("test")
    noise = torch.Generator().manual_seed(1)
    model.eval()
    reached = evaluate(model, test_NCHW, test_N, SIGMA, noise)
    assert reached.accuracy[30] > 0.4  # chance is 0.1; the full recipe comes to 0.95

    folded = build_model(ARCH, Weights(folded_tensors(model), {}))
    assert torch.equal(folded.logits(test_NCHW[:8]), model.logits(test_NCHW[:8]))
