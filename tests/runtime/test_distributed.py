"""Several processes that train together end where one does."""

import pytest
import torch
from conftest import SMALL, run_command

from funn.artifacts.files import read_json
from funn.data.batches import TensorBatches
from funn.runtime.distributed import mean_of_all, own_rows, processes
from funn.training.checkpoint import load

# beta lies among the errors of single batches, so that the halves of a batch often lie on either
# side of it: a hinge on each half's own mean would go elsewhere.
GAME = (*SMALL, "beta=0.31", "adversarial.attacker_lr=1e-3", "log_every=1")


def test_alone_a_process_has_every_row():
    assert processes() == 1
    assert own_rows(12) == slice(0, 12)
    value = torch.tensor(2.0, requires_grad=True)
    assert mean_of_all(value) is value


def test_processes_share_each_batch_in_the_order_of_their_ranks(monkeypatch):
    whole = list(TensorBatches(torch.arange(40.0)[:, None], torch.arange(40), 12, 0))
    monkeypatch.setattr("funn.runtime.distributed.processes", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr("torch.distributed.get_rank", lambda rank=rank: rank)
        shares.append(list(TensorBatches(torch.arange(40.0)[:, None], torch.arange(40), 12, 0)))
    for batch, parts in zip(whole, zip(*shares, strict=True), strict=True):
        assert torch.equal(batch[1], torch.cat([labels for _, labels in parts]))


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    done = run_command(
        "train.py", *SMALL, "trainer=ddp", "trainer.devices=3", f"output_dir={tmp_path}"
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1] == (
        "error: batch_size=128 cannot be shared equally by trainer.devices=3: give a multiple of 3"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_said_in_one_line(tmp_path):
    done = run_command("train.py", *SMALL, "trainer=gpu", f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert "error: torch sees no GPU here" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    for name, trainer in (("one", "cpu"), ("two", "ddp")):
        done = run_command("train.py", *GAME, f"trainer={trainer}", f"output_dir={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        assert "epoch 2/2" in done.stderr
    for stage in ("init", "adversarial", "classifier"):
        one, two = (tmp_path / name / "latest/funn" / stage for name in ("one", "two"))
        saved = load(two / "model.ckpt")
        for name, expected in load(one / "model.ckpt").items():
            weights = saved[name].module.state_dict()
            off = torch.cat([
                (weights[key] - value).abs().flatten()
                for key, value in expected.module.state_dict().items()
            ])  # fmt: skip
            # Rounding, but for a unit whose ReLU an image meets at its kink: whether the image
            # counts for that unit's weights is then a matter of the last bit.
            assert (off > 2e-5).double().mean() < 0.002, (stage, name)
            assert off.max() < 2e-4, (stage, name)
        metrics = [read_json(folder / "result.json")["metrics"] for folder in (one, two)]
        assert metrics[1] == pytest.approx(metrics[0], rel=1e-4)
        rows = [(folder / "metrics.csv").read_text().splitlines() for folder in (one, two)]
        assert len(rows[0]) == len(rows[1]) == 11


@pytest.mark.slow
def test_a_mistake_in_another_process_is_said_in_one_line(tmp_path):
    done = run_command(
        "train.py", *SMALL, "trainer=ddp", "init.attacker_lr=1e30", "phase=init",
        f"output_dir={tmp_path}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "training diverged" in done.stderr.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_loss_that_compares_images_stays_in_one_process(tmp_path):
    done = run_command(
        "train.py", *SMALL, "defense=funn_pgd", "trainer=ddp", "adversarial.epochs=1",
        "phase=adversarial", f"output_dir={tmp_path}",
    )  # fmt: skip
    assert "needs a finished init stage" in done.stderr
    for phase in ("init", "adversarial"):
        done = run_command(
            "train.py", *SMALL, "defense=funn_pgd", "trainer=ddp", "adversarial.epochs=1",
            f"phase={phase}", f"output_dir={tmp_path}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert "in one process, for its loss compares the images of a whole batch" in done.stderr
