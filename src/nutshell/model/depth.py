"""The depth schedule: which block runs when, as plain data.

A schedule is written as block numbers and ranges, a group in parentheses repeated `xN`:

    "0-2 (3-5)x3 6-10"    11 blocks, 17 virtual layers: 0 1 2 | 3 4 5 3 4 5 3 4 5 | 6 7 8 9 10

One application of a block is a virtual layer. The `iteration` of a virtual layer counts how often its block ran before;
(block, iteration) is its lasting name, since its index changes with the schedule. Skips are edges between such layers.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nutshell.errors import RecipeError

MAX_VIRTUAL_LAYERS = 512  # far above any model; a mistyped repeat count must not fill the memory

SkipRule = Literal["none", "mirror", "stack"] | tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class VirtualLayer:
    """One application of a block."""

    index: int  # position in the unrolled stack
    block: int  # physical block whose weights run here
    iteration: int  # 0 the first time this block runs, 1 the second, ...

    @property
    def key(self) -> str:
        """The lasting name, `block_iteration`, that per-visit parameters go by."""
        return f"{self.block}_{self.iteration}"


@dataclass(frozen=True, slots=True)
class Skip:
    """An edge: the stream after `source` joins the stream before `target`; its weights go by `key`."""

    source: VirtualLayer
    target: VirtualLayer
    key: str


@dataclass(frozen=True, slots=True)
class DepthSchedule:
    """A sequence of virtual layers and the skips between them."""

    text: str
    visits: tuple[VirtualLayer, ...]
    skips: tuple[Skip, ...]

    @classmethod
    def parse(cls, text: str, skips: SkipRule = "none") -> "DepthSchedule":
        """Read the notation, number the visits, and connect the skips.

        Raises:
            RecipeError: not the notation, blocks that do not count up from 0, or an edge that does not lead forward.
        """
        blocks = _read_sequence(text)
        if sorted(set(blocks)) != list(range(max(blocks) + 1)):
            raise RecipeError(
                f"schedule '{text}': blocks must be numbered 0 to P-1 without a gap, got {sorted(set(blocks))}"
            )
        seen: Counter[int] = Counter()
        visits = []
        for index, block in enumerate(blocks):
            visits.append(VirtualLayer(index, block, seen[block]))
            seen[block] += 1
        return cls(text, tuple(visits), _connect(visits, skips, text))

    def extended(self, text: str) -> "DepthSchedule":
        """Give another schedule with this one's skips: those whose two ends it visits too, under the same weights."""
        bare = DepthSchedule.parse(text)
        names = {visit.key: visit for visit in bare.visits}
        kept = [
            Skip(names[skip.source.key], names[skip.target.key], skip.key)
            for skip in self.skips
            if skip.source.key in names and skip.target.key in names
        ]
        forward = tuple(skip for skip in kept if skip.source.index < skip.target.index)
        return DepthSchedule(text, bare.visits, forward)

    def num_visits(self, block: int) -> int:
        return sum(visit.block == block for visit in self.visits)

    @property
    def num_blocks(self) -> int:
        return 1 + max(visit.block for visit in self.visits)

    @property
    def num_layers(self) -> int:
        return len(self.visits)

    def skips_into(self, visit: VirtualLayer) -> tuple[Skip, ...]:
        return tuple(skip for skip in self.skips if skip.target == visit)


def read_blocks(text: str) -> list[int]:
    """Read a list of blocks in the notation of schedules.

    Raises:
        RecipeError: not the notation.
    """
    return _read_sequence(text)


def _connect(visits: Sequence[VirtualLayer], rule: SkipRule, text: str) -> tuple[Skip, ...]:
    """List the skips in order of target.

    `mirror` is the U-Net: layer i of the first half feeds layer L-1-i, except where the two are neighbours: that edge
    would only rescale the stream. Its weights go by the two visits, which keep their names when the schedule changes.

    `stack` is the published form: the first L//2 layers push, the others pop, so that i feeds L-1-i where L is even and
    L-2-i where it is odd, the first pop taking what was pushed last: a skip from a layer to its neighbour. Its weights
    go by the number of the pop, whatever it connects.
    """
    num_layers = len(visits)
    if rule == "none":
        return ()
    if rule == "stack":
        half = num_layers // 2
        return tuple(Skip(visits[half - 1 - pop], visits[half + pop], f"pop_{pop}") for pop in range(half))
    edges = _mirrored(num_layers) if rule == "mirror" else _listed(num_layers, rule, text)  # type: ignore[arg-type]
    return tuple(
        Skip(visits[source], visits[target], f"{visits[source].key}_to_{visits[target].key}")
        for source, target in edges
    )


def _mirrored(num_layers: int) -> list[tuple[int, int]]:
    return [(num_layers - 1 - target, target) for target in range(num_layers) if 2 * target - num_layers + 1 > 1]


def _listed(num_layers: int, rule: tuple[tuple[int, int], ...], text: str) -> list[tuple[int, int]]:
    for source, target in rule:
        if not 0 <= source < target - 1 or target >= num_layers:
            raise RecipeError(
                f"skip [{source}, {target}] of schedule '{text}': needs source < target - 1, target < {num_layers}"
            )
    if len(set(rule)) < len(rule):
        raise RecipeError(f"schedule '{text}': a skip is listed twice")
    return sorted(rule, key=lambda edge: (edge[1], edge[0]))


def _read_sequence(text: str) -> list[int]:
    tokens = re.findall(r"\d+-\d+|\d+|\(|\)x\d+|\S", text)
    blocks, rest = _read_group(tokens, text)
    if rest:
        raise RecipeError(f"schedule '{text}': unexpected '{rest[0]}'; write for example \"0-2 (3-5)x3 6-10\"")
    if not blocks:
        raise RecipeError("a schedule needs at least one block")
    return blocks


def _read_group(tokens: Sequence[str], text: str) -> tuple[list[int], Sequence[str]]:
    """Read up to the end or an unmatched closing parenthesis; return the blocks and what is left."""
    blocks: list[int] = []
    while tokens and not tokens[0].startswith(")"):
        token, tokens = tokens[0], tokens[1:]
        if token == "(":
            inner, tokens = _read_group(tokens, text)
            if not tokens or not inner or tokens[0] == ")":
                raise RecipeError(f"schedule '{text}': a group is written (blocks)xN")
            times = int(tokens[0][2:])
            tokens = tokens[1:]
            if times < 1:
                raise RecipeError(f"schedule '{text}': a group must run at least once")
            blocks += inner * min(times, MAX_VIRTUAL_LAYERS + 1)
        else:
            blocks += _read_range(token, text)
        if len(blocks) > MAX_VIRTUAL_LAYERS:
            raise RecipeError(f"schedule '{text}': more than {MAX_VIRTUAL_LAYERS} virtual layers")
    return blocks, tokens


def _read_range(token: str, text: str) -> list[int]:
    match = re.fullmatch(r"(\d+)(?:-(\d+))?", token)
    if not match:
        raise RecipeError(f"schedule '{text}': unexpected '{token}'; write for example \"0-2 (3-5)x3 6-10\"")
    first, last = int(match[1]), int(match[2] or match[1])
    if last < first or last - first > MAX_VIRTUAL_LAYERS:
        raise RecipeError(f"schedule '{text}': '{token}' is no range of blocks")
    return list(range(first, last + 1))
