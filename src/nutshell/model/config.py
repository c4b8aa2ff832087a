"""What a recipe says about the model: sizes, depth, and the techniques at each seam."""

from collections.abc import Sequence
from typing import Literal

from nutshell.config.struct import Config, Kind
from nutshell.errors import RecipeError
from nutshell.model.attention import AttentionConfig
from nutshell.model.depth import DepthSchedule, SkipRule, read_blocks
from nutshell.model.entry import EntryConfig
from nutshell.model.residual import ResidualConfig, SequentialConfig
from nutshell.model.seams import BlockKind, BranchName, Dims, InputKind, Place
from nutshell.model.skips import AddSkipConfig, JoinConfig
from nutshell.model.techniques import HeadConfig, InputConfig, LogitConfig, MLPConfig, ModulateConfig, ValueConfig
from nutshell.nn.init import MatrixInit
from nutshell.nn.matrices import check_matrix

NormPlace = Literal["pre", "output", "peri"]
# What acts inside blocks, at the visits of a virtual layer.
AtVisit = EntryConfig | ModulateConfig | ValueConfig | HeadConfig


class DepthConfig(Config, frozen=True):
    """The schedule in the notation of depth.py, its skips, and what its visits do not share.

    `skips` is a rule or a list of edges, `join` how a skip joins the stream. `untied` names a branch whose weights are
    each visit's own: "mlp" shares attention alone, "attention" the MLP alone.
    """

    schedule: str
    skips: SkipRule = "none"
    join: JoinConfig = AddSkipConfig()
    untied: Literal["none"] | BranchName = "none"

    def __post_init__(self) -> None:
        self.parse()
        if self.skips in ("none", ()) and self.join != AddSkipConfig():
            raise ValueError("depth.join has no effect: depth.skips is 'none' or empty")

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


class NormConfig(Config, frozen=True):
    """Where each branch is RMS-normalised: `pre` its input, `output` its output, `peri` both.

    Source: pre: Radford et al. 2019. output: `Output-LN` of openai/parameter-golf 855. peri: Kim et al. 2025
    (arXiv:2502.02732).
    """

    attention: NormPlace = "pre"
    mlp: NormPlace = "pre"


class ModelConfig(Config, frozen=True):
    """A decoder: sizes, depth, and the techniques at each seam in the order in which they act.

    `tied_head` reads the logits out with the embedding; `embedding_std` is its first standard deviation.
    `embedding_dim`, where it is given, is its width and the head's, with a projection to and from `model_dim`.
    `matrix_init` says how matrices into a branch are drawn (nn/init.py). `bos_id` is the token that starts every
    document.
    """

    vocab_size: int
    model_dim: int
    depth: DepthConfig
    attention: AttentionConfig
    mlp: MLPConfig
    norms: NormConfig = NormConfig()
    residual: ResidualConfig = SequentialConfig()
    inputs: tuple[InputConfig, ...] = ()
    modulate: tuple[ModulateConfig, ...] = ()
    values: tuple[ValueConfig, ...] = ()
    heads: tuple[HeadConfig, ...] = ()
    logits: tuple[LogitConfig, ...] = ()
    tied_head: bool = True
    embedding_dim: int | None = None
    embedding_std: float = 0.005
    matrix_init: MatrixInit = "orthogonal"
    bos_id: int = 1

    def __post_init__(self) -> None:
        for name in ("vocab_size", "model_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.embedding_dim is not None and self.embedding_dim < 1:
            raise ValueError(f"embedding_dim must be at least 1, got {self.embedding_dim}")
        if self.embedding_dim == self.model_dim:
            raise ValueError(f"embedding_dim {self.embedding_dim} has no effect: it is model_dim; leave it out")
        if self.embedding_std <= 0:
            raise ValueError(f"embedding_std must be positive, got {self.embedding_std}")
        if not 0 <= self.bos_id < self.vocab_size:
            raise ValueError(f"bos_id {self.bos_id} is no token of a vocabulary of {self.vocab_size}")
        if self.rotary_dims % 2 or not 0 <= self.rotary_dims <= self.dims.head_dim:
            raise ValueError(f"rotary.dims {self.rotary_dims} must be even and at most {self.dims.head_dim}")
        if self.attention.rotary.scaled_beyond is not None and self.rotary_dims < 4:
            raise ValueError(f"rotary.scaled_beyond needs rotary.dims of at least 4, got {self.rotary_dims}")
        for branch, config in (("attention", self.attention), ("mlp", self.mlp)):
            for name, shape in config.shapes(self.model_dim).items():
                check_matrix(f"{branch}.{name}", getattr(config, name), *shape)
        schedule = self.depth.parse()
        self.residual.check_dims(self.dims)
        self.residual.check(tuple(visit.block for visit in schedule.visits))
        places = self.places([schedule])
        for seam in ("inputs", "modulate", "values", "heads", "logits"):
            _check_list(seam, getattr(self, seam), places)
        _check_list("residual.entry", self.residual.entry, places)

    @property
    def dims(self) -> Dims:
        return Dims(
            model_dim=self.model_dim,
            num_heads=self.attention.num_heads,
            num_kv_heads=self.attention.num_kv_heads,
            head_dim=self.attention.width(self.model_dim),
            vocab_size=self.vocab_size,
            num_blocks=self.depth.parse().num_blocks,
            bos_id=self.bos_id,
        )

    @property
    def embedding_width(self) -> int:
        return self.model_dim if self.embedding_dim is None else self.embedding_dim

    @property
    def rotary_dims(self) -> int:
        dims = self.attention.rotary.dims
        return self.dims.head_dim if dims is None else dims

    def places(self, schedules: Sequence[DepthSchedule]) -> list[Place]:
        """Say of every block how often some schedule runs it at most, and whether all schedules begin with it."""
        dims = self.dims
        firsts = {schedule.visits[0].block for schedule in schedules}
        return [
            Place(
                dims=dims,
                block=block,
                num_visits=max(schedule.num_visits(block) for schedule in schedules),
                is_first=firsts == {block},
            )
            for block in range(dims.num_blocks)
        ]

    def check_schedule(self, schedule: DepthSchedule, packed: DepthSchedule) -> None:
        """Refuse another schedule than the packed one, which the weights made for that cannot run.

        Raises:
            ValueError: the residual rule cannot run it, or it begins with another block where a technique mixes in the
                values of the first: that block has weights for it, and the packed schedule's first block has none.
        """
        self.residual.check(tuple(visit.block for visit in schedule.visits))
        first, packed_first = schedule.visits[0].block, packed.visits[0].block
        if first != packed_first and any(kind.keeps_first for kind in self.values):
            raise ValueError(
                f"'{schedule.text}' begins with block {first}, the packed schedule with block {packed_first}, "
                "and model.values mixes in the values of the first"
            )

    def copies(self, branch: BranchName, place: Place) -> list[Place]:
        """Say for which places a block's branch is built: the block as a whole, or each visit if it is untied."""
        if self.depth.untied != branch:
            return [place]
        return [
            Place(place.dims, place.block, num_visits=1, is_first=place.is_first and iteration == 0)
            for iteration in range(place.num_visits)
        ]


def _check_list(seam: str, kinds: Sequence[Kind], places: Sequence[Place]) -> None:
    """Refuse a kind listed twice, which no rule could tell apart, and one that does not fit or acts nowhere."""
    dims = places[0].dims
    tags = [str(kind.__struct_config__.tag) for kind in kinds]
    for kind, tag in zip(kinds, tags, strict=True):
        if tags.count(tag) > 1:
            raise ValueError(f"{seam}: '{tag}' is listed twice")
        if isinstance(kind, BlockKind) and kind.blocks and max(read_blocks(kind.blocks)) >= dims.num_blocks:
            raise ValueError(f"{seam}: '{tag}' acts in blocks '{kind.blocks}', the model has {dims.num_blocks}")
        if isinstance(kind, InputKind | BlockKind):
            kind.check(dims)
        if isinstance(kind, BlockKind) and not any(kind.acts_in(place) for place in places):
            raise ValueError(f"{seam}: '{tag}' acts in no block")
