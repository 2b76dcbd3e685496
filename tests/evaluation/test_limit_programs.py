"""The programs behind docs/limits.md and docs/expressions.md: their arithmetic, and names that exist."""

import importlib
from pathlib import Path

import numpy as np
import pytest

from flexavatar_cli.core.expression import INDEX
from flexavatar_cli.evaluation import quality
from flexavatar_cli.evaluation.scenes import Target
from flexavatar_cli.stages.trajectories import turn

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def program(monkeypatch):
    """A benchmark as a module."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def target() -> Target:
    """A grey square on the upper left."""
    rgb, matte = np.full((64, 64, 3), 0.5, np.float32), np.zeros((64, 64), np.float32)
    matte[8:40, 8:40] = 1
    return Target(0, rgb, matte, np.ones_like(matte), turn(np.zeros(1), 64), np.zeros(59, np.float32), None)


def test_the_parts_of_an_error_are_the_whole(program, target):
    split = program("error_split").split
    alpha = np.roll(target.matte, 8, axis=1)
    rgb = 1 - 0.7 * alpha[..., None].repeat(3, -1)
    found = split(rgb, alpha, target)
    assert -10 * np.log10(sum(found.parts)) == pytest.approx(quality.psnr(rgb, target.shown()))
    share = 8 * 32 / 64**2
    assert found.head["lacking"] + found.clothes["lacking"] == pytest.approx(share * 0.5**2)
    assert found.head["surplus"] + found.clothes["surplus"] == pytest.approx(share * 0.7**2)
    assert found.colour_psnr == pytest.approx(-10 * np.log10(24 * 32 / 64**2 * 0.2**2))


def test_frames_fall_into_bins_and_the_best_is_bold(program):
    reenactment = program("reenactment")
    rows = [
        {"system": system, "turn": turned, "jaw": 0.0, "psnr_matte": value, "lpips": 0.1, "parts": [0.001] * 6,
         "source": "frontal", "is_source": turned == 0, "frame": 0, "clip": "a"}
        for turned, values in ((0.0, (99.0, 30.0)), (0.5, (30.0, 25.0)), (3.0, (20.0, 24.0)))
        for system, value in zip(("still photo", "fitted, 3d sink"), values, strict=True)
    ]  # fmt: skip
    text = reenactment.document(rows)
    assert "| the source frame itself | 1 | **99.00** / 30.00 |" in text
    assert "| turned 0 to 1 degrees | 1 | **30.00** / 25.00 |" in text
    assert "| turned 2 to 4 degrees | 1 | 20.00 / **24.00** |" in text
    assert "turned 1 to 2 degrees" not in text
    assert "| still photo | 6.00 | 1.00 |" in text


def test_sheets_ask_for_expressions_that_exist(program):
    sheets = program("sheets")
    for item in sheets.SHEETS.values():
        assert all(set(tile.weights) <= set(INDEX) for tile in item.tiles)
    assert sheets.BEARDED in program("dev_portraits").committed()
