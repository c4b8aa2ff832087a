"""Quantization-aware training: weights as the exporter will store them. The kind table; one line adds a mode."""

from nutshell.train.qat.noise import NoiseConfig
from nutshell.train.qat.snap import SnapConfig, snap_
from nutshell.train.qat.ste import SteConfig
from nutshell.train.qat.twin import quantized_twin

QatConfig = SteConfig | NoiseConfig | SnapConfig

__all__ = ["NoiseConfig", "QatConfig", "SnapConfig", "SteConfig", "quantized_twin", "snap_"]
