"""The kind tables: which techniques a recipe may list at each seam. One line adds one."""

from nutshell.model.techniques.asym_softcap import AsymSoftcapConfig
from nutshell.model.techniques.attention_gate import AttentionGateConfig
from nutshell.model.techniques.bigram_hash import BigramHashConfig
from nutshell.model.techniques.branch_scale import BranchScaleConfig
from nutshell.model.techniques.embed_norm import EmbedNormConfig
from nutshell.model.techniques.film import FilmConfig
from nutshell.model.techniques.layer_scale import LayerScaleConfig
from nutshell.model.techniques.norm_gain import NormGainConfig
from nutshell.model.techniques.smear_gate import SmearGateConfig
from nutshell.model.techniques.softcap import SoftcapConfig
from nutshell.model.techniques.value_embedding import ValueEmbeddingConfig
from nutshell.model.techniques.value_residual import ValueResidualConfig
from nutshell.model.techniques.xsa import XSAConfig
from nutshell.nn.mlp import SquaredLeakyReluConfig, SquaredReluConfig
from nutshell.nn.swiglu import SwiGLUConfig

InputConfig = BigramHashConfig | EmbedNormConfig | SmearGateConfig
ModulateConfig = BranchScaleConfig | FilmConfig | LayerScaleConfig | NormGainConfig
ValueConfig = ValueEmbeddingConfig | ValueResidualConfig
HeadConfig = AttentionGateConfig | XSAConfig
MLPConfig = SquaredReluConfig | SquaredLeakyReluConfig | SwiGLUConfig
LogitConfig = AsymSoftcapConfig | SoftcapConfig
