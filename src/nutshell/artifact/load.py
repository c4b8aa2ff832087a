"""Bytes to a model that scores and generates; nothing outside the artifact is read."""

import tomllib
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self

import msgspec
import torch
from jaxtyping import Float
from torch import Tensor

from nutshell.artifact.container import Container, Section, unpack_container
from nutshell.artifact.vocabulary import restore
from nutshell.codec.coders import TRELLIS_CODERS
from nutshell.codec.planes import CodePlanes
from nutshell.config.loader import decode
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import ArtifactError, NutshellError, RecipeError
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.nn.cache import MOST_TOKENS
from nutshell.nn.params import ParamRow, ParamTable
from nutshell.printable import show_controls
from nutshell.quant import rtn, trellis
from nutshell.quant.lqer import MAX_RANK
from nutshell.quant.quantizing import dequantize

# What the sections of a weight may hold, by kind.
DTYPES = {
    "float": ("float16",),
    "codes": ("int8", "int16"),
    "scale": ("float16",),
    "columns": ("int8",),
    "lqer_left": ("int8",),
    "lqer_left_scale": ("float16",),
    "lqer_right": ("int8",),
    "lqer_right_scale": ("float16",),
}


# What a recipe that nobody wrote in earnest can bring about: endless nesting, endless numbers, sizes beyond a word.
_BEYOND_REASON = (ValueError, TypeError, RecursionError, OverflowError, MemoryError)


_Tokens = Annotated[int, msgspec.Meta(ge=1, le=MOST_TOKENS)]


# As recipes say it (score/config.py), whom an artifact does not ask.
_Windows = Literal["sliding", "rolling"]


class _TrainPart(msgspec.Struct):
    seq_len: _Tokens


class _ScorePart(msgspec.Struct):
    stride: _Tokens
    windows: _Windows = "sliding"  # what older artifacts do not say


class _RecipePart(msgspec.Struct):
    """What loading needs of the recipe; the rest is evidence, not instruction."""

    model: ModelConfig
    train: _TrainPart
    score: _ScorePart


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model as the artifact says it is, and the windows it was made to be scored with."""

    model: LM
    schedule: DepthSchedule
    tokenizer: Tokenizer
    context: int
    stride: int
    recipe: str
    windows: _Windows = "sliding"

    def under(self, text: str) -> "Loaded":
        """Give the same model by another schedule of its blocks, with the trained skips whose two ends it visits.

        A visit beyond the trained ones has the weights of its block's last trained visit.

        Raises:
            RecipeError: not a schedule, or not one that this model can run.
        """
        schedule = self.schedule.extended(text)
        num_blocks = self.model.config.dims.num_blocks
        if schedule.num_blocks > num_blocks:
            raise RecipeError(f"schedule '{text}' runs {schedule.num_blocks} blocks, the artifact has {num_blocks}")
        try:
            self.model.config.check_schedule(schedule, self.schedule)
        except ValueError as error:
            raise RecipeError(f"schedule '{text}' does not fit the artifact: {error}") from error
        return self if schedule.visits == self.schedule.visits else replace(self, schedule=schedule)


def load(content: bytes, *, where: str = "artifact") -> Loaded:
    """Build the model, fill in its weights, and check that nothing is missing or left over.

    Raises:
        ArtifactError: damaged, of another version, or not an artifact of this recipe.
    """
    container = unpack_container(content, where=where)
    try:
        return _load(container)
    except ArtifactError as error:
        raise ArtifactError(f"{where}: {error}") from error


def _load(container: Container) -> Loaded:
    recipe_text = container.section("recipe", "recipe").decode().tobytes().decode("utf-8", errors="replace")
    try:
        recipe = decode(tomllib.loads(recipe_text), _RecipePart, where="recipe")
        tokenizer = Tokenizer(_tokenizer_model(container))
        schedule = recipe.model.depth.parse()
    except (NutshellError, *_BEYOND_REASON) as error:
        raise ArtifactError(f"its recipe or tokenizer cannot be used ({_one_line(error)})") from error
    if recipe.score.stride > recipe.train.seq_len:
        raise ArtifactError(f"its stride {recipe.score.stride} is longer than its windows of {recipe.train.seq_len}")
    if tokenizer.vocab_size != recipe.model.vocab_size:
        raise ArtifactError(f"its tokenizer has {tokenizer.vocab_size} tokens, its recipe {recipe.model.vocab_size}")
    if tokenizer.bos_id != recipe.model.bos_id:
        raise ArtifactError(f"its tokenizer's BOS is token {tokenizer.bos_id}, its recipe's {recipe.model.bos_id}")
    try:
        with torch.device("meta"):
            model = LM(recipe.model, [schedule])
    except (RuntimeError, *_BEYOND_REASON) as error:  # torch, of a size that no tensor can have
        raise ArtifactError(f"its recipe describes no model that can be built ({_one_line(error)})") from error
    rows = list(ParamTable.of(model))
    stored = [_Stored.of(container, row) for row in rows]
    used = {("recipe", "recipe"), ("tokenizer", _tokenizer_kind(container))}.union(*(each.keys for each in stored))
    if left_over := sorted(set(container.sections) - used):
        raise ArtifactError(f"section {left_over[0][0]!r} ({left_over[0][1]!r}) belongs to no weight of its recipe")
    # One after the other: the coder keeps Python's lock, and threads that wait for it cost more than they win.
    weights = {row.name: each.read() for row, each in zip(rows, stored, strict=True)}
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(requires_grad=False)
    own = recipe.score
    return Loaded(model.eval(), schedule, tokenizer, recipe.train.seq_len, own.stride, recipe_text, windows=own.windows)


def _tokenizer_kind(container: Container) -> str:
    return "pieces" if ("tokenizer", "pieces") in container.sections else "tokenizer"


def _tokenizer_model(container: Container) -> bytes:
    kind = _tokenizer_kind(container)
    stored = container.section("tokenizer", kind).decode().tobytes()
    return restore(stored) if kind == "pieces" else stored


def _one_line(error: BaseException) -> str:
    return show_controls(" ".join(str(error).split()))[:300]


def read_weight(container: Container, row: ParamRow) -> Float[Tensor, "..."]:
    """Decode one weight, in fp32.

    Raises:
        ArtifactError: it is missing, damaged, or not what a recipe says.
    """
    return _Stored.of(container, row).read()


@dataclass(frozen=True, slots=True)
class _Stored:
    """The sections of one weight, checked for all that can be checked before they are decoded."""

    main: Section
    sides: tuple[Section, ...]

    @classmethod
    def of(cls, container: Container, row: ParamRow) -> Self:
        """Find them.

        Raises:
            ArtifactError: one is missing, or of a dtype or shape that does not go with the weight.
        """
        kind = "float" if (row.name, "float") in container.sections else "codes"
        main = container.section(row.name, kind)
        if main.shape != row.shape:  # before decoding, which takes time and memory by the shape
            raise ArtifactError(f"weight '{row.name}' has shape {list(main.shape)}, its recipe says {list(row.shape)}")
        sides: list[Section] = []
        if kind == "codes":
            sides.append(container.section(row.name, "scale"))
            found = (container.sections.get((row.name, side)) for side in DTYPES if side not in ("codes", "scale"))
            sides += [section for section in found if section is not None]
        for section in (main, *sides):
            if section.dtype not in DTYPES[section.kind]:
                raise ArtifactError(f"section '{section.name}' ({section.kind}) cannot hold {section.dtype}")
            if section is not main and not _may_be_beside(section.kind, section.shape, row.shape):
                raise ArtifactError(
                    f"section '{section.name}' ({section.kind}) of shape {list(section.shape)} does not go with a "
                    f"weight of {list(row.shape)}"
                )
        return cls(main, tuple(sides))

    @property
    def keys(self) -> set[tuple[str, str]]:
        return {(section.name, section.kind) for section in (self.main, *self.sides)}

    def read(self) -> Float[Tensor, "..."]:
        """Decode and dequantize.

        Raises:
            ArtifactError: the sections are damaged, do not match, or give weights that are not finite.
        """
        main = self.main.decode()
        if self.main.kind == "float":
            weight = torch.from_numpy(main).float()
        else:
            sides = {side.kind: side.decode() for side in self.sides}
            try:
                weight = dequantize(CodePlanes(codes=main, sides=sides, spec={"method": self._method}))
            except ArtifactError as error:
                raise ArtifactError(f"weight '{self.main.name}': {error}") from error
        if not weight.isfinite().all():
            raise ArtifactError(f"weight '{self.main.name}' has values that are not finite")
        return weight

    @property
    def _method(self) -> str:
        """Name the method: levels of a trellis, which have a coder of their own, lie in another order of rows."""
        return trellis.METHOD if self.main.chain[-1] in TRELLIS_CODERS.values() else rtn.METHOD


def _may_be_beside(kind: str, shape: tuple[int, ...], matrix: tuple[int, ...]) -> bool:
    """Say whether a side of this shape can belong to a matrix, before anything of its size is made."""
    if len(matrix) != 2:
        return False
    rows, cols = matrix
    ranks = range(1, min(MAX_RANK, rows, cols) + 1)
    match kind:
        case "scale":
            return shape in ((1,), (rows,)) or (len(shape) == 2 and shape[0] == rows and 1 <= shape[1] <= cols)
        case "columns":
            return shape == (cols,)
        case "lqer_left" | "lqer_right":
            return len(shape) == 2 and shape[0] in ranks and shape[1] == (rows if kind == "lqer_left" else cols)
        case _:
            return len(shape) in (1, 2) and shape[0] in ranks and all(1 <= size <= max(matrix) for size in shape[1:])
