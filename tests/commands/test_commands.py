"""The real commands, as a user types them."""

import csv
import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from conftest import ROOT, SMALL, run_command

import funn
from funn.data.synthetic import SyntheticDigits


def read(path):
    return json.loads(path.read_text())


def attacks(results):
    """Those of attacks, without what was found out beside them."""
    return [result for result in results if "study" not in result]


def test_a_run_folder_holds_what_its_numbers_trace_back_to(outputs):
    run = (outputs / "latest/funn").resolve()
    for stage in ("init", "adversarial", "classifier"):
        folder = run / stage
        result = read(folder / "result.json")
        assert result["stage"] == stage
        assert read(folder / "status.json")["state"] == "finished"
        assert result["config"]["adversarial"]["epochs"] == 2
        assert set(result) >= {"metrics", "seed", "fingerprint", "revision", "packages",
                               "wall_seconds", "checkpoint_sha256", "data_sha256"}  # fmt: skip
        for parent in result["parents"]:
            assert (outputs / "train" / parent["path"]).exists()
        with (folder / "metrics.csv").open() as stream:
            rows = list(csv.DictReader(stream))
        assert rows[-1]["epoch"] == "2"
        assert not (folder / "last.ckpt").exists()
    assert [parent["stage"] for parent in result["parents"]] == ["init", "adversarial"]
    assert list((run / "adversarial/images").glob("*.png"))


def test_funn_and_classic_are_a_pair(outputs):
    runs = [(outputs / "latest" / name).resolve() for name in ("funn", "classic")]
    assert (runs[0] / "init").resolve() == (runs[1] / "init").resolve()
    assert not (runs[1] / "adversarial").exists()
    generators = [funn.load_encoder(run / "init") for run in runs]
    assert torch.equal(next(generators[0].parameters()), next(generators[1].parameters()))


def test_the_same_command_again_trains_nothing(outputs):
    before = {path: path.stat().st_mtime_ns for path in outputs.glob("train/*/*/model.ckpt")}
    done = run_command("train.py", *SMALL, f"output_dir={outputs}")
    assert done.returncode == 0
    assert done.stderr.count("reused") == 3
    assert done.stdout.strip() == str((outputs / "latest/funn").resolve())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_sweep_shares_one_init_stage(outputs):
    done = run_command("train.py", "-m", *SMALL, "beta=0.02,0.03", "phase=init,adversarial",
                       f"output_dir={outputs}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(outputs.glob("train/init-*"))) == 1
    betas = [
        read(path)["config"]["beta"]
        for path in outputs.glob("train/funn-*/adversarial/result.json")
    ]
    assert {0.02, 0.03} <= set(betas)


@pytest.fixture(scope="module")
def defenses(outputs):
    """Every defence, trained by the real command; their names."""
    defenses = sorted(path.stem for path in (ROOT / "conf/defense").glob("*.yaml"))
    guarded = {name for name in defenses if name.startswith("magnet")}
    commands = [f"defense={','.join(name for name in defenses if name not in guarded)}"]
    small = "defense.stages.classifier.held_out=64 defense.stages.classifier.epochs=1"
    commands.append(f"defense=magnet_classic {small}")
    small += " defense.stages.base.held_out=64 defense.stages.base.epochs=1"
    commands.append(f"defense=magnet {small}")
    for command in commands:
        done = run_command("train.py", "-m", *SMALL, f"output_dir={outputs}", *command.split())
        assert done.returncode == 0, done.stderr
    return defenses


@pytest.mark.slow
def test_every_defence_trains_and_can_be_attacked(outputs, defenses):
    for defense in defenses:
        run = outputs / "latest" / defense
        assert read(run / "classifier/result.json")["defense"] == defense
        logits = funn.load_classifier(run)(torch.rand(3, 1, 28, 28))
        assert logits.shape == (3, 10)
    # Its difference from classic is the number of epochs, which is 2 here.
    assert (outputs / "latest/classic_long/init").samefile(outputs / "latest/classic/init")
    weights = {read(outputs / "latest" / defense / "classifier/result.json")["checkpoint_sha256"]
               for defense in defenses}  # fmt: skip
    assert len(weights) == len(defenses) - 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("typed", "source"),
    [
        ("run={}/magnet source=bare attack=pgd_l2", "magnet-"),
        ("run={}/magnet_classic source={}/classic attack=pgd_l2", "classic-"),
        ("run={}/magnet attack=detector_aware_linf", None),
        ("run={}/apegan source=bare attack=pgd_linf", "apegan-"),
    ],
)
def test_an_attacker_may_know_nothing_or_all_of_a_defence(outputs, defenses, typed, source):
    assert "magnet" in defenses
    typed = typed.replace("{}", str(outputs / "latest"))
    done = run_command("evaluate.py", *typed.split(), "images=20", "attack.steps=3", "attack.eps=1",
                       "logger=csv", f"output_dir={outputs}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    pattern = "*-oblivious-*" if source else "detector_aware*"
    newest = max((outputs / "eval").glob(f"*/{pattern}/result.json"), key=lambda path:
                 path.stat().st_mtime)  # fmt: skip
    result = read(newest)
    assert (result["source"] or "").startswith(source or "")
    assert (result["source"] is None) == (source is None)
    assert result["success_rate_undetected"] <= result["success_rate_verified"]


@pytest.mark.slow
def test_the_strongest_attacks_use_features_and_other_classifiers(outputs):
    """Within small radii everything is tried on what is left, another's images first."""
    few = ["deepfool_l2", "deepfool_linf", "ddn", "fmn_l2", "fmn_linf", "fmn_l0", "sigma_zero"]
    done = run_command(
        "evaluate.py", f"run={outputs}/latest/funn", "suite=strong", "images=20", "logger=csv",
        f"suite.transfer={outputs}/latest/classic", f"output_dir={outputs}",
        "suite.cascade.l2.radii=[0.1]", "suite.cascade.linf.radii=[0.01]",
        *(f"~suite.attacks.{name}" for name in few),
        *(f"suite.cascade.{norm}.attacks.square.queries=20" for norm in ("l2", "linf")),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = (outputs / "eval").glob("funn-*/robust_accuracy-*/result.json")
    summary = read(path)
    assert list(summary["l2"]["0.1"]["broken"])[:2] == ["transferred_pgd", "feature_pgd"]
    (folder,) = (outputs / "eval").glob("funn-*/worst/transferred_pgd-0.1-both-oblivious-*")
    assert read(folder / "result.json")["source"].startswith("classic-")


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("attack=fgsm suite.images=5", "suite.images=5 has nothing to change: add suite=NAME"),
        ("-m attack=fgsm,bim attack.eps=0.1", "type attack.eps=choice(0.1)"),
    ],
)
def test_a_key_of_an_option_that_is_not_chosen_yet(tmp_path, typed, says):
    done = run_command("evaluate.py", *typed.split(), f"run={tmp_path}", f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith(says)


@pytest.mark.slow
def test_a_sweep_of_attacks_with_a_key_of_each(outputs):
    done = run_command("evaluate.py", "-m", f"run={outputs}/latest/classic", "attack=fgsm,bim",
                       "attack.eps=choice(0.07)", "images=10", "logger=csv",
                       f"output_dir={outputs}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = attacks(read(path) for path in outputs.glob("eval/classic-*/*/result.json"))
    assert {each["attack"] for each in found if each["settings"].get("eps") == 0.07} == {
        "fgsm", "bim",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("run={}/classic suite=strong suite.transfer=/no", "/no does not exist"),
        ("run={}/classic source=bare attack=fgsm", "has no bare classifier"),
        ("run={}/classic source=/no attack=fgsm", "source=/no does not exist"),
        ("run={}/classic attack=detector_aware_l2", "has no detectors"),
    ],
)
def test_a_defence_without_what_an_attacker_asks_for(outputs, typed, says):
    typed = typed.replace("{}", str(outputs / "latest"))
    done = run_command("evaluate.py", *typed.split(), "logger=csv", f"output_dir={outputs}")
    assert done.returncode == 2
    assert says in done.stderr


def test_a_phase_without_its_parent_names_the_command_to_run(tmp_path):
    typed = (*SMALL, f"output_dir={tmp_path}", "seed=5")
    done = run_command("train.py", "phase=adversarial", *typed)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"python src/train.py phase=init {' '.join(typed)}" in done.stderr


def test_evaluation_writes_records_and_figures(outputs):
    run = outputs / "latest/funn"
    done = run_command("evaluate.py", f"run={run}", "suite=table1", "images=60", "logger=csv",
                       f"output_dir={outputs}", "suite.attacks.local_search.R=5")  # fmt: skip
    assert done.returncode == 0, done.stderr
    (root,) = (outputs / "eval").glob(f"{run.resolve().name}-*")
    assert done.stdout.strip() == str(root)
    everything = [read(path) for path in root.glob("*/result.json")]
    results = attacks(everything)
    trials = {f"{result['attack']} {result['protocol']}" for result in results}
    assert trials >= {"fgsm strict", "bim foolbox1", "deepfool_l2 strict", "single_pixel both"}
    deepfool = next(result for result in results if result["attack"] == "deepfool_l2")
    assert deepfool["iterations"].keys() == {"50", "200", "1000"}
    for result in results:
        folder = root / f"{result['attack']}-{result['protocol']}-{result['fingerprint']}"
        table = pq.read_table(folder / "records.parquet")
        assert table["index"].to_pylist() == list(range(60))
        right = [row["label"] == row["clean_prediction"] for row in table.to_pylist()]
        assert sum(right) == result["attacked"]
        assert not list(folder.glob("part-*"))
        checkpoint = outputs / "train" / result["parents"][0]["path"]
        assert checkpoint.exists()
    (zeros,) = [result for result in everything if result not in results]
    assert zeros["study"] == "gradients"
    assert {result["run"] for result in everything} == {root.name}
    assert len({json.dumps(result["data"]) for result in everything}) == 1
    assert zeros["data"]["name"] == "SyntheticDigits"
    assert sum(zeros["margin"]["counts"].values()) == zeros["images"] == 100

    again = run_command("evaluate.py", f"run={run}", "suite=table1", "images=60", "logger=csv",
                        f"output_dir={outputs}", "suite.attacks.local_search.R=5")  # fmt: skip
    assert again.stderr.count("reused") == len(everything)

    told = run_command("report.py", f"output_dir={outputs}")
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip().endswith("report/index.html")
    with (outputs / "report/table1.csv").open() as stream:
        row = next(row for row in csv.DictReader(stream) if row["attack"].startswith("FGSM"))
    fgsm = next(result for result in results if result["attack"] == "fgsm")
    assert row["paper: success"] == "1.61 %"
    assert row["success tracked"] == f"{100 * fgsm['success_rate']:.2f} %"
    assert row["images"] == "60 of 100"
    assert row["run"] in (outputs / "report/table1.md").read_text()


def test_an_attack_sweep(outputs):
    run = outputs / "latest/classic"
    done = run_command("evaluate.py", "-m", f"run={run}", "attack=deepfool_l2", "attack.steps=1,20",
                       "images=40", "logger=csv", f"output_dir={outputs}")  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        result["settings"]["steps"]: result["success_rate"]
        for path in outputs.glob(f"eval/{run.resolve().name}-*/deepfool_l2-strict-*/result.json")
        if (result := read(path))["images"] == 40
    }
    assert found.keys() == {1, 20}
    assert found[1] <= found[20]


def test_nothing_to_report(tmp_path):
    done = run_command("report.py", f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert "suite=table1" in done.stderr


def test_networks_can_be_taken_away(outputs):
    run = outputs / "latest/funn"
    encoder, classifier = funn.load_encoder(run), funn.load_classifier(run)
    images = SyntheticDigits(ROOT, 10, 20).test.floats()
    assert encoder(images).shape == (20, 64)
    assert torch.equal(classifier(images), classifier.head(encoder(images)))
    assert not classifier.training
    same = funn.load_classifier(run / "classifier" / "model.ckpt")
    assert torch.equal(same(images), classifier(images))
    # The classifier's encoder is the adversarial stage's defender's, not the init stage's.
    assert torch.equal(funn.load_encoder(run / "adversarial")(images), encoder(images))
    assert not torch.equal(funn.load_encoder(run / "init")(images), encoder(images))


def test_a_folder_without_a_classifier(outputs):
    with pytest.raises(funn.errors.UserError, match="no finished classifier"):
        funn.load_classifier(next(outputs.glob("train/init-*")))


def test_a_truncated_checkpoint_is_one_line(outputs, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(outputs / "latest/classic", copy, symlinks=False)
    checkpoint = copy / "classifier/model.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    done = run_command("evaluate.py", f"run={copy}", "attack=fgsm", f"output_dir={tmp_path}")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "damaged" in done.stderr


def test_help_lists_the_groups():
    done = run_command("train.py", "--help")
    assert done.returncode == 0
    assert "classic_tuned, denoising, funn, funn_minimax" in done.stdout


def test_what_is_reused_has_todays_name_and_the_iterations_that_are_asked_for(outputs, tmp_path):
    """What conf/ declares may have changed since a result was written: its figures stand."""
    shutil.copytree(outputs, tmp_path, True, shutil.ignore_patterns("eval"), dirs_exist_ok=True)
    trained = (tmp_path / "latest/classic/classifier/result.json").resolve()
    assert trained.is_relative_to(tmp_path)
    run = f"run={tmp_path / 'latest/classic'}"
    common = (f"output_dir={tmp_path}", run, "logger=csv", "images=3")
    first = run_command("evaluate.py", "attack=deepfool_l2", "attack.steps=1000", *common)
    assert first.returncode == 0, first.stderr
    (attacked,) = tmp_path.glob("eval/*/deepfool_l2-strict-*/result.json")
    records = (attacked.parent / "records.parquet").read_bytes()
    for path in (attacked, trained):
        old = {"title": "old", "changed": {"beta": 9}, "attack_changed": {"eps": 9}}
        path.write_text(json.dumps(json.loads(path.read_text()) | old))
    again = run_command("train.py", *SMALL, "defense=classic", f"output_dir={tmp_path}")
    assert "classifier: reused" in again.stderr
    suite = ("suite=deepfool_iterations", "suite.protocols=[strict]")
    done = run_command("evaluate.py", *suite, *common)
    assert f"deepfool_l2-strict: reused {attacked.parent}" in done.stderr
    assert json.loads(trained.read_text())["title"].startswith("classic (")
    now = json.loads(attacked.read_text())
    assert now["title"] == json.loads(trained.read_text())["title"]
    assert now["attack_changed"] == {"steps": 1000}
    assert list(now["iterations"]) == ["50", "200", "1000"]
    assert (attacked.parent / "records.parquet").read_bytes() == records
