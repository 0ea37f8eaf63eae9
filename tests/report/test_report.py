"""What a report shows, from results that tests write."""

import json
import os
import shutil
from dataclasses import MISSING, fields

import pytest

from funn.config.schema import ReportConfig
from funn.config.title import differences, titled
from funn.report.figures.curves import against_iterations, paths
from funn.report.figures.pictures import pictures
from funn.report.findings.claims import findings
from funn.report.inputs.paper import ITERATIONS, SETTINGS, TABLE_1
from funn.report.inputs.results import Result, at_steps, collect, representatives
from funn.report.inputs.stages import latest_stages
from funn.report.report import report as make_report
from funn.report.tables.origins import origins_table
from funn.report.tables.table1 import others, overview, table_1
from funn.report.tables.table2 import table_2, threats

FGSM_ROW = next(row for row in TABLE_1 if row.attack == "fgsm")
DATA = {"name": "MNIST", "shape": [1, 28, 28], "classes": 10, "test_images": 10, "sha256": "a"}
FIGURES = {
    "successes": 5, "success_rate": 0.5, "success_rate_verified": 0.4, "noise_level": 0.1,
    "noise_level_verified": 0.1, "rounding_share": 0.0, "attacked": 10, "images": 10,
    "clean_accuracy": 1.0, "success_rate_undetected": 0.3, "clean_rejected": 0.01,
    "revision": "abc", "date": "2026-01-01", "seed": 0, "parents": [], "data": DATA,
    "unexplained": 0, "blind_failures": 0,
}  # fmt: skip


# What conf/ declares, as far as the report looks at it.
TRAINED = {"seed": 0, "beta": 0.01, "gamma": 5, "head": {"hidden": [32]}}
ATTACKED = {name: {"steps": 50, **usual} for name, usual in SETTINGS.items()}


def named(defense, changed):
    return {"defense": defense, "title": titled(defense, changed), "changed": changed}


def a_result(**given):
    """A result of which only what is given matters."""
    needed = (each.name for each in fields(Result) if each.default is MISSING
              and each.default_factory is MISSING)  # fmt: skip
    return Result(**dict.fromkeys(needed) | given)


def write(root, run, attack="fgsm", protocol="strict", *, trained=(), attacked=(), **more):
    """Write what an evaluation leaves: `trained` and `attacked` are not as conf/ declares them."""
    folder = root / "eval" / run / f"{attack}-{protocol}-{len(list(root.rglob('result.json')))}"
    folder.mkdir(parents=True)
    settings, usual = TRAINED | dict(trained), ATTACKED.get(attack, {"eps": 0.005})
    name = named(more.get("defense", run.split("-")[0]), differences(settings, TRAINED))
    content = FIGURES | name | {
        "run": run,
        "attack": attack,
        "protocol": protocol,
        "settings": usual | dict(attacked),
        "attack_changed": differences(usual | dict(attacked), usual),
        "settings_trained": settings,
        "source": None,
    } | more  # fmt: skip
    content.setdefault("test_images", content["images"])
    (folder / "result.json").write_text(json.dumps(content))
    (folder / "status.json").write_text('{"state": "finished"}')


def cells(table, title):
    return [row for row in table.rows if row[0] == title]


def test_other_trainings_are_named_and_not_mixed_in(root):
    """Of several funn the short table shows one: the one that was trained as conf/ says."""
    write(root, "funn-1", "fgsm", success_rate=0.1)
    write(root, "funn-2", "fgsm", trained={"beta": 0.02}, success_rate=0.9)
    write(root, "funn-2", "bim", trained={"beta": 0.02}, success_rate=0.9)
    write(root, "classic-3", "fgsm", trained={"seed": 1}, seed=1)
    results = collect(root)
    short, chosen = overview(results)
    assert {result.run for result in chosen} == {"funn-1", "classic-3"}
    (classic, funn) = cells(short, FGSM_ROW.title)
    assert classic[1] == "classic (seed=1)"
    assert funn[1] == "funn"
    assert "10.00 %" in funn[4]
    bim = cells(short, next(row.title for row in TABLE_1 if row.attack == "bim"))
    assert all(cell == "-" for row in bim for cell in row[3:])
    full, shown = table_1(results)
    assert {row[1] for row in full.rows} == {"funn", "funn (beta=0.02)", "classic (seed=1)"}
    assert not others(results, shown).rows


def test_other_settings_of_an_attack_stay_out_of_the_papers_rows(root):
    write(root, "funn-1", "fgsm", attacked={"eps": 0.1}, success_rate=0.9)
    write(root, "funn-1", "gradient")
    results = collect(root)
    full, shown = table_1(results)
    assert not full.rows
    assert not shown
    titles = [row[0] for row in others(results, shown).rows]
    assert titles == ["fgsm (eps=0.1)", "gradient"]


def test_what_is_the_same_under_both_protocols_is_one_row(root):
    write(root, "funn-1", "single_pixel", "both")
    write(root, "funn-1", "pgd_l2", "both")
    results = collect(root)
    assert len(table_1(results)[0].rows) == len(table_2(results)[0].rows) == 1


def test_what_another_classifier_was_attacked_for_is_in_table_2_alone(root):
    write(root, "funn-1", "fgsm", success_rate=0.1)
    write(root, "funn-1", "fgsm", success_rate=0.8, source="classic-2")
    results = collect(root)
    full, _ = table_1(results)
    assert [row[5] for row in full.rows] == ["10.00 %"]
    full, _ = table_2(results)
    assert [(row[2], row[3], row[7]) for row in full.rows] == [
        ("oblivious, of classic-2", "1.61 %", "80.00 %"),
        ("white-box", "1.61 %", "10.00 %"),
    ]


def test_each_defence_and_threat_is_a_row_of_the_short_table_2(root):
    run = "magnet-1-2"  # of the classifier magnet-1, on some data
    write(root, run, "fgsm", success_rate_verified=0.5, success_rate_undetected=0.5)
    write(root, run, "fgsm", "foolbox1", success_rate_undetected=0.9)
    write(root, run, "pgd_l2", "both", success_rate_verified=0.8, images=5, test_images=10)
    write(root, run, "fgsm", source="magnet-1/bare", success_rate_undetected=0.2)
    write(root, run, "fgsm", source="classic-2", success_rate_undetected=0.1)
    write(root, "denoising-2", "fgsm", success_rate_verified=0.6, success_rate_undetected=0.6)
    table = threats(collect(root))
    fgsm, pgd = table.header.index(FGSM_ROW.title), table.header.index("PGD (eps=1, L2)")
    assert [(*row[:2], row[fgsm], row[pgd], row[-1]) for row in table.rows] == [
        ("magnet", "the paper's figures", "3.20 %", "-", "-"),
        ("magnet", "oblivious, of classic-2", "10.00 % (40.00 %)", "-", "10"),
        ("magnet", "oblivious, of the bare classifier", "20.00 % (40.00 %)", "-", "10"),
        ("magnet", "white-box", "50.00 %", "30.00 % (80.00 %)", "10 / 5 of 10"),
        ("denoising", "white-box", "60.00 %", "-", "10"),
    ]
    assert table.links[3, fgsm].startswith("eval/magnet-1-2/fgsm-strict-")
    assert table.links[3, pgd].startswith("eval/magnet-1-2/pgd_l2-both-")
    assert (3, pgd + 1) not in table.links


def test_every_number_of_the_first_table_leads_to_its_result(root):
    write(root, "funn-1", "fgsm", "foolbox1")
    write(root, "funn-1", "fgsm", "strict")
    short, _ = overview(collect(root))
    at = next(i for i, row in enumerate(short.rows) if row[:2] == [FGSM_ROW.title, "funn"])
    assert {short.header[column]: path for (row, column), path in short.links.items()} == {
        "foolbox1": "eval/funn-1/fgsm-foolbox1-0", "strict": "eval/funn-1/fgsm-strict-1",
    }  # fmt: skip
    assert {row for row, _ in short.links} == {at}
    page = make_report(ReportConfig(str(root), str(root))).read_text()
    assert page.count('href="../eval/funn-1/fgsm-strict-1/result.json"') >= 2


def test_where_an_encoder_comes_from(root):
    """Time of training is of all its stages; revisions and machines are of all its results."""
    parents = [
        {"stage": stage, "path": f"{run}/{stage}/model.ckpt"}
        for stage, run in (("classifier", "funn-1"), ("init", "init-0"))
    ]
    for path, seconds in (("funn-1/classifier", 30), ("init-0/init", 120)):
        (root / "train" / path).mkdir(parents=True)
        (root / "train" / path / "result.json").write_text(f'{{"wall_seconds": {seconds}}}')
    machine = {"machine": {"processors": 2, "threads": 1}, "python": "3.11.7",
               "packages": {"torch": "2.15.0", "numpy": "2"}}  # fmt: skip
    more = {"parents": parents, "seconds": 45.0, **machine}
    write(root, "funn-1", "fgsm", revision="a" * 40, **more)
    write(root, "funn-1", "bim", revision="b" * 40, **more)
    (row,) = origins_table(root, collect(root)).rows
    assert row == [
        "funn", "0", "2.5", "1.5", "aaaaaaa, bbbbbbb",
        "2 processors, 1 threads, Python 3.11.7, torch 2.15.0", "train/funn-1/classifier",
    ]  # fmt: skip


def test_iterations_are_read_off_the_long_run(root):
    curve = {"50": {"success_rate": 0.25}, "200": {"success_rate": 0.75}}
    long = {"iterations": curve, "test_images": 99}
    write(root, "funn-1", "deepfool_l2", attacked={"steps": 1000}, **long)
    write(root, "funn-1", "deepfool_l2", attacked={"steps": 1000, "overshoot": 0.5}, images=99)
    full, _ = table_1(collect(root))
    rates = {row[0]: row[5] for row in full.rows}
    titles = [row.title for row in (*TABLE_1, *ITERATIONS) if row.attack == "deepfool_l2"]
    assert rates == dict(zip(titles, ("25.00 %", "75.00 %", "50.00 %"), strict=True))
    assert all(row[11] == "10 of 99" for row in full.rows)


def test_a_users_own_classifier_is_reported_under_its_name(root):
    write(root, "mine:net", defense="mine:net", settings_trained=None, seed=None)
    page = make_report(ReportConfig(str(root), str(root)))
    assert "mine:net" in page.read_text()
    assert "seed -." in (root / "report/origin.txt").read_text()


def test_what_a_name_holds_is_text_on_the_page(root):
    name = "<script>alert('{{ 1 }}')</script>"
    write(root, "mine", defense=name, settings_trained=None)
    page = make_report(ReportConfig(str(root), str(root))).read_text()
    assert "alert" in page
    assert "<script>alert" not in page
    assert "{{ 1 }}" in page


def say(results):
    return [finding.text for finding in findings(results, representatives(results, TABLE_1))]


def deepfool(root, run, protocol, rate, verified, level=0.5):
    figures = {"success_rate": rate, "success_rate_verified": verified, "noise_level": level}
    write(root, run, "deepfool_l2", protocol, **figures)


def test_a_row_stands_for_its_settings_whatever_conf_says_now(root):
    """An attack that was declared otherwise as it was run is in no row of today's settings."""
    larger = {"images": 1000, "test_images": 1000, "attack_changed": {}}
    write(root, "funn-1", "deepfool_l2", attacked={"push": "score"}, success_rate=0.9, **larger)
    write(root, "funn-1", "deepfool_l2", success_rate=0.8)
    write(root, "funn-1", "pgd_l2", attacked={"eps": 2.0}, **larger)
    _, shown = table_1(collect(root))
    assert [result.success_rate for result in shown] == [0.8]
    assert len(others(collect(root), shown).rows) == 2


@pytest.mark.parametrize(("rate", "holds"), [(0.98, False), (0.01, True)])
def test_the_verdict_follows_from_the_numbers(root, rate, holds):
    deepfool(root, "funn-1", "strict", rate, rate)
    (text,) = say(collect(root))
    assert ("does not hold" in text) == (not holds)
    assert f"{100 * rate:.2f} % (paper: 0.54 %)" in text
    assert "foolbox1" not in text


@pytest.mark.parametrize(
    "other", [{"data": DATA | {"name": "SyntheticDigits"}}, {"trained": {"beta": 0.02}}]
)
def test_other_images_or_settings_say_nothing_of_the_papers_claim(root, other):
    write(root, "funn-1", "deepfool_l2", "strict", success_rate=0.98, **other)
    assert len(collect(root)) == 1
    assert say(collect(root)) == []


def test_the_figures_after_fewer_iterations_stand_in_for_the_rest(root):
    fewer = {"200": {"images": 10, "successes": 7, "success_rate": 0.7}}
    write(root, "funn-1", "deepfool_l2", "strict", iterations=fewer)
    (result,) = collect(root)
    assert at_steps(result, 200).success_rate == 0.7


@pytest.mark.parametrize(("level", "word"), [(0.4, "less"), (0.9, "more")])
def test_noise_is_compared_as_it_is(root, level, word):
    deepfool(root, "funn-1", "strict", 0.9, 0.9, level)
    assert len(say(collect(root))) == 1
    deepfool(root, "classic-1", "strict", 0.9, 0.9, 0.5)
    assert f"FUNN is fooled with {word} noise" in say(collect(root))[1]


def test_an_explanation_is_shown_while_its_condition_holds(root):
    deepfool(root, "funn-1", "foolbox1", 0.98, 0.54)
    assert (
        "44.00 % of the images are fooled under foolbox1 in float32 only" in say(collect(root))[1]
    )
    deepfool(root, "funn-1", "foolbox1", 0.98, 0.97)
    assert len(say(collect(root))) == 1


def test_no_results_of_funn_no_verdict(root):
    deepfool(root, "classic-1", "strict", 0.9, 0.9)
    assert say(collect(root)) == []


def test_plots_hold_the_numbers(root):
    curve = {"steps": [1, 7], "tracked": [0.25, 0.75], "verified": [0.2, 0.7]}
    write(root, "funn-1", "deepfool_l2", attacked={"steps": 1000}, curve=curve)
    write(root, "funn-2", "deepfool_l2", trained={"beta": 9}, attacked={"steps": 1000}, curve=curve)
    results = collect(root)
    line, _, paper = against_iterations(results, {"funn": "funn-1"}, "deepfool_l2").data
    assert list(line.x) == [0.5, 1, 7, 1000]
    assert list(line.y) == [0, 0.25, 0.75, 0.75]
    assert list(line.customdata) == [0, 0.2, 0.7, 0.7]
    assert dict(zip(paper.x, paper.y, strict=True)) == {50: 0.0054, 200: 0.0135, 1000: 0.1525}
    assert against_iterations(results, {"funn": "funn-1"}, "deepfool_linf") is None


def test_figure_2_is_the_way_of_the_newest_runs(root):
    folder = root / "latest/funn/adversarial"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"config": {"beta": 0.01}}')
    (folder / "metrics.csv").write_text(
        "epoch,step,epoch/perturbation,epoch/error\n1,50,,\n1,468,0.1,0.02\n2,936,0.2,0.03\n"
    )
    drawn = paths(latest_stages(root, "adversarial"))
    (line,) = drawn.data
    (border,) = drawn.layout.shapes
    assert (border.y0, border.y1) == (0.01, 0.01)
    assert list(line.x) == [0.1, 0.2]
    assert list(line.y) == [0.02, 0.03]
    (folder / "result.json").write_text(
        '{"config": {"beta": 0.01, "objective": {"attacker": {"_target_": "a.minimax"}}}}'
    )
    (border,) = paths(latest_stages(root, "adversarial")).layout.shapes
    assert (border.x0, border.x1) == (0.01, 0.01)


def test_unfinished_results_and_those_of_older_revisions_are_left_out(root, caplog):
    write(root, "funn-1")
    (root / "eval/funn-1/fgsm-strict-0/status.json").write_text('{"state": "running"}')
    for run, missing in (("funn-2", "title"), ("funn-3", "attack_changed")):
        write(root, run)
        (path,) = root.glob(f"eval/{run}/*/result.json")
        content = json.loads(path.read_text())
        del content[missing]
        path.write_text(json.dumps(content))
    write(root, "funn-4")
    assert [result.run for result in collect(root)] == ["funn-4"]
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert all("an older revision wrote it, evaluate again" in line for line in told)


def test_a_copied_folder_gives_the_same_page_without_conf(root, monkeypatch):
    """Neither conf/, nor where outputs/ was, nor when its files were copied matters."""
    here, copy = root / "here", root / "copy"
    for number, rate in enumerate((0.9, 0.2)):
        write(here, "funn-1", success_rate=rate, trained={"beta": 0.02})
        (folder,) = here.glob(f"eval/funn-1/fgsm-strict-{number}")
        status = {"state": "finished", "time": f"2026-01-0{number + 1}T10:00:00+0000"}
        (folder / "status.json").write_text(json.dumps(status))
    shutil.copytree(here / "eval", copy / "eval")
    os.utime(copy / "eval/funn-1/fgsm-strict-1/result.json", (1, 1))  # it was copied first
    pages = []
    for folder in (here, copy):
        monkeypatch.setattr("funn.config.compose.ROOT", folder)
        pages.append(make_report(ReportConfig(str(folder), str(folder))).read_text())
    assert pages[0] == pages[1]
    assert "20.00 %" in pages[0]
    assert "90.00 %" not in (copy / "report/overview.csv").read_text()
    assert str(root) not in pages[0]


def test_the_least_that_fools_each_encoder_is_shown(root):
    """Of every encoder, whichever stands for its defence in the tables; of others nothing."""
    for run, attack in (("funn-1", "ddn"), ("funn-2", "ddn"), ("classic-1", "bim")):
        write(root, run, attack, "both", trained={"seed": int(run[-1])})
        (folder,) = root.glob(f"eval/{run}/{attack}-both-*")
        (folder / "examples.png").write_bytes(run.encode())
    found = pictures(root, collect(root), {})
    assert sorted(found.values()) == [b"funn-1", b"funn-2"]
