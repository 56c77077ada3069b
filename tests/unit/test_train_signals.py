"""Stop signals: noted, told to every process, at once where nothing has to be finished."""

import os
import signal
import subprocess
import sys

import pytest

from utils.signals import StopAsked, StopSignals, hidden_from_children


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
