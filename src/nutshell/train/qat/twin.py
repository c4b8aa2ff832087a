"""A second model on the parameters of a first, whose forward sees some of them through a view.

Which model runs is the phase's choice, made outside of any forward: neither has a branch for it, and compiled code of
the one never meets the other. What is seen of a weight is computed once a forward, so all visits of a block, and the
two ends of a tied head, see the same.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn

from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.seams import Stream
from nutshell.nn.cache import KVCache
from nutshell.nn.kernels.attend import AttendKind
from nutshell.nn.params import ParamTable
from nutshell.quant.config import QuantRole, QuantRule, is_quantized
from nutshell.train.qat.mode import View, ViewKind


class ViewedConfig(ModelConfig, frozen=True, kw_only=True):
    """A model's config, rewritten: parameters of the roles in `views` are seen through them."""

    views: tuple[tuple[QuantRole, View], ...]


class ViewedLM(LM):
    """The same forward; the weights in it are what the views show, their gradients reach the parameters.

    Args:
        config: the rewritten config.
        schedules: those that the model of the parameters was built for.
        table: the parameters.
    """

    def __init__(self, config: ViewedConfig, schedules: Sequence[DepthSchedule], table: ParamTable) -> None:
        with torch.device("meta"):
            super().__init__(config, schedules)
        assert [name for name, _ in self.named_parameters()] == [row.name for row in table]
        views = dict(config.views)
        self._looks: list[_Look] = []
        for row in table:
            owner, _, name = row.name.rpartition(".")
            module = self.get_submodule(owner)
            module.register_parameter(name, row.value)
            if row.role in views and is_quantized(row.shape):
                module.__class__ = _viewed(type(module), name)
                seen = seen_by(module)
                seen[name] = row.value  # until a forward looks; compiled code would be made anew for a new key
                self._looks.append(_Look(seen, name, row.value, views[row.role]))

    def stream(
        self,
        tokens: Int[Tensor, "B T"],
        *,
        dtype: torch.dtype,
        attend_kind: AttendKind,
        cache: KVCache | None = None,
        rotary_base: float | None = None,
    ) -> Stream:
        """Look at the weights, then begin the forward as every model does."""
        for look in self._looks:
            look.seen[look.name] = look.view(look.value)
        return super().stream(tokens, dtype=dtype, attend_kind=attend_kind, cache=cache, rotary_base=rotary_base)


class _Look(NamedTuple):
    """A parameter, its view, and where its module finds what is seen of it."""

    seen: dict[str, Tensor]
    name: str
    value: nn.Parameter
    view: View


def seen_by(module: nn.Module) -> dict[str, Tensor]:
    """Give what a module computes with in place of parameters, by their names; as the last forward saw them."""
    return module.__dict__.setdefault("_seen", {})


@functools.cache
def _viewed(kind: type[nn.Module], name: str) -> type[nn.Module]:
    """Derive a class of modules that compute with what is seen of a parameter.

    The property comes before the parameter of that name, which stays where it was: state dict, table and optimizer
    know it alone. And it is a class of its own so that compiled code of the plain one is not taken for it: an attribute
    of the instance would do as well uncompiled, but compiled code that was made for parameters does not look for one.
    """
    return type(kind.__name__, (kind,), {name: property(lambda module: module._seen[name])})


def quantized_twin(model: LM, schedules: Sequence[DepthSchedule], qat: ViewKind, rules: Sequence[QuantRule]) -> LM:
    """Give a model that shares the very parameters of another, and sees them as the exporter's rules will leave them.

    Args:
        model: the other; nothing of it changes.
        schedules: those that it was built for.
        qat: how rounding is seen, and of which roles.
        rules: the exporter's.

    Raises:
        ValueError: a setting is missing or without effect under these rules.
    """
    views: tuple[tuple[QuantRole, View], ...] = tuple((role, qat.view(grid)) for role, grid in qat.grids(rules).items())
    settings = {name: getattr(model.config, name) for name in model.config.__struct_fields__}
    return ViewedLM(ViewedConfig(**settings, views=views), schedules, ParamTable.of(model))
