"""Whether the CUDA path is right, repeatable and fast: one command for one GPU.

    python benchmarks/gpu_check.py [--device cuda] [--minutes 8] [--output gpu-check] [--quick]

Each check runs in a process of its own, since a failed GPU serves its process no more, and has a deadline. After each
one the report is written anew: `report.md` for people, `report.json` for programs. The last line names the checks that
failed. `--quick` runs each check once, on the tiny model in small batches; with `--device cpu` it tests this script.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import platform
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import srs_ray
from srs_ray.models.devices import device_name, use_exact_float32
from srs_ray.models.mdeq.checkpoints import build_model, inference_model, random_weights, read_weights
from srs_ray.models.mdeq.family import opened_mdeq
from srs_ray.models.opened import Opened
from srs_ray.models.out_of_memory import is_out_of_memory
from srs_ray.models.weights import Weights
from srs_ray.smoothing.base_classifier import BaseClassifier, evaluate_layer
from srs_ray.smoothing.noise import Domain, NoisyPoint, noise_generator, philox4x32
from srs_ray.smoothing.samplers import SerializedSampler
from srs_ray.solvers.iteration import SolverSetting, solve

SIGMA, SEED, POINT = 0.5, 2**40 + 1, 7
SHIPPED = {"mdeq-small-cifar10": "mdeq-small-cifar10-sigma50", "mdeq-tiny-digits": "mdeq-tiny-digits-sigma25"}
PARITY = 1e-4  # of the largest value, float32 against float64
AGREE = 0.99  # of trained classes, beside the CPU's loops
SAID = "RESULT "  # begins the line in which a check's process gives its result

Result = dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """Where checks run, and how large they are."""

    device: torch.device
    quick: bool

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def arch(self, name: str) -> str:
        return "mdeq-tiny-digits" if self.quick else name

    def size(self, count: int) -> int:
        return min(count, 16) if self.quick else count

    def model(self, arch: str, device: torch.device | None = None) -> Opened:
        where = self.device if device is None else device
        return opened_mdeq(inference_model(arch, weights_of(arch), where))

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()


def weights_of(arch: str) -> Weights:
    return read_weights(SHIPPED[arch]) if arch in SHIPPED else random_weights(arch)


def point_of(model: Opened) -> NoisyPoint:
    levels = torch.randint(0, 256, model.input_shape, generator=torch.Generator().manual_seed(0))
    x_CHW = (levels.float() / 255).to(model.device)
    return NoisyPoint(x_CHW, SIGMA, SEED, POINT, noise_generator("grid", model.device))


def seconds(machine: Machine, run: Callable[[], object], rounds: int = 3, least: float = 0.03) -> float:
    """The median of means over so many calls that the clock can tell; one call before that is not counted."""

    def timed(times: int) -> float:
        machine.wait()
        begun = time.perf_counter()
        for _ in range(times):
            run()
        machine.wait()
        return (time.perf_counter() - begun) / times

    run()
    times = max(1, math.ceil(least / max(timed(1), 1e-6)))
    return float(np.median([timed(times) for _ in range(rounds)]))


def noise(machine: Machine) -> Result:
    """Philox's words and the grid noise made of them are the same integers here as on a CPU."""
    here = noise_generator("grid", machine.device)
    there = noise_generator("grid", "cpu")
    samples, size = range(machine.size(1000)), 3072
    ours, theirs = (g.draws(SIGMA, SEED, POINT, Domain.ESTIMATION, samples, size) for g in (here, there))  # type: ignore[attr-defined]
    alone = here.draws(SIGMA, SEED, POINT, Domain.ESTIMATION, [samples[-1]], size)  # type: ignore[attr-defined]
    counters = torch.arange(200_000) * 21_473 & 0xFFFFFFFF
    counter = (counters, counters.flip(0), torch.full_like(counters, 257), torch.full_like(counters, 2**31 + 5))
    key = (0xDEADBEEF, 2**32 - 1)
    words = zip(philox4x32(counter, key), philox4x32(tuple(c.to(machine.device) for c in counter), key), strict=True)
    differing = int((ours.cpu() != theirs).sum())
    same_words = all(torch.equal(a, b.cpu()) for a, b in words)
    same_alone = torch.equal(alone[0].cpu(), ours[-1].cpu())
    ok = same_words and same_alone and not differing
    return {
        "ok": ok,
        "values": ours.numel(),
        "differing": differing,
        "words equal": same_words,
        "alone equal": same_alone,
    }


@torch.inference_mode()
def parity(machine: Machine, name: str, count: int) -> Result:
    """Stages against float64 on a CPU, and the base classifier's classes against the CPU's compiled loops."""
    arch, count = machine.arch(name), machine.size(count)
    weights = weights_of(arch)
    plain = build_model(arch, weights, "cpu", "float64")
    arranged = inference_model(arch, weights, machine.device)
    on_cpu, here = machine.model(arch, torch.device("cpu")), opened_mdeq(arranged)
    x_BCHW = point_of(on_cpu).samples(Domain.ESTIMATION, range(4))
    exact = plain.inject(x_BCHW.double())
    injected = arranged.inject(x_BCHW.to(machine.device))
    z_BD = plain.f(plain.f(plain.zero_state(4), exact), exact)
    begun = arranged.join([part.to(machine.device, torch.float32) for part in plain.split(z_BD)])

    def as_plain(state_BD: Tensor) -> Tensor:
        return plain.join([part.cpu() for part in arranged.split(state_BD)])

    pairs = {
        "stem": (exact, injected.cpu()),
        "layer": (plain.f(z_BD, exact), as_plain(arranged.f(begun, injected))),
        "head": (plain.head(z_BD), arranged.head(begun).cpu()),
    }
    errors = {stage: float((a - b).abs().max() / a.abs().max()) for stage, (a, b) in pairs.items()}
    said = [BaseClassifier.of(m, 64).predict(point_of(m), Domain.ESTIMATION, np.arange(count)) for m in (on_cpu, here)]
    agree = float((said[0].classes_N == said[1].classes_N).mean())
    ok = max(errors.values()) < PARITY and (arch not in SHIPPED or agree >= AGREE)
    return {"ok": ok, **errors, "classes equal": agree, "evaluations": [each.evaluations for each in said]}


def digests(model: Opened, batch: int, numbers: Iterable[int]) -> list[str]:
    """Of the states that the base classifier ends at on these samples, sorted: slots end in any order."""
    states: list[Tensor] = []
    BaseClassifier.of(model, batch).predict(point_of(model), Domain.ESTIMATION, list(numbers), states)
    rows = torch.cat(states).cpu().numpy()
    return sorted(hashlib.sha256(row.tobytes()).hexdigest() for row in rows)


@torch.inference_mode()
def one_function(machine: Machine, name: str, batch: int, count: int) -> Result:
    """A sample ends at the same bits forwards, backwards, alone and in other company; so do stages on other rows."""
    model, batch, count = machine.model(machine.arch(name)), machine.size(batch), machine.size(count)
    whole = digests(model, batch, range(count))
    parts = {
        "backwards": digests(model, batch, range(count - 1, -1, -1)) == whole,
        "alone": set(digests(model, batch, [count // 2])) <= set(whole),
        "every third": set(digests(model, batch, range(0, count, 3))) <= set(whole),
    }
    x_BCHW = point_of(model).samples(Domain.ESTIMATION, range(batch))
    order = torch.randperm(batch, generator=torch.Generator().manual_seed(1)).to(machine.device)
    injected = model.inject(x_BCHW)
    z_BD = model.f(model.zero_state(batch), injected)
    parts["stem"] = torch.equal(model.inject(x_BCHW[order]), injected[order])
    parts["layer"] = torch.equal(model.f(z_BD[order], injected[order]), model.f(z_BD, injected)[order])
    parts["head"] = torch.equal(model.head(z_BD[order]), model.head(z_BD)[order])
    for solver in ("anderson", "broyden"):
        setting = SolverSetting.named(solver, 5)
        ended = solve(lambda z: model.f(z, injected), torch.zeros_like(z_BD), setting).z_BD
        mixed = solve(lambda z: model.f(z, injected[order]), torch.zeros_like(z_BD), setting).z_BD
        parts[solver] = torch.equal(mixed, ended[order])
    return {"ok": all(parts.values()), **parts}


def fingerprint(machine: Machine, name: str, batch: int, ballast: float) -> Result:
    """The states of 64 samples in this process, while a share of the free memory is taken."""
    model = machine.model(machine.arch(name))
    held = None
    if ballast and machine.cuda:
        held = torch.empty(int(torch.cuda.mem_get_info()[0] * ballast), dtype=torch.uint8, device=machine.device)
    found = digests(model, machine.size(batch), range(machine.size(64)))
    del held
    return {"ok": True, "digest": hashlib.sha256("".join(found).encode()).hexdigest()}


def processes(machine: Machine, name: str, batch: int) -> Result:
    """The same bits in two processes at once, and with 90 and 99 % of the memory taken."""

    def begun(ballast: float) -> subprocess.Popen[str]:
        return started(machine, "fingerprint", [name, batch, ballast])

    together = [begun(0.0), begun(0.0)]
    found = {f"process {i}": ended(process, 200)["digest"] for i, process in enumerate(together, start=1)}
    for share in (0.9, 0.99) if machine.cuda else ():
        found[f"{share:.0%} of memory taken"] = ended(begun(share), 200)["digest"]
    return {"ok": len(set(found.values())) == 1, **{place: digest[:16] for place, digest in found.items()}}


def waits(machine: Machine, name: str, batch: int) -> Result:
    """How often the host waits for the GPU in a round of chains, and in the base classifier on a batch."""
    if not machine.cuda:
        return {"ok": True, "skipped": "no CUDA device"}
    model, batch = machine.model(machine.arch(name)), machine.size(batch)
    point = point_of(model)
    setting = SolverSetting(model.reference.solver, 1)
    chains = SerializedSampler(model, point, setting, 10, batch, batch)
    base = BaseClassifier.of(model, batch)
    chains.draw(Domain.SELECTION, batch)
    base.predict(point, Domain.SELECTION, range(batch))
    runs: dict[str, Callable[[], object]] = {
        "a round of chains": lambda: chains.draw(Domain.ESTIMATION, batch),
        "the base classifier on a batch": lambda: base.predict(point, Domain.ESTIMATION, range(batch)),
    }
    found = {}
    for part, run in runs.items():
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found[part] = sum("synchroniz" in str(warning.message) for warning in caught)
    return {"ok": found["a round of chains"] <= 6, **found}


@torch.inference_mode()
def speed(machine: Machine, name: str, batches: list[int]) -> Result:
    """Microseconds a sample by stage and batch, and the most memory that was taken."""
    model, table = machine.model(machine.arch(name)), {}
    point = point_of(model)
    for batch in dict.fromkeys(machine.size(batch) for batch in batches):
        numbers = range(batch)
        x_BCHW = point.samples(Domain.ESTIMATION, numbers)
        injected = model.inject(x_BCHW)
        z_BD = model.f(model.zero_state(batch), injected)
        stages: dict[str, Callable[[], object]] = {
            "noise": partial(point.samples, Domain.ESTIMATION, numbers),
            "stem": partial(model.inject, x_BCHW),
            "layer": partial(model.f, z_BD, injected),
            "head": partial(model.head, z_BD),
        }
        for steps in (1, 3):
            f = partial(evaluate_layer, model, injected)
            stages[f"solve, {steps} steps"] = partial(solve, f, z_BD, SolverSetting(model.reference.solver, steps))
        row = {stage: round(1e6 * seconds(machine, run) / batch, 3) for stage, run in stages.items()}
        base = BaseClassifier.of(model, batch)
        base.predict(point, Domain.SELECTION, [0])
        machine.wait()
        begun = time.perf_counter()
        said = base.predict(point, Domain.ESTIMATION, np.arange(2 * batch))
        row["base classifier"] = round(1e6 * (time.perf_counter() - begun) / (2 * batch), 3)
        row["evaluations"] = said.evaluations / (2 * batch)
        if machine.cuda:
            row["peak GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        table[str(batch)] = row
    return {"ok": True, **table}


@torch.inference_mode()
def variants(machine: Machine, name: str, batch: int) -> Result:
    """The layer in TF32 and with channels-last weights: microseconds a sample, and its error beside float32."""
    if not machine.cuda:
        return {"ok": True, "skipped": "no CUDA device"}
    arch, batch = machine.arch(name), machine.size(batch)
    model = inference_model(arch, weights_of(arch), machine.device)
    injected = model.inject(point_of(opened_mdeq(model)).samples(Domain.ESTIMATION, range(batch)))
    z_BD = model.f(model.zero_state(batch), injected)
    exact = model.f(z_BD, injected)
    found = {}

    def note(variant: str) -> None:
        error = float((model.f(z_BD, injected) - exact).abs().max() / exact.abs().max())
        taken = 1e6 * seconds(machine, lambda: model.f(z_BD, injected)) / batch
        found[variant] = {"us a sample": round(taken, 3), "error": error}

    note("float32")
    torch.backends.cudnn.allow_tf32 = True
    note("tf32")
    model.to(memory_format=torch.channels_last)
    note("tf32, channels last")
    use_exact_float32()
    note("float32, channels last")
    return {"ok": True, **found}


def memory(machine: Machine, name: str) -> Result:
    """A batch that does not fit is known as such, and a smaller one works after it in the same process."""
    if not machine.cuda:
        return {"ok": True, "skipped": "no CUDA device"}
    model = machine.model(machine.arch(name))
    point, said = point_of(model), []
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.02)
    setting = SolverSetting(model.reference.solver, model.reference.steps, math.inf)
    batch = 4096
    while batch:
        try:
            BaseClassifier(model, setting, batch).predict(point, Domain.SELECTION, [0])
            break
        except RuntimeError as error:
            said.append([batch, is_out_of_memory(error), str(error).splitlines()[0][:100]])
        batch //= 2
        torch.cuda.empty_cache()
    known = all(each[1] for each in said)
    return {"ok": batch > 0 and known and bool(said), "fits": batch, "said": said}


def points(machine: Machine, name: str, batch: int) -> Result:
    """Whole points, the first of a process and the second, in seconds."""
    model, batch = machine.model(machine.arch(name)), machine.size(batch)
    levels = torch.randint(0, 256, model.input_shape, generator=torch.Generator().manual_seed(3)).float() / 255
    n = 200 if machine.quick else 10_000
    kinds: dict[str, dict[str, Any]] = {
        "srs, 1 step": {"method": "srs", "steps": 1, "chains": batch, "audit": min(400, n // 4)},
        "standard, one target": {"method": "standard", "looks": [0.5]},
        "auto, one target": {"method": "auto", "looks": [0.5]},
    }
    found = {}
    for kind, settings in kinds.items():
        for turn, index in (("first", 0), ("second", 1)):
            begun = time.perf_counter()
            row = srs_ray.certify_point(model, levels, sigma=SIGMA, n0=100, n=n, batch=batch, index=index, **settings)
            spent = row.function_evaluations + row.reference_evaluations  # type: ignore[operator]
            found[f"{kind}, {turn}"] = {"s": round(time.perf_counter() - begun, 3), "n": row.n, "evaluations": spent}
    return {"ok": True, **found}


SMALL, LARGE, IMAGENET = "mdeq-small-cifar10", "mdeq-large-cifar10", "mdeq-small-imagenet"
CHECKS: dict[str, Callable[..., Result]] = {
    check.__name__: check
    for check in (noise, parity, one_function, processes, waits, speed, variants, memory, points, fingerprint)
}
PLAN: list[tuple[str, str, list[Any]]] = [  # title, check, arguments: what is right comes before what is fast
    ("noise", "noise", []),
    ("parity, small", "parity", [SMALL, 256]),
    ("parity, large", "parity", [LARGE, 32]),
    ("one function, small", "one_function", [SMALL, 256, 300]),
    ("one function, large", "one_function", [LARGE, 128, 64]),
    ("one function, imagenet", "one_function", [IMAGENET, 32, 32]),
    ("processes, small", "processes", [SMALL, 256]),
    ("waits, small", "waits", [SMALL, 256]),
    ("memory, imagenet", "memory", [IMAGENET]),
    ("points, small", "points", [SMALL, 1024]),
    ("speed, small", "speed", [SMALL, [32, 100, 400, 1024, 4096]]),
    ("speed, large", "speed", [LARGE, [32, 100, 256, 1024]]),
    ("speed, imagenet", "speed", [IMAGENET, [16, 64, 256]]),
    ("variants, large", "variants", [LARGE, 256]),
]
LONGEST = 120.0  # seconds of a check


def planned(quick: bool) -> list[tuple[str, str, list[Any]]]:
    """The checks to run; quickly, one of each kind."""
    return [entry for i, entry in enumerate(PLAN) if not quick or entry[1] not in [each[1] for each in PLAN[:i]]]


def started(machine: Machine, check: str, arguments: list[Any]) -> subprocess.Popen[str]:
    """A check in a process of its own."""
    command = [sys.executable, __file__, "--device", str(machine.device), "--check", json.dumps([check, arguments])]
    command += ["--quick"] if machine.quick else []
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process: subprocess.Popen[str], limit: float) -> Result:
    """The result of a check's process; one that hangs is killed."""
    try:
        out, err = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return {"ok": False, "error": f"it took longer than {limit:.0f} s"}
    lines = [line for line in out.splitlines() if line.startswith(SAID)]
    if not lines:
        return {"ok": False, "error": f"exit code {process.returncode}: {err.strip()[-800:]}"}
    result: Result = json.loads(lines[-1].removeprefix(SAID))
    return result


def run_check(machine: Machine, check: str, arguments: list[Any]) -> Result:
    """A check in this process; what it raises is its result."""
    torch.set_num_threads(1)
    use_exact_float32()
    try:
        return CHECKS[check](machine, *arguments)
    except Exception:
        return {"ok": False, "error": traceback.format_exc()[-1500:]}


def machine_named(machine: Machine) -> Result:
    versions = {"torch": torch.__version__, "cuda": torch.version.cuda, "python": platform.python_version()}
    return {"device": device_name(machine.device), **versions, "cudnn": torch.backends.cudnn.version()}


def as_markdown(named: Result, results: dict[str, Result]) -> str:
    lines = [f"# GPU check on {named['device']}", "", ", ".join(f"{key} {value}" for key, value in named.items()), ""]
    for title, result in results.items():
        lines += [f"## {title}: {'ok' if result['ok'] else 'FAILED'}", ""]
        lines += [f"- {key}: {value}" for key, value in result.items() if key != "ok"] + [""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--minutes", type=float, default=8.0, help="no check begins after that")
    parser.add_argument("--output", type=Path, default=Path("gpu-check"))
    parser.add_argument("--quick", action="store_true", help="the tiny model, small batches")
    parser.add_argument("--check", help=argparse.SUPPRESS)
    options = parser.parse_args()
    machine = Machine(torch.device(options.device), options.quick)
    if options.check is not None:
        print(SAID + json.dumps(run_check(machine, *json.loads(options.check))))
        return 0
    if machine.cuda and not torch.cuda.is_available():
        print("torch finds no CUDA device here", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    named, results, begun = machine_named(machine), {}, time.monotonic()
    for title, check, arguments in planned(options.quick):
        left = 60 * options.minutes - (time.monotonic() - begun)
        at = time.monotonic()
        missing = {"ok": False, "error": "no time was left"}
        results[title] = ended(started(machine, check, arguments), min(LONGEST, left)) if left > 0 else missing
        shown = json.dumps({key: value for key, value in results[title].items() if key != "ok"})
        mark = "ok    " if results[title]["ok"] else "FAILED"
        print(f"{mark} {title} ({time.monotonic() - at:.1f} s): {shown[:1500]}", flush=True)
        (options.output / "report.json").write_text(json.dumps({"machine": named, "checks": results}, indent=2) + "\n")
        (options.output / "report.md").write_text(as_markdown(named, results))
    failed = [title for title, result in results.items() if not result["ok"]]
    print(f"FAILED: {', '.join(failed)}" if failed else f"all {len(results)} checks are ok on {named['device']}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
