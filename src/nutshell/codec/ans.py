"""Integer codes at the entropy of a static model that is fitted to them (models.py, fitting.py, plane_fitting.py)."""

import math

import numpy as np
from jaxtyping import Int

from nutshell.codec.blocks import Blocks
from nutshell.codec.fitting import Fit, fit
from nutshell.codec.models import MAX_SYMBOLS, StaticModel, TableReader, has_rows
from nutshell.codec.plane_fitting import fit_plane
from nutshell.codec.stack import Stack
from nutshell.codec.transforms import Shape
from nutshell.errors import ArtifactError

CODE_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32")


class Ans:
    """Integer codes under a static model; rows along the first axis may differ in width, columns too."""

    def encode(self, array: Int[np.ndarray, "..."]) -> bytes:
        """Compress integers that span at most MAX_SYMBOLS values."""
        symbols, low = symbols_of(array)
        fitted, stack = fit_lines(symbols, low, array.shape), Stack()
        _push(stack, fitted, symbols)
        return fitted.model.to_bytes() + stack.to_bytes()

    def decode(self, payload: bytes, dtype: np.dtype, shape: Shape) -> Int[np.ndarray, "..."]:
        """Restore."""
        reader = TableReader(payload)
        model = read_model(reader, dtype, shape)
        stack = Stack(payload[reader.position :])
        plane = (shape[0], math.prod(shape[1:])) if has_rows(shape) else (1, math.prod(shape))
        blocks, ordered, frequencies = Blocks.pop(stack, model, plane), np.empty(plane, dtype), model.by_class()
        for group in blocks.groups():
            group.put(ordered, stack.pop(group.size, frequencies[group.number], model.support.low, dtype))
        stack.check_empty()
        return blocks.restored(ordered).reshape(shape)


def fit_lines(symbols: Int[np.ndarray, "R C"], low: int, shape: Shape) -> Fit:
    """Find the cheapest model: one for all, or of rows and columns where an array of this shape may have that."""
    fits = [fit(symbols, low)]
    if has_rows(shape):
        by_lines = fit_plane(symbols, low)
        if by_lines.model.suits(shape):
            fits.append(by_lines)
    return min(fits, key=lambda found: found.bits)


def symbols_of(array: Int[np.ndarray, "..."]) -> tuple[Int[np.ndarray, "R C"], int]:
    """Count codes from their minimum; one line a row where rows may have models of their own, else one line."""
    assert array.dtype.name in CODE_DTYPES, f"an entropy model is for {', '.join(CODE_DTYPES)}, got {array.dtype}"
    low = int(array.min())
    span = int(array.max()) - low + 1
    assert span <= MAX_SYMBOLS, f"integers span {span} values, an entropy model has at most {MAX_SYMBOLS}"
    lines = array.shape[0] if has_rows(array.shape) else 1
    return np.subtract(array, low, dtype=np.int64).astype(np.int32).reshape(lines, -1), low


def read_model(reader: TableReader, dtype: np.dtype, shape: Shape) -> StaticModel:
    """Read a model, and check that an array of this dtype and shape may have it.

    Raises:
        ArtifactError: it may not.
    """
    model = StaticModel.read(reader)
    low, high = model.support.low, model.support.low + model.support.size - 1
    if dtype.kind not in "iu" or low < np.iinfo(dtype).min or high > np.iinfo(dtype).max:
        raise ArtifactError(f"a coded section holds integers from {low} to {high}, which {dtype} cannot")
    if not model.suits(shape):
        raise ArtifactError(f"a coded section of shape {list(shape)} cannot have such a model of its rows")
    return model


def _push(stack: Stack, fitted: Fit, symbols: Int[np.ndarray, "R C"]) -> None:
    """Put codes on the stack, what is to be read first last."""
    frequencies, blocks = fitted.model.by_class(), Blocks(fitted.rows, fitted.columns)
    ordered = blocks.ordered(symbols)
    for group in reversed(blocks.groups()):
        stack.push(group.items(ordered), frequencies[group.number])
    blocks.push(stack, fitted.model)
