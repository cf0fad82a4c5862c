from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from srs_ray.errors import JobError
from srs_ray.execution import ExecutionSettings
from srs_ray.job_file import load_any_job, load_job, load_train_job, parse_override

JOBS = Path(__file__).resolve().parent.parent / "jobs"
SRS = {
    "model": {"arch": "mdeq-tiny-digits", "weights": "mdeq-tiny-digits-sigma25"},
    "data": {"kind": "digits"},
    "noise": {"sigma": 0.5},
    "sampling": {"method": "srs"},
    "output": "runs/x",
}


@pytest.fixture
def job_file(tmp_path):
    def write(changes=None, text=None):
        content = {**SRS, **(changes or {})}
        path = tmp_path / "job.yaml"
        path.write_text(text if text is not None else yaml.safe_dump(content))
        return path

    return write


@pytest.mark.parametrize("path", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_job_file_of_the_repository_is_valid(path):
    load_train_job(path) if "train" in path.name else load_any_job(path)


def test_defaults_follow_the_method_and_the_architecture(job_file):
    job = load_job(job_file())
    assert (job.certificate.kind, job.certificate.audit, job.certificate.alpha) == ("exact", 400, 0.001)
    assert (job.sampling.solver, job.sampling.reference.steps) == ("anderson", 30)
    imagenet = {"model": {"arch": "mdeq-small-imagenet", "weights": "w"}, "data": {"kind": "imagenet", "path": "d"}}
    job = load_job(job_file(imagenet))
    assert (job.sampling.solver, job.sampling.reference.solver, job.sampling.reference.steps) == (
        "broyden",
        "broyden",
        14,
    )
    job = load_job(job_file({"sampling": {"method": "standard"}}))
    assert (job.certificate.kind, job.certificate.audit) == ("cohen", 0)


def test_settings_that_are_given_win_over_defaults(job_file):
    job = load_job(job_file({"sampling": {"method": "srs", "solver": "naive", "reference": {"steps": 7}}}))
    assert (job.sampling.solver, job.sampling.reference.solver, job.sampling.reference.steps) == (
        "naive",
        "anderson",
        7,
    )


def test_a_dumped_job_is_the_job(job_file):
    job = load_job(job_file())
    assert load_job(job_file(text=yaml.safe_dump(job.model_dump(mode="json")))) == job


def test_overrides_reach_any_setting(job_file):
    overrides = dict(parse_override(text) for text in ("noise.sigma=0.25", "sampling.reference.steps=9", "data.stop=5"))
    job = load_job(job_file(), overrides)
    assert (job.noise.sigma, job.sampling.reference.steps, job.data.stop) == (0.25, 9, 5)


def test_radii_may_be_fractions(job_file):
    job = load_job(job_file({"report": {"radii": [0, "36/255"]}}))
    assert job.report.radii == (0.0, 36 / 255)


def test_numbers_may_be_strings_because_yaml_reads_1e_3_as_one(job_file):
    text = yaml.safe_dump({**SRS, "certificate": {}}).replace("certificate: {}", "certificate: {alpha: 1e-3}")
    assert "alpha: 1e-3" in text
    assert load_job(job_file(text=text)).certificate.alpha == 0.001
    assert load_job(job_file(), {"execution.workers": "2"}).execution.workers == 2


@pytest.mark.parametrize("gpus", [0.0001, 0.3333, 0.5, 1, 2.0, 8])
def test_a_worker_takes_what_ray_grants_of_gpus(job_file, gpus):
    assert load_job(job_file({"execution": {"gpus_per_worker": gpus}})).execution.gpus_per_worker == gpus


def train_job_without_data() -> str:
    content = yaml.safe_load((JOBS / "digits-train.yaml").read_text())
    return yaml.safe_dump({name: section for name, section in content.items() if name not in ("data", "evaluation")})


def test_a_merge_key_takes_over_the_settings_that_are_not_written(job_file):
    text = train_job_without_data() + (
        "data: &data {kind: digits, split: train, every: 7}\nevaluation: {<<: *data, split: test}\n"
    )
    job = load_train_job(job_file(text=text))
    assert (job.data.split, job.evaluation.split, job.evaluation.every) == ("train", "test", 7)


def test_an_override_stays_in_its_section_where_another_is_an_alias_of_it(job_file):
    text = train_job_without_data() + "data: &data {kind: digits, split: test}\nevaluation: *data\n"
    job = load_train_job(job_file(text=text), {"data.split": "train"})
    assert (job.data.split, job.evaluation.split) == ("train", "test")


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("noise", "sigma", True),
        ("sampling", "n", True),
        ("sampling", "max_nonfinite", False),
        ("certificate", "audit", False),
        ("data", "every", True),
        ("execution", "workers", True),
        ("execution", "gpus_per_worker", True),
        ("report", "radii", [0.25, True]),
    ],
)
def test_true_and_false_are_no_numbers(job_file, section, name, value):
    with pytest.raises(JobError) as error:
        load_job(job_file({section: {**SRS.get(section, {}), name: value}}))
    assert f"{name}: found {value!r}: no setting is true or false" in str(error.value)
    assert section in str(error.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"execution": {"gpus_per_worker": 1.5}}, "execution.gpus_per_worker: found 1.5: ray shares one GPU only"),
        ({"execution": {"gpus_per_worker": 1 / 3}}, "expected a multiple of 0.0001"),
        ({"execution": {"gpus_per_worker": 1e-5}}, "expected a multiple of 0.0001"),
        ({"execution": {"gpus_per_worker": -1}}, "execution.gpus_per_worker: found -1"),
        ({"execution": {"point_seconds": 0}}, "execution.point_seconds: found 0: input should be greater than 0"),
        ({"sampling": {"method": "srs", "max_nonfinite": 1.1}}, "sampling.max_nonfinite: found 1.1"),
        ({"sampling": {"method": "standard", "max_nonfinite": -1}}, "sampling.max_nonfinite: found -1"),
        ({"data": {"kind": "parquet", "path": "a\0b"}}, "data.path: found 'a\\x00b'"),
        ({"data": {"kind": "parquet", "path": ""}}, "data.path: found ''"),
        ({"model": {"arch": "mdeq-tiny-digits", "weights": "w\0"}}, "model.weights: found 'w\\x00'"),
        ({"output": ""}, "output: found ''"),
        ({"report": {"radii": ["1/0"]}}, "report.radii.0: found '1/0': not a fraction"),
        ({"report": {"radii": ["1" + "0" * 400 + "/1"]}}, "not a fraction"),
        ({"noise": {"sigma": -1}}, "noise.sigma: found -1: input should be greater than 0"),
        ({"noise": {"sigma": "loud"}}, "noise.sigma: found 'loud'"),
        ({"noise": {"sigma": float("nan")}}, "noise.sigma: found nan"),
        ({"sampling": {"method": "srs", "step": 3}}, "sampling.step: unknown setting; did you mean steps?"),
        ({"sampling": {"method": "standard", "chains": 4}}, "sampling.chains: unknown setting"),
        ({"sampling": {"method": "sequential"}}, "standard"),
        ({"sampling": {"method": "srs", "n": 0}}, "sampling.n: found 0"),
        ({"sampling": {"method": "srs", "reference": {"step": 4}}}, "sampling.reference.step: unknown setting"),
        ({"sampling": {"method": "srs", "steps": 20, "warmup_steps": 10}}, "warmup_steps (10) is below steps (20)"),
        ({"certificate": {"kind": "cohen"}}, "certificate.kind cohen does not go with sampling.method srs"),
        ({"certificate": {"kind": "best"}}, "certificate"),
        ({"certificate": {"alpha": 1.0}}, "certificate.alpha: found 1.0"),
        ({"data": {"kind": "parquet"}}, "data of kind parquet needs a path"),
        ({"data": {"kind": "mnist", "path": "d"}}, "data.kind: found 'mnist'"),
        ({"data": {"kind": "digits", "every": 0}}, "data.every: found 0"),
        ({"model": {"arch": "resnet", "weights": "w"}}, "model.arch: found 'resnet': no such architecture"),
        ({"execution": {"dtype": "float16"}}, "execution.dtype: found 'float16'"),
        ({"execution": {"workers": 0}}, "execution.workers: found 0"),
        ({"modle": {}}, "modle: unknown setting; did you mean model?"),
        ({"report": {"radii": [-0.5]}}, "report.radii.0: found -0.5"),
        ({"output": None}, "output: found None"),
    ],
)
def test_a_wrong_setting_is_refused_with_its_place_and_what_was_found(job_file, changes, expected):
    with pytest.raises(JobError) as error:
        load_job(job_file(changes))
    assert expected in str(error.value)


def test_all_wrong_settings_are_named_at_once(job_file):
    with pytest.raises(JobError) as error:
        load_job(job_file({"noise": {"sigma": 0, "colour": "pink"}, "certificate": {"alpha": 2}}))
    assert all(name in str(error.value) for name in ("noise.sigma", "noise.colour", "certificate.alpha"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: [", "not readable as YAML"),
        ("- a\n- b", "expected a mapping of settings, found list"),
        ("", "expected a mapping of settings"),
        ("noise: {sigma: 1}\nnoise: {sigma: 2}", "'noise' is set twice"),
        ("output: 2026-02-30", "not readable as YAML: line 1, column 9: no readable timestamp: day is out of range"),
        ("{[a]: 1}", "not readable as YAML"),
        ("model: 3\nsampling: 4", "model"),
    ],
)
def test_a_file_that_is_no_job_is_refused(job_file, text, expected):
    with pytest.raises(JobError) as error:
        load_job(job_file(text=text))
    assert expected in str(error.value)


def test_code_in_a_job_file_is_never_run(job_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tag in ("object/apply:os.mkdir", "object/new:os.mkdir", "name:os.mkdir", "module:os"):
        with pytest.raises(JobError, match="could not determine a constructor for the tag"):
            load_job(job_file(text=f"noise: !!python/{tag} [executed]"))
        with pytest.raises(JobError, match="not a YAML value"):
            parse_override(f"noise.sigma=!!python/{tag} [executed]")
    assert not (tmp_path / "executed").exists()


def test_a_job_file_that_cannot_be_read_is_named(tmp_path):
    for path, reason in [
        ("nowhere.yaml", "no job file at nowhere"),
        (tmp_path, "cannot be read: Is a directory"),
        (f"{tmp_path}/job.yaml/x", "no job file at|cannot be read"),
        ("job\0.yaml", "embedded null byte"),
        ("x" * 300, "cannot be read: File name too long"),
    ]:
        with pytest.raises(JobError, match=reason):
            load_job(path)
    (tmp_path / "latin1.yaml").write_bytes("output: Ergebnis für Köln".encode("latin-1"))
    with pytest.raises(JobError, match=r"latin1\.yaml is not readable as YAML: 'utf-8' codec"):
        load_job(tmp_path / "latin1.yaml")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_job_file_without_permission_is_named(job_file):
    path = job_file()
    path.chmod(0)
    with pytest.raises(JobError, match="cannot be read: Permission denied"):
        load_job(path)


@pytest.mark.parametrize("text", ["noise.sigma", "=3", "noise..sigma=1", "noise.sigma=[", "a b=1", "output=2026-02-30"])
def test_an_override_that_cannot_be_read_is_refused(text):
    with pytest.raises(JobError, match="--set"):
        parse_override(text)


def test_an_override_below_a_value_is_refused(job_file):
    with pytest.raises(JobError, match="sigma is not a section"):
        load_job(job_file(), {"noise.sigma.x": 1})


def test_a_gpu_that_hangs_is_given_up_by_default_and_a_cpu_is_waited_for():
    usual = ExecutionSettings()
    assert usual.point_seconds is None
    assert usual.seconds_of_a_point("cpu", 10_000) is None
    assert usual.seconds_of_a_point("cuda", 10_000) == 900 + 0.5 * 10_000
    assert ExecutionSettings(point_seconds=7).seconds_of_a_point("cuda", 10_000) == 7
    assert ExecutionSettings(point_seconds="unlimited").seconds_of_a_point("cuda", 10_000) is None


def test_a_job_file_may_name_as_many_classes_as_the_largest_data_sets_have(job_file):
    names = [f"n{number:08}" for number in range(21_841)]
    job = load_job(job_file({"data": {"kind": "imagefolder", "path": "images", "classes": names}}))
    assert job.data.classes == tuple(names)
