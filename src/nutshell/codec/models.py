"""Static entropy models of integer codes: from a few stored integers to exact symbol frequencies.

Both sides of a coder must hold the same probabilities to the last bit, on every machine. So a model is a handful of
integers, its frequencies come from float operations that IEEE 754 rounds exactly (+ - * / sqrt; no exp, log or sum),
and they are integers that add up to 2^24 with at least one unit for every symbol, which is the precision of the coder
underneath: no further rounding takes place anywhere.

`Bell` is the shape of trained weights: density (1 + (d/a)^b / m)^-m at distance d from the centre, with b in quarters
and m a power of two. b = 2 with large m is the normal distribution, b = 1 Laplace's, b = 2 with small m a Student t.
The width `a` climbs a ladder of rungs, 16 to the octave. Rows of a matrix often differ in width only, and columns where
the quantizer's step falls from one to the next: `PlaneBells` gives every row and every column a class, a quarter octave
apart, which add up, and models those class numbers in turn.
`Histogram` stores a frequency for each symbol, for anything without such a shape.
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Int

from nutshell.codec.transforms import Shape
from nutshell.errors import ArtifactError

PRECISION_BITS = 24
MAX_SYMBOLS = 1 << 16
MIN_ROW_CODES, MAX_ROW_CODES = 16, 1 << 20  # shorter rows cannot pay for a rung; longer ones need none
MAX_ROW_TABLE = 4  # frequencies for each code that a model of rows may have: a payload cannot ask for endless tables
MIN_BLOCK_CODES = 16  # codes for each pair of a row's class and a column's: nor for endless rectangles
NUM_RUNGS, RUNGS_PER_CLASS = 256, 4
MAX_SHAPE, MAX_TAIL = 16, 20


class TableReader:
    """Reads the integers of a model from the front of a payload; what is left is the coded stream."""

    def __init__(self, payload: bytes) -> None:
        self.payload, self.position = payload, 0

    def take(self, count: int) -> bytes:
        """Take the next `count` bytes.

        Raises:
            ArtifactError: there are fewer.
        """
        taken = self.payload[self.position : self.position + count]
        if len(taken) < count:
            raise ArtifactError("the model of a coded section is cut short")
        self.position += count
        return taken

    def unsigned(self) -> int:
        """Read a little-endian base-128 number of at most 5 bytes."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ArtifactError("the model of a coded section holds an endless number")

    def signed(self) -> int:
        """Read a number whose lowest bit is its sign."""
        value = self.unsigned()
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1


def unsigned_bytes(value: int) -> bytes:
    """Write a non-negative number, 7 bits a byte, lowest first."""
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def signed_bytes(value: int) -> bytes:
    """Write a number with its sign in the lowest bit."""
    return unsigned_bytes(2 * value if value >= 0 else -2 * value - 1)


@dataclass(frozen=True)
class Support:
    """The symbols that can occur: `low`, `low + 1`, ..., `size` of them."""

    low: int
    size: int

    def to_bytes(self) -> bytes:
        """Write the table entry."""
        return unsigned_bytes(self.size - 1) + signed_bytes(self.low)

    @classmethod
    def read(cls, reader: TableReader) -> Self:
        """Read what `to_bytes` wrote."""
        size = reader.unsigned() + 1
        if size > MAX_SYMBOLS:
            raise ArtifactError(f"a coded section claims {size} different symbols, at most {MAX_SYMBOLS} are allowed")
        return cls(low=reader.signed(), size=size)


def has_rows(shape: Shape) -> bool:
    """Say whether an array of this shape has rows, along its first axis, of a length worth modelling."""
    return len(shape) > 1 and MIN_ROW_CODES <= math.prod(shape[1:]) <= MAX_ROW_CODES


def normalised(weights: Int[np.ndarray, "K N"]) -> Int[np.ndarray, "K N"]:
    """Scale lines of weights (from 0 to 2^30) to frequencies of at least 1 that sum to 2^PRECISION_BITS."""
    spare = (1 << PRECISION_BITS) - weights.shape[1]
    frequencies = weights * spare // weights.sum(axis=1, keepdims=True)
    lines = np.arange(len(weights))
    frequencies[lines, np.argmax(frequencies, axis=1)] += spare - frequencies.sum(axis=1)
    return frequencies + 1


@dataclass(frozen=True)
class Bell:
    """A bell of generalised normal and Student t shape; see the module's formula.

    Attributes:
        centre: in quarters of a code.
        shape: the exponent b, in quarters.
        tail: log2 of m.
        rung: a is (16 + rung % 16) * 2^(rung // 16) / 128 codes.
    """

    centre: int
    shape: int
    tail: int
    rung: int

    @staticmethod
    def is_possible(shape: int, tail: int) -> bool:
        """Say whether the format has a bell of this form."""
        return 1 <= shape <= MAX_SHAPE and 0 <= tail <= MAX_TAIL

    def frequencies(self, support: Support) -> Int[np.ndarray, " N"]:
        """Evaluate at every symbol."""
        return self.at_rungs(np.array([self.rung]), support)[0]

    def at_rungs(self, rungs: Int[np.ndarray, " K"], support: Support) -> Int[np.ndarray, "K N"]:
        """Evaluate at every symbol, once for each of several rungs in place of its own."""
        return normalised(self.weights(rungs, np.arange(support.low, support.low + support.size)))

    def weights(self, rungs: Int[np.ndarray, " K"], integers: Int[np.ndarray, " N"]) -> Int[np.ndarray, "K N"]:
        """Give the weight of some integers, once for each of several rungs in place of its own."""
        widths = (16 + rungs % 16) * np.ldexp(1 / 128, rungs // 16)
        distances = np.abs(integers - self.centre / 4)
        quarter_roots = distances / widths[:, None]
        np.sqrt(quarter_roots, out=quarter_roots)
        np.sqrt(quarter_roots, out=quarter_roots)
        # The format bounds both loops, so that nothing overflows. Infinity has the same weight as those bounds, 1, and
        # half the operations.
        powers = np.minimum(quarter_roots, 2.0**30)
        with np.errstate(over="ignore"):
            for _ in range(self.shape - 1):
                powers *= quarter_roots
            powers /= 2.0**self.tail
            powers += 1
            for _ in range(self.tail):
                powers *= powers
        return np.maximum(2.0**29 / powers, 1).astype(np.int64)

    def to_bytes(self) -> bytes:
        """Write the table entry."""
        return signed_bytes(self.centre) + bytes([self.shape, self.tail, self.rung])

    @classmethod
    def read(cls, reader: TableReader, support: Support) -> Self:
        """Read what `to_bytes` wrote."""
        centre, (shape, tail, rung) = reader.signed(), reader.take(3)
        if not cls.is_possible(shape, tail):
            raise ArtifactError(f"a coded section has a model of unknown shape ({shape}, {tail})")
        return cls(centre=centre, shape=shape, tail=tail, rung=rung)


_BYTES = np.arange(256, dtype=np.int64)
_MINIFLOATS = np.where(_BYTES < 16, _BYTES, (16 + _BYTES % 16) << np.maximum(_BYTES // 16 - 1, 0))
_MINIFLOAT_EDGES = (_MINIFLOATS[1:] + _MINIFLOATS[:-1]) / 2


@dataclass(frozen=True)
class Histogram:
    """A frequency for each symbol, stored as a float of one byte: 4 bits of exponent, 4 of mantissa; 0 is 0."""

    minifloats: bytes

    @classmethod
    def of(cls, counts: Int[np.ndarray, " N"]) -> Self:
        """Round counts to the nearest one-byte float, relative to the largest."""
        relative = counts * (31.0 * 2**14 / counts.max())
        codes = np.searchsorted(_MINIFLOAT_EDGES, relative, side="right")
        return cls(np.where(counts > 0, np.maximum(codes, 1), 0).astype(np.uint8).tobytes())

    def frequencies(self, support: Support) -> Int[np.ndarray, " N"]:
        """Expand the stored floats."""
        assert len(self.minifloats) == support.size
        return normalised(_MINIFLOATS[np.frombuffer(self.minifloats, np.uint8)][None])[0]

    def to_bytes(self) -> bytes:
        """Write the table entry."""
        return self.minifloats

    @classmethod
    def read(cls, reader: TableReader, support: Support) -> Self:
        """Read what `to_bytes` wrote."""
        minifloats = reader.take(support.size)
        if not any(minifloats):
            raise ArtifactError("a coded section has a model in which nothing can occur")
        return cls(minifloats)


@dataclass(frozen=True)
class PlaneBells:
    """One bell for a plane but for its rung: code (r, c) has `bell.rung + RUNGS_PER_CLASS * (rows[r] + columns[c])`.

    Attributes:
        bell: the narrowest.
        rows: model of the class numbers of rows, which are coded ahead of the codes.
        columns: the same of columns.
    """

    bell: Bell
    rows: "StaticModel"
    columns: "StaticModel"

    @property
    def num_classes(self) -> int:
        """Count the sums of a row's class and a column's."""
        return self.rows.support.size + self.columns.support.size - 1

    @property
    def num_blocks(self) -> int:
        """Count the pairs of a row's class and a column's."""
        return self.rows.support.size * self.columns.support.size

    def by_class(self, support: Support) -> Int[np.ndarray, "K N"]:
        """Evaluate the bell of each sum of classes."""
        return self.bell.at_rungs(self.bell.rung + RUNGS_PER_CLASS * np.arange(self.num_classes), support)

    def to_bytes(self) -> bytes:
        """Write the table entry."""
        return self.bell.to_bytes() + self.rows.to_bytes() + self.columns.to_bytes()

    @classmethod
    def read(cls, reader: TableReader, support: Support) -> Self:
        """Read what `to_bytes` wrote."""
        bell, rows, columns = Bell.read(reader, support), StaticModel.read(reader), StaticModel.read(reader)
        for classes in (rows, columns):
            if classes.support.low != 0 or isinstance(classes.distribution, PlaneBells):
                raise ArtifactError("a coded section has an impossible model of its rows and columns")
        model = cls(bell, rows, columns)
        if bell.rung + RUNGS_PER_CLASS * (model.num_classes - 1) >= NUM_RUNGS:
            raise ArtifactError("a coded section has an impossible model of its rows and columns")
        return model


@dataclass(frozen=True)
class StaticModel:
    """Which symbols can occur, and how often."""

    support: Support
    distribution: Histogram | Bell | PlaneBells

    def suits(self, shape: Shape) -> bool:
        """Say whether an array of this shape may have this model: a plane's model needs rows, and enough codes."""
        if not isinstance(self.distribution, PlaneBells):
            return True
        num_codes, num_frequencies = math.prod(shape), self.support.size * self.distribution.num_classes
        has_codes = num_codes >= max(num_frequencies / MAX_ROW_TABLE, MIN_BLOCK_CODES * self.distribution.num_blocks)
        return has_rows(shape) and has_codes

    def frequencies(self) -> Int[np.ndarray, " N"]:
        """Evaluate at every symbol; a plane's has no single answer."""
        assert not isinstance(self.distribution, PlaneBells)
        return self.distribution.frequencies(self.support)

    def by_class(self) -> Int[np.ndarray, "K N"]:
        """Evaluate at every symbol, for each sum of classes; one line where there are none."""
        if isinstance(self.distribution, PlaneBells):
            return self.distribution.by_class(self.support)
        return self.frequencies()[None]

    def to_bytes(self) -> bytes:
        """Write the whole table: support, form, parameters."""
        form = _FORMS.index(type(self.distribution))
        return self.support.to_bytes() + bytes([form]) + self.distribution.to_bytes()

    @classmethod
    def read(cls, reader: TableReader) -> Self:
        """Read what `to_bytes` wrote.

        Raises:
            ArtifactError: the bytes are no model.
        """
        support, form = Support.read(reader), reader.take(1)[0]
        if form >= len(_FORMS):
            raise ArtifactError(f"a coded section has a model of unknown form {form}")
        return cls(support, _FORMS[form].read(reader, support))


_FORMS: tuple[type[Histogram] | type[Bell] | type[PlaneBells], ...] = (Histogram, Bell, PlaneBells)
