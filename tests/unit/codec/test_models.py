import numpy as np
import pytest

import ans_reference
from nutshell.codec.models import (
    Bell,
    Histogram,
    PlaneBells,
    StaticModel,
    Support,
    TableReader,
    signed_bytes,
    unsigned_bytes,
)
from nutshell.errors import ArtifactError

BELLS = [Bell(0, 8, 20, 70), Bell(-5, 4, 20, 33), Bell(9, 7, 2, 90), Bell(0, 1, 0, 0), Bell(3, 16, 3, 255)]
SUPPORTS = [Support(-31, 63), Support(0, 2), Support(-128, 256), Support(100_000, 40)]


@pytest.mark.parametrize("bell", BELLS)
@pytest.mark.parametrize("support", SUPPORTS)
def test_bell_frequencies_are_those_of_the_written_format(bell, support):
    frequencies = bell.frequencies(support)
    expected = ans_reference.bell_frequencies(
        support.low, support.size, (bell.centre, bell.shape, bell.tail), bell.rung
    )
    assert frequencies.tolist() == expected
    assert frequencies.sum() == 2**24
    assert frequencies.min() >= 1


def test_a_bell_of_exponent_two_is_the_normal_distribution():
    bell = Bell(0, shape=8, tail=20, rung=16 * 8)  # width a = 32 codes
    frequencies = bell.frequencies(Support(-100, 201)) / 2**24
    density = np.exp(-((np.arange(-100, 101) / 32) ** 2))
    np.testing.assert_allclose(frequencies, density / density.sum(), rtol=1e-3, atol=1e-6)


def test_a_bell_of_small_tail_is_a_student_t():
    bell = Bell(0, shape=8, tail=2, rung=16 * 7)  # (1 + (d/16)^2 / 4)^-4: seven degrees of freedom
    frequencies = bell.frequencies(Support(-60, 121)) / 2**24
    density = (1 + (np.arange(-60, 61) / 16) ** 2 / 4) ** -4.0
    np.testing.assert_allclose(frequencies, density / density.sum(), rtol=1e-3)


def test_histogram_keeps_proportions_to_three_per_cent_and_zeros():
    counts = np.array([1_000_000, 999, 37, 0, 250_000, 8])
    frequencies = Histogram.of(counts).frequencies(Support(0, 6))
    assert frequencies.sum() == 2**24
    assert frequencies[3] == 1
    large = counts > 100
    np.testing.assert_allclose(frequencies[large] / 2**24, counts[large] / counts.sum(), rtol=0.035)


ONE_CLASS = StaticModel(Support(0, 1), Histogram(b"a"))
TWO_CLASSES = StaticModel(Support(0, 2), Histogram(b"ab"))
MODELS = [StaticModel(support, bell) for support in SUPPORTS for bell in BELLS] + [
    StaticModel(Support(4, 3), Histogram(bytes([0, 255, 16]))),
    StaticModel(
        Support(-8, 16), PlaneBells(Bell(0, 8, 8, 40), StaticModel(Support(0, 3), Histogram(b"abc")), ONE_CLASS)
    ),
]


@pytest.mark.parametrize("model", MODELS)
def test_a_table_survives_writing_and_every_cut_is_noticed(model):
    table = model.to_bytes()
    reader = TableReader(table + b"stream")
    assert StaticModel.read(reader) == model
    assert reader.position == len(table)
    for length in range(len(table)):
        with pytest.raises(ArtifactError, match="cut short"):
            StaticModel.read(TableReader(table[:length]))


def test_the_classes_of_rows_and_columns_add_up_and_are_rungs_four_apart():
    rows = PlaneBells(Bell(2, 8, 8, 40), StaticModel(Support(0, 2), Histogram(b"ab")), TWO_CLASSES)
    support = Support(-8, 16)
    expected = [Bell(2, 8, 8, rung).frequencies(support).tolist() for rung in (40, 44, 48)]
    assert rows.by_class(support).tolist() == expected
    model = StaticModel(support, rows)
    assert model.suits((2, 32))  # four pairs of classes for 64 codes
    assert not model.suits((3, 21))
    assert not model.suits((64, 1))
    assert not model.suits((64,))
    assert StaticModel(Support(-40, 85), rows).suits((2, 32))  # 255 frequencies
    assert not StaticModel(Support(-40, 86), rows).suits((2, 32))
    assert StaticModel(support, BELLS[0]).suits((1,))


NESTED = StaticModel(Support(0, 2), PlaneBells(Bell(0, 8, 8, 247), TWO_CLASSES, TWO_CLASSES))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (unsigned_bytes(1 << 16) + b"\0\0", "claims 65537 different symbols"),
        (b"\x80" * 5 + b"\0" * 9, "endless number"),
        (unsigned_bytes(1) + b"\0\3", "unknown form 3"),
        (unsigned_bytes(1) + b"\0\0\0\0", "nothing can occur"),
        (unsigned_bytes(1) + b"\0\1\0\0\5\5", "unknown shape"),
        (unsigned_bytes(1) + b"\0\1\0\x11\5\5", "unknown shape"),
        (unsigned_bytes(1) + b"\0\1\0\1\x15\5", "unknown shape"),
        (
            StaticModel(Support(0, 2), PlaneBells(Bell(0, 8, 8, 248), TWO_CLASSES, TWO_CLASSES)).to_bytes(),
            "impossible model",
        ),
        (
            StaticModel(Support(0, 2), PlaneBells(Bell(0, 8, 8, 40), TWO_CLASSES, MODELS[-2])).to_bytes(),
            "impossible model",
        ),
        (StaticModel(Support(0, 2), PlaneBells(Bell(0, 8, 8, 40), NESTED, TWO_CLASSES)).to_bytes(), "impossible model"),
    ],
)
def test_an_impossible_table_is_refused(table, message):
    with pytest.raises(ArtifactError, match=message):
        StaticModel.read(TableReader(table))


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 2**34 - 4, -1, -64, -65, -(2**31)])
def test_numbers_survive_writing(value):
    assert TableReader(signed_bytes(value)).signed() == value
    if value >= 0:
        assert TableReader(unsigned_bytes(value)).unsigned() == value
