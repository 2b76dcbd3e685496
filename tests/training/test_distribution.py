"""Several processes are as good as one, whether each holds the whole network or a piece of it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexavatar_cli.model.config import card_text

SCRIPT = Path(__file__).with_name("two_processes.py")
sys.path.insert(0, str(SCRIPT.parent))

from two_processes import curve, first_gradients, make_trainer  # noqa: E402


def test_parts_of_a_batch_add_up_to_the_whole(pack_folder, card, tmp_path):
    whole, parts = (
        first_gradients(make_trainer(card, pack_folder, tmp_path / str(count), accumulate=count)) for count in (1, 2)
    )
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_do_the_work_of_one(pack_folder, card, tmp_path):
    (tmp_path / "model.yaml").write_text(card_text(card))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(SCRIPT)]
    subprocess.run([*command, str(tmp_path), str(pack_folder)], check=True, capture_output=True, timeout=600)
    ddp, fsdp = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("ddp", "fsdp"))
    alone = make_trainer(card, pack_folder, tmp_path / "one")
    for name, value in first_gradients(alone).items():
        for shared in (ddp, fsdp):
            torch.testing.assert_close(shared["gradients"][name], value, atol=1e-6, rtol=1e-4)
    assert curve(alone) == pytest.approx(fsdp["losses"], rel=1e-5)  # although that run was killed after one step
    weights = alone.network.state_dict()
    assert fsdp["held"] < 0.6 * sum(value.numel() for value in weights.values())
    taken_over = make_trainer(card, pack_folder, tmp_path / "fsdp")  # one process reads what two have written
    assert taken_over.position.step == 2
    for name, value in taken_over.network.state_dict().items():
        torch.testing.assert_close(value, weights[name], atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(taken_over.average[name], alone.average[name], atol=1e-6, rtol=1e-4)
