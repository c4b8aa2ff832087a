"""The residual rules; a recipe names exactly one by its `kind`."""

from nutshell.model.residual.bounded import BoundedConfig
from nutshell.model.residual.lanes import LanesConfig
from nutshell.model.residual.parallel import ParallelConfig
from nutshell.model.residual.sequential import SequentialConfig

ResidualConfig = BoundedConfig | LanesConfig | ParallelConfig | SequentialConfig
