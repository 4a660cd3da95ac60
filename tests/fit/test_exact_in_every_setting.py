"""Under each setting of the Trainer a weighted run is that of a step which weighs its losses itself."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from exact_settings import Manual, Module, difference

from two_processes import run_part


class Lbfgs:
    """An optimiser that calls its closure, and so the step, several times."""

    def __new__(cls, parameters):
        return torch.optim.LBFGS(parameters, lr=0.1, max_iter=3)


def compiled(module):
    module.body = torch.compile(module.body, backend="aot_eager")
    return module


SETTINGS = {
    "plain": {},
    "accumulation": {"accumulate_grad_batches": 2},
    "clipping": {"gradient_clip_val": 0.05},
    "bf16-mixed": {"precision": "bf16-mixed"},
    "64-true": {"precision": "64-true"},
    "LBFGS": {"kind": partial(Module, optimizer=Lbfgs), "precision": "64-true"},
    "checkpointing": {"kind": partial(Module, checkpoints=False)},
    "reentrant checkpointing": {"kind": partial(Module, checkpoints=True)},
    "a compiled part": {"wrap": compiled},
    "by hand": {"kind": Manual},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_the_weighted_run_is_that_of_a_step_which_weighs_its_losses_under(name):
    torch._dynamo.reset()
    assert difference(**SETTINGS[name]) < (2e-2 if name == "bf16-mixed" else 1e-5)


def test_the_weighted_run_is_that_of_a_step_which_weighs_its_losses_on_two_processes(tmp_path):
    for rank in run_part("exact", tmp_path):
        assert rank["ddp"] < 1e-5
        assert rank["fsdp"] < 1e-5
