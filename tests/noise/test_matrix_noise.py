"""Noise by a transition matrix, and the transition matrix of labels."""

import re

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.metrics import confusion_matrix

from alignprune_pl.noise import LabelledData, TransitionMatrix, matrix_noise, transition_matrix
from alignprune_pl.noise.base import by_class, draw_class

C = 4
LABELS = torch.randint(C, (60_000,), generator=torch.Generator().manual_seed(1))
ROWS = [[0.0, 0.6, 0.4, 0.0], [0.05, 0.9, 0.0, 0.05], [0.0, 0.0, 1.0, 0.0], [0.1, 0.2, 0.3, 0.4]]
MATRIX = torch.tensor(ROWS, dtype=torch.float64)
LAST = 1 - 2**-53  # the largest number that a uniform draw in float64 can be


def g(seed=0):
    return torch.Generator().manual_seed(seed)


def test_each_label_is_drawn_from_its_classs_row():
    noisy, mask = matrix_noise(LABELS, MATRIX, C, g())
    assert torch.equal(mask, noisy != LABELS)
    for own in range(C):
        labels = noisy[own == LABELS]
        observed = torch.bincount(labels, minlength=C) / len(labels)
        spread = (MATRIX[own] * (1 - MATRIX[own]) / len(labels)).sqrt()
        assert ((observed - MATRIX[own]).abs() <= 5 * spread).all()  # five standard deviations; none where it is 0 or 1


@pytest.mark.parametrize("classes", [1, 2])
def test_the_draws_of_samples_are_independent_of_each_other(classes):
    """Neighbours agree half of the time, be they of one class or of two in turn."""
    n = 40_000
    noisy = matrix_noise(torch.arange(n) % classes, torch.full((2, 2), 0.5), 2, g())[0]
    agree = noisy[::2] == noisy[1::2]
    assert abs(float(agree.double().mean()) - 0.5) <= 5 * (0.25 / (n / 2)) ** 0.5


def test_a_permutation_renames_the_classes_exactly():
    permutation = torch.eye(C)[[2, 0, 3, 1]]
    assert torch.equal(matrix_noise(LABELS, permutation, C, g())[0], torch.tensor([2, 0, 3, 1])[LABELS])


def test_transition_matrix_finds_the_matrix_that_made_the_noise():
    found = transition_matrix(LABELS, matrix_noise(LABELS, MATRIX, C, g())[0], C)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, MATRIX, atol=0.025, rtol=0)  # 5 * sqrt(0.25 / 15,000), and a little
    torch.testing.assert_close(found.sum(dim=1), torch.ones(C).double())


def test_transition_matrix_is_the_normalised_confusion_matrix_and_nan_for_a_class_without_samples():
    clean, noisy = torch.tensor([0, 0, 0, 2, 2, 3]), torch.tensor([0, 1, 3, 2, 1, 0])
    found = transition_matrix(clean, noisy, C)
    assert found[1].isnan().all()
    expected = torch.from_numpy(confusion_matrix(clean, noisy, labels=range(C), normalize="true"))
    torch.testing.assert_close(found[[0, 2, 3]], expected[[0, 2, 3]])
    assert transition_matrix(clean[:0], noisy[:0], C).isnan().all()


def test_transition_matrix_refuses_labels_that_do_not_fit():
    with pytest.raises(
        ValueError, match=r"^2 clean and 3 noisy labels are given, but one of each a sample is expected;"
    ):
        transition_matrix(LABELS[:2], LABELS[:3], C)
    with pytest.raises(ValueError, match=r"^clean labels range from 3 to 3, but classes 0 to 2"):
        transition_matrix(torch.tensor([3]), torch.tensor([0]), 3)
    with pytest.raises(ValueError, match=r"^noisy labels range from 3 to 3, but classes 0 to 2"):
        transition_matrix(torch.tensor([0]), torch.tensor([3]), 3)


TEXTS = {
    "commas": "0,0.6,.4,0\n0.05,0.9,0,5e-2\n0,0,1,0\n0.1,0.2,0.3,0.4\n",
    "commas and spaces": "0 , 0.6 , 0.4 , 0\n0.05, 0.9, 0, 0.05\n0, 0, 1, 0\n0.1, 0.2, 0.3, 0.4",
    "white space": "  0 0.6\t0.4   0\n\n0.05 0.9 0 0.05 \n0 0 1 0\r\n0.1 0.2 0.3 0.4\n\n",
    "a byte order mark": "\ufeff0 0.6 0.4 0\n0.05 0.9 0 0.05\n0 0 1 0\n0.1 0.2 0.3 0.4",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_a_matrix_is_read_from_a_text_file(tmp_path, text):
    path = tmp_path / "T.txt"
    path.write_text(text, encoding="utf-8")
    noise = TransitionMatrix(path)
    assert torch.equal(noise.probabilities, MATRIX)
    assert torch.equal(TransitionMatrix(str(path)).probabilities, MATRIX)
    assert repr(noise) == repr(TransitionMatrix(str(path))) == f"TransitionMatrix(matrix={str(path)!r})"


@pytest.mark.parametrize(
    "matrix", [ROWS, tuple(map(tuple, ROWS)), OmegaConf.create(ROWS), MATRIX], ids=["list", "tuple", "config", "tensor"]
)
def test_a_matrix_is_any_nested_sequence_or_a_tensor(matrix):
    noise = TransitionMatrix(matrix)
    assert torch.equal(noise.probabilities, MATRIX)
    assert repr(noise) == f"TransitionMatrix(matrix={ROWS!r})"
    data = LabelledData(LABELS, C)
    assert torch.equal(noise(data, g(3))[0], matrix_noise(LABELS, MATRIX, C, g(3))[0])


def test_a_tensor_that_changes_later_does_not_change_the_noise():
    matrix = MATRIX.clone()
    noise = TransitionMatrix(matrix)
    matrix.zero_()
    assert torch.equal(noise.probabilities, MATRIX)


def test_rows_that_sum_to_one_within_a_millionth_are_taken():
    assert len(TransitionMatrix([[0.5, 0.5 + 9e-7], [0.5 - 9e-7, 0.5]]).probabilities) == 2
    third = torch.full((3, 3), 1 / 3)  # float32
    assert matrix_noise(torch.arange(3), third, 3, g())[0].shape == (3,)


@pytest.mark.parametrize(
    ("matrix", "sentence"),
    [
        (
            [[0.5, 0.5], [0.2, 0.7]],
            "row 1 (counted from 0) of the transition matrix sums to 0.9, but 1 is expected; divi",
        ),
        ([[1.0, 2e-6], [0, 1]], "row 0 (counted from 0) of the transition matrix sums to 1.000002, but 1 is expected"),
        (
            [[1 - 2e-6, 0], [0, 1]],
            "row 0 (counted from 0) of the transition matrix sums to 0.999998, but 1 is expected",
        ),
        ([[1, 0], [1.5, -0.5]], "row 1 (counted from 0) of the transition matrix has the entry 1.5, but probabilities"),
        (
            [[1, 0], [-0.1, 1.1]],
            "row 1 (counted from 0) of the transition matrix has the entry -0.1, but probabilities",
        ),
        ([[1, float("nan")], [0, 1]], "row 0 (counted from 0) of the transition matrix has the entry nan, but"),
        ([[float("inf"), 0], [0, 1]], "row 0 (counted from 0) of the transition matrix has the entry inf, but"),
        ([[1, 0], [0, 1], [0, 1]], "row 0 (counted from 0) of the transition matrix has 2 entries, but 3 are expected"),
        (
            [[1, 0], [1]],
            "row 1 (counted from 0) of the transition matrix has 1 entries, but 2 are expected, one for each row",
        ),
        ([], "the transition matrix is torch.float64[0], but float[C, C] is expected; give one row and one column for"),
        (
            [0.5, 0.5],
            "matrix=[0.5, 0.5] is given, but C rows of C numbers, or the path of a file with them, are expected",
        ),
        (["10", "01"], "matrix=['10', '01'] is given, but C rows of C numbers"),
        ([["a", 0], [0, 1]], "matrix=[['a', 0], [0, 1]] is given, but C rows of C numbers"),
        (0.4, "matrix=0.4 is given, but C rows of C numbers"),
    ],
)
def test_a_matrix_that_is_no_transition_matrix_is_refused(matrix, sentence):
    with pytest.raises(ValueError, match=r"^" + re.escape(sentence)):
        TransitionMatrix(matrix)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1 0\n\n0 one\n", "line 3 of {path} is '0 one', but numbers separated by commas or white space are expected"),
        ("1,0,\n0,1,\n", "line 1 of {path} is '1,0,', but numbers separated by commas or white space are expected"),
        ("1;0\n0;1\n", "line 1 of {path} is '1;0', but numbers"),
        ("0.5 0.5\n0.5 0.4\n", "row 1 (counted from 0) of the transition matrix sums to 0.9, but 1 is expected"),
        ("", "the transition matrix is torch.float64[0], but float[C, C] is expected"),
    ],
)
def test_a_file_without_a_transition_matrix_is_refused(tmp_path, text, sentence):
    path = tmp_path / "T.txt"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"^" + re.escape(sentence.format(path=path))):
        TransitionMatrix(path)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("missing.txt", "binary", ""):
        path = tmp_path / name
        with pytest.raises(ValueError, match=re.escape(f"matrix={str(path)!r} is given, but that file cannot be read")):
            TransitionMatrix(path)


def test_a_matrix_of_another_number_of_classes_is_refused():
    sentence = "^the transition matrix has 4 rows, but 5 are expected, one for each class; take the matrix of this data"
    with pytest.raises(ValueError, match=sentence):
        TransitionMatrix(MATRIX)(LabelledData(LABELS, 5), g())


def test_the_function_refuses_the_same():
    with pytest.raises(ValueError, match=r"^the transition matrix is torch.float32\[2, 3\], but float\[C, C\] is exp"):
        matrix_noise(LABELS, torch.ones(2, 3), C, g())
    with pytest.raises(ValueError, match=r"^the transition matrix is torch.int64\[4, 4\], but float\[C, C\] is exp"):
        matrix_noise(LABELS, torch.eye(4).long(), C, g())
    with pytest.raises(ValueError, match=r"^row 0 .* sums to 4, but 1"):
        matrix_noise(LABELS, torch.ones(4, 4), C, g())
    with pytest.raises(ValueError, match=r"^labels range from 0 to 3, but classes 0 to 2"):
        matrix_noise(LABELS, torch.eye(3), 3, g())


@pytest.mark.parametrize("total", [1.0, 1 + 9e-7, 1 - 9e-7, 1 / 3])
def test_a_class_of_probability_zero_is_never_drawn(total):
    positions = torch.tensor([0.0, 2**-53, 0.2499, 0.25, 0.5, LAST], dtype=torch.float64)
    row = torch.tensor([0, 0.25, 0, 0.75, 0], dtype=torch.float64) * total
    assert draw_class(row, positions).tolist() == [1, 1, 1, 3, 3, 3]
    thirds = torch.tensor([1, 0, 1, 1, 0], dtype=torch.float64) / 3 * total
    assert draw_class(thirds, positions)[[0, -1]].tolist() == [0, 3]


def test_samples_are_grouped_by_class_in_their_order():
    groups = by_class(torch.tensor([5, 0, 3, 1]), torch.tensor([2, 0, 9, 2, 9, 0]), 4)
    assert [group.tolist() for group in groups] == [[5, 1], [], [0, 3], []]
