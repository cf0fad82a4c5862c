"""The export of a run's rows says what each point was."""

from __future__ import annotations

import io

import pandas as pd

from srs_ray.analysis import load_points, points_export
from srs_ray.runs import RunDirectory


def test_every_row_is_a_line_with_its_source_and_class_name(write_run, points):
    path = write_run("small", points)
    run = RunDirectory.open(path)
    named = [
        {**row, "source": f"val/{row['index']}.png", "class_name": "a 'cat'", "pixels": "ab" * 32}
        for row in run.rows().to_pylist()
    ]
    run.append([{**row, "pixels": row["pixels"] if row["status"] == "ok" else None, "attempt": 2} for row in named])
    df = load_points(path)
    read = pd.read_csv(io.StringIO(points_export(df)), delimiter="\t")
    assert read["index"].tolist() == df["index"].tolist()
    assert read["source"].tolist() == df["source"].tolist() == [f"val/{index}.png" for index in df["index"]]
    assert set(read["class_name"]) == {"a 'cat'"}
    assert read["radius"].dropna().tolist() == df["radius"].dropna().tolist()
    assert read["error"].dropna().tolist() == df["error"].dropna().tolist()
    assert read["pixels"].dropna().tolist() == df["pixels"].dropna().tolist()


def test_rows_of_older_programs_have_empty_cells(write_run, points):
    read = pd.read_csv(io.StringIO(points_export(load_points(write_run("small", points)))), delimiter="\t")
    assert len(read) == 5
    assert read[["source", "class_name", "pixels"]].isna().all(axis=None)
