from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import typer
import yaml

import srs_ray
from srs_ray import cli
from srs_ray.runs import RunDirectory


@pytest.fixture(scope="module")
def folder(tmp_path_factory, digits_settings) -> Path:
    """A working directory with a job file and two finished runs, srs and standard."""
    folder = tmp_path_factory.mktemp("cli")
    settings = {"data": {"stop": 80}, "sampling": {"n": 200}, "certificate": {"audit": 150}, "output": "runs/srs"}
    job = digits_settings(**settings)
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    standard = job | {
        "sampling": {"method": "standard", "n0": 20, "n": 100},
        "certificate": {},
        "output": "runs/standard",
    }
    (folder / "standard.yaml").write_text(yaml.safe_dump(standard))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for job in ("job.yaml", "standard.yaml"):
            assert call(patch, "certify", job, "--no-ray") == 0
    return folder


def call(patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `srs-ray` with these arguments, called as its entry point."""
    patch.setattr(sys, "argv", ["srs-ray", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


@pytest.fixture
def srs_ray_command(folder, monkeypatch, capsys):
    """Runs a command in the folder and gives (exit code, standard output, standard error)."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = call(monkeypatch, *arguments)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_certify_prints_its_table_and_says_where_the_rows_are(srs_ray_command):
    code, out, _ = srs_ray_command("certify", "job.yaml", "--no-ray")
    assert code == 0
    assert "0 of 8 points to do" in out
    assert "8 of 8 points certified, 0 of them now; rows are in runs/srs" in out
    assert "exact" in out
    assert "alpha = 0.01" in out


def test_options_are_settings(srs_ray_command, tmp_path):
    output = str(tmp_path / "run")
    options = ("--sigma", "0.4", "--n", "100", "--stop", "20", "--seed", "5", "--batch", "16", "--output", output)
    code, _, _ = srs_ray_command("certify", "job.yaml", "--no-ray", *options, "--set", "sampling.chains=8")
    assert code == 0
    job = RunDirectory.open(output).job
    assert (job["noise"]["sigma"], job["sampling"]["n"], job["sampling"]["chains"]) == (0.4, 100, 8)
    assert (job["execution"]["seed"], job["execution"]["batch"], job["data"]["stop"]) == (5, 16, 20)


def test_a_plan_comes_from_a_pilot_that_certify_goes_on_from(srs_ray_command, tmp_path):
    where = ("job.yaml", "--no-ray", "--output", str(tmp_path / "run"))
    code, out, _ = srs_ray_command("plan", *where, "--pilot", "2", "--target-radius", "51/255")
    assert code == 0
    assert "2 of 8 points done, 6 to do" in out
    assert "CPU worker-hours" in out
    assert "radius 0.2 needs a bound above" in out
    assert "--set sampling.n=" in out
    code, out, _ = srs_ray_command("plan", *where, "--pilot", "2", "--format", "json")
    plan = json.loads(out)
    assert (code, plan["points"], plan["done"], plan["pilot"], plan["target"]) == (0, 8, 2, 2, None)
    rows = RunDirectory.open(str(tmp_path / "run")).rows().to_pylist()
    assert plan["costs"]["audit_evaluations"]["all"]["mean"] == 4 * sum(row["reference_evaluations"] for row in rows)
    code, out, _ = srs_ray_command("certify", *where)
    assert code == 0
    assert "8 of 8 points certified, 6 of them now" in out


def test_a_plan_without_a_pilot_samples_nothing(srs_ray_command, tmp_path):
    code, out, _ = srs_ray_command("plan", "job.yaml", "--pilot", "0", "--output", str(tmp_path / "run"))
    assert code == 0
    assert "no point is done yet" in out
    assert "the largest radius that n = 200, K = 150, alpha = 0.01 allow" in out
    assert not (tmp_path / "run").exists()


def test_aggregate_in_every_format(srs_ray_command):
    runs = ("aggregate", "runs/srs", "runs/standard", "--radii", "0,0.25,36/255")
    tables = {form: srs_ray_command(*runs, "--format", form) for form in ("table", "markdown", "latex", "csv", "json")}
    assert all(code == 0 for code, _, _ in tables.values())
    assert "36/255" in tables["table"][1]
    assert "\\toprule" in tables["latex"][1]
    frame = pd.read_csv(io.StringIO(tables["csv"][1]))
    assert len(frame) == 2 * 3
    [first, _] = json.loads(tables["json"][1])
    rows = srs_ray.load_points("runs/srs")
    expected = srs_ray.certified_accuracy(rows, [0, 0.25, 36 / 255])["certified_accuracy"].tolist()
    assert [at["certified_accuracy"] for at in first["certified_accuracy"]] == expected


def test_radii_are_computed_again_from_the_counts(srs_ray_command):
    _, out, _ = srs_ray_command("aggregate", "runs/srs", "--certificate", "union", "--alpha", "0.05")
    assert "union" in out
    assert "alpha = 0.05" in out
    code, _, err = srs_ray_command("aggregate", "runs/standard", "--certificate", "exact")
    assert code == 2
    assert "exact" in err


def test_the_export_reads_as_the_fields_scripts_read_it(srs_ray_command, tmp_path):
    code, out, _ = srs_ray_command("export", "runs/srs", "--format", "cohen")
    assert code == 0
    assert out.startswith("idx\tlabel\tpredict\tradius\tcorrect\ttime\n")
    frame = pd.read_csv(io.StringIO(out), delimiter="\t")
    ours = srs_ray.certified_accuracy(srs_ray.load_points("runs/srs"), [0.25])["certified_accuracy"][0]
    assert (frame["correct"] & (frame["radius"] >= 0.25)).mean() == ours
    assert srs_ray_command("export", "runs/srs", "--output", str(tmp_path / "a.tsv"))[0] == 0
    assert (tmp_path / "a.tsv").read_text() == out


def test_plot_writes_the_picture(srs_ray_command, tmp_path):
    code, out, _ = srs_ray_command("plot", "runs/srs", "runs/standard", "--output", str(tmp_path / "curves.png"))
    assert code == 0
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "curves.png" in out


def test_status_for_people_and_for_programs(srs_ray_command):
    code, out, _ = srs_ray_command("status", "runs/srs")
    assert code == 0
    assert "8 of 8 points done" in out
    _, out, _ = srs_ray_command("status", "runs/srs", "--json")
    assert json.loads(out)["done"] == 8


def test_weights_are_made_inspected_and_converted(srs_ray_command, tmp_path):
    made, converted = str(tmp_path / "random.safetensors"), str(tmp_path / "copy.safetensors")
    assert srs_ray_command("weights", "init", "mdeq-small-cifar10", made, "--seed", "3")[0] == 0
    assert srs_ray_command("weights", "convert", made, converted)[0] == 0
    digests = []
    for path in (made, converted):
        code, out, _ = srs_ray_command("weights", "inspect", path)
        assert code == 0
        described = yaml.safe_load(out)
        assert described["fits"] == ["mdeq-small-cifar10"]
        digests.append(described["digest"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("certify", "nowhere.yaml"), "no job file at nowhere.yaml"),
        (("certify", "job.yaml", "--set", "noise.sigm=1"), "did you mean sigma?"),
        (("certify", "job.yaml", "--set", "nonsense"), "expected SETTING=VALUE"),
        (("certify", "job.yaml", "--no-ray", "--weights", "nowhere.pth", "--output", "x"), "no weights at nowhere.pth"),
        (("certify", "job.yaml", "--no-ray", "--sigma", "0.3"), "noise.sigma"),
        (("certify", "job.yaml", "--no-ray", "--n", "3", "--output", "x"), "can certify nothing"),
        (("certify", "job.yaml", "--no-ray", "--start", "9999", "--output", "x"), "9999"),
        (("plan", "job.yaml", "--no-ray", "--target-radius", "much"), "much"),
        (("plan", "job.yaml", "--no-ray", "--target-radius", "0"), "expected one radius above 0"),
        (("plan", "job.yaml", "--no-ray", "--target-radius", "9"), "no probability below 1 earns it"),
        (("plan", "job.yaml", "--no-ray", "--format", "xml"), "xml"),
        (("plan", "job.yaml", "--no-ray", "--address", "local"), "--no-ray and --address exclude each other"),
        (("plan", "job.yaml", "--no-ray", "--set", "noise.sigma=0.3"), "noise.sigma"),
        (("aggregate", "nowhere"), "nowhere"),
        (("aggregate", "runs/srs", "--radii", "0,much"), "much"),
        (("aggregate", "runs/srs", "--format", "xml"), "xml"),
        (("plot", "runs/srs", "--output", "curve.bmp"), "curve.bmp"),
        (("export", "runs/srs", "--format", "xml"), "xml"),
        (("status", "job.yaml"), "job.yaml"),
        (("weights", "inspect", "job.yaml"), "job.yaml"),
        (("weights", "init", "resnet", "x.safetensors"), "no architecture 'resnet'"),
        (("weights", "init", "mdeq-tiny-digits", "x.safetensors", "--seed", str(2**70)), "Invalid value for '--seed'"),
        (("weights", "init", "mdeq-tiny-digits", "x.safetensors", "--seed", "-1"), "Invalid value for '--seed'"),
        (("train", "job.yaml"), "job.yaml"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(srs_ray_command, arguments, expected):
    code, out, err = srs_ray_command(*arguments)
    assert code == 2
    assert expected in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in out + err


def test_debug_shows_where_a_mistake_was_found(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["srs-ray", "--debug", "status", "nowhere"])
    with pytest.raises(srs_ray.errors.SrsRayError):
        cli.main()


def test_version_and_unknown_commands(srs_ray_command):
    assert srs_ray_command("--version")[1] == f"srs-ray {srs_ray.__version__}\n"
    assert srs_ray_command("certfy")[0] == 2


@pytest.mark.parametrize(
    "command",
    [
        ["certify"],
        ["plan"],
        ["predict"],
        ["submit"],
        ["compact"],
        ["aggregate"],
        ["plot"],
        ["export"],
        ["status"],
        ["train"],
    ]
    + [["weights", name] for name in ("convert", "inspect", "init", "plot")],
    ids=" ".join,
)
def test_the_help_of_every_command_has_an_example(srs_ray_command, command):
    code, out, _ = srs_ray_command(*command, "--help")
    assert code == 0
    assert f"Example: srs-ray {' '.join(command)}" in out


def test_a_run_is_watched_until_all_of_it_is_done(srs_ray_command, folder):
    certify = ("certify", "job.yaml", "--no-ray", "--output", "runs/watched")
    assert srs_ray_command(*certify, "--stop", "20")[0] == 0
    run = RunDirectory.open("runs/watched")
    asked = {**run.points, "stop": 40}  # as a driver that has just begun leaves it
    RunDirectory.create_or_continue("runs/watched", run.job, run.fingerprint, asked, run.sessions[0])
    command = [sys.executable, "-m", "srs_ray.cli", "status", "runs/watched", "--watch", "--interval", "0.2"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as watch:
        while "2 of 4 points done, 0 in error, 2 pending" not in watch.stdout.readline():
            assert watch.poll() is None
        assert srs_ray_command(*certify, "--stop", "40")[0] == 0
        assert "4 of 4 points done, 0 in error, 0 pending" in watch.stdout.read()
    assert watch.returncode == 0


def test_the_results_of_a_run_are_read_without_torch_and_ray(folder):
    program = (
        "import sys, srs_ray; df = srs_ray.load_points('runs/srs');"
        "print(srs_ray.certified_accuracy(df, [0]).shape[0]);"
        "print(sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["1", "[]"]


def test_help_and_the_commands_that_read_results_load_neither_torch_nor_ray(folder, tmp_path):
    commands = [
        ["--help"],
        ["certify", "--help"],
        ["plan", "--help"],
        ["predict", "--help"],
        ["status", "runs/srs"],
        ["aggregate", "runs/srs"],
        ["export", "runs/srs"],
        ["plot", "runs/srs", "--output", str(tmp_path / "curves.svg")],
    ]
    program = (
        "import sys; from srs_ray.cli import app\n"
        f"for command in {commands!r}:\n"
        "    app(command, standalone_mode=False)\n"
        "    print('loaded', sorted({'torch', 'ray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=True)
    loaded = [line for line in done.stdout.splitlines() if line.startswith("loaded")]
    assert loaded == ["loaded []"] * len(commands)


def points_told(process: subprocess.Popen[str]) -> Iterator[int]:
    """How many points a process with --debug has told of, as it goes on."""
    told = 0
    for line in process.stderr:
        told += re.search(r" point \d+: ", line) is not None
        yield told


@pytest.mark.parametrize(
    ("number", "code", "ray"),
    [pytest.param(signal.SIGINT, 130, True, marks=pytest.mark.slow), (signal.SIGTERM, 143, False)],
)
def test_a_signal_keeps_what_is_done_and_the_same_command_goes_on(folder, tmp_path, cluster, number, code, ray):
    output = tmp_path / "run"
    where = ["--address", cluster] if ray else ["--no-ray"]
    command = [sys.executable, "-m", "srs_ray.cli", "--debug", "certify", "job.yaml", "--every", "1", *where]
    command += ["--output", str(output)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([*command, "--stop", "300"], cwd=folder, **pipes)
    first = None
    for told in points_told(process):
        if first is None and list(output.glob("points/part-*")):
            first = len(RunDirectory.open(output).finished())
        if first is not None and told > first:  # more than the first part holds
            break
    assert process.poll() is None
    os.kill(process.pid, number)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == code, out
    assert "stopped by a signal" in out
    kept = RunDirectory.open(output).finished()
    assert first < told <= len(kept) < 300
    # Far enough to see that the rest is done, and that what was kept is not done again.
    stop = max(kept) + 3
    again = subprocess.run([*command, "--stop", str(stop)], cwd=folder, capture_output=True, text=True, timeout=200)
    assert again.returncode == 0, again.stdout + again.stderr
    rows = RunDirectory.open(output).rows(["index", "status"]).to_pylist()
    assert [row["index"] for row in rows] == list(range(stop))
    assert f"{stop - len(kept)} of them now" in again.stdout


def test_where_nothing_is_to_do_no_ray_is_looked_for(srs_ray_command):
    code, out, _ = srs_ray_command("certify", "job.yaml", "--address", "127.0.0.1:1")
    assert code == 0
    assert "8 of 8 points certified, 0 of them now" in out


def test_plan_and_submit_have_the_options_of_certify():
    commands = typer.main.get_command(cli.app).commands
    options = {name: {each.name: each.opts for each in commands[name].params} for name in ("certify", "plan", "submit")}
    here = {"no_ray": ["--no-ray"]}  # a job that is submitted is done elsewhere
    assert options["certify"].items() <= options["plan"].items()
    assert options["certify"].items() <= (options["submit"] | here).items()


def test_a_plan_is_made_with_the_options_of_certify(srs_ray_command, tmp_path):
    where = ("--pilot", "0", "--output", str(tmp_path / "run"))
    options = ("--n", "300", "--audit", "120", "--alpha", "0.02", "--every", "5", "--stop", "50", "--seed", "4")
    code, out, _ = srs_ray_command("plan", "job.yaml", *where, *options)
    assert code == 0
    assert "0 of 10 points done" in out
    assert "n = 300, K = 120, alpha = 0.02 allow" in out


def test_lines_off_a_terminal_are_not_wrapped(srs_ray_command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    where = ("--no-ray", "--output", str(tmp_path / "run"))
    code, out, _ = srs_ray_command("certify", "job.yaml", *where, "--stop", "10", "--set", "report.radii=[0, 3]")
    assert code == 0
    [warning] = [line for line in out.splitlines() if line.startswith("warning: ")]
    assert warning.endswith(": raise both")
    assert len(warning) > 80
    _, _, err = srs_ray_command("certify", "job.yaml", *where, "--sigma", "0.3", "--n", "300", "--alpha", "0.02")
    [line] = [line for line in err.splitlines() if line.startswith("error: ")]
    assert line.endswith("to continue it")


def test_threads_that_wait_for_each_other_do_not_spin(srs_ray_command, monkeypatch):
    for before, after in ((None, "PASSIVE"), ("ACTIVE", "ACTIVE")):
        monkeypatch.setenv("OMP_WAIT_POLICY", before or "")
        if before is None:
            monkeypatch.delenv("OMP_WAIT_POLICY")
        assert srs_ray_command("status", "runs/srs")[0] == 0
        assert os.environ["OMP_WAIT_POLICY"] == after
