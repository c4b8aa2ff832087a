"""The residual rules; a recipe names exactly one by its `kind`."""

from nutshell.model.residual.plain import PlainConfig
from nutshell.model.residual.x0_mix import X0MixConfig

ResidualConfig = PlainConfig | X0MixConfig
