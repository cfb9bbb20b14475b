"""The workflows, the hooks and the metadata say the same as the Makefile and pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import fusedsplit

tomllib = pytest.importorskip("tomllib")  # of Python 3.11 and newer
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parent.parent
URL = "https://github.com/fusedsplit/fusedsplit"
if not (ROOT / ".github").exists():
    pytest.skip("this is not the source tree", allow_module_level=True)

WORKFLOWS = {path.stem: yaml.safe_load(path.read_text()) for path in sorted((ROOT / ".github/workflows").glob("*.yml"))}
JOBS = {f"{name}/{job}": body for name, workflow in WORKFLOWS.items() for job, body in workflow["jobs"].items()}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _releases() -> list[str]:
    """The Python releases that the package says it is for."""
    prefix = "Programming Language :: Python :: 3."
    return [f"3.{c.removeprefix(prefix)}" for c in PROJECT["project"]["classifiers"] if c.startswith(prefix)]


def _commands(job: dict[str, Any]) -> list[str]:
    return [line.strip() for step in job["steps"] for line in step.get("run", "").splitlines()]


def test_there_is_a_workflow_for_each_purpose():
    assert set(WORKFLOWS) == {"lint", "nightly", "tests", "wheels"}
    for workflow in WORKFLOWS.values():
        assert workflow["name"] and workflow[True]  # YAML 1.1 reads the key `on` as true
        assert workflow["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("name", JOBS)
def test_a_job_can_start(name: str):
    job = JOBS[name]
    assert job["runs-on"] and job["timeout-minutes"] and job["steps"]
    assert job["steps"][0]["uses"].startswith("actions/checkout@")
    for step in job["steps"]:
        assert ("uses" in step) != ("run" in step)
        assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("name", JOBS)
def test_a_job_runs_targets_that_exist(name: str):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for command in _commands(JOBS[name]):
        if command.startswith("make "):
            assert set(command.split()[1:]) <= targets


@pytest.mark.parametrize("name", JOBS)
def test_a_job_uses_what_its_matrix_defines(name: str):
    matrix = JOBS[name].get("strategy", {}).get("matrix", {})
    known = {key for key in matrix if key != "include"} | {key for row in matrix.get("include", []) for key in row}
    assert set(re.findall(r"\$\{\{ *matrix\.(\w+)", str(JOBS[name]))) == known


def test_every_python_release_is_tested_and_gets_wheels():
    assert PROJECT["project"]["requires-python"] == ">=" + _releases()[0]
    assert JOBS["tests/tests"]["strategy"]["matrix"]["python"] == _releases()
    assert PROJECT["tool"]["cibuildwheel"]["build"].split() == [f"cp{r.replace('.', '')}-*" for r in _releases()]


def test_wheels_are_made_for_both_machines_and_tested():
    rows = JOBS["wheels/wheels"]["strategy"]["matrix"]["include"]
    assert [row["arch"] for row in rows] == ["x86_64", "aarch64"]
    tested = [word for word in PROJECT["tool"]["cibuildwheel"]["test-command"].split() if word.startswith("tests/")]
    assert tested and all((ROOT / path).exists() for path in tested)


def test_hooks_are_the_tools_of_lint():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    entries = [hook["entry"].replace(".venv/bin/", "$(BIN)/") for repo in hooks for hook in repo["hooks"]]
    lint = (ROOT / "Makefile").read_text().partition("\nlint:")[2].partition("\n\n")[0]
    assert {entry.split()[0] for entry in entries} == set(re.findall(r"^\t(\S*BIN\S*/[\w-]+) ?", lint, re.MULTILINE))
    assert all(hook["language"] == "system" for repo in hooks for hook in repo["hooks"])


def test_the_project_has_one_address():
    urls = PROJECT["project"]["urls"]
    assert set(urls) == {"Homepage", "Source", "Issues", "Changelog"}
    assert all(url.startswith(URL) for url in urls.values())
    assert URL in (ROOT / "SECURITY.md").read_text()


def test_the_citation_is_of_this_release():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == fusedsplit.__version__
    assert citation["license"] == PROJECT["project"]["license"]
    assert citation["repository-code"] == URL
    assert citation["cff-version"] and citation["message"] and citation["authors"]
