"""What stands beside the code: issue templates, citation, hooks, attributes, continuous integration."""

import re
import shutil
import subprocess

import pytest
from ruamel.yaml import YAML

from tests.helpers.paths import REPOSITORY
from tests.helpers.pyproject import PROJECT

FORMS = sorted(path for path in (REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml")


def read_yaml(name: str) -> dict:
    return YAML(typ="safe").load((REPOSITORY / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_has_what_github_wants(form):
    told = read_yaml(str(form.relative_to(REPOSITORY)))
    assert {"name", "description", "body"} <= set(told)
    assert len({field["id"] for field in told["body"]}) == len(told["body"])
    assert all(field["type"] in {"textarea", "dropdown"} and field["attributes"]["label"] for field in told["body"])


@pytest.mark.parametrize("name", ["bug", "results"])
def test_reports_come_with_the_scan_and_the_versions(name):
    fields = read_yaml(f".github/ISSUE_TEMPLATE/{name}.yml")["body"]
    wanted = [field["attributes"] for field in fields if field.get("validations", {}).get("required")]
    assert any("python -m models.selective_scan" in one["label"] for one in wanted)
    assert any("versions.json" in one.get("description", "") for one in wanted)


def test_the_versions_of_an_environment_without_a_run():
    """The command in the form."""
    text = read_yaml(".github/ISSUE_TEMPLATE/bug.yml")["body"][2]["attributes"]["description"]
    code = text[text.index('"') + 1 : text.rindex('"')]
    assert compile(code, "bug.yml", "exec")
    assert "from training.run_folder import versions" in code
    assert "def versions(" in (REPOSITORY / "training" / "run_folder.py").read_text()


def test_citation():
    told = read_yaml("CITATION.cff")
    assert (told["version"], told["license"]) == (PROJECT["version"], PROJECT["license"])
    cited = {entry["value"] for paper in told["references"] for entry in paper["identifiers"]}
    assert cited == set(re.findall(r"arXiv:\d{4}\.\d{5}", (REPOSITORY / "README.md").read_text()))


def test_hooks_run_the_checks_of_the_test_command():
    hooks = [hook for repo in read_yaml(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    assert all(hook["language"] == "system" for hook in hooks)  # the environment's own tools, no network
    tools = {" ".join(hook["entry"].split()[2:4]) for hook in hooks}
    tested = set(re.findall(r'"\$PYTHON" -m ((?:ruff \w+)|mypy)', (REPOSITORY / "shell" / "test.sh").read_text()))
    assert tools == tested == {"ruff check", "ruff format", "mypy"}


def test_continuous_integration_runs_on_the_oldest_python():
    job = read_yaml(".github/workflows/ci.yml")["jobs"]["test"]
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert oldest in job["strategy"]["matrix"]["python"]
    assert job["steps"][-1]["run"] == "bash shell/test.sh --with-browser"


@pytest.mark.skipif(
    shutil.which("git") is None or not (REPOSITORY / ".git").exists(), reason="not a clone, which git would need"
)
@pytest.mark.parametrize(
    ("path", "attributes"),
    [
        ("shell/test.sh", {"text": "set", "eol": "lf"}),
        (".ci/run", {"text": "auto", "eol": "lf"}),
        ("docs/figures/architecture.png", {"text": "unset", "diff": "unset"}),
        ("tests/parity/vectors/eval_cli/rasa_cli_a/rasa_checkpoint.pth", {"text": "unset"}),
        ("tests/parity/vectors/metrics/basic.safetensors", {"text": "unset"}),
    ],
)
def test_line_ends(path, attributes):
    command = ["git", "check-attr", "-z", *attributes, "--", path]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.split("\0")
    assert dict(zip(told[1::3], told[2::3], strict=True)) == attributes
