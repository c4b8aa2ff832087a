"""The residual rules; a recipe names exactly one by its `kind`."""

from nutshell.model.residual.sequential import SequentialConfig

ResidualConfig = SequentialConfig
