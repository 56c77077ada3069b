"""Stop signals: noted, told to every process, at once where nothing has to be finished."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.helpers.paths import REPOSITORY
from utils.signals import StopAsked, StopSignals, heed_parent, hidden_from_children


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_noted_and_the_old_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert not signals.agreed()
        os.kill(os.getpid(), number)
        assert signals.agreed()
        assert signals.agreed()
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_at_once_ends_the_block_also_when_the_signal_came_before_it():
    with StopSignals() as signals:
        with pytest.raises(StopAsked), signals.at_once():
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopAsked), signals.at_once():
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # outside it is noted again


def test_children_do_not_see_the_signals():
    sleeper = [sys.executable, "-S", "-c", "import time; print('up', flush=True); time.sleep(0.5); print('done')"]
    with hidden_from_children():
        child = subprocess.Popen(sleeper, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "up\n"
    child.send_signal(signal.SIGTERM)
    assert child.communicate(timeout=30)[0] == "done\n"
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGTERM, signal.SIGINT}


def test_a_hidden_child_ends_when_its_parent_asks_and_only_then():
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    with hidden_from_children():
        child = context.Process(target=heed_and_wait, args=(ready,), daemon=True)
        child.start()
    assert ready.wait(60)
    subprocess.run([sys.executable, "-c", f"import os; os.kill({child.pid}, {int(signal.SIGTERM)})"], check=True)
    child.join(1)
    assert child.is_alive()
    child.terminate()
    child.join(60)
    assert child.exitcode == 0


def heed_and_wait(ready) -> None:
    heed_parent()
    ready.set()
    time.sleep(600)


def test_a_run_that_fails_ends_although_its_loader_processes_wait(debug_settings, tmp_path):
    arguments = [*debug_settings("dataset.cache=false", "dataset.workers=2"), "--output", str(tmp_path)]
    program = f"import sys, train; train.train_step = lambda *_: 1 / 0; train.main({arguments!r})"
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
