"""Triton's kernels: what they compute is in in_triton.py, for which Triton has to be told first how to run them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
HAS_GPU = torch.cuda.is_available()


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


@pytest.mark.parametrize("real", ["fp32", "fp64"])
def test_they_compile_for_a_gpu_and_keep_their_precision(real):
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource, compile

    from hippo.kernels.gated import gpu as fused

    sizes = dict.fromkeys(["order", "size", "batch", "channels"], "i32")
    for kernel in (fused._advance, fused._retreat, fused._enter, fused._gate, fused._gate_adjoint):
        constants = {"alpha": 0.3, "ROWS": 64, "COLUMNS": 4, "FLAT": 128}
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        strides = {name: "i32" for name in kernel.arg_names if name.endswith(("_row", "_column"))}
        signature = {name: (sizes | strides).get(name, f"*{real}") for name in kernel.arg_names}
        signature |= dict.fromkeys(constants, "constexpr")
        built = compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
        arithmetic = set(re.findall(r"\b(?:add|sub|mul|fma|div|sqrt|ex2)[a-z0-9.]*\.(f32|f64)\b", built.asm["ptx"]))
        assert arithmetic == {real.replace("p", "")}
