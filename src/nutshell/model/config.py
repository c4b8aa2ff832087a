"""What a recipe says about the model: sizes, depth, and the techniques at each seam."""

from typing import Literal

from nutshell.config.struct import Config
from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule
from nutshell.model.residual import PlainConfig, ResidualConfig
from nutshell.model.seams import Dims
from nutshell.model.techniques import HeadConfig, InputConfig, LogitConfig, ModulateConfig
from nutshell.nn.mlp import MLPConfig


class DepthConfig(Config, frozen=True):
    """The schedule in the notation of depth.py, and the rule or list of skips between its virtual layers."""

    schedule: str
    skips: Literal["none", "mirror"] | tuple[tuple[int, int], ...] = "none"

    def __post_init__(self) -> None:
        self.parse()

    def parse(self) -> DepthSchedule:
        return DepthSchedule.parse(self.schedule, self.skips)

    def variant(self, schedule: str) -> DepthSchedule:
        """Give another schedule of the same blocks, with skips by the same rule.

        Raises:
            RecipeError: the skips are a list of edges, which fits one schedule only.
        """
        if not isinstance(self.skips, str):
            raise RecipeError(
                f"skips listed as edges fit '{self.schedule}' only, not the phase '{schedule}'; use a rule"
            )
        return DepthSchedule.parse(schedule, self.skips)


class RotaryConfig(Config, frozen=True):
    """Base of the geometric frequencies, and how many channels of a head turn (absent: all)."""

    base: float = 10_000.0
    dims: int | None = None


class ModelConfig(Config, frozen=True):
    """A decoder with grouped-query attention and a tied embedding.

    `head_dim` defaults to model_dim / num_heads. `q_gain` is the initial factor on the RMS-normalised queries, learned
    for each head.
    """

    vocab_size: int
    model_dim: int
    num_heads: int
    num_kv_heads: int
    depth: DepthConfig
    mlp: MLPConfig
    head_dim: int | None = None
    q_gain: float = 1.5
    embedding_std: float = 0.005
    rotary: RotaryConfig = RotaryConfig()
    residual: ResidualConfig = PlainConfig()
    inputs: tuple[InputConfig, ...] = ()
    modulate: tuple[ModulateConfig, ...] = ()
    heads: tuple[HeadConfig, ...] = ()
    logits: tuple[LogitConfig, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "model_dim", "num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError(f"head_dim must be at least 1, got {self.head_dim}")
        if self.embedding_std <= 0 or self.rotary.base <= 1:
            raise ValueError(f"need embedding_std {self.embedding_std} > 0 and rotary.base {self.rotary.base} > 1")
        if self.mlp.mlp_dim < 1:
            raise ValueError(f"mlp_dim must be at least 1, got {self.mlp.mlp_dim}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")
        if self.head_dim is None and self.model_dim % self.num_heads:
            raise ValueError(f"model_dim {self.model_dim} is no multiple of num_heads {self.num_heads}; set head_dim")
        if self.rotary_dims % 2 or not 0 <= self.rotary_dims <= self.dims.head_dim:
            raise ValueError(f"rotary.dims {self.rotary_dims} must be even and at most {self.dims.head_dim}")

    @property
    def dims(self) -> Dims:
        return Dims(
            model_dim=self.model_dim,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim or self.model_dim // self.num_heads,
            vocab_size=self.vocab_size,
            num_blocks=self.depth.parse().num_blocks,
        )

    @property
    def rotary_dims(self) -> int:
        return self.dims.head_dim if self.rotary.dims is None else self.rotary.dims
