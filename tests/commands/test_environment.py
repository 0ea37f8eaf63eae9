import re
import tomllib

import yaml
from conftest import ROOT
from packaging.requirements import Requirement

LOCK = (ROOT / "requirements.lock").read_text()


def direct():
    lines = (ROOT / "requirements.in").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def locked():
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\]+)", LOCK, re.MULTILINE))


def test_conda_installs_the_lock_and_nothing_else_through_pip():
    dependencies = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert dependencies == ["python=3.11", "pip", {"pip": ["-r requirements.lock"]}]


def test_the_lock_satisfies_the_requirements():
    versions = locked()
    for requirement in direct():
        assert requirement.specifier.contains(versions[requirement.name]), requirement


def test_every_locked_package_has_a_hash_and_no_address():
    assert LOCK.count("--hash=sha256:") >= len(locked())
    packages = re.split(r"^(?=[A-Za-z0-9])", LOCK, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in package for package in packages)
    assert "://" not in LOCK


def test_the_package_needs_nothing_that_is_not_locked():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {Requirement(line).name for line in project["dependencies"]}
    assert needed <= {requirement.name for requirement in direct()}
