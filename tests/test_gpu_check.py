from __future__ import annotations

import pytest
import torch

from helpers import run_script


@pytest.mark.skipif(torch.cuda.is_available(), reason="would check the device, which takes minutes")
def test_without_a_device_the_check_of_it_says_so_and_ends_well(tmp_path):
    done = run_script("gpu_check.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "There is no CUDA device here, so that nothing was checked.\n"
