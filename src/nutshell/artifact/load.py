"""Bytes to a model that scores and generates; nothing outside the artifact is read."""

import tomllib
from dataclasses import dataclass, replace

import msgspec
import torch

from nutshell.artifact.container import Container, unpack_container
from nutshell.codec.planes import CodePlanes
from nutshell.config.loader import decode
from nutshell.data.tokenizer import Tokenizer
from nutshell.errors import ArtifactError, NutshellError, RecipeError
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.nn.params import ParamRow, ParamTable
from nutshell.quant.quantizing import dequantize
from nutshell.quant.rtn import METHOD


class _TrainPart(msgspec.Struct):
    seq_len: int


class _ScorePart(msgspec.Struct):
    stride: int


class _RecipePart(msgspec.Struct):
    """What loading needs of the recipe; the rest is evidence, not instruction."""

    model: ModelConfig
    train: _TrainPart
    score: _ScorePart


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model as the artifact says it is; `context` and `stride` are the windows it was made to be scored with."""

    model: LM
    schedule: DepthSchedule
    tokenizer: Tokenizer
    context: int
    stride: int
    recipe: str

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
        tokenizer = Tokenizer(container.section("tokenizer", "tokenizer").decode().tobytes())
        schedule = recipe.model.depth.parse()
    except (NutshellError, tomllib.TOMLDecodeError) as error:
        raise ArtifactError(f"its recipe or tokenizer cannot be used ({error})") from error
    if tokenizer.vocab_size != recipe.model.vocab_size:
        raise ArtifactError(f"its tokenizer has {tokenizer.vocab_size} tokens, its recipe {recipe.model.vocab_size}")
    if tokenizer.bos_id != recipe.model.bos_id:
        raise ArtifactError(f"its tokenizer's BOS is token {tokenizer.bos_id}, its recipe's {recipe.model.bos_id}")
    with torch.device("meta"):
        model = LM(recipe.model, [schedule])
    used = {("recipe", "recipe"), ("tokenizer", "tokenizer")}
    weights = {}
    for row in ParamTable.of(model):
        weights[row.name], keys = _read_weight(container, row)
        used |= keys
    if left_over := sorted(set(container.sections) - used):
        raise ArtifactError(f"section '{left_over[0][0]}' ({left_over[0][1]}) belongs to no weight of its recipe")
    model.load_state_dict(weights, assign=True)
    model.requires_grad_(requires_grad=False)
    return Loaded(model.eval(), schedule, tokenizer, recipe.train.seq_len, recipe.score.stride, recipe_text)


def _read_weight(container: Container, row: ParamRow) -> tuple[torch.Tensor, set[tuple[str, str]]]:
    kind = "float" if (row.name, "float") in container.sections else "codes"
    main = container.section(row.name, kind)
    if main.shape != row.shape:  # before decoding, which takes time and memory by the shape
        raise ArtifactError(f"weight '{row.name}' has shape {list(main.shape)}, its recipe says {list(row.shape)}")
    if kind == "float":
        return torch.from_numpy(main.decode()).float(), {(row.name, kind)}
    kinds = ["scale", *(["columns"] if (row.name, "columns") in container.sections else [])]
    sides = {side: container.section(row.name, side).decode() for side in kinds}
    planes = CodePlanes(codes=main.decode(), sides=sides, spec={"method": METHOD})
    return dequantize(planes), {(row.name, kind), *((row.name, side) for side in kinds)}
