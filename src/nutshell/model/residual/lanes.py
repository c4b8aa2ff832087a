"""Two lanes: from a block on, attention and MLP read streams of their own, in one of two published forms.

What:      with two lanes a and b, both the stream at first, u = entry(a), A = attention(u) and M = mlp(b), from
           from_block on: split: a <- u + A; b <- b + M; the head reads m a + (1 - m) b. crossed: a <- r0 a + p00 A +
           p10 M; b <- r1 b + p01 A + p11 M; the head reads (a + b) / 2. Below from_block, sequential on one lane.
Source:    Sisovic 2026 (modded-nanogpt, pull request 230; openai/parameter-golf 1204). split: 1477, by a later script
           that carries it (`forward_attn`, `forward_mlp`, `lane_merge`): attention alone reads its lane mixed with x0,
           and its lane keeps the mix. crossed: 1529, by its text (attention reads lane 0 mixed with x0, the MLP lane 1
           as it is) and a later script that carries it (`PARALLEL_MLP_READ_MIX` 0): lane 0 goes on without the mix.
           Both in shared/spec/sp8192-loop36.md, 3 and 5.2.
Shapes:    a, b [B T D]. m scalar, of the model. r [2] and p [2 2], branch by lane, for each block from from_block on.
Init:      m = 1/2; r = 1.1, p = 1. With silent branches and an empty list, split is the identity, crossed 1.1 times it.
Cost:      split: 1 parameter. crossed: 6 a block. No matrix products; two streams to read and write. The visits below,
           the first with lanes and the later ones are compiled regions of their own.
Sees:      the current token.
Interacts: the entry list acts on lane a. Skips leave from and join lane a; one into the first visit with lanes joins
           before the split, as in both scripts (from 1736 on it joins a alone). No block below from_block may follow.
"""

from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from nutshell.model.depth import VirtualLayer
from nutshell.model.residual.rule import RuleKind, StartKind, Step
from nutshell.model.residual.sequential import SequentialStep
from nutshell.model.seams import Branch, Carry, Dims, Place, Stream
from nutshell.nn.params import filled

Lane = Float[Tensor, "B T D"]
# One lane as long as all blocks were below `from_block`, then two; a lane is read as the first or the last of them.
Lanes = tuple[Lane, ...]


class LanesConfig(StartKind, frozen=True, kw_only=True, tag="lanes"):
    """The first block whose branches have lanes of their own, and what each writes to the other's."""

    form: Literal["split", "crossed"] = "split"

    def build(self, place: Place) -> "OneLaneStep | SplitStep | CrossedStep":
        if place.block < self.from_block:
            return OneLaneStep(self, place)
        return (SplitStep if self.form == "split" else CrossedStep)(self, place)

    def build_carry(self, dims: Dims) -> Carry:
        return LearnedMerge() if self.form == "split" else MeanMerge()

    def num_params(self, place: Place) -> int:
        crosses = self.form == "crossed" and place.block >= self.from_block
        return 6 * crosses

    def num_carry_params(self, dims: Dims) -> int:
        return 1 if self.form == "split" else 0

    def check(self, blocks: tuple[int, ...]) -> None:
        split = next((index for index, block in enumerate(blocks) if block >= self.from_block), len(blocks))
        if back := [block for block in blocks[split:] if block < self.from_block]:
            raise ValueError(
                f"residual.from_block {self.from_block}: block {back[0]} would run after the stream has split "
                f"at block {blocks[split]}; lanes do not join again"
            )


class MeanMerge(nn.Module):
    """Lanes whose mean the head reads."""

    def start(self, x: Lane) -> Lanes:
        return (x,)

    def read(self, state: Lanes) -> Lane:
        return state[0]

    def write(self, state: Lanes, x: Lane) -> Lanes:
        return (x, *state[1:])

    def finish(self, state: Lanes) -> Lane:
        return 0.5 * (state[0] + state[-1])


class LearnedMerge(MeanMerge):
    """Lanes between which the head reads where a learned weight says."""

    def __init__(self) -> None:
        super().__init__()
        self.first_share = filled((1,), 0.5, "gain")

    def finish(self, state: Lanes) -> Lane:
        share = self.first_share.to(state[0].dtype)
        return share * state[0] + (1 - share) * state[-1]


class OneLaneStep(SequentialStep):
    """The sequential step, before the stream has split."""

    def forward(self, state: Lanes, visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream) -> Lanes:
        (x,) = state
        return (super().forward(x, visit, attention, mlp, stream),)


class SplitStep(Step):
    """Add each branch to its own lane."""

    def forward(self, state: Lanes, visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream) -> Lanes:
        first, last = self.entry(state[0], visit, stream), state[-1]
        return first + attention(first), last + mlp(last)


class CrossedStep(Step):
    """Add both branches to both lanes, once both have read."""

    def __init__(self, config: RuleKind, place: Place) -> None:
        super().__init__(config, place)
        self.keep = filled((2,), 1.1, "gain")
        self.post = filled((2, 2), 1.0, "gain")  # from attention and MLP, to lanes 0 and 1

    def forward(self, state: Lanes, visit: VirtualLayer, attention: Branch, mlp: Branch, stream: Stream) -> Lanes:
        first, last = state[0], state[-1]
        read, made = attention(self.entry(first, visit, stream)), mlp(last)
        keep, post = self.keep.to(first.dtype), self.post.to(first.dtype)
        return (
            keep[0] * first + post[0, 0] * read + post[1, 0] * made,
            keep[1] * last + post[0, 1] * read + post[1, 1] * made,
        )

    def probe(self, visit: VirtualLayer) -> dict[str, Tensor]:
        into = {
            f"{branch}.into_{lane}": self.post[row, lane]
            for row, branch in enumerate(("attention", "mlp"))
            for lane in (0, 1)
        }
        return {"keep_0": self.keep[0], "keep_1": self.keep[1], **into}
