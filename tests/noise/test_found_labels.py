"""Labels that are there already: the given, the clean and the human ones."""

import pytest
import torch

from alignprune_pl.noise import Clean, Given, Human, LabelledData

CLEAN = torch.tensor([0, 1, 2, 0, 1])
GIVEN = torch.tensor([0, 1, 1, 0, 2])
NAMES = ["aggregate", "worst", "random1", "random2", "random3"]
SETS = {name: (CLEAN + (torch.arange(5) == place)) % 3 for place, name in enumerate(NAMES)}
G = torch.Generator()


def test_given_takes_the_labels_as_they_are_and_says_where_they_are_wrong():
    noisy, mask = Given()(LabelledData(GIVEN, 3, CLEAN), G)
    assert torch.equal(noisy, GIVEN)
    assert mask.tolist() == [False, False, True, False, True]


def test_given_and_human_labels_have_no_mask_where_nobody_knows_the_clean_ones():
    data = LabelledData(GIVEN, 3, annotations={"worst": SETS["worst"]})
    noisy, mask = Given()(data, G)
    assert torch.equal(noisy, GIVEN)
    assert mask is None
    noisy, mask = Human("worst")(data, G)
    assert torch.equal(noisy, SETS["worst"])
    assert mask is None


def test_clean_takes_the_clean_labels_whatever_is_given():
    noisy, mask = Clean()(LabelledData(GIVEN, 3, CLEAN), G)
    assert torch.equal(noisy, CLEAN)
    assert not mask.any()


def test_clean_is_refused_where_nobody_knows_the_clean_labels():
    sentence = "^webvision's clean labels are not known; noise=given trains on its labels as they are.$"
    with pytest.raises(ValueError, match=sentence):
        Clean()(LabelledData(GIVEN, 3, name="webvision"), G)


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        *((name, name) for name in NAMES),
        ("aggre", "aggregate"),
        ("worse", "worst"),
        ("rand1", "random1"),
        ("rand2", "random2"),
        ("rand3", "random3"),
    ],
)
def test_human_labels_go_by_their_name_or_the_short_one(annotation, name):
    noisy, mask = Human(annotation)(LabelledData(GIVEN, 3, CLEAN, annotations=SETS), G)
    assert torch.equal(noisy, SETS[name])
    assert mask.nonzero().squeeze(1).tolist() == [NAMES.index(name)]


def test_a_name_that_the_data_set_has_goes_before_the_short_one():
    data = LabelledData(GIVEN, 3, annotations={"worse": GIVEN, "worst": CLEAN})
    assert torch.equal(Human("worse")(data, G)[0], GIVEN)


def test_the_only_human_labels_need_no_name():
    assert torch.equal(Human()(LabelledData(GIVEN, 3, annotations={"fine": CLEAN}), G)[0], CLEAN)


@pytest.mark.parametrize("annotation", [None, "worst"])
def test_a_data_set_without_human_labels_is_refused(annotation):
    with pytest.raises(ValueError, match=r"^digits has no human labels; use dataset=cifar10n or dataset=cifar100n.$"):
        Human(annotation)(LabelledData(GIVEN, 3, name="digits"), G)


def test_human_labels_that_do_not_exist_or_are_not_named_are_refused_with_those_that_do():
    data = LabelledData(GIVEN, 3, annotations=SETS, name="cifar10n")
    listed = "aggregate, random1, random2, random3, worst.$"
    with pytest.raises(ValueError, match=r"^annotation='fine' is given, but cifar10n has no human.* one of " + listed):
        Human("fine")(data, G)
    with pytest.raises(
        ValueError, match=r"^annotation=None is given, but cifar10n has more than one.* one of " + listed
    ):
        Human()(data, G)
    with pytest.raises(ValueError, match=r"^annotation=None is given, but pairs has more than one.* one of a, b.$"):
        Human()(LabelledData(GIVEN, 3, annotations={"b": GIVEN, "a": GIVEN}, name="pairs"), G)
    only_one = LabelledData(GIVEN, 3, annotations={"fine": GIVEN}, name="cifar100n")
    with pytest.raises(ValueError, match=r"^annotation='aggre' is given, but cifar100n has no .* take one of fine.$"):
        Human("aggre")(only_one, G)
