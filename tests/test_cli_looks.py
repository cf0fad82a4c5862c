"""A job with target radii through the command line: certified, extended, and read."""

from __future__ import annotations

import json
import sys

import pytest
import yaml

import srs_ray
from srs_ray import cli


@pytest.mark.parametrize("method", ["srs", "auto"])
def test_a_job_by_looks_is_certified_goes_on_and_is_aggregated(tmp_path, monkeypatch, capsys, digits_settings, method):
    def command(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["srs-ray", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, capsys.readouterr().out

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    job = digits_settings(data={"stop": 40}, sampling={"method": method, "target_radii": [0, 0.125], "n": 400})
    job["certificate"] = {"alpha": 0.01}
    del job["report"]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert command("certify", "job.yaml", "--no-ray", "--stop", "20")[0] == 0
    before = srs_ray.load_points("run")
    code, out = command("certify", "job.yaml", "--no-ray")
    assert code == 0
    assert "4 of 4 points certified, 2 of them now" in out
    assert "looks at up to n = 400" in out
    df = srs_ray.load_points("run")
    assert df["finished_at"][:2].tolist() == before["finished_at"].tolist(), "what was done is not done again"
    assert set(df["stopped"]) <= {"resolved", "futile", "spent"}
    assert df["n"].min() < 400
    code, out = command("aggregate", "run", "--format", "json")
    assert code == 0
    [run] = json.loads(out)
    assert [at["radius"] for at in run["certified_accuracy"]] == [0, 0.125], "the table has the target radii"
    expected = srs_ray.certified_accuracy(df, [0, 0.125])["certified_accuracy"].tolist()
    assert [at["certified_accuracy"] for at in run["certified_accuracy"]] == expected
