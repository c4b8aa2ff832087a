"""Weights, tokenizer and recipe to the bytes of an artifact, at one precision.

The artifact alone can score and generate: the resolved recipe says how to build the model, the tokenizer how to read
text, and every weight is a section named as in the model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from nutshell import __version__
from nutshell.artifact.config import PackConfig
from nutshell.artifact.container import Container, Section, pack_container, unpack_container
from nutshell.codec import chain as codec
from nutshell.codec.planes import CodePlanes
from nutshell.nn.params import ParamTable, Role
from nutshell.quant.config import QuantRule, rule_for
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import quantize

# For codes, the model of `ans` won on every trained matrix; brotli takes seconds and can win only where rows repeat.
CODE_CHAINS = (("ans",),)
SIDE_CHAINS = (("bits", "ans"), ("shuffle", "brotli"), ("raw",))
BYTES_CHAINS = (("lzma",), ("brotli",))


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
    rate_bits: float | None  # the fitted precision, where a rule left it open


def is_fitted(config: PackConfig) -> bool:
    """Say whether a rule leaves its precision to the budget."""
    return any(rule.grid.is_open for rule in config.rules)


class Packer:
    """Packs one model at any precision; what no precision changes is coded once.

    Args:
        contents: what goes into the artifact.
        config: the rules.
    """

    def __init__(self, contents: Contents, config: PackConfig) -> None:
        self._frame = tuple(_frame_sections(contents))
        self._weights: list[tuple[Section, ...] | _Fitted] = []
        for name, weight in contents.weights.items():
            rule = rule_for(config.rules, contents.roles[name], weight.shape)
            if rule is None:
                self._weights.append((_smallest(name, "float", weight.half().numpy(), SIDE_CHAINS),))
            elif rule.grid.is_open:
                self._weights.append(_Fitted(name, weight, rule))
            else:
                self._weights.append(_plane_sections(name, quantize(weight, rule)))

    def pack(self, rate_bits: float | None) -> Packed:
        """Quantize, code and wrap; `rate_bits` is the precision of the rules that do not fix theirs."""
        sections = [*self._frame]
        for weight in self._weights:
            sections += weight.sections(rate_bits) if isinstance(weight, _Fitted) else weight
        content = pack_container(sections, {"producer": f"nutshell {__version__}"})
        return Packed(content, unpack_container(content), rate_bits)


class _Fitted(NamedTuple):
    """A matrix whose precision the budget decides."""

    name: str
    weight: Tensor
    rule: QuantRule

    def sections(self, rate_bits: float | None) -> tuple[Section, ...]:
        assert rate_bits is not None, "a rule with an open grid needs a rate"
        return _plane_sections(self.name, quantize(self.weight, self.rule, precision=Precision(rate_bits)))


def _frame_sections(contents: Contents) -> Iterable[Section]:
    for name, content in (("recipe", contents.recipe.encode()), ("tokenizer", contents.tokenizer)):
        yield _smallest(name, name, np.frombuffer(content, np.uint8), BYTES_CHAINS)


def _plane_sections(name: str, planes: CodePlanes) -> tuple[Section, ...]:
    sides = (_smallest(name, side, array, SIDE_CHAINS) for side, array in planes.sides.items())
    return _smallest(name, "codes", planes.codes, CODE_CHAINS), *sides


def _smallest(name: str, kind: str, array: np.ndarray, chains: tuple[codec.Chain, ...]) -> Section:
    """Encode by the chain that makes the fewest bytes; of equals the first."""
    return min((Section.encode(name, kind, array=array, chain=chain) for chain in chains), key=_num_bytes)


def _num_bytes(section: Section) -> int:
    return len(section.payload)
