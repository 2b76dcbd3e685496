"""benchmarks/ablations.py: trains by the step, goes on from results that exist, and writes its tables."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flexavatar_cli.media.images import read_photo
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.synthetic.pack import RESOLUTION

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def program(monkeypatch):
    """The benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("ablations")


def test_every_committed_configuration_is_compared(program):
    assert {program.BASE, program.AGAIN} | {path.stem for path in (program.OPEN_1 / "ablations").glob("*.yaml")} == set(
        program.ORDER
    )
    assert set(program.CONTROLS) | set(program.CONTROLS.values()) <= set(program.ORDER)


def test_all_get_the_same_number_of_steps(program):
    budget = program.Budget(uv_steps=5, rendered_steps=3)
    for name, path in program.configurations().items():
        config = budget.applied(program.read_config(path))
        assert sum(phase.steps for phase in config.phases) == 8, name
        assert {phase.minutes for phase in config.phases} == {0}


def test_each_data_domain_has_its_token(program):
    config = TrainConfig("", ())
    assert [program.sink_of(config, sink) for sink in ("2d", "3d")] == [0, 1]
    assert program.sink_of(replace(config, sinks="none"), "3d") == 0
    sided = replace(config, sinks="side")
    assert [program.sink_of(sided, "3d", azimuth) for azimuth in (0, 60, 120, 180, 350)] == [1, 2, 2, 3, 1]


def test_it_trains_measures_and_writes(program, pack_folder, card, tmp_path):
    phases = (Phase(128, 2, 1e-3, steps=9), Phase(128, 2, 1e-3, steps=9, kind="rendered", views=1))
    config = TrainConfig("", phases, seed=1)
    budget = program.Budget(uv_steps=1, rendered_steps=1, batch=1, resolution=RESOLUTION // 2)
    configs = {"base": config, "no_bias_sinks": replace(config, sinks="none")}
    cards = dict.fromkeys(configs, card)
    program.run(configs, cards, budget, pack_folder, tmp_path, heads=1)
    written = json.loads((tmp_path / "ablations.json").read_text())["results"]
    assert {name: result["steps"] for name, result in written.items()} == {"base": 2, "no_bias_sinks": 2}
    measures = written["base"]["measures"]
    assert {"seen_db", "3d 180", "2d 0", "iou", "mouth inside"} <= set(measures)
    assert all(np.isfinite(values).all() for values in measures.values())
    alone = written["no_bias_sinks"]["measures"]
    assert alone["3d 0"] == alone["2d 0"]
    text = (tmp_path / "ablations.md").read_text()
    assert text.count("| `no_bias_sinks` |") == 5
    assert "| `no_bias_sinks` | +0.00 (+0.00, +0.00) |" in text
    assert (tmp_path / "ablations.jpg").is_file()
    assert read_photo(tmp_path / "base" / "sinks.jpg").rgb.shape == (program.TILE + 20, 9 * program.TILE, 3)
    before = (tmp_path / "base" / "checkpoint.pt").stat().st_mtime_ns
    program.run({"base": config}, cards, budget, pack_folder, tmp_path, heads=1)  # nothing is trained again
    assert (tmp_path / "base" / "checkpoint.pt").stat().st_mtime_ns == before


def test_differences_are_paired(program):
    before = np.array([10.0, 20.0, 30.0])
    assert program.changed(before, before + 1, 1) == "**+1.0 (+1.0, +1.0)**"
    assert program.changed(before, before + np.array([-1, 0, 1]), 1) == "+0.0 (-1.0, +1.0)"
