"""Names of policies and scores: registered, announced by a package, or given as an object."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from alignprune_pl import (
    AlignmentScore,
    AlignPrune,
    EpochPlan,
    LossDifferenceScore,
    LossScore,
    NoPruning,
    Policy,
    Score,
    SeTa,
    register_policy,
)
from alignprune_pl.core.registry import Registry
from alignprune_pl.policies import POLICIES, make_policy
from alignprune_pl.scores import make_score
from helpers import run_code, run_script

MEMORY = ("reset", "state_dict", "load_state_dict")


@pytest.fixture
def registry():
    return Registry("policy", "alignprune_pl.no_such_group", lambda given: None)


def test_a_name_stands_for_the_class_with_its_defaults():
    assert isinstance(POLICIES.make("seta"), SeTa)
    assert repr(AlignPrune(policy="seta", score="loss").policy) == repr(SeTa())
    assert make_policy("seta", ratio=0.4).ratio == 0.4
    assert make_score("das", window=5).window == 5


def test_a_class_that_needs_arguments_is_not_made_by_name(registry):
    class Needy(NoPruning):
        def __init__(self, ratio):
            self.ratio = ratio

    registry.register("needy")(Needy)
    with pytest.raises(
        ValueError, match=r"policy='needy' is given, but Needy cannot be made .*'ratio'.* Needy\(\.\.\.\)"
    ):
        registry.make("needy")


def test_settings_are_shown_without_addresses_that_differ_in_each_process():
    class Thing:
        pass

    class Mine(NoPruning):
        def __init__(self, turn=abs, thing=None, share=0.5):
            self.turn, self.thing, self.share = turn, thing, share

    assert repr(Mine(turn=lambda x: x, thing=Thing())).count("0x") == 0
    assert repr(Mine(turn=len)) == "Mine(turn=len, thing=None, share=0.5)"


def test_an_object_is_taken_as_it_is():
    policy, score = SeTa(), LossScore()
    callback = AlignPrune(policy=policy, score=score)
    assert (callback.policy, callback.score) == (policy, score)


def test_a_name_can_be_registered_again_by_the_same_class_only(registry):
    def cell():
        class Mine:
            pass

        return Mine

    first, again = cell(), cell()
    registry.register("mine")(first)
    registry.register("mine")(again)  # as when a notebook's cell is run again
    assert registry.get("mine") is again
    with pytest.raises(ValueError, match=r"'mine' of .*SeTa is already .*Mine; choose another name"):
        registry.register("mine")(SeTa)


def test_our_own_names_are_not_given_away():
    class Impostor(SeTa):
        pass

    with pytest.raises(ValueError, match=r"is already alignprune_pl\.policies\.seta\.SeTa"):
        register_policy("seta")(Impostor)


@pytest.mark.parametrize("name", ["", "my-policy", "1st", None])
def test_a_name_that_is_no_identifier_is_refused(registry, name):
    with pytest.raises(ValueError, match="a name such as 'my_policy' is expected"):
        registry.register(name)


def test_what_is_no_class_is_not_registered(registry):
    with pytest.raises(ValueError, match="but it decorates a class"):
        registry.register("mine")(len)


class DuckPolicy:
    """It has all that a policy has, but does not derive from it."""

    plan, reset, state_dict, load_state_dict = (getattr(NoPruning, name) for name in ("plan", *MEMORY))


class DuckScore:
    low_is, observes, warm_up, window, min_epochs = "easy", "loss", 0, None, 0
    __call__, reset, state_dict, load_state_dict = (getattr(LossScore, name) for name in ("__call__", *MEMORY))


class OldPlan(NoPruning):
    def plan(self, scores, epoch, generator, max_epochs=None, low_is="easy"):
        return EpochPlan.of(torch.arange(len(scores)))


class ShortPlan(NoPruning):
    def plan(self, scores):
        return EpochPlan.of(torch.arange(len(scores)))


class OtherNames(NoPruning):
    def plan(self, numbers, question, extra=3):
        return EpochPlan.of(torch.arange(len(numbers)))


class Halfway(NoPruning):
    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


class HalfwayScore(LossScore):
    def reset(self):
        pass


class Inherits(Halfway):
    def reset(self):
        pass


class Vague(LossScore):
    low_is = "bad"


class Sees(LossScore):
    observes = "gradient"


class WarmsUpByMargins(LossScore):
    observes, warm_up = "margin", 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"policy": "infobach"}, "policy='infobach' is given, but there is no such policy; did you mean 'infobatch'"),
        ({"policy": "xyz"}, "there is no such policy; Known are calibrated, epsilon_greedy, infobatch"),
        ({"score": "dass"}, "score='dass' is given, but there is no such score; did you mean 'das'"),
        ({"policy": SeTa}, r"policy=SeTa is given, which is a class, but an object is expected; pass policy=SeTa\(\)"),
        ({"score": LossScore}, r"pass score=LossScore\(\)"),
        (
            {"policy": 3},
            r"policy=3 is given, but a policy with a method plan\(scores, ask\) is expected; derive it from",
        ),
        ({"policy": DuckPolicy()}, r"DuckPolicy .*is expected; derive it from alignprune_pl\.Policy"),
        (
            {"policy": OldPlan()},
            r"OldPlan.plan cannot be called as plan\(scores, ask\) \(.*'generator'\); give it these",
        ),
        ({"policy": ShortPlan()}, r"ShortPlan.plan cannot be called as plan\(scores, ask\) \(too many positional"),
        ({"score": 3}, "score=3 is given, but a score that is called with the trajectories"),
        ({"score": len}, r"<built-in function len> is given, but a score .*; derive it from alignprune_pl\.Score"),
        ({"score": DuckScore()}, r"DuckScore .*; derive it from alignprune_pl\.Score"),
        ({"score": Vague()}, r"Vague\(\) is given, but low_is='bad' is given, but 'easy' or 'suspect' is expected"),
        ({"score": Sees()}, "observes='gradient' is given, but 'loss', 'batch_loss', 'el2n', 'margin' or 'rival' is"),
        ({"score": WarmsUpByMargins()}, "in which the last loss is the score, but it observes margin"),
        ({"score": AlignmentScore(window=20), "policy": "none"}, r"looks at 20 epochs, but window=10 of them"),
        (
            {"score": AlignmentScore(window=2), "policy": "none"},
            "needs 3 epochs, but looks at 2 and would always be NaN",
        ),
        ({"score": LossDifferenceScore(), "window": 3, "policy": "none"}, "needs 4 epochs, but looks at 3"),
        ({"policy": Halfway()}, "Halfway.* has no reset, but a policy that remembers something has all of reset"),
        (
            {"score": HalfwayScore(), "policy": "none"},
            "HalfwayScore.* has no state_dict and no load_state_dict, but a score that remembers something has all of",
        ),
        ({"window": 5.0}, "window=5.0 is given"),
        (
            {"score": "margin", "capture_mode": "explicit"},
            "reads logits, but capture_mode='explicit' hands over losses",
        ),
        ({"score": "das"}, "AlignPrune got no reference, but AlignmentScore"),
    ],
)
def test_what_is_no_policy_or_score_is_refused_before_training(arguments, message):
    with pytest.raises(ValueError, match=message):
        AlignPrune(
            **{"score": "das" if "policy" not in arguments or arguments["policy"] == "infobatch" else "loss"}
            | arguments
        )


def test_a_policy_that_can_be_asked_and_has_all_of_its_memory_is_taken():
    for policy in (OtherNames(), Inherits()):
        assert AlignPrune(policy=policy, score="loss").policy is policy


def test_a_policy_that_reads_no_score_needs_no_reference():
    reads_none = [name for name in POLICIES.names() if not POLICIES.get(name)().reads_score]
    assert reads_none == ["none", "random", "rs2", "static_random"]
    assert all(AlignPrune(policy=name).reference is None for name in reads_none)


def test_a_class_of_ones_own_has_defaults_for_what_it_does_not_say():
    class Mine(Policy):
        def plan(self, scores, ask):
            return EpochPlan.of(torch.arange(len(scores)))

    class Own(Score):
        def __call__(self, store):
            return store.last_loss()

    callback = AlignPrune(policy=Mine(), score=Own())
    assert callback.policy.reads_score
    assert (callback.score.low_is, callback.score.warm_up, callback.score.observes) == ("easy", 0, "loss")
    assert repr(callback.policy) == "Mine()"


def announce(folder: Path, entries: str, code: str) -> None:
    """A package as pip leaves it: a module and the metadata of its distribution."""
    (folder / "their_module.py").write_text(code)
    info = folder / "their_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entries)


def test_an_installed_package_announces_its_own_by_entry_points(tmp_path):
    announce(
        tmp_path,
        "[alignprune_pl.policies]\ntheirs = their_module:Theirs\nbroken = no_such_module:Nothing\n"
        "[alignprune_pl.scores]\nhis = their_module:His\n",
        "from alignprune_pl import NoPruning, LossScore\n"
        "class Theirs(NoPruning):\n    def __init__(self, share=0.5):\n        self.share = share\n"
        "class His(LossScore):\n    pass\n",
    )
    code = (
        "import sys; from alignprune_pl import AlignPrune; from alignprune_pl.policies import POLICIES, make_policy\n"
        "assert 'theirs' in POLICIES.names() and 'their_module' not in sys.modules\n"
        "callback = AlignPrune(policy='theirs', score='his'); print(callback.policy, callback.score)\n"
        "print(make_policy('theirs', share=0.2))\n"
        "try:\n    POLICIES.get('broken')\nexcept ValueError as error:\n    print(error)\n"
    )
    done = run_code(code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Theirs(share=0.5) His()\nTheirs(share=0.2)\n" in done.stdout
    assert "The policy 'broken' is announced as 'no_such_module:Nothing', but importing that failed" in done.stdout
    options = ["pruning=by_name", "pruning.name=theirs", "+pruning.share=0.25", "score=by_name", "score.name=his"]
    small = ["trainer.max_epochs=1", "trainer.accelerator=cpu", "model.hidden=[16]", "report=false"]
    done = run_script("train.py", *options, *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (summary,) = (tmp_path / "outputs").rglob("summary.json")
    assert json.loads(summary.read_text())["policy"] == "Theirs(share=0.25)"
