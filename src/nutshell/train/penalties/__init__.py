"""Terms of the objective that no batch changes: functions of the weights alone. The kind table; one line adds one."""

from nutshell.train.penalties.nuclear import NuclearConfig
from nutshell.train.penalties.penalty import Penalty
from nutshell.train.penalties.rate import RateConfig

PenaltyConfig = NuclearConfig | RateConfig

__all__ = ["NuclearConfig", "Penalty", "PenaltyConfig", "RateConfig"]
