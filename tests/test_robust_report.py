"""What the report says of the strongest attacks, of hidden gradients and of the features."""

import torch

from funn.config import declared_training
from funn.files import write_json
from funn.headline import headline
from funn.records import write_table
from funn.robust_report import features_table, masking_table, robust_curves, robust_table
from funn.worst_case import FOLDER, RADII, SUMMARY

KEYS = ("seed", "data", "model", "head", "classifier")


def about(defense, *options):
    trained = declared_training(defense, KEYS, *options)
    return {"defense": defense, "settings_trained": trained, "revision": "abcdefghij"}


def test_robust_accuracy_by_encoder_and_radius(root):
    import pyarrow as pa

    cell = {"images": 10, "robust_accuracy": 0.5, "interval": [0.25, 0.75]}
    for run, facts, radii in (
        ("funn-1", about("funn"), {"1": cell}),
        ("funn-2", about("funn", "head=margin"), {"1": cell, "1.5": cell}),
        ("funn-3", about("funn", "seed=1"), {"1": cell}),
    ):
        content = {"l2": radii, "linf": {"0.1": cell}, "clean_accuracy": 0.9, **facts}
        write_json(root / "eval" / run / FOLDER / SUMMARY, content)
        radii = pa.table({norm: torch.tensor([0.0, 1.0, torch.inf]).numpy()
                          for norm in ("l0", "l2", "linf")})  # fmt: skip
        write_table(root / "eval" / run / FOLDER / RADII, radii)
    table = robust_table(root)
    assert table.header == ("encoder", "clean accuracy", "L2 1", "L2 1.5", "Linf 0.1", "images",
                            "revision")  # fmt: skip
    shown = "50.00 % (25.0 to 75.0)"
    assert table.rows == [
        ["funn", "90.00 %", shown, "-", shown, "10", "abcdefg"],
        ["funn (head=margin)", "90.00 %", shown, shown, shown, "10", "abcdefg"],
        ["funn (seed=1)", "90.00 %", shown, "-", shown, "10", "abcdefg"],
    ]
    curves = robust_curves(root)  # of one seed
    assert set(curves) == {"robust-l0", "robust-l2", "robust-linf"}
    assert len(curves["robust-l2"].data) == 2


def test_the_headline_says_what_each_defence_withstands_and_costs(root):
    """The most robust last; what was not measured is a dash."""
    for run, facts, share in (
        ("funn_pgd-1", about("funn_pgd", "head=margin"), 0.8),
        ("classic-1", about("classic"), 0.0),
    ):
        cell = {"images": 10, "robust_accuracy": share, "interval": [0.0, 1.0]}
        parents = [{"path": f"{run}/classifier/model.ckpt"}, {"path": "init-1/init/model.ckpt"}]
        content = {"l2": {"1.5": cell}, "linf": {}, "clean_accuracy": 0.9, "seed": 0, "run": run}
        write_json(root / "eval" / run / FOLDER / SUMMARY, content | facts | {"parents": parents})
        write_json(root / "train" / run / "classifier/result.json", {"wall_seconds": 60})
    write_json(root / "train/init-1/init/result.json", {"wall_seconds": 90})
    table = headline(root, [])
    none = "-"
    assert table.rows == [
        ["classic", "0", "90.00 %", none, "0.00 % (0.0 to 100.0)", none, "10", "2.5", "abcdefg"],
        [
            "funn_pgd (head=margin)",
            "0",
            "90.00 %",
            none,
            "80.00 % (0.0 to 100.0)",
            none,
            "10",
            "2.5",
            "abcdefg",
        ],
    ]


def test_flagged_checks_are_marked(root):
    check = {"name": "G2 zeros", "figure": 0.25, "bound": 0.001, "meaning": "blind"}
    for run, defense, passed in (("funn-1", "funn", False), ("classic-2", "classic", True)):
        part = {"flagged": not passed, "checks": [{**check, "passed": passed}]}
        write_json(root / "eval" / run / "masking.json", {"classifier": part, **about(defense)})
    table = masking_table(root)
    assert table.header[2:4] == ("classic", "funn")
    assert table.rows == [
        ["G2 zeros", "0.001", "0.25", "0.25 ✗", "blind"],
        ["verdict", "", "passed", "flagged", ""],
        ["revision", "", "abcdefg", "abcdefg", ""],
    ]


def test_uses_of_the_features(root):
    use = {"clean": 0.9, "attacked": 0.1}
    content = {"neighbours": use, "retrieval": use, "probe": use, "images": 5}
    write_json(root / "eval/funn-1/features.json", content | about("funn"))
    table = features_table(root)
    assert table.rows == [["funn", *["90.00 %", "10.00 %"] * 3, "5", "abcdefg"]]
    assert table.header[1:3] == ("nearest neighbours", "nearest neighbours, attacked")


def test_nothing_measured_nothing_shown(root):
    assert not headline(root, []).rows
    assert not robust_table(root).rows
    assert not masking_table(root).rows
    assert not features_table(root).rows
    assert not robust_curves(root)
