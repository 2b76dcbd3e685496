"""The training loop: it learns, stops, goes on to the same curve, and shares its work among processes."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from flexavatar_cli.cli.app import run
from flexavatar_cli.core.errors import InputError, UsageError
from flexavatar_cli.model import load_model
from flexavatar_cli.model.config import card_text
from flexavatar_cli.training.config import Phase, TrainConfig
from flexavatar_cli.training.engine import Trainer
from flexavatar_cli.training.measure import evaluate
from flexavatar_cli.training.rows import read_rows, write_rows
from flexavatar_cli.training.synthetic.pack import RESOLUTION


def settings(steps: int = 2, **changes) -> TrainConfig:
    return TrainConfig(model="", seed=1, phases=(Phase(RESOLUTION, 1, 1e-3, steps=steps),), **changes)


def test_a_run_learns_and_leaves_weights_that_load(pack_folder, card, tmp_path):
    trainer = Trainer(settings(), card, pack_folder, tmp_path / "run")
    seen: list[float] = []
    trainer.run(lambda step, terms: seen.append(terms["total"]))
    assert len(seen) == trainer.position.step == 2
    again = Trainer(settings(), card, pack_folder, tmp_path / "run")
    assert again.position == trainer.position
    for name, value in trainer.network.state_dict().items():
        torch.testing.assert_close(again.network.state_dict()[name], value)
    model = load_model(tmp_path / "run" / "model")
    metrics = evaluate(trainer, model, limit=1)
    assert np.isfinite(list(metrics.values())).all()
    tuned = Trainer(settings(initial=str(tmp_path / "run" / "model")), card, pack_folder, tmp_path / "tuned")
    assert tuned.position.step == 0
    for name, value in trainer.average.items():
        torch.testing.assert_close(tuned.average[name], value, atol=1e-3, rtol=1e-3)
    again.run()  # all phases are done: nothing happens
    assert again.position.step == 2


def test_a_killed_run_continues_with_the_identical_curve(pack_folder, card, tmp_path):
    class Killed(Exception):
        pass

    def curve(folder: Path, pack: Path, until: int = 99) -> list[tuple[int, float]]:
        rows: list[tuple[int, float]] = []

        def on_step(step: int, terms: dict[str, float]) -> None:
            rows.append((step, terms["total"]))
            if step == until:
                raise Killed

        with pytest.raises(Killed) if until < 99 else nullcontext():
            Trainer(settings(5, checkpoint_minutes=0.0), card, pack, folder).run(on_step)
        return rows

    whole = curve(tmp_path / "whole", pack_folder)
    shards = in_shards(pack_folder, tmp_path / "shards")  # what is fed does not depend on how it is stored
    first = curve(tmp_path / "cut", shards, until=3)  # killed before its third step could be saved
    second = curve(tmp_path / "cut", shards)
    assert second[0][0] == 3
    assert first + second[1:] == whole
    assert second[0] == first[-1]


def in_shards(pack: Path, folder: Path) -> Path:
    """The same training folder with its views in tar files of two rows."""
    shutil.copytree(pack, folder, ignore=shutil.ignore_patterns("views.*"))
    columns = read_rows(pack, "views")
    count = len(columns["seen"])
    write_rows(folder, "views", ({name: column[row] for name, column in columns.items()} for row in range(count)), 2)
    return folder


def test_a_batch_that_cannot_be_shared_is_named(pack_folder, card, tmp_path):
    with pytest.raises(UsageError, match="batch of 1"):
        Trainer(settings(accumulate=2), card, pack_folder, tmp_path)


def test_a_checkpoint_of_another_network_is_named(pack_folder, card, tmp_path):
    Trainer(settings(), card, pack_folder, tmp_path).save()
    other = replace(card, network=replace(card.network, encoder=("dw", "dw")))
    with pytest.raises(InputError, match=r"checkpoint\.pt: not a checkpoint"):
        Trainer(settings(), other, pack_folder, tmp_path)
    with pytest.raises(InputError, match="model: not weights of this network"):
        Trainer(settings(initial=str(tmp_path / "model")), other, pack_folder, tmp_path / "other")


def test_the_command_trains_measures_and_shows(pack_folder, card, tmp_path, capsys):
    folder = tmp_path / "small"
    folder.mkdir()
    (folder / "model.yaml").write_text(card_text(card))
    config = tmp_path / "train.yaml"
    config.write_text(
        f"model: {folder}\nbfloat16: true\npreview_steps: 2\n"
        "phases:\n  - {kind: rendered, resolution: 256, steps: 2, batch: 1, rate: 1.0e-3}\n"
    )
    common = ["train", str(config), "--data", str(pack_folder), "-o", str(tmp_path / "run"), "--json"]
    assert run(common) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["steps"] == 2
    assert "scalp_cm" in facts
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (tmp_path / "run" / "previews" / "step-000002.png").is_file()
    assert run([*common, "--show-data"]) == 0
    assert (tmp_path / "run" / "data.png").is_file()
