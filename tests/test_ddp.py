"""Two gloo processes on one problem: same plan, each kept sample once, and everything of one process holds."""

from __future__ import annotations

from typing import Any

import pytest

from alignprune_pl import UCB, AlignPrune, EmaLossScore, LossScore, Random
from helpers import N, Plain, make_data, make_loader, make_trainer
from two_processes import CALIBRATED, TRAIN, run_known, run_part, run_rival


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    return run_part("training", tmp_path_factory.mktemp("training"))


def check_shared(figures: list[dict[str, Any]]) -> None:
    """Same plan and as many batches on both ranks, and each kept sample once over both."""
    for key in ("plan", "kept", "reference", "observed", "batches", "nonfinite"):
        assert figures[0][key] == figures[1][key], key
    for epoch, kept in enumerate(figures[0]["kept"]):
        both = [i for rank in figures for i in rank["trained"][epoch]]
        assert len(set(both)) == kept
        assert len(both) - kept <= 1  # padding, with weight zero; it can fill a whole batch, too
    assert figures[0]["observed"] == [int(kept) for kept in figures[0]["kept"]][-3:]
    assert min(figures[0]["kept"]) < max(figures[0]["kept"])


def test_two_processes_make_one_plan_and_share_each_kept_sample_once(training):
    check_shared([rank["drop_last=False"] for rank in training])


def test_dropped_batches_are_dropped_on_both_ranks_and_recorded_on_none(training):
    check_shared([rank["drop_last=True"] for rank in training])
    assert training[0]["drop_last=True"]["kept"][0] == N // 32 * 32


def as_both():
    """Batches as large as those of both processes together, so that an epoch ends with the same samples."""
    return make_loader(TRAIN, batch_size=32)


def test_the_selection_is_that_of_one_process_with_the_same_losses(training):
    module, prune, digests = run_known(loader=as_both())
    for rank in training:
        assert rank["digests"] == digests
        assert [row["reference_loss"] for row in rank["history"]] == [row["reference_loss"] for row in prune.history]
        assert rank["losses"] == prune.store.losses().nan_to_num(-1).tolist()
    assert len({len(module.trained(epoch)) for epoch in range(7)}) > 3


def test_a_policy_and_a_score_that_remember_select_on_two_processes_what_they_do_on_one(training):
    _, _, digests = run_known(policy=UCB(0.4), score=EmaLossScore(), loader=as_both())
    assert len(set(digests)) == 7
    for rank in training:
        assert rank["digests of what remembers"] == digests


def test_probes_tell_on_two_processes_what_they_do_on_one(training):
    _, prune, digests = run_known(policy=CALIBRATED, score="trajectory", loader=as_both())
    assert len({row["kept"] for row in prune.history}) > 1
    assert max(row["probed"] for row in prune.history) > N // 4
    for rank in training:
        assert rank["digests with probes"] == digests
        assert rank["probed"] == [row["probed"] for row in prune.history]
        assert rank["estimates"] == [row["estimated_noise_rate"] for row in prune.history]
    assert training[0]["calibrated"] == training[1]["calibrated"]


def test_labels_rivals_and_scores_of_both_are_on_two_processes_what_they_are_on_one(training):
    alone = run_rival()
    assert alone["labels"] == make_data()[0].tensors[1].tolist()
    assert len(set(alone["digests"])) == 7
    assert max(alone["estimates"][1:]) > 0.2
    assert len({pair % 3 for pair in alone["pairs"]}) == 3
    for rank in training:
        for name in ("digests", "labels", "pairs"):
            assert rank["rival"][name] == alone[name], name
        for name in ("scores", "reference scores", "estimates"):
            assert rank["rival"][name] == pytest.approx(alone[name], rel=1e-5), name


def test_bls_prunes_alike_on_both_ranks(training):
    first, second = (rank["batch_loss"] for rank in training)
    assert first == second
    assert min(first["kept"]) < first["kept"][0] == N


def test_losses_travel_once_an_epoch_however_many_steps_it_has(training):
    for rank in training:
        assert rank["collectives of batch size 8"] == rank["collectives of batch size 50"] == ["torch.float32"] * 3


def test_losses_that_are_not_finite_are_counted_over_all_ranks_once(tmp_path):
    for rank in run_part("nonfinite", tmp_path):
        assert rank["counts"] == [[9, 18, 27], [9, 18, 27]]


def test_a_users_distributed_sampler_is_taken_over(training):
    check_shared([rank["own"] for rank in training])
    assert training[0]["own digests"] == training[0]["digests"]


def test_processes_that_would_not_share_the_data_are_refused(training):
    for rank in training:
        assert "use_distributed_sampler=False) with 2 processes and a RandomSampler" in rank["not shared out"]
    for number, rank in enumerate(training):
        assert f"{100 + number} samples on rank {number} and another number on others" in rank["unequal"]


@pytest.mark.parametrize("part", ["resume", "fsdp"])
def test_a_resumed_run_goes_on_as_the_uninterrupted_one_under(part, tmp_path):
    ranks = run_part(part, tmp_path)
    check_shared([rank["whole"] for rank in ranks])
    check_goes_on_in_steps(ranks)


def check_goes_on_in_steps(ranks: list[dict[str, Any]]) -> None:
    """Runs that go on from some steps are as the uninterrupted one."""
    steps = [step for step in ranks[0] if step != "whole"]
    assert len(steps) > 1
    for rank in ranks:
        for step in steps:
            for name in ("goes on", "same parameters", "same losses"):
                assert rank[step][name], (step, name)
            for key in ("plan", "kept", "reference"):
                assert rank[step][key] == rank["whole"][key]


def test_a_run_that_is_terminated_saves_the_losses_of_all_ranks(tmp_path):
    for rank in run_part("terminated", tmp_path):
        assert rank["done"] == 3  # after 7 of the first epoch
        assert rank["losses"] == 3 * 2 * 16
        assert rank["goes on"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_one_process_goes_on_from_the_checkpoint_of_two(tmp_path):
    run_part("one_process_goes_on", tmp_path)

    def prune() -> AlignPrune:
        return AlignPrune(make_data()[1], Random(0.5), LossScore(), seed=1)

    whole, resumed = Plain(), Plain()
    make_trainer(prune(), max_epochs=4).fit(whole, make_loader(make_data()[0]))
    trainer = make_trainer(prune(), max_epochs=4)
    trainer.fit(resumed, make_loader(make_data()[0]), ckpt_path=tmp_path / "two" / "end.ckpt")
    assert resumed.batches == [(epoch, batch) for epoch, batch in whole.batches if epoch > 1]
