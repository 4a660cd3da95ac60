import pytest
import torch

from alignprune_pl.core.plan import EpochPlan, permutation


def test_shuffling_keeps_each_sample_with_its_weight():
    plan = EpochPlan(torch.arange(50), torch.arange(50).float())
    shuffled = plan.shuffled(torch.Generator().manual_seed(0))
    assert not torch.equal(shuffled.keep, plan.keep)
    assert torch.equal(shuffled.keep.float(), shuffled.weight)
    assert torch.equal(shuffled.keep.sort().values, plan.keep)


def test_digest_tells_order_and_weights_apart():
    plan = EpochPlan.of(torch.tensor([0, 1]))
    assert plan.digest() == EpochPlan.of(torch.tensor([0, 1])).digest()
    assert plan.digest() != EpochPlan.of(torch.tensor([1, 0])).digest()
    assert plan.digest() != EpochPlan(plan.keep, torch.tensor([1.0, 2.0])).digest()


@pytest.mark.parametrize(
    ("keep", "weight", "message"),
    [
        (torch.tensor([0.0]), torch.ones(1), "EpochPlan.keep is torch.float32"),
        (torch.tensor([0]), torch.ones(2), "1 samples and 2 weights"),
        (torch.tensor([3, 3]), torch.ones(2), "a sample twice"),
        (torch.tensor([3, -1]), torch.ones(2), r"holds -1, but indices .* convert a mask by `mask.nonzero\(\)"),
    ],
)
def test_a_malformed_plan_is_refused(keep, weight, message):
    with pytest.raises(ValueError, match=message):
        EpochPlan(keep, weight)


@pytest.mark.parametrize("n", [0, 1, 1000, 100_000])
def test_a_permutation_is_torchs_own_in_half_the_bytes(n):
    mine = permutation(n, torch.Generator().manual_seed(4))
    assert mine.dtype == torch.int32
    assert torch.equal(mine.long(), torch.randperm(n, generator=torch.Generator().manual_seed(4)))
