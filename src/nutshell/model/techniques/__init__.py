"""The kind tables: which techniques a recipe may list at each seam. One line adds one."""

from nutshell.model.techniques.embed_norm import EmbedNormConfig
from nutshell.model.techniques.layer_scale import LayerScaleConfig
from nutshell.model.techniques.softcap import SoftcapConfig
from nutshell.model.techniques.xsa import XSAConfig

InputConfig = EmbedNormConfig
ModulateConfig = LayerScaleConfig
HeadConfig = XSAConfig
LogitConfig = SoftcapConfig
