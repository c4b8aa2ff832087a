"""Grouped-query attention with RMS-normalised q and k, rotary positions and a learned gain for each query head."""

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.config.struct import Config
from nutshell.errors import RecipeError
from nutshell.model.depth import VirtualLayer
from nutshell.model.rows import filled_rows, of_visit
from nutshell.model.seams import Per, Place, Stream
from nutshell.model.techniques import HeadConfig, ValueConfig
from nutshell.nn.kernels.attend import attend
from nutshell.nn.matrices import MatrixConfig
from nutshell.nn.norms import rms_norm
from nutshell.nn.projection import DenseConfig


class RotaryConfig(Config, frozen=True):
    """Base of the geometric frequencies, and how many channels of a head turn (absent: all; 0: none).

    `scaled_beyond` raises the base in windows longer than so many tokens (absent: never), so that the slowest channel
    turns over a whole window as far as it does over one of that length.
    """

    base: float = 10_000.0
    dims: int | None = None
    scaled_beyond: int | None = None

    def __post_init__(self) -> None:
        if self.base <= 1:
            raise ValueError(f"rotary.base {self.base} must be above 1")
        if self.dims == 0 and self.base != type(self)().base:
            raise ValueError(f"rotary.base {self.base} has no effect: rotary.dims is 0")
        if self.scaled_beyond is not None and self.scaled_beyond < 1:
            raise ValueError(f"rotary.scaled_beyond {self.scaled_beyond} must be at least 1")

    def base_in(self, window: int, dims: int, *, trained: int | None = None) -> float:
        """Give the base in windows of some length, where `dims` channels turn.

        The slowest of them has the frequency base^(-(dims - 2) / dims): scaled by the inverse of the window's excess
        over `scaled_beyond` or, where the recipe does not scale, over the `trained` window if that is given.

        Raises:
            RecipeError: there is something to scale, but two channels turn: they have one frequency, whatever the base.
        """
        beyond = trained if self.scaled_beyond is None else self.scaled_beyond
        if beyond is None or window <= beyond:
            return self.base
        if dims == 2:
            raise RecipeError(
                f"windows of {window} tokens, trained with {beyond}: rotary positions of two channels have no base to "
                "rescale; score with plain ones"
            )
        return self.base * (window / beyond) ** (dims / (dims - 2))


class AttentionConfig(Config, frozen=True):
    """Heads, positions, and the kinds of the four matrices.

    `head_dim` defaults to model_dim / num_heads. `q_gain` is the initial factor on the RMS-normalised queries, learned
    for each head, of each block or of each visit. `within_documents` keeps attention inside the document that a token
    belongs to; else a window is one text. `rotary` positions run on through a window all the same.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int | None = None
    q_gain: float = 1.5
    q_gain_per: Per = "block"
    within_documents: bool = False
    rotary: RotaryConfig = RotaryConfig()
    q: MatrixConfig = DenseConfig()
    k: MatrixConfig = DenseConfig()
    v: MatrixConfig = DenseConfig()
    out: MatrixConfig = DenseConfig()

    def __post_init__(self) -> None:
        for name in ("num_heads", "num_kv_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.head_dim is not None and self.head_dim < 1:
            raise ValueError(f"head_dim must be at least 1, got {self.head_dim}")
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads {self.num_heads} must be a multiple of num_kv_heads {self.num_kv_heads}")

    def width(self, model_dim: int) -> int:
        """Give the head width.

        Raises:
            ValueError: it is not given, and the heads do not divide the model's width.
        """
        if self.head_dim is None and model_dim % self.num_heads:
            raise ValueError(f"model_dim {model_dim} is no multiple of num_heads {self.num_heads}; set head_dim")
        return self.head_dim or model_dim // self.num_heads

    def shapes(self, model_dim: int) -> dict[str, tuple[int, int]]:
        """Give the inputs and outputs of the four matrices."""
        q_dim, kv_dim = (heads * self.width(model_dim) for heads in (self.num_heads, self.num_kv_heads))
        return {"q": (model_dim, q_dim), "k": (model_dim, kv_dim), "v": (model_dim, kv_dim), "out": (q_dim, model_dim)}

    def matrices(self, model_dim: int) -> dict[str, tuple[MatrixConfig, tuple[int, int]]]:
        """Give kind and shape of the four matrices."""
        return {name: (getattr(self, name), shape) for name, shape in self.shapes(model_dim).items()}

    def num_gains(self, place: Place) -> int:
        """Count the gains of one block; its matrices and techniques count themselves."""
        return self.num_heads * place.rows(self.q_gain_per)

    def attend_flops(self, model_dim: int, seq_len: int) -> float:
        """Count the FLOPs by which a token reads the others at one visit: `4 H E (T + 1) / 2`."""
        return 4 * self.num_heads * self.width(model_dim) * (seq_len + 1) / 2


class Attention(nn.Module):
    """One block's attention, its value and head techniques included."""

    def __init__(
        self, config: AttentionConfig, values: tuple[ValueConfig, ...], heads: tuple[HeadConfig, ...], place: Place
    ) -> None:
        super().__init__()
        self.head_dim = place.dims.head_dim
        shapes = config.shapes(place.dims.model_dim)
        self.q = config.q.build(*shapes["q"])
        self.k = config.k.build(*shapes["k"])
        self.v = config.v.build(*shapes["v"])
        self.out = config.out.build(*shapes["out"], draw="zero")
        self.q_gain = filled_rows(place.rows(config.q_gain_per), (config.num_heads,), config.q_gain, "gain")
        self.values = nn.ModuleList(kind.build(place) for kind in values if kind.acts_in(place))
        self.heads = nn.ModuleList(kind.build(place) for kind in heads if kind.acts_in(place))

    def forward(
        self, h: Float[Tensor, "B T D"], visit: VirtualLayer, stream: Stream
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T K E"]]:
        """Give the branch's output, and the values as they were used."""
        project = stream.projector(visit)
        named = (("q", self.q), ("k", self.k), ("v", self.v))
        q, k, v = (project(matrix, h, name).unflatten(-1, (-1, self.head_dim)) for name, matrix in named)  # B T heads E
        q = stream.rotary.turn(rms_norm(q)) * of_visit(self.q_gain, visit)[:, None].to(q.dtype)
        k = stream.rotary.turn(rms_norm(k))
        for technique in self.values:
            v = technique(v, visit, stream)
        keys, values = (k, v) if stream.cache is None else stream.cache.extend(visit.index, k, v)
        y = attend(q, keys, values, stream.attend_kind, stream.documents)
        for technique in self.heads:
            y = technique(y, v, h, visit, stream)
        return project(self.out, y.flatten(2), "out"), v

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        return {"q_gain": of_visit(self.q_gain, visit)}
