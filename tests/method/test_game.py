"""The game against a loop written out by hand from the paper's equations."""

from functools import partial

import pytest
import torch

from benchmarks.plain_loops import eager_game
from funn.config.schema import TrainerConfig
from funn.data.batches import TensorBatches
from funn.errors import UserError
from funn.fast_layers import use_fast_layers
from funn.method.game import AdversarialGame
from funn.method.networks import DenseAutoEncoder
from funn.method.objectives import AttackerLoss, constrained
from funn.runtime.seeding import generator
from funn.training.checkpoint import Saved
from funn.training.fit import fit
from funn.training.module import adam
from funn.training.stage import Fit

BETA, GAMMA, SEED = 0.05, 5.0, 7
CPU = TrainerConfig(accelerator="cpu", devices=1)


def networks():
    torch.manual_seed(0)
    return (
        DenseAutoEncoder((1, 8, 8), [4, 8], 6, noise=3),
        DenseAutoEncoder((1, 8, 8), [4, 8], 6),
    )


def images():
    return torch.rand(40, 1, 8, 8, generator=generator("images"))


def train(phase, defender_input="clean", epochs=2, folder=None, objective=constrained):
    attacker, defender = networks()
    module = AdversarialGame(
        Saved({}, attacker),
        Saved({}, defender),
        phase=phase,
        loss=AttackerLoss(partial(objective, beta=BETA, gamma=GAMMA)),
        defender_input=defender_input,
        learning_rates=(1e-2, 5e-3),
        beta=BETA,
        seed=SEED,
        images=images(),
    )
    batches = TensorBatches(images(), torch.arange(40), 10, SEED)
    fit(Fit(module, batches, epochs), folder, CPU, [], "test", log_every=1)
    return attacker, defender, module


def by_hand(phase, defender_input, plain=False):
    attacker, defender = networks()
    if not plain:  # the same arithmetic, so that the rest can be compared bit by bit
        use_fast_layers(attacker)
        use_fast_layers(defender)
    eager_game(
        attacker,
        defender,
        TensorBatches(images(), torch.arange(40), 10, SEED),
        phase,
        epochs=2,
        learning_rates=(1e-2, 5e-3),
        beta=BETA,
        gamma=GAMMA,
        seed=SEED,
        attacked_init=defender_input == "attacked",
        optimizer=torch.optim.Adam if plain else adam,
    )
    return attacker, defender


@pytest.mark.parametrize(
    ("phase", "defender_input"),
    [("init", "clean"), ("init", "attacked"), ("adversarial", "clean")],
)
def test_equals_the_loop_written_by_hand(tmp_path, phase, defender_input):
    ours = train(phase, defender_input, folder=tmp_path)[:2]
    theirs = by_hand(phase, defender_input)
    for mine, other in zip(ours, theirs, strict=True):
        for (name, a), b in zip(
            mine.state_dict().items(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("phase", ["init", "adversarial"])
def test_the_fast_path_changes_training_by_rounding_only(phase, tmp_path):
    ours = train(phase, folder=tmp_path)[:2]
    for mine, other in zip(ours, by_hand(phase, "clean", plain=True), strict=True):
        for name, value in other.state_dict().items():
            torch.testing.assert_close(mine.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_two_threads_end_with_the_bits_of_one(tmp_path):
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (2, 1):
            torch.set_num_threads(count)
            found.append(train("init", folder=tmp_path / str(count))[:2])
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    for two, one in zip(*found, strict=True):
        for name, value in one.state_dict().items():
            assert torch.equal(two.state_dict()[name], value), name


def test_the_adversarial_phase_moves_only_what_the_paper_leaves_free(tmp_path):
    before = [dict(net.state_dict()) for net in networks()]
    attacker, defender, _ = train("adversarial", folder=tmp_path)
    for net, old, frozen in (
        (attacker, before[0], "encoder"),
        (defender, before[1], "generator"),
    ):
        moved = {
            name for name, value in net.state_dict().items() if not torch.equal(value, old[name])
        }
        assert moved
        assert not any(name.startswith(frozen) for name in moved)


def test_a_resumed_fit_ends_with_the_same_bits(tmp_path):
    whole = train("adversarial", epochs=4, folder=tmp_path / "whole")
    train("adversarial", epochs=2, folder=tmp_path / "parts")  # leaves last.ckpt
    parts = train("adversarial", epochs=4, folder=tmp_path / "parts")
    for a, b in zip(whole[:2], parts[:2], strict=True):
        for name, value in a.state_dict().items():
            assert torch.equal(value, b.state_dict()[name]), name
    assert (tmp_path / "whole/metrics.csv").read_text() == (
        tmp_path / "parts/metrics.csv"
    ).read_text()


def test_a_damaged_resume_file_is_one_clear_line(tmp_path):
    train("init", epochs=1, folder=tmp_path)
    resume = tmp_path / "last.ckpt"
    resume.write_bytes(resume.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"last\.ckpt is damaged"):
        train("init", epochs=2, folder=tmp_path)


def test_training_that_diverges_stops_and_keeps_the_last_good_state(tmp_path):
    def diverging(perturbation, error, **constants):
        return constrained(perturbation, error, **constants) * float("nan")

    train("adversarial", epochs=1, folder=tmp_path)
    good = (tmp_path / "last.ckpt").read_bytes()
    with pytest.raises(UserError, match=r"attacker_loss became nan in epoch 2: training diverged"):
        train("adversarial", epochs=4, folder=tmp_path, objective=diverging)
    assert (tmp_path / "last.ckpt").read_bytes() == good


def test_the_metrics_are_the_terms_of_the_equations(tmp_path):
    _, _, module = train("adversarial", folder=tmp_path)
    metrics = module.epoch_metrics
    assert metrics["slack"] == pytest.approx(metrics["error"] - BETA, abs=1e-6)
    assert metrics["attacker_loss"] >= metrics["perturbation"]
    header, *rows = (tmp_path / "metrics.csv").read_text().splitlines()
    assert header.startswith("epoch,step,batch/attacker_loss,batch/perturbation,batch/error")
    assert len(rows) == 2 * 4
