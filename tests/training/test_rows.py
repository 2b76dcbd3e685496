"""Rows on disk: shards hold what plain arrays hold, in any order, and are ordinary WebDataset files."""

import numpy as np
import pytest

from flexavatar_cli.core.errors import InputError
from flexavatar_cli.training.rows import read_rows, write_rows


def rows(count: int) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)
    return [
        {
            "image": generator.integers(0, 255, (40, 40, 3), np.uint8),
            "hull": generator.normal(size=700).astype(np.float16),
            "hat": np.bool_(number % 2),
            "clip": np.array(number // 3, np.int32),
        }
        for number in range(count)
    ]


def test_shards_hold_what_plain_arrays_hold(tmp_path):
    made = rows(7)
    assert write_rows(tmp_path, "plain", made) == write_rows(tmp_path, "tars", iter(made), shard=3) == 7
    assert len(list((tmp_path / "tars").glob("*.tar"))) == 3
    plain, tars = read_rows(tmp_path, "plain"), read_rows(tmp_path, "tars")
    assert plain.keys() == tars.keys() == made[0].keys()
    for name, column in tars.items():
        assert len(column) == 7
        for row in (6, 0, 3, 2, 5):
            np.testing.assert_array_equal(column[row], made[row][name])
        np.testing.assert_array_equal(np.asarray(column), plain[name])
        assert np.asarray(column).dtype == plain[name].dtype
    with pytest.raises(IndexError):
        tars["hat"][7]


def test_a_group_that_is_not_there_has_no_columns(tmp_path):
    assert read_rows(tmp_path, "none") == {}
    assert write_rows(tmp_path, "none", []) == 0
    assert read_rows(tmp_path, "none") == {}


def test_the_package_webdataset_reads_them(tmp_path):
    webdataset = pytest.importorskip("webdataset", reason="webdataset")
    made = rows(5)
    write_rows(tmp_path, "tars", made, shard=2)
    files = [str(path) for path in sorted((tmp_path / "tars").glob("*.tar"))]
    read = list(webdataset.WebDataset(files, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in read] == [f"{number:09d}" for number in range(5)]
    for sample, row in zip(read, made, strict=True):
        for name, value in row.items():
            np.testing.assert_array_equal(sample[f"{name}.npy"], value)


def test_a_shard_that_is_none_is_named(tmp_path):
    write_rows(tmp_path, "tars", rows(4), shard=4)
    path = tmp_path / "tars" / "000000.tar"
    content = path.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"words" * 500):
        path.write_bytes(wrong)
        with pytest.raises(InputError, match=r"000000\.tar"):
            read_rows(tmp_path, "tars")
