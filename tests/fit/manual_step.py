"""A step that optimises by hand, without a Trainer."""

from __future__ import annotations

from test_exact_in_every_step import Step


class ManualStep(Step):
    def __init__(self, net=None):
        super().__init__(None, net)
        self.automatic_optimization = False

    def manual_backward(self, loss, **kwargs):
        loss.backward(**kwargs)
