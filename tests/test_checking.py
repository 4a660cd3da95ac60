"""Checks of arguments: what they let through, and the sentence that refuses the rest."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from alignprune_pl.core.checking import check_count, check_number, check_word, refused

NAN, INF = math.nan, math.inf


def test_a_refusal_says_what_is_given_what_is_expected_and_what_to_do():
    assert refused("a", "b", "a number") == "a='b' is given, but a number is expected."
    assert refused("a", 1.5, "a number", "use 2") == "a=1.5 is given, but a number is expected; use 2."


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.0, 0.5, 1 - 1e-12, -0.0), (1, 1.0, -1e-12, 2, INF)),
        ("(0, 1]", (1e-300, 0.5, 1, 1.0), (0, -0.0, 1 + 1e-12, -INF)),
        ("[0, 1]", (0, 1), (-1e-12, 1 + 1e-12)),
        ("(0, 1)", (0.5,), (0, 1)),
        ("[0, inf)", (0, 3, 1e300), (-1e-300, INF)),
        ("(0, inf)", (1e-300, 1e300), (0, INF)),
        ("[1e-6, inf)", (1e-6, 1), (9e-7, 0)),
        ("[-1, 0.5]", (-1, 0.5), (-1.1, 0.6)),
    ],
)
def test_a_number_is_let_through_as_a_float_inside_its_interval_alone(interval, inside, outside):
    for value in inside:
        assert repr(check_number("share", value, interval)) == repr(float(value))
    for value in (*outside, NAN, True, False, None, "0.5", [0.5], 0.5j):
        with pytest.raises(ValueError, match=re.escape(f"share={value!r} is given, but a number in {interval} is")):
            check_number("share", value, interval)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_a_number_of_numpy_is_one_and_becomes_pythons(kind):
    assert repr(check_number("share", kind(0.5), "[0, 1)")) == "0.5"
    assert repr(check_count("epochs", np.int64(5), 1)) == "5"


def test_a_number_is_refused_by_what_it_is_and_with_what_to_do():
    with pytest.raises(ValueError, match=r"^a=2 is given, but a share in \[0, 1\) is expected; 0\.4 means 40 %\.$"):
        check_number("a", 2, "[0, 1)", "a share", "0.4 means 40 %")


@pytest.mark.parametrize("interval", ["", "0, 1", "[0, 1", "[0 1]", "{0, 1}", "[0, 1] "])
def test_an_interval_that_is_none_is_found_out(interval):
    with pytest.raises(ValueError, match="is no interval"):
        check_number("share", 0.5, interval)


@pytest.mark.parametrize("least", [0, 1, 2])
def test_a_count_is_let_through_from_the_least_on(least):
    for value in (least, least + 1, 10**12):
        assert check_count("epochs", value, least) is value
    for value in (least - 1, -10, float(least + 1), NAN, INF, True, None, "3"):
        with pytest.raises(
            ValueError,
            match=re.escape(f"epochs={value!r} is given, but a whole number of at least {least} is expected."),
        ):
            check_count("epochs", value, least)


def test_a_count_is_refused_by_what_it_is_and_with_what_to_do():
    with pytest.raises(ValueError, match=r"^k=0 is given, but a number of groups of at least 1 is expected; use 5\.$"):
        check_count("k", 0, 1, "a number of groups", "use 5")


WORDS = ("carry", "mask", "drop")


def test_a_word_is_one_of_those_that_there_are():
    for word in WORDS:
        assert check_word("missing", word, WORDS) is word
    for value in ("", "Carry", "mas", "carrymask", None, 3):
        with pytest.raises(ValueError, match=f"^missing={value!r} is given, but 'carry', 'mask' or 'drop' is expected"):
            check_word("missing", value, WORDS)
    with pytest.raises(ValueError, match=r"^a='b' is given, but 'c' or 'd' is expected; 'c' is as in the paper\.$"):
        check_word("a", "b", ("c", "d"), "'c' is as in the paper")
