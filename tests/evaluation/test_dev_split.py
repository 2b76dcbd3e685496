"""The people that training never sees are a committed list, and the list is the rule that training follows."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def program(load_program):
    """benchmarks/dev_portraits.py as a module."""
    return load_program("dev_portraits")


def test_the_list_is_the_rule(program, shared_dir):
    from flexavatar_cli.training.split import HELD_OUT_EVERY

    assert program.EVERY == HELD_OUT_EVERY
    assert program.committed() == program.by_rule(shared_dir / "data")


def test_training_takes_nobody_of_them(program, shared_dir):
    from flexavatar_cli.training.split import held_out_ids, training_ids

    with np.load(shared_dir / "data" / "portraits_ann.npz") as archive:
        annotations = dict(archive)  # in memory: it is looked up often
    people = dict(zip(annotations["id"].astype(str).tolist(), annotations["identity"].tolist(), strict=True))
    taught, kept = training_ids(annotations), program.committed()
    assert taught
    assert set(kept) <= held_out_ids(annotations)
    assert not {people[name] for name in taught} & {people[name] for name in kept}


def test_photos_are_cut_to_what_was_taken(program, shared_dir, tmp_path):
    count = program.unpack(shared_dir / "data", tmp_path)
    photos = sorted(tmp_path.glob("*.png"))
    assert len(photos) == count > 25
    assert {photo.stem for photo in photos} <= set(program.committed())
    padded = Image.open(next(photo for photo in photos if photo.stem.startswith("can_")))
    assert padded.width < 512
