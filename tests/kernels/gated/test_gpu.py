"""Triton's kernels: what they compute is in in_triton.py, for which Triton has to be told first how to run them; here
is what a compiler for a GPU makes of them, which needs none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
HAS_GPU = torch.cuda.is_available()
SIZES = ["order", "size", "batch", "count", "length"]


@pytest.mark.parametrize(
    "interpreted", [True, pytest.param(False, marks=pytest.mark.skipif(not HAS_GPU, reason="there is no GPU"))]
)
def test_they_compute_what_they_replace(interpreted):
    environment = os.environ | {"TRITON_INTERPRET": str(int(interpreted))}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if interpreted else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "in_triton.py"]
    done = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^\d\d passed", done.stdout, re.MULTILINE)


def build(kernel, real: str, warps: int = 1, **constants):
    """Compile a kernel for sm_90, as for a row of coefficients that are contiguous."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    numbers = {*SIZES, *(name for name in kernel.arg_names if name.endswith(("_row", "_column")))}
    signature = {name: "i32" if name in numbers else f"*{real}" for name in kernel.arg_names}
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants)
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})


@pytest.mark.parametrize("real", ["fp32", "fp64"])
def test_they_compile_for_a_gpu_and_keep_their_precision(real):
    from hippo.kernels.gated import gpu as gated_gpu
    from hippo.kernels.legs import gpu as legs_gpu

    constants = {"alpha": 0.3, "FIRST": 1.7, "ROWS": 64, "COLUMNS": 4, "BLOCK": 128, "ADJOINT": real == "fp32"}
    constants |= {"BLOCKS": 2}
    kernels = legs_gpu._step, legs_gpu._sequence, gated_gpu._update_state, gated_gpu._update_state_adjoint
    for kernel in kernels:
        ptx = build(kernel, real, **constants).asm["ptx"]
        arithmetic = set(re.findall(r"\b(?:add|sub|mul|fma|div|sqrt|ex2)[a-z0-9.]*\.(f32|f64)\b", ptx))
        assert arithmetic == {real.replace("p", "")}, kernel


def resources(built, folder: Path) -> dict[str, int]:
    """Return the registers of a thread, the bytes that do not fit them, and the barriers of a kernel."""
    assembler = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
    assert assembler.is_file(), "triton's wheels bring the assembler that its kernels are built with"
    ptx = folder / "kernel.ptx"
    ptx.write_text(built.asm["ptx"])
    command = [assembler, "-v", "--gpu-name", "sm_90a", ptx, "-o", os.devnull]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    registers, spilled = (
        int(re.search(pattern, done.stderr)[1])  # type: ignore[index]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    return {"registers": registers, "spilled": spilled, "barriers": built.asm["ptx"].count("bar.sync")}


def test_the_launch_shape_of_the_legs_step_is_the_one_that_the_compiler_reports_best(tmp_path):
    """At N = 512: programs of a step are so many and so small that barriers are what they wait for. `pytest -s` prints
    the report."""
    from hippo.kernels.legs import gpu as legs_gpu

    found = {}
    for columns, warps in [(1, 1), (1, 4), (2, 2), (4, 4)]:
        constants = {"alpha": 0.5, "FIRST": 1.0, "ADJOINT": False, "ROWS": 512, "c_row": 1, "target_row": 1}
        constants |= {"COLUMNS": columns}
        found[columns, warps] = resources(build(legs_gpu._step, "fp32", warps, **constants), tmp_path)
        print(f"LegS step, {columns} columns, {warps} warps: {found[columns, warps]}")
    shape = legs_gpu.launch_shape(512)
    chosen = found.pop((shape["COLUMNS"], shape["num_warps"]))
    assert chosen["spilled"] == chosen["barriers"] == 0
    assert chosen["registers"] <= 100  # 20 programs of a warp on a multiprocessor
    assert all(other["barriers"] > 0 for other in found.values())


@pytest.mark.parametrize("order", [512, 2048])
def test_a_sequence_fits_the_registers(order, tmp_path):
    from hippo.kernels.legs import gpu as legs_gpu

    shape = legs_gpu.launch_shape(order)
    for adjoint in (False, True):
        constants = {"alpha": 0.5, "FIRST": 1.0, "ADJOINT": adjoint, "BLOCKS": order // shape["ROWS"], **shape}
        found = resources(build(legs_gpu._sequence, "fp32", shape["num_warps"], **constants), tmp_path)
        print(f"LegS sequence, N = {order}, {'back' if adjoint else 'forth'}: {found}")
        assert found["spilled"] == 0
        assert order > shape["ROWS"] or found["barriers"] == 0
