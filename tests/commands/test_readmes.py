"""Whatever a README names is there, and whatever it shows can be typed: nothing is run.

A path in backticks must exist, seen from a folder that holds the README, src or src/funn. What
commands leave (all under outputs/ but outputs/reference) and what a reader is to write need not:
names with `my_`, and the files that a block shows under a first line `# path`.
"""

import ast
import importlib
import re
import shlex
import shutil
from functools import cache
from typing import NamedTuple

import pytest
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser

from funn.config.compose import read_config, read_trials
from funn.config.schema import EvaluateConfig, ReportConfig, TrainConfig

PLACES = (ROOT, ROOT / "src", ROOT / "src" / "funn")
TOPS = ("src", "conf", "tests", "outputs/reference")
READMES = [
    ROOT / "README.md",
    *sorted(path for top in TOPS for path in (ROOT / top).rglob("README.md")),
]
MAY_BE_LONG = {
    "src/funn/attacks",
    "src/funn/method",
    "src/benchmarks",
    "tests",
    "outputs/reference",
}
KINDS = {"train": TrainConfig, "evaluate": EvaluateConfig, "report": ReportConfig}
SOURCES = (".py", ".yaml", ".toml", ".cff", ".in", ".lock", ".md")
PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)*/?")
PLACEHOLDER = re.compile(r"=([A-Z]+|\.\.\.|<.*>)$")


class Block(NamedTuple):
    language: str
    text: str


def name_of(path):
    return str(path.relative_to(ROOT))


every_readme = pytest.mark.parametrize("readme", READMES, ids=map(name_of, READMES))


@cache
def blocks(readme):
    found = re.findall(r"^```(\w*)\n(.*?)^```$", readme.read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*each) for each in found]


def prose(readme):
    return re.sub(r"^```.*?^```$", "", readme.read_text(), flags=re.MULTILINE | re.DOTALL)


def in_backticks(readme):
    return re.findall(r"`([^`\n]+)`", prose(readme))


def shown_files(readme):
    """The files that a reader is to write, with their text."""
    return {
        first.removeprefix("# ").strip(): rest
        for first, _, rest in (block.text.partition("\n") for block in blocks(readme))
        if re.fullmatch(r"# [\w./-]+\.(py|yaml)", first.strip())
    }


def is_made_by_a_reader_or_a_command(readme, name):
    made = name.startswith("outputs/") and not name.startswith("outputs/reference")
    return made or "my_" in name or name in shown_files(readme)


def missing(readme, name):
    """Whether `name` is meant as a file or folder of the project, and is not there."""
    if not PATH.fullmatch(name) or is_made_by_a_reader_or_a_command(readme, name):
        return False
    places = (*(each for each in readme.parents if ROOT in each.parents), *PLACES)
    first, more = name.split("/")[0], "/" in name
    if not more:
        return name.endswith((".py", ".yaml")) and not list_of_names() & {name}
    meant = name.endswith(SOURCES) or any((place / first).exists() for place in places)
    return meant and not any(list(place.glob(name)) for place in places if ".." not in name)


@cache
def list_of_names():
    tops = ("src", "conf", "tests")
    return {path.name for top in tops for path in (ROOT / top).rglob("*.*")}


@every_readme
def test_every_link_leads_somewhere(readme):
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(readme))
    assert [target for target in targets if not leads_somewhere(readme, target)] == []


def leads_somewhere(readme, target):
    place, _, anchor = target.partition("#")
    if place.startswith(("http:", "https:")):
        return True
    page = readme.parent / place if place else readme
    if not page.exists() or not anchor:
        return page.exists()
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in titles}


@every_readme
def test_every_path_that_it_names_exists(readme):
    assert [name for name in in_backticks(readme) if missing(readme, name)] == []


@every_readme
def test_every_option_that_it_names_exists(readme):
    groups = {path.name for path in (ROOT / "conf").iterdir() if path.is_dir()}
    options = [
        (group, option)
        for text in in_backticks(readme)
        for group, options in re.findall(r"(?<![\w.])(\w+)=([a-z][\w,]*)", text)
        if group in groups
        for option in options.split(",")
    ]
    files = [f"conf/{group}/{option}.yaml" for group, option in options if option != "null"]
    shown = shown_files(readme)
    assert [
        name
        for name in files
        if not (ROOT / name).exists() and name not in shown and "my_" not in name
    ] == []


def commands(readme):
    """What a reader may type: the lines of blocks without a language, and what backticks hold."""
    lines = [
        line.removeprefix("$ ")
        for block in blocks(readme)
        if block.language in ("", "sh", "bash", "shell", "console")
        for line in block.text.replace("\\\n", " ").splitlines()
    ]
    for line in (*lines, *in_backticks(readme)):
        command = re.sub(r"\s+#.*", "", line.split(" | ")[0])
        command = re.sub(r"^((source|export) [^&]*&& |[A-Z_]+=\S+ )+", "", command)
        if re.match(r"(\S*/)?python\S* |make ", command):
            yield shlex.split(command)


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    """conf/ with the files that the READMEs tell a reader to write."""
    folder = tmp_path_factory.mktemp("conf") / "conf"
    shutil.copytree(ROOT / "conf", folder)
    for readme in READMES:
        for name, text in shown_files(readme).items():
            if name.startswith("conf/"):
                assert not (ROOT / name).exists(), f"{name} is there already"
                (folder.parent / name).write_text(text)
    return folder


def first_of_a_sweep(override):
    (parsed,) = OverridesParser.create().parse_overrides([override])
    if not parsed.is_sweep_override():
        return override
    return f"{parsed.key_or_group}={next(parsed.sweep_string_iterator())}"


def check_overrides(conf, name, arguments):
    flags = [each for each in arguments if each.startswith("-")]
    overrides = [each for each in arguments if not each.startswith("-")]
    if set(flags) - {"-m", "--multirun"}:
        return
    # Hydra takes flags before or after the overrides, not among them.
    assert arguments in (flags + overrides, overrides + flags)
    # Of a folder that a command leaves only that it is one counts here.
    overrides = [re.sub(r"=outputs/.*", "=.", each) for each in overrides]
    overrides = [each for each in overrides if not PLACEHOLDER.search(each)]
    if name == "evaluate" and not any(each.startswith(("run=", "victim=")) for each in overrides):
        overrides.append("run=.")
    if flags:
        overrides = [first_of_a_sweep(each) for each in overrides]
    with initialize_config_dir(str(conf), version_base="1.3", job_name="test"):
        cfg = compose(name, overrides=overrides, return_hydra_config=True)
        cfg.hydra.job.config_name = name
        cfg.hydra.runtime.output_dir = "/log"
        HydraConfig.instance().set_config(cfg)
        cfg = compose(name, overrides=overrides)
        read_config(cfg, KINDS[name])
        if name == "evaluate" and {"attack", "suite"} & {each.split("=")[0] for each in overrides}:
            read_trials(cfg)


@every_readme
def test_every_command_composes(readme, conf):
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for program, *arguments in commands(readme):
        if program == "make":
            typed = [each for each in arguments if "=" not in each]
            assert set(typed) <= set(targets), f"{name_of(readme)}: make {' '.join(typed)}"
        elif arguments[0] == "-m":
            assert importlib.util.find_spec(arguments[1]), f"{name_of(readme)}: {arguments[1]}"
        elif "my_" not in arguments[0] and arguments[0].endswith(".py"):
            script = ROOT / arguments[0]
            assert script.exists(), f"{name_of(readme)}: {arguments[0]}"
            if script.parent == ROOT / "src":
                check_overrides(conf, script.stem, arguments[1:])


@every_readme
def test_every_snippet_compiles_and_imports_what_there_is(readme):
    for language, text in blocks(readme):
        if language == "yaml":
            yaml.safe_load(text)
        if language != "python":
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] == "funn":
                module = importlib.import_module(str(node.module))
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@every_readme
def test_its_length(readme):
    lines = len(readme.read_text().splitlines())
    folder = name_of(readme.parent)
    if folder == ".":
        assert lines <= 180
    elif folder not in MAY_BE_LONG:
        assert 10 <= lines <= 40


def test_these_tests_find_what_is_wrong(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(
        "`src/funn/nothing.py` `nothing.py` `conf/attack/*.yaml` `1/4` `funn/my_own.py`\n"
    )
    assert [name for name in in_backticks(page) if missing(page, name)] == [
        "src/funn/nothing.py",
        "nothing.py",
    ]
    page = tmp_path / "other.md"
    page.write_text("```\n$ python src/train.py beta=1  # a\n...\n```\nand `make nothing`\n")
    assert list(commands(page)) == [["python", "src/train.py", "beta=1"], ["make", "nothing"]]
    for wrong in (["betta=1"], ["beta=1", "-m", "gamma=1"], ["defense=nothing"]):
        with pytest.raises(Exception, match=r"betta|defense|assert"):
            check_overrides(ROOT / "conf", "train", wrong)
