"""Spread over seeds, sweeps and marks on the report page, from results that tests write."""

import json
import os

import pytest
from test_report import a_result, write

from funn.config.schema import ReportConfig
from funn.errors import UserError
from funn.report.figures.sweeps import sweep_pictures, sweep_plots
from funn.report.findings.disagreement import RULE, disagrees
from funn.report.inputs.paper import TABLE_1
from funn.report.inputs.results import collect
from funn.report.report import report as make_report
from funn.report.tables.seeds import seeds_table
from funn.report.tables.table import markdown
from funn.report.tables.table1 import overview, table_1

DEEPFOOL = next(row.title for row in TABLE_1 if row.attack == "deepfool_l2")


def game(root, number, picture=b"", twin=None, **settings):
    """Write what the game's stage leaves, one second after the one before."""
    folder = root / f"train/funn-{number}/adversarial"
    (folder / "images").mkdir(parents=True)
    beta = settings.get("beta", 1)
    metrics = {"perturbation": 2 * beta, "error": beta, "defender_clean": beta / 2}
    content = {"defense": "funn", "settings": settings, "metrics": metrics}
    content["checkpoint_sha256"] = f"game {number}" if twin is None else twin
    (folder / "result.json").write_text(json.dumps(content))
    os.utime(folder / "result.json", (number, number))
    (folder / "images/epoch-003.png").write_bytes(b"early")
    (folder / "images/epoch-031.png").write_bytes(picture)


def marked(root):
    """The marks of the table, by row's title, encoder and protocol."""
    table, _ = overview(collect(root))
    places = {
        (*table.rows[row][:2], table.header[column]): reason
        for (row, column), reason in table.marks.items()
    }
    return places, table


def deepfool(root, run, rate, verified, protocol="strict", **more):
    figures = {"success_rate": rate, "success_rate_verified": verified}
    write(root, run, "deepfool_l2", protocol, **figures, **more)


def test_seeds_have_mean_range_and_deviation(root):
    rates = {0: 0.1, 1: 0.2, 2: 0.6}
    for seed, rate in rates.items():
        level = None if seed == 2 else 0.5 + seed
        figures = {"success_rate": rate, "success_rate_verified": rate / 2, "noise_level": level}
        write(root, f"funn-{seed}", seed=seed, trained={"seed": seed}, **figures)
    write(root, "funn-9", seed=3, trained={"seed": 3, "beta": 0.5}, success_rate=0.9)
    write(root, "classic-1", seed=0)
    table = seeds_table(collect(root), TABLE_1)
    (row,) = table.rows
    cells = dict(zip(table.header, row, strict=True))
    assert cells["seeds"] == "0, 1, 2"
    assert cells["success tracked: mean"] == "30.00 %"
    assert cells["success tracked: range"] == "10.00 % .. 60.00 %"
    assert cells["success tracked: deviation"] == "26.46 %"
    assert cells["success verified: mean"] == "15.00 %"
    assert cells["noise tracked: mean"] == "1.0000"
    assert cells["noise tracked: deviation"] == "0.7071"


def test_of_one_seed_the_newest_run_counts_and_both_protocols_are_one_row(root):
    for number, (seed, rate) in enumerate([(0, 0.9), (0, 0.2), (1, 0.4)]):
        run, trained = f"funn-{number}", {"seed": seed}
        write(root, run, "single_pixel", "both", seed=seed, trained=trained, success_rate=rate)
        os.utime(next(root.glob(f"eval/{run}/*/result.json")), (number, number))
    (row,) = seeds_table(collect(root), TABLE_1).rows
    assert row[2:5] == ["both", "0, 1", "30.00 %"]


def test_a_beta_sweep_is_drawn_without_an_evaluation(root):
    for number, beta in enumerate((0.1, 0.02)):
        game(root, number, beta=beta, seed=0)
    assert not sweep_plots(root, [])
    game(root, 3, b"black", beta=0.2, seed=0)
    game(root, 4, beta=0.3, seed=1)  # of another seed
    (name,) = sweep_plots(root, [])
    assert name == "beta"
    perturbation, error, _ = sweep_plots(root, [])[name].data
    assert list(error.x) == list(error.y) == [0.02, 0.1, 0.2]
    assert list(perturbation.y) == [0.04, 0.2, 0.4]
    pictures = sweep_pictures(root)
    assert [title.split(":")[0] for title in pictures] == [
        "beta=0.02, epoch-031", "beta=0.1, epoch-031", "beta=0.2, epoch-031",
    ]  # fmt: skip
    assert list(pictures.values())[-1] == b"black"
    text = make_report(ReportConfig(str(root), str(root))).read_text()
    assert 'id="beta"' in text
    assert "Nothing was attacked yet" in text
    assert "beta=0.2, epoch-031" in text


def test_nothing_trained_nothing_reported(root):
    with pytest.raises(UserError, match="nothing to report"):
        make_report(ReportConfig(str(root), str(root)))


def test_attacks_are_drawn_against_what_was_swept(root):
    for number, beta in enumerate((0.02, 0.01, 0.1)):
        trained = {"beta": beta}
        figures = {"success_rate_verified": beta, "noise_level_verified": 2 * beta}
        write(root, f"funn-{number}", "deepfool_l2", trained=trained, **figures)
        write(root, f"funn-{number}", "pgd_linf", "both", trained=trained, **figures)
    write(root, "funn-8", "deepfool_l2", trained={"beta": 0.5, "gamma": 1})
    write(root, "funn-0", "pgd_l2", "both", trained={"beta": 0.02})  # one point is no line
    plots = sweep_plots(root, collect(root))
    assert list(plots) == ["beta-success", "beta-noise"]
    deepfool, pgd = plots["beta-success"].data
    assert (deepfool.name, pgd.name) == (f"{DEEPFOOL}, strict", "PGD (eps=0.1, Linf)")
    assert list(deepfool.x) == list(deepfool.y) == [0.01, 0.02, 0.1]
    assert deepfool.text[0] == "50.00 % tracked, 10 images"
    assert list(plots["beta-noise"].data[0].y) == [0.02, 0.04, 0.2]


@pytest.mark.parametrize("same", [True, False])
def test_games_that_end_the_same_share_what_was_measured(root, same):
    for number, beta in enumerate((0.01, 0.02, 0.1)):
        twin = "the same" if same and number else None
        game(root, number, twin=twin, beta=beta)
    for number, beta in enumerate((0.01, 0.02)):
        parents = [{"sha256": "the same" if number else "another"}]
        figures = {"success_rate_verified": beta}
        write(root, f"funn-{number}", "deepfool_l2", trained={"beta": beta}, parents=parents,
              **figures)  # fmt: skip
    plots = sweep_plots(root, collect(root))
    assert ("beta-success" in plots) == same
    if same:
        (line,) = plots["beta-success"].data
        assert (list(line.x), list(line.y)) == ([0.01, 0.02, 0.1], [0.01, 0.02, 0.02])


def test_a_gamma_of_0_is_drawn(root):
    for number, gamma in enumerate((0, 1, 5)):
        game(root, number, gamma=gamma)
    (drawn,) = sweep_plots(root, []).values()
    assert drawn.layout.xaxis.type is None
    assert list(drawn.data[0].x) == [0, 1, 5]


@pytest.mark.parametrize("follows", [True, False])
def test_the_attackers_learning_rate_may_follow_the_defenders(root, follows):
    for number, rate in enumerate((1e-3, 1e-5, 1e-4)):
        attacker = rate if follows else 1e-5
        game(root, number, adversarial={"defender_lr": rate, "attacker_lr": attacker})
    game(root, 9, adversarial={"defender_lr": 1e-6, "attacker_lr": 7e-5})
    (drawn,) = sweep_plots(root, []).values()
    assert list(drawn.data[0].x) == [1e-5, 1e-4, 1e-3]
    assert drawn.layout.xaxis.title.text == "the learning rate of the game"


@pytest.mark.parametrize(
    ("paper", "ours", "attacked", "expected"),
    [
        (0.0054, 0.99, 1000, True),
        (0.0041, 0.0098, 10000, True),  # a factor of 2.4
        (0.0161, 0.0147, 10000, False),
        (0.0125, 0.0170, 10000, False),  # outside the interval, but close
        (0.44, 0.40, 10000, True),
        (0.44, 0.40, 100, False),  # so few images say nothing
        (0.44, 0.0, 1000, True),
        (None, 0.5, 1000, False),
        (0.5, None, 0, False),
    ],
)
def test_a_cell_is_marked_by_interval_and_distance(paper, ours, attacked, expected):
    assert disagrees(paper, a_result(success_rate=ours, attacked=attacked)) == expected


@pytest.mark.parametrize(
    ("rate", "verified", "reason"),
    [
        (0.98, 0.54, "vanish in float64"),
        (0.98, 0.97, "of the images are fooled, verified"),
        (0.50, 0.49, ""),
        (0.005, 0.005, None),
    ],
)
def test_a_reason_is_given_while_its_condition_holds(root, rate, verified, reason):
    deepfool(root, "funn-1", rate, verified)
    places, table = marked(root)
    if reason is None:
        assert not places
        assert RULE not in markdown(table)
        return
    found = places[DEEPFOOL, "funn", "strict"]
    assert (reason in found) if reason else found == ""
    assert RULE in markdown(table)
    assert ("≠1: " in markdown(table)) == bool(reason)


def test_protocols_that_enclose_the_papers_figure_are_a_reason(root):
    for name, low in (("classic", 0.002), ("funn", 0.9)):
        for protocol, rate in (("foolbox1", low), ("strict", 0.998)):
            figures = {"success_rate": rate, "success_rate_verified": rate}
            write(root, f"{name}-1", "local_search", protocol, **figures)
    places, _ = marked(root)
    reasons = {(encoder, protocol): text for (_, encoder, protocol), text in places.items()}
    assert "between ours under the two protocols" in reasons["classic", "foolbox1"]
    assert "between ours under the two protocols" in reasons["classic", "strict"]
    assert "between ours" not in reasons["funn", "strict"]


@pytest.mark.parametrize(("other", "holds"), [(0.001, True), (0.4, False)])
def test_seeds_that_reach_the_papers_figure_are_a_reason(root, other, holds):
    for seed, rate in ((0, 0.5), (1, other)):
        deepfool(root, f"funn-{seed}", rate, rate, seed=seed, trained={"seed": seed})
    places, _ = marked(root)
    ((_, reason),) = places.items()
    assert ("between those of our seeds" in reason) == holds


def test_another_training_is_a_reason(root):
    deepfool(root, "funn-1", 0.98, 0.54, trained={"beta": 0.5})
    assert "other settings" in next(iter(marked(root)[0].values()))


def test_the_page_shows_marks_and_their_reasons(root):
    deepfool(root, "funn-1", 0.98, 0.54)
    page = make_report(ReportConfig(str(root), str(root))).read_text()
    assert page.count("<mark ") == 1
    assert '<mark title="More than 25 % of the successes vanish' in page
    assert "<sup>≠1</sup>" in page
    assert "<br>≠1: More than 25 %" in page
    assert "≠" not in (root / "report/overview.csv").read_text()
    assert "≠1" in (root / "report/overview.md").read_text()


def test_rows_of_fewer_images_say_so(root):
    write(root, "funn-1", "fgsm", images=1000, test_images=10000)
    write(root, "funn-1", "bim", images=10000, test_images=10000)
    write(root, "funn-1", "local_search", images=500, test_images=10000)
    results = collect(root)
    column = table_1(results)[0].header.index("images")
    shown = {row[0]: row[column] for row in table_1(results)[0].rows}
    assert list(shown.values()) == ["1000 of 10000", "10000", "500 of 10000"]
    short = {row[0]: row[-1] for row in overview(results)[0].rows if row[1] == "funn"}
    assert {title: short[title] for title in shown} == shown
