import os
import subprocess
import sys

import pytest


def test_denormals_are_flushed_in_every_thread():
    program = (
        "import torch; from hippo.training import host; host.prepare()\n"
        "torch.set_num_threads(2)\n"
        "x = torch.full((4_000_000,), 1e-40)\n"
        "print(torch.count_nonzero(x * 1.0).item(), torch.count_nonzero(x).item())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split()[0] == "0"


@pytest.mark.parametrize("own", [{}, {"GOMP_SPINCOUNT": "77"}])
def test_the_threads_of_pytorch_rest_soon_in_the_program_unless_the_environment_says_otherwise(own):
    program = (
        "from hippo.commands import main\n"
        "try: main(['train', '--help'])\n"
        "finally: import torch"  # if it was imported before, its libraries have shown what they read then
    )
    environment = {**os.environ, "OMP_DISPLAY_ENV": "verbose"}
    environment.pop("GOMP_SPINCOUNT", None)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment | own
    )
    assert f"GOMP_SPINCOUNT = '{own.get('GOMP_SPINCOUNT', '30000')}'" in done.stderr
