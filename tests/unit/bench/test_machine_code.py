"""How machine code is read: loops, what they skip, and the units of instructions."""

import pytest

pytest.importorskip("triton")
machine_code = pytest.importorskip("bench.machine_code")

ASSEMBLY = """
        /*0000*/                   S2R R0, SR_TID.X ;
.L_x_0:
        /*0010*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/                   MUFU.EX2 R8, R4 ;
        /*0040*/                   STL [R1], R8 ;
.L_x_1:
        /*0050*/                   FFMA R9, R8, R4, R5 ;
        /*0060*/               @P1 BRA `(.L_x_0) ;
        /*0070*/                   EXIT ;
"""


def test_a_loop_counts_what_it_skips_by_half():
    (loop,) = machine_code.innermost_loops(ASSEMBLY)
    assert loop.instructions == {"LDG.128": 1, "BRA": 2, "MUFU": 0.5, "STL": 0.5, "FFMA": 1}
    assert loop.spills == ["STL [R1], R8 "]


def test_units_and_widths():
    units = {
        "FFMA": "multiply-add",
        "MUFU": "exponential",
        "LDG.128": "load-store",
        "SHFL": "load-store",
        "LOP3": "integer",
    }
    assert {name: machine_code.unit_of(name) for name in units} == units
    assert [machine_code.width_of(name) for name in ("LDG", "LDG.64", "STS.128")] == [1, 2, 4]


@pytest.mark.parametrize(("registers", "warps"), [(80, 24), (158, 12), (168, 12), (200, 8), (255, 8), (32, 32)])
def test_warps_fit_in_each_of_the_four_parts_of_a_multiprocessor(registers, warps):
    kernel = machine_code.Kernel("scan", "", registers, 0, [], 0, 1, [])
    assert kernel.warps_per_multiprocessor == warps


def test_instructions_per_update_of_a_scan():
    kernel = machine_code.Kernel("scan", "", 80, 0, [], 0, 1, machine_code.innermost_loops(ASSEMBLY))
    counts = kernel.instructions_per_update({"HALF": 2, "NR": 1, "CR": 1})
    assert counts["issue"] == 5 / 2
    assert counts["load-store"] == (4 + 0.5) / 2
