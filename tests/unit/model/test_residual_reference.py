"""Residual rules, entries and skips against float64 loops over a schedule with repeats, written out visit by visit.

The branches are stand-ins, for each block a fixed matrix and tanh: what is under test is what happens to the stream
around them. The trunk runs in float64, so that only what is computed in fp32 on purpose differs.
"""

from collections import Counter

import numpy as np
import pytest
import torch
from torch import nn

from models import BOS, DEPTH, build_model, model_config, tokens
from nutshell.errors import RecipeError
from nutshell.model.depth import DepthSchedule, VirtualLayer
from nutshell.model.entry.depth_sinusoid import DepthSinusoid
from nutshell.recipe import resolve

BLOCKS = [0, 1, 2, 1, 2, 3]
TEXT = [7, 30, 9, BOS, 12]
VISITS_OF = Counter(BLOCKS)
RULES = {
    "sequential": {"kind": "sequential"},
    "parallel": {"kind": "parallel", "from_block": 2},
    "lanes split": {"kind": "lanes", "from_block": 1},
    "lanes split, all blocks": {"kind": "lanes", "from_block": 0},
    "lanes split in the last block": {"kind": "lanes", "from_block": 3},
    "lanes crossed": {"kind": "lanes", "from_block": 1, "form": "crossed"},
    "lanes crossed in the last block": {"kind": "lanes", "from_block": 3, "form": "crossed"},
    "bounded": {"kind": "bounded", "tau": 0.7},
}
ENTRIES = {
    "none": [],
    "x0_mix": [{"kind": "x0_mix"}],
    "x0_mix by visit": [{"kind": "x0_mix", "per": "visit"}],
    "birkhoff": [{"kind": "birkhoff"}],
    "birkhoff by visit": [{"kind": "birkhoff", "init_logit": -1.0, "per": "visit"}],
    "depth_embedding": [{"kind": "depth_embedding"}],
    "depth_sinusoid": [{"kind": "depth_sinusoid", "base": 100.0}],
    "repeat embeddings, as in 167": [{"kind": "depth_embedding"}, {"kind": "x0_mix"}],
    "depth codes, as in 855": [{"kind": "birkhoff"}, {"kind": "depth_sinusoid"}],
    "stream_smear": [{"kind": "stream_smear"}],
    "stream_smear across documents, behind a mix": [
        {"kind": "x0_mix"},
        {"kind": "stream_smear", "mask_bos": False, "blocks": "1 2"},
    ],
    "in some blocks": [{"kind": "birkhoff", "blocks": "1 3"}],
}
# Target to source, and the name of the weights.
SKIPS = {
    "none": {},
    "mirror": {4: (1, "1_0_to_2_1"), 5: (0, "0_0_to_3_0")},
    "stack": {3: (2, "pop_0"), 4: (1, "pop_1"), 5: (0, "pop_2")},
}


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits))


class StandIn(nn.Module):
    """A block's residual step around branches that are known."""

    def __init__(self, block, attention, mlp):
        super().__init__()
        self.residual = block.residual
        self.attention, self.mlp = attention, mlp

    def forward(self, state, visit, stream):
        branches = (lambda x, m=matrix: torch.tanh(x @ torch.from_numpy(m)) for matrix in (self.attention, self.mlp))
        return self.residual(state, visit, *branches, stream), None


class Reference:
    """The same walk over the visits, one numpy array [T D] a lane."""

    def __init__(self, weights, matrices, rule, entry, x0):
        self.weights, self.matrices, self.rule, self.kinds, self.x0 = weights, matrices, rule, entry, x0

    def run(self, blocks, skips, join):
        lanes, saved, seen = [self.x0], [], Counter()
        for index, block in enumerate(blocks):
            if index in skips:
                source, key = skips[index]
                lanes[0] = self.joined(join, key, lanes[0], saved[source])
            visit = (index, block, min(seen[block], VISITS_OF[block] - 1))
            lanes = getattr(self, self.rule["kind"])(lanes, *visit)
            saved.append(lanes[0])
            seen[block] += 1
        return self.read_out(lanes)

    def joined(self, join, key, x, skip):
        scaled = self.weights[f"skips.{key}.scale"] * skip
        if join == "add_skip":
            return x + scaled
        keep = sigmoid(self.weights[f"skips.{key}.gate"])
        return (1 - keep) * scaled + keep * x

    def read_out(self, lanes):
        if self.rule["kind"] != "lanes":
            (x,) = lanes
            return x
        share = 0.5 if self.rule.get("form") == "crossed" else self.weights["carry.first_share"]
        return share * lanes[0] + (1 - share) * lanes[1]

    def attention(self, block, x):
        return np.tanh(x @ self.matrices[block][0])

    def mlp(self, block, x):
        return np.tanh(x @ self.matrices[block][1])

    def entered(self, x, index, block, iteration):
        place = 0
        for kind in self.kinds:
            if str(block) not in kind.get("blocks", "0 1 2 3"):
                continue
            prefix, row = f"blocks.{block}.residual.entry.{place}", iteration if kind.get("per") == "visit" else 0
            place += 1
            match kind["kind"]:
                case "x0_mix":
                    own, first = (self.weights[f"{prefix}.{name}_scale.{row}"] for name in ("stream", "input"))
                    x = own * x + first * self.x0
                case "birkhoff":
                    keep = sigmoid(self.weights[f"{prefix}.gate.{row}"])
                    x = keep * x + (1 - keep) * self.x0
                case "stream_smear":
                    keep = sigmoid(self.weights[f"{prefix}.gate"])
                    begins = [t == 0 or (kind.get("mask_bos", True) and TEXT[t] == BOS) for t in range(len(x))]
                    x = np.array([keep * x[t] + (0 if begins[t] else (1 - keep) * x[t - 1]) for t in range(len(x))])
                case "depth_embedding":
                    x = x + self.weights[f"{prefix}.rows.{iteration}"]
                case "depth_sinusoid":
                    base, dim = kind.get("base", 10_000.0), x.shape[-1]
                    x = x + np.array([np.sin(index / base ** (i / dim)) for i in range(dim)])
        return x

    def sequential(self, lanes, index, block, iteration):
        (x,) = lanes
        u = self.entered(x, index, block, iteration)
        h = u + self.attention(block, u)
        return [h + self.mlp(block, h)]

    def parallel(self, lanes, index, block, iteration):
        if block < self.rule["from_block"]:
            return self.sequential(lanes, index, block, iteration)
        u = self.entered(lanes[0], index, block, iteration)
        return [u + self.attention(block, u) + self.mlp(block, u)]

    def lanes(self, lanes, index, block, iteration):
        if block < self.rule["from_block"]:
            return self.sequential(lanes, index, block, iteration)
        if len(lanes) == 1:
            lanes = [lanes[0], lanes[0]]
        u = self.entered(lanes[0], index, block, iteration)
        if self.rule.get("form") != "crossed":
            return [u + self.attention(block, u), lanes[1] + self.mlp(block, lanes[1])]
        written = [self.attention(block, u), self.mlp(block, lanes[1])]
        keep, post = (self.weights[f"blocks.{block}.residual.{name}"] for name in ("keep", "post"))
        return [
            keep[lane] * lanes[lane] + sum(post[branch][lane] * written[branch] for branch in (0, 1)) for lane in (0, 1)
        ]

    def bounded(self, lanes, index, block, iteration):
        (x,) = lanes
        u = self.entered(x, index, block, iteration)
        read = self.attention(block, u)
        made = self.mlp(block, u + read)
        shares = np.exp(self.weights[f"blocks.{block}.residual.logits.{iteration}"])
        shares /= shares.sum()
        return [shares[0] * x + shares[1] * self.x0 + self.rule["tau"] * (shares[2] * read + shares[3] * made)]


def compared(rule, entry, skips="none", join="add_skip", *, more_loops=0):
    """Give what the trunk computes and what the reference computes, both [T D]."""
    depth = {**DEPTH, "skips": skips, **({} if skips == "none" else {"join": {"kind": join}})}
    model, schedule = build_model(model_config(depth=depth, residual={**rule, "entry": entry}), noise=0.3)
    blocks, edges = BLOCKS, SKIPS[skips]
    if more_loops:
        blocks = [0, *[1, 2] * (2 + more_loops), 3]
        edges = {target + 2 * more_loops * (target == 5): source for target, source in edges.items()}
        schedule = schedule.extended(f"0 (1-2)x{2 + more_loops} 3")
    rng = np.random.default_rng(0)
    matrices = [tuple(rng.normal(0, 0.2, (2, 24, 24))) for _ in model.blocks]
    weights = {name: value.detach().double().numpy().copy() for name, value in model.named_parameters()}
    model.blocks = nn.ModuleList(StandIn(block, *pair) for block, pair in zip(model.blocks, matrices, strict=True))
    with torch.no_grad():
        stream = model.stream(torch.tensor([TEXT]), dtype=torch.float64, attend_kind="products")
        found = model.trunk(stream, schedule)[0].numpy()
    return found, Reference(weights, matrices, rule, entry, stream.x0[0].numpy()).run(blocks, edges, join)


@pytest.mark.parametrize(
    ("skips", "join"), [("none", "add_skip"), ("mirror", "add_skip"), ("mirror", "gated_skip"), ("stack", "gated_skip")]
)
@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("rule", RULES)
def test_the_stream_is_that_of_the_formula(rule, entry, skips, join):
    np.testing.assert_allclose(*compared(RULES[rule], ENTRIES[entry], skips, join), atol=2e-6)


@pytest.mark.parametrize("entry", ["x0_mix by visit", "depth_embedding", "depth codes, as in 855"])
@pytest.mark.parametrize("rule", RULES)
def test_a_visit_beyond_the_trained_ones_goes_by_the_last_ones_weights(rule, entry):
    np.testing.assert_allclose(*compared(RULES[rule], ENTRIES[entry], "mirror", "gated_skip", more_loops=2), atol=2e-6)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("rule", RULES)
def test_the_stream_keeps_its_precision(rule, entry):
    depth = {**DEPTH, "join": {"kind": "gated_skip"}}
    model, schedule = build_model(model_config(depth=depth, residual={**RULES[rule], "entry": ENTRIES[entry]}))
    with torch.no_grad():
        stream = model.stream(tokens(1, 5), dtype=torch.bfloat16, attend_kind="products")
        assert model.trunk(stream, schedule).dtype == torch.bfloat16


def test_a_phase_may_stop_before_the_lanes_begin_but_not_leave_them_again():
    lanes = ["model.depth.schedule=0-3", "model.residual.kind=lanes", "model.residual.from_block=2"]
    assert resolve("demo", [*lanes, 'train.phases=[{until=0.4, schedule="0-1"}]']).recipe.schedules[0].num_blocks == 2
    with pytest.raises(RecipeError, match="from_block 2: block 1 would run after the stream has split at block 2"):
        resolve("demo", [*lanes, 'train.phases=[{until=0.4, schedule="0 (1-2)x2"}]'])


@pytest.mark.parametrize("form", ["split", "crossed"])
def test_a_schedule_that_stops_before_the_lanes_begin_leaves_one_stream(form):
    """A phase may train the first blocks alone; both merges then read the one lane there is."""
    config = model_config(residual={"kind": "lanes", "from_block": 3, "form": form})
    model, _ = build_model(config)
    plain, _ = build_model(model_config())
    plain.load_state_dict({name: model.state_dict()[name] for name in plain.state_dict()})
    schedule = DepthSchedule.parse("0-2")
    with torch.no_grad():
        torch.testing.assert_close(model(tokens(2, 6), schedule), plain(tokens(2, 6), schedule))


def test_each_visit_says_in_which_form_its_branches_act():
    for residual, forms in (
        ({"kind": "parallel", "from_block": 2}, ["sequential"] * 2 + ["parallel"] * 2),
        ({"kind": "lanes", "from_block": 1}, ["sequential"] + ["lanes"] * 3),
        ({"kind": "bounded"}, ["bounded"] * 4),
    ):
        assert [model_config(residual=residual).residual.form_in(block) for block in range(4)] == forms


def test_birkhoff_starts_at_its_logit_and_depth_embeddings_at_zero():
    entry = [{"kind": "birkhoff", "init_logit": 1.5, "per": "visit"}, {"kind": "depth_embedding"}]
    model, _ = build_model(model_config(residual={"kind": "sequential", "entry": entry}), noise=0.0)
    birkhoff, depth = model.blocks[1].residual.entry
    assert [row.unique().tolist() for row in birkhoff.gate] == [[1.5], [1.5]]
    assert [row.abs().max().item() for row in depth.rows] == [0.0, 0.0]


def test_crossed_lanes_start_by_keeping_1_1_of_themselves_and_writing_to_both():
    model, _ = build_model(model_config(residual=RULES["lanes crossed"]), noise=0.0)
    first, last = model.blocks[1].residual, model.blocks[3].residual
    assert [*first.keep.tolist(), *last.keep.tolist()] == pytest.approx([1.1] * 4)
    assert first.post.tolist() == last.post.tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_split_lanes_start_with_a_head_between_them():
    model, _ = build_model(model_config(residual={"kind": "lanes", "from_block": 1}), noise=0.0)
    assert model.carry.first_share.tolist() == [0.5]


def test_a_bounded_visit_starts_at_the_published_shares():
    model, _ = build_model(model_config(residual={"kind": "bounded"}), noise=0.0)
    for row in model.blocks[1].residual.logits:
        assert row.softmax(dim=0).tolist() == pytest.approx([0.669, 0.149, 0.091, 0.091], abs=5e-4)
    assert len(model.blocks[1].residual.logits) == 2


def test_the_published_depth_codes():
    """Their sizes at width 512, by section 1.4 of the study's specification."""
    codes = {v: DepthSinusoid(10_000.0)(torch.zeros(1, 1, 512), VirtualLayer(v, 0, 0), None) for v in (0, 1, 4, 13)}
    sizes = {v: round(code.square().mean().sqrt().item(), 2) for v, code in codes.items()}
    assert sizes == {0: 0.0, 1: 0.22, 4: 0.37, 13: 0.45}


def test_a_depth_sinusoid_says_that_it_does_nothing_in_the_first_virtual_layer():
    config = model_config(residual={"kind": "sequential", "entry": [{"kind": "depth_sinusoid", "blocks": "0-1"}]})
    (kind,) = config.residual.entry
    schedule = config.depth.parse()
    places = config.places([schedule])
    assert [kind.acts_at(places[visit.block], visit) for visit in schedule.visits] == [
        False,
        True,
        False,
        True,
        *[False] * 2,
    ]


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (
            {"kind": "sequential", "entry": [{"kind": "birkhoff", "init_logit": float("inf")}]},
            "inf is no finite number",
        ),
        ({"kind": "sequential", "entry": [{"kind": "depth_sinusoid", "base": 1.0}]}, "base must be above 1, got 1.0"),
        ({"kind": "sequential", "entry": [{"kind": "depth_embedding", "blocks": "4"}]}, "the model has 4"),
        ({"kind": "sequential", "entry": [{"kind": "birkhoff"}] * 2}, "'birkhoff' is listed twice"),
        ({"kind": "parallel"}, "missing required field `from_block`"),
        ({"kind": "parallel", "from_block": 4}, "residual.from_block 4 is none of the model's blocks, 0 to 3"),
        ({"kind": "lanes", "from_block": -1}, "residual.from_block -1 is none of the model's blocks, 0 to 3"),
        (
            {"kind": "lanes", "from_block": 2},
            "residual.from_block 2: block 1 would run after the stream has split at block 2; lanes do not join again",
        ),
        ({"kind": "lanes", "from_block": 1, "form": "joined"}, "joined"),
        ({"kind": "bounded", "tau": 0.0}, "tau must be above 0 and at most 1, got 0.0"),
        ({"kind": "bounded", "tau": 1.1}, "tau must be above 0 and at most 1, got 1.1"),
    ],
)
def test_what_cannot_act_is_refused_when_the_recipe_is_read(residual, message):
    with pytest.raises(RecipeError) as caught:
        model_config(residual=residual)
    assert message in str(caught.value)
