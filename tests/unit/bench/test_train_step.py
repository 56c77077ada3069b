"""bench.train_step: a row for each variant, below the one of the plain step how far apart they are."""

import re
import sys

import pytest
import torch
from torch import nn

from bench import step_cases, train_step
from bench.operators import OperatorCounter
from bench.step_cases import PLAIN, WITHOUT_DROPOUT, Variant

OURS = Variant(False, "fp32")


def test_operators_are_counted_forward_and_backward_without_views():
    layer, x = nn.Linear(3, 4, bias=False), torch.ones(2, 3)
    with OperatorCounter() as forward:
        out = layer(x).T.flatten().exp()
    assert forward.counts == {"mm": 1, "clone": 1, "exp": 1}
    with OperatorCounter() as backward:
        out.backward(torch.ones_like(out.detach()))
    assert backward.counts["mm"] == 1
    assert not {"t", "transpose", "detach", "view", "_unsafe_view"} & {*forward.counts, *backward.counts}


def test_without_fp32_there_is_no_plain_step(monkeypatch, capsys):
    for flags in (["--plain"], []):
        monkeypatch.setattr(sys, "argv", ["train_step", "--no-fp32", *flags])
        if flags:
            assert train_step.parse_arguments().no_fp32
        else:
            with pytest.raises(SystemExit):
                train_step.parse_arguments()
    assert "leaves the plain step out as well" in capsys.readouterr().err


@pytest.fixture
def compared(debug_config, monkeypatch, capsys):
    """Compare variants at the debug model, and return the printed lines."""
    monkeypatch.setattr(train_step, "peak_memory_of_process", lambda config, variant: 0.5)
    config = debug_config(*WITHOUT_DROPOUT, "optimizer.clip_norm=null")

    def compare(*variants):
        rates = {"fp32": 1e9, "bf16": 1e9}
        train_step.compare("debug, batch 4", config, variants, rates, torch.device("cpu"), repeats=1)
        return capsys.readouterr().out.splitlines()

    return compare


def test_ours_beside_plain(compared):
    lines = compared(PLAIN, OURS)
    rows = [line.split("|")[1:-1] for line in lines if line.startswith("| ") and ":-" not in line]
    header, plain, ours = ([cell.strip() for cell in row] for row in rows)
    assert header == ["step", *train_step.VALUES]
    assert plain[0] == "plain, fp32"
    assert plain[2] == "-"
    assert ours[0] == "ours, fp32"
    assert float(ours[2]) > 0
    assert int(ours[-1].replace(",", "")) < int(plain[-1].replace(",", ""))
    (difference,) = [line for line in lines if "a loss differs by" in line]
    assert float(difference.split()[4].rstrip(",")) < 1e-5


def test_compiled_layers_say_how_long_they_took_to_start(compared, monkeypatch):
    networks = []
    monkeypatch.setattr(step_cases, "compile_layers", lambda *given: networks.append(given))
    lines = compared(Variant(False, "fp32", compiled=True))
    ((model, teacher),) = networks
    assert [type(each).__name__ for each in (model, teacher)] == ["PersonSearchModel", "MomentumEncoder"]
    assert any(line.startswith("| ours, fp32, compiled |") for line in lines)
    assert any(re.fullmatch(r"  start-up: \d+ s until the first step was done", line) for line in lines)


def test_ours_alone_and_a_variant_that_does_not_fit(compared, monkeypatch):
    start = train_step.start

    def start_small(config, variant, *others):
        if variant.precision == "bf16":
            raise torch.OutOfMemoryError
        return start(config, variant, *others)

    monkeypatch.setattr(train_step, "start", start_small)
    lines = compared(Variant(False, "bf16"), OURS)
    assert "ours, bf16: does not fit in the device's memory" in lines
    assert lines[-2].startswith("| ours, fp32")
