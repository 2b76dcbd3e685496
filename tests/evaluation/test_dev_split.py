"""The people that training never sees are a committed list, and the list is the rule that training follows."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def program():
    """benchmarks/dev_portraits.py as a module."""
    spec = importlib.util.spec_from_file_location("dev_portraits", ROOT / "benchmarks" / "dev_portraits.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_list_is_the_rule(program, shared_dir):
    from flexavatar_cli.training.portraits import HELD_OUT_EVERY

    assert program.EVERY == HELD_OUT_EVERY
    assert program.committed() == program.by_rule(shared_dir / "data")


def test_training_takes_none_of_them(program, shared_dir):
    from flexavatar_cli.training.portraits import training_ids

    with np.load(shared_dir / "data" / "portraits_ann.npz") as annotations:
        taught = training_ids(dict(annotations))  # in memory: it looks every name up
    assert taught
    assert not set(taught) & set(program.committed())


def test_photos_are_cut_to_what_was_taken(program, shared_dir, tmp_path):
    count = program.unpack(shared_dir / "data", tmp_path)
    photos = sorted(tmp_path.glob("*.png"))
    assert len(photos) == count > 25
    assert {photo.stem for photo in photos} <= set(program.committed())
    padded = Image.open(next(photo for photo in photos if photo.stem.startswith("can_")))
    assert padded.width < 512
