"""Weights, tokenizer and recipe to the bytes of an artifact, at one precision.

The artifact alone can score and generate: the resolved recipe says how to build the model, the tokenizer how to read
text, and every weight is a section named as in the model.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from nutshell import __version__
from nutshell.artifact.config import PackConfig
from nutshell.artifact.container import Container, Section, pack_container, unpack_container
from nutshell.artifact.matrices import Matrix, factored, quantize_all, slope_unit
from nutshell.artifact.vocabulary import shorten
from nutshell.codec import chain as codec
from nutshell.codec.coders import TRELLIS_CODERS
from nutshell.codec.planes import CodePlanes
from nutshell.errors import NutshellError
from nutshell.nn.params import ParamTable, Role
from nutshell.quant.config import QuantRule, rule_for
from nutshell.quant.grids import OpenGrid
from nutshell.quant.precision import Precision
from nutshell.quant.statistics import Statistics
from nutshell.quant.workers import in_order

# For codes, the model of `ans` won on every trained matrix; brotli takes seconds and can win only where rows repeat.
CODE_CHAINS = (("ans",),)
SIDE_CHAINS = (("bits", "ans"), ("shuffle", "brotli"), ("raw",))
BYTES_CHAINS = (("lzma",), ("brotli",))
INTEGER_SIDES = ("columns", "lqer_left", "lqer_right")


@dataclass(frozen=True, slots=True)
class Contents:
    """What goes into an artifact.

    Attributes:
        weights: the final weights by parameter name, fp32.
        roles: the role of each parameter that the final schedule uses.
        recipe: the resolved recipe as TOML.
        tokenizer: the tokenizer's model file.
    """

    weights: Mapping[str, Tensor]
    roles: Mapping[str, Role]
    recipe: str
    tokenizer: bytes

    @classmethod
    def of(cls, weights: Mapping[str, Tensor], table: ParamTable, *, recipe: str, tokenizer: bytes) -> "Contents":
        """Take from `weights` what a model's table names; the rest served schedules that are not shipped."""
        roles: dict[str, Role] = {row.name: row.role for row in table}
        return cls({name: weights[name] for name in roles}, roles, recipe, tokenizer)


@dataclass(frozen=True, slots=True)
class Packed:
    """An artifact, as bytes and as its parts."""

    content: bytes
    container: Container
    precision: Precision | None  # the fitted one, where a rule leaves it open


def is_fitted(config: PackConfig) -> bool:
    """Say whether a rule leaves its precision to the budget."""
    return any(rule.grid.is_open for rule in config.rules)


class Packer:
    """Packs one model at any precision; what no precision changes is coded once, and Hessians are factored once.

    Matrices are quantized and coded beside one another; the bytes do not depend on how many at a time.

    Args:
        contents: what goes into the artifact.
        config: the rules.
        statistics: of the matrices whose rules use them, by name.
        workers: matrices at a time; as many as there are processors unless given.

    Raises:
        NutshellError: a weight is not finite, or beyond fp16 where that is how it is stored.
    """

    def __init__(
        self,
        contents: Contents,
        config: PackConfig,
        statistics: Mapping[str, Statistics] | None = None,
        *,
        workers: int | None = None,
    ) -> None:
        self._workers = workers
        _check_finite(contents.weights)
        matrices = matrices_of(contents, config, statistics or {})
        quantized = {matrix.name for matrix in matrices}
        spared = [(name, weight) for name, weight in contents.weights.items() if name not in quantized]
        self._open = factored((matrix for matrix in matrices if matrix.rule.grid.is_open), workers=workers)
        self._unit = slope_unit(self._open, workers=workers)
        fixed = [matrix for matrix in matrices if not matrix.rule.grid.is_open]
        floats = in_order(lambda each: _float_section(*each), spared, workers=workers)
        self._settled = (*_frame_sections(contents), *floats, *self._sections(fixed, None))

    @property
    def settled_bytes(self) -> int:
        """Payloads of the sections that no precision changes."""
        return sum(map(_num_bytes, self._settled))

    @property
    def num_open_weights(self) -> int:
        """Weights whose precision the budget decides."""
        return sum(matrix.weight.numel() for matrix in self._open)

    @property
    def mean_extra_bits(self) -> float:
        """What the open grids of those weights have in the mean beside the common rate."""
        extra = (matrix.weight.numel() * _extra_bits(matrix.rule) for matrix in self._open)
        return sum(extra) / max(self.num_open_weights, 1)

    def pack(self, rate_bits: float | None) -> Packed:
        """Quantize, code and wrap; `rate_bits` is the precision of the rules that do not fix theirs."""
        precision = None if rate_bits is None else Precision(rate_bits, self._unit)
        sections = [*self._settled, *self._sections(self._open, precision)]
        content = pack_container(sections, {"producer": f"nutshell {__version__}"})
        return Packed(content, unpack_container(content), precision)

    def _sections(self, matrices: Sequence[Matrix], precision: Precision | None) -> list[Section]:
        planes = quantize_all(matrices, precision, workers=self._workers)
        coded = in_order(lambda name: _plane_sections(name, planes[name]), list(planes), workers=self._workers)
        return [section for sections in coded for section in sections]


def _check_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse what no code can stand for.

    Raises:
        NutshellError: a weight is not finite.
    """
    for name, weight in weights.items():
        if not bool(weight.isfinite().all()):
            raise NutshellError(f"weight '{name}' is not finite; nothing was packed")


def matrices_of(contents: Contents, config: PackConfig, statistics: Mapping[str, Statistics]) -> list[Matrix]:
    """List the weights that a rule quantizes."""
    ruled = (
        (name, weight, rule_for(config.rules, contents.roles[name], weight.shape))
        for name, weight in contents.weights.items()
    )
    return [
        Matrix(name, contents.roles[name], weight, rule, statistics.get(name))
        for name, weight, rule in ruled
        if rule is not None
    ]


def _extra_bits(rule: QuantRule) -> float:
    assert isinstance(rule.grid, OpenGrid)
    return rule.grid.extra_bits


def _frame_sections(contents: Contents) -> Iterable[Section]:
    yield _smallest("recipe", "recipe", np.frombuffer(contents.recipe.encode(), np.uint8), BYTES_CHAINS)
    short = shorten(contents.tokenizer)
    kind, content = ("tokenizer", contents.tokenizer) if short is None else ("pieces", short)
    yield _smallest("tokenizer", kind, np.frombuffer(content, np.uint8), BYTES_CHAINS)


def _float_section(name: str, weight: Tensor) -> Section:
    stored = weight.half()
    if not bool(stored.isfinite().all()):
        raise NutshellError(f"weight '{name}' has {float(weight.abs().max()):g}, beyond fp16, in which it is stored")
    return _smallest(name, "float", stored.numpy(), SIDE_CHAINS)


def _plane_sections(name: str, planes: CodePlanes) -> tuple[Section, ...]:
    sides = (_smallest(name, side, array, side_chains(side)) for side, array in planes.sides.items())
    return _smallest(name, "codes", planes.codes, _code_chains(planes)), *sides


def _code_chains(planes: CodePlanes) -> tuple[codec.Chain, ...]:
    """Levels that follow a trellis have a coder of their own."""
    states = planes.spec.get("states")
    return CODE_CHAINS if states is None else ((TRELLIS_CODERS[int(states)],),)


def side_chains(side: str) -> tuple[codec.Chain, ...]:
    """Give the chains that are tried for the sides of a kind."""
    return CODE_CHAINS if side in INTEGER_SIDES else SIDE_CHAINS


def _smallest(name: str, kind: str, array: np.ndarray, chains: tuple[codec.Chain, ...]) -> Section:
    """Encode by the chain that makes the fewest bytes; of equals the first."""
    return min((Section.encode(name, kind, array=array, chain=chain) for chain in chains), key=_num_bytes)


def _num_bytes(section: Section) -> int:
    return len(section.payload)
