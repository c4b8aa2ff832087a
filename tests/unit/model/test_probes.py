"""Every reading against its formula, on a model so small that plain loops in float64 follow it.

A window of one token attends to itself alone, so attention is its value matrix followed by its output matrix: that is
all of the model that the reference below needs to know, and gradients are differences of its loss.
"""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest
import torch

from models import ALL_TOGETHER, CASES, build_model, model_config, tokens
from nutshell.config.loader import decode
from nutshell.model.config import ModelConfig
from nutshell.model.depth import DepthSchedule
from nutshell.model.lm import LM
from nutshell.model.probes.jacobian import jacobian_norm
from nutshell.model.probes.measure import probe
from nutshell.model.probes.readings import Summary
from nutshell.model.probes.trace import Probed, eager_twin, lanes, watched

DIM, HEADS, HEAD_DIM, MLP_DIM, VOCAB, CAP = 4, 2, 2, 3, 7, 1.1
TINY = {
    "vocab_size": VOCAB,
    "model_dim": DIM,
    "attention": {"num_heads": HEADS, "num_kv_heads": 1, "head_dim": HEAD_DIM},
    "mlp": {"kind": "relu2", "mlp_dim": MLP_DIM},
    "depth": {"schedule": "0 (1)x3 2", "skips": [[0, 4], [1, 3]], "join": {"kind": "gated_skip"}},
    "modulate": [{"kind": "branch_scale", "mlp": "visit"}, {"kind": "film", "shift": True, "cap": CAP}],
    "residual": {
        "kind": "sequential",
        "entry": [{"kind": "birkhoff", "init_logit": 0.7, "per": "visit"}, {"kind": "depth_embedding"}],
    },
}
TOKENS, TARGETS = [2, 5, 3], [4, 4, 6]


@pytest.fixture(scope="module")
def tiny():
    config = decode(TINY, ModelConfig, where="test")
    return build_model(config, noise=0.3)


@pytest.fixture(scope="module")
def reading(tiny):
    model, schedule = tiny
    inputs, targets = (torch.tensor(column)[:, None] for column in (TOKENS, TARGETS))
    return probe(eager_twin(model, [schedule]), schedule, inputs, targets, jacobian_steps=200)


# The reference: one token at a time, as lists of floats.


def rms(values):
    return math.sqrt(sum(value * value for value in values) / len(values))


def normalised(x):
    return [value / math.sqrt(sum(v * v for v in x) / len(x) + 2.0**-23) for value in x]


def times(matrix, x):
    return [sum(weight * value for weight, value in zip(row, x, strict=True)) for row in matrix]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


class Reference:
    """The tiny model on one token, from its weights by name; every quantity that a probe reads is kept."""

    def __init__(self, model, schedule):
        self.weights = {name: value.detach().double().tolist() for name, value in model.named_parameters()}
        self.schedule = schedule

    def block(self, visit, name):
        return self.weights[f"blocks.{visit.block}.{name}"]

    def factor(self, visit, branch):
        row = 0 if branch == "attention" else visit.iteration
        scale = self.block(visit, f"modulate_output.0.{branch}.{row}")
        gamma = self.block(visit, f"modulate_output.1.parts.gamma.{branch}.{visit.iteration}")
        return [s * min(max(g, -CAP), CAP) for s, g in zip(scale, gamma, strict=True)]

    def shift(self, visit, branch):
        return self.block(visit, f"modulate_output.1.parts.beta.{branch}.{visit.iteration}")

    def alpha(self, visit):
        return [sigmoid(logit) for logit in self.block(visit, f"residual.entry.0.gate.{visit.iteration}")]

    def attention(self, visit, x):
        value = times(self.block(visit, "attentions.0.v.weight"), normalised(x))
        z = times(self.block(visit, "attentions.0.out.weight"), value * HEADS)
        return self.modulated(visit, "attention", z)

    def mlp(self, visit, x):
        hidden = [max(u, 0.0) ** 2 for u in times(self.block(visit, "mlps.0.up.weight"), normalised(x))]
        return self.modulated(visit, "mlp", times(self.block(visit, "mlps.0.down.weight"), hidden))

    def modulated(self, visit, branch, z):
        factor, shift = self.factor(visit, branch), self.shift(visit, branch)
        return [f * value + s for f, value, s in zip(factor, z, shift, strict=True)]

    def run(self, token, *, before=None, after=None, nudge=None):
        """Give what happens at each visit, and the last stream; `nudge` is added to the stream around a visit."""
        x0 = self.weights["embedding"][token]
        x, seen, saved = list(x0), [], {}
        for visit in self.schedule.visits:
            for skip in self.schedule.skips:
                if skip.target == visit:
                    gate = [sigmoid(g) for g in self.weights[f"skips.{skip.key}.gate"]]
                    scale = self.weights[f"skips.{skip.key}.scale"]
                    source = saved[skip.source.index]
                    x = [(1 - g) * w * s + g * v for g, w, s, v in zip(gate, scale, source, x, strict=True)]
            if visit.index == before:
                x = [u + v for u, v in zip(x, nudge, strict=True)]
            begin = x
            entry = self.block(visit, f"residual.entry.1.rows.{visit.iteration}")
            x = [a * v + (1 - a) * w + e for a, v, w, e in zip(self.alpha(visit), x, x0, entry, strict=True)]
            read = x
            z = self.attention(visit, read)
            x = [u + v for u, v in zip(x, z, strict=True)]
            y = self.mlp(visit, x)
            middle, x = x, [u + v for u, v in zip(x, y, strict=True)]
            if visit.index == after:
                x = [u + v for u, v in zip(x, nudge, strict=True)]
            saved[visit.index] = x
            seen.append({"begin": begin, "attention": (read, z), "mlp": (middle, y), "end": x})
        return seen, x

    def loss(self, token, target, **change):
        _, x = self.run(token, **change)
        logits = times(self.weights["embedding"], normalised(x))
        return math.log(sum(map(math.exp, logits))) - logits[target]

    def mean_loss(self):
        return sum(self.loss(*pair) for pair in zip(TOKENS, TARGETS, strict=True)) / len(TOKENS)


@pytest.fixture(scope="module")
def reference(tiny):
    return Reference(*tiny)


@pytest.fixture(scope="module")
def seen(reference):
    """What the reference saw, by visit: of each token."""
    runs = [reference.run(token)[0] for token in TOKENS]
    return list(zip(*runs, strict=True))


def flat(rows):
    return [value for row in rows for value in row]


def minus(left, right):
    return [a - b for a, b in zip(left, right, strict=True)]


def cosine(left, right):
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    return dot / (DIM * rms(left) * rms(right))


def near(value, rel=2e-5):
    return pytest.approx(value, rel=rel, abs=1e-7)


def test_loss_schedule_and_tokens(reading, reference):
    assert (reading.schedule, reading.tokens) == ("0 (1)x3 2", 3)
    assert reading.loss == near(reference.mean_loss())
    assert [(v.index, v.block, v.iteration) for v in reading.visits] == [
        (0, 0, 0),
        (1, 1, 0),
        (2, 1, 1),
        (3, 1, 2),
        (4, 2, 0),
    ]


def test_stream_and_update(reading, seen):
    for visit, tokens_seen in zip(reading.visits, seen, strict=True):
        assert visit.stream_rms == near(rms(flat(one["end"] for one in tokens_seen)))
        assert visit.update_rms == near(rms(flat(minus(one["end"], one["begin"]) for one in tokens_seen)))


@pytest.mark.parametrize("branch", ["attention", "mlp"])
def test_branches(reading, seen, reference, tiny, branch):
    for visit, found, tokens_seen in zip(tiny[1].visits, reading.visits, seen, strict=True):
        read, gave = (flat(one[branch][place] for one in tokens_seen) for place in (0, 1))
        branch_reading = getattr(found, branch)
        assert branch_reading.output_rms == near(rms(gave))
        assert branch_reading.gain == near(rms(gave) / rms(read))
        assert branch_reading.scale_rms == near(rms(reference.factor(visit, branch)))
        assert branch_reading.shift_rms == near(rms(reference.shift(visit, branch)))


def test_cosines_between_successive_visits_of_a_block(reading, seen):
    for visit in reading.visits:
        if visit.block != 1 or visit.iteration == 0:
            assert (visit.cosine, visit.update_cosine) == (None, None)
            continue
        pairs = list(zip(seen[visit.index - 1], seen[visit.index], strict=True))
        streams = [cosine(one["end"], two["end"]) for one, two in pairs]
        updates = [cosine(minus(one["end"], one["begin"]), minus(two["end"], two["begin"])) for one, two in pairs]
        assert visit.cosine == near(sum(streams) / 3)
        assert visit.update_cosine == near(sum(updates) / 3)
        assert visit.cosine != near(visit.update_cosine)


def test_gradient_by_the_stream_after_each_visit(reading, reference):
    step = 1e-5
    for visit in reading.visits:
        slopes = []
        for token, target in zip(TOKENS, TARGETS, strict=True):
            for channel in range(DIM):
                nudge = [step if place == channel else 0.0 for place in range(DIM)]
                up = reference.loss(token, target, after=visit.index, nudge=nudge)
                down = reference.loss(token, target, after=visit.index, nudge=[-value for value in nudge])
                slopes.append((up - down) / (2 * step) / 3)  # the loss is the mean of three tokens
        assert visit.gradient_norm == near(math.sqrt(sum(slope * slope for slope in slopes)), rel=1e-4)


def test_the_jacobian_of_a_visit_stretches_at_most_as_far(reading, reference, tiny):
    """The Jacobian falls into one of each token, here written out by differences; its norm is the largest of theirs."""
    step = 1e-5
    for visit, found in zip(tiny[1].visits, reading.visits, strict=True):
        norms = []
        for token in TOKENS:
            columns = []
            for channel in range(DIM):
                nudge = [step if place == channel else 0.0 for place in range(DIM)]
                up, down = (
                    reference.run(token, before=visit.index, nudge=change)[0][visit.index]["end"]
                    for change in (nudge, [-value for value in nudge])
                )
                columns.append([(a - b) / (2 * step) for a, b in zip(up, down, strict=True)])
            norms.append(np.linalg.norm(np.array(columns), ord=2))
        assert found.jacobian_norm == near(max(norms), rel=1e-3)


def test_the_jacobian_is_measured_only_where_it_is_asked_for(tiny):
    model, schedule = tiny
    twin = eager_twin(model, [schedule])
    assert [v.jacobian_norm for v in probe(twin, schedule, tokens(1, 3) % VOCAB, tokens(1, 3) % VOCAB).visits] == [
        None
    ] * 5


@pytest.mark.parametrize("case", CASES)
def test_every_technique_has_a_jacobian(case):
    model, schedule = build_model(model_config(**CASES[case]))
    with torch.no_grad(), watched(model) as runs:
        model(tokens(1, 5), schedule)
    assert all(0 < jacobian_norm(model, run, steps=2) < math.inf for run in runs)


def test_kept_is_the_factor_on_the_stream_and_retention_its_product(reading, reference, tiny):
    schedule, factors = tiny[1], []
    for visit in schedule.visits:
        gates = [skip for skip in schedule.skips if skip.target == visit]
        joined = [sigmoid(g) for g in reference.weights[f"skips.{gates[0].key}.gate"]] if gates else [1.0] * DIM
        factors.append([a * g for a, g in zip(reference.alpha(visit), joined, strict=True)])
        found = reading.visits[visit.index].kept
        mean = sum(factors[-1]) / DIM
        assert found.mean == near(mean)
        assert found.std == near(math.sqrt(sum((value - mean) ** 2 for value in factors[-1]) / DIM))
        assert found.rms == near(rms(factors[-1]))
    assert reading.retention.passes == [near(sum(factors[index]) / DIM) for index in (1, 2, 3)]
    assert reading.retention.whole == near(sum(map(math.prod, zip(*factors, strict=True))) / DIM)


@pytest.mark.parametrize(
    ("rule", "factor"),
    [
        ({"kind": "sequential"}, 1.0),
        ({"kind": "parallel", "from_block": 1}, 1.0),
        ({"kind": "lanes", "from_block": 1, "form": "split"}, 1.0),
        ({"kind": "lanes", "from_block": 1, "form": "crossed"}, 1.1),
        ({"kind": "bounded"}, math.exp(2.0) / (math.exp(2.0) + math.exp(0.5) + 2)),
    ],
)
def test_kept_knows_every_residual_rule(rule, factor):
    """As they start, on 0 (1-2)x2 3: below block 1, `lanes` has one lane and keeps it whole."""
    model, schedule = build_model(model_config(residual=rule, depth={"schedule": "0 (1-2)x2 3"}), noise=0.0)
    found = probe(eager_twin(model, [schedule]), schedule, tokens(1, 3), tokens(1, 3))
    first = factor if rule["kind"] == "bounded" else 1.0
    assert [visit.kept.mean for visit in found.visits] == [near(first), *[near(factor)] * 5]
    assert found.retention.passes == [near(factor**2)] * 2
    assert found.retention.whole == near(first * factor**5)


def test_lanes_are_one_vector_for_norms_and_cosines():
    config = model_config(
        residual={"kind": "lanes", "from_block": 1, "form": "split"}, depth={"schedule": "0 (1)x2 2-3"}
    )
    model, schedule = build_model(config)
    with torch.no_grad(), watched(model) as runs:
        model(tokens(1, 4), schedule)
    text = tokens(1, 4)
    found = probe(eager_twin(model, [schedule]), schedule, text, text)
    split, second = (torch.cat(run.left, dim=-1)[0].double().numpy() for run in runs[1:3])
    before = torch.cat([*runs[1].entered, *runs[1].entered], dim=-1)[0].double().numpy()
    assert found.visits[1].stream_rms == near(np.sqrt((split**2).mean()))
    assert found.visits[1].update_rms == near(np.sqrt(((split - before) ** 2).mean()))
    cosines = (split * second).sum(1) / np.linalg.norm(split, axis=1) / np.linalg.norm(second, axis=1)
    assert found.visits[2].cosine == near(cosines.mean())


def test_a_pass_is_all_repeated_blocks_once():
    config = model_config(
        residual={"kind": "sequential", "entry": [{"kind": "birkhoff"}]}, depth={"schedule": "0 (1-2)x2 3"}
    )
    model, schedule = build_model(config)
    found = probe(eager_twin(model, [schedule]), schedule, tokens(1, 3), tokens(1, 3))
    first, second = (model.blocks[block].residual.entry[0].gate[0].sigmoid().double() for block in (1, 2))
    assert found.retention.passes == [near((first * second).mean().item())] * 2


def test_values_are_those_in_use(reading, reference, tiny):
    for visit, found in zip(tiny[1].visits, reading.visits, strict=True):
        gamma = reference.block(visit, f"modulate_output.1.parts.gamma.mlp.{visit.iteration}")
        used = [min(max(value, -CAP), CAP) for value in gamma]
        assert found.values["film.mlp.gamma"].rms == near(rms(used))
        assert found.values["film.mlp.beyond_cap"].mean == near(sum(abs(value) > CAP for value in gamma) / DIM)
        assert found.values["film.attention.beta"].rms == near(rms(reference.shift(visit, "attention")))
        assert found.values["birkhoff.alpha"].mean == near(sum(reference.alpha(visit)) / DIM)
        added = reference.block(visit, f"residual.entry.1.rows.{visit.iteration}")
        assert found.values["depth_embedding.added"].rms == near(rms(added))
    assert any(visit.values["film.mlp.beyond_cap"].mean > 0 for visit in reading.visits)


def test_spread_is_over_the_visits_of_a_repeated_block(reading, reference, tiny):
    (repeat,) = reading.repeats
    assert repeat.block == 1
    visits = [visit for visit in tiny[1].visits if visit.block == 1]
    rows = [reference.alpha(visit) for visit in visits]
    variances = [sum((value - sum(column) / 3) ** 2 for value in column) / 3 for column in zip(*rows, strict=True)]
    assert repeat.spread["birkhoff.alpha"] == near(math.sqrt(sum(variances) / DIM))
    assert repeat.spread["branch_scale.attention"] == 0.0  # one row for all visits
    assert repeat.spread["branch_scale.mlp"] > 0.1


def test_norms_of_weights_and_of_gradients_by_them(reading, reference, tiny):
    model, _ = tiny
    assert set(reading.parts) == {"embedding", "blocks.0", "blocks.1", "blocks.2", "skips"}
    step = 1e-5
    for part, found in reading.parts.items():
        weights, slopes = [], []
        for name, value in model.named_parameters():
            if not name.startswith(part):
                continue
            weights += value.detach().double().flatten().tolist()
            stored = reference.weights[name]
            for place in range(value.numel()):
                slopes.append(slope_by(reference, stored, place, step))
        assert found.weight_norm == near(math.sqrt(sum(weight * weight for weight in weights)))
        assert found.gradient_norm == near(math.sqrt(sum(slope * slope for slope in slopes)), rel=1e-4)


def slope_by(reference, stored, place, step):
    """Differentiate the mean loss by one weight, moving it in the reference's own lists."""
    row, place = (
        (stored[place // len(stored[0])], place % len(stored[0])) if isinstance(stored[0], list) else (stored, place)
    )
    kept, ends = row[place], []
    for change in (step, -step):
        row[place] = kept + change
        ends.append(reference.mean_loss())
    row[place] = kept
    return (ends[0] - ends[1]) / (2 * step)


def test_values_of_skips(reading, reference):
    assert set(reading.skips) == {"0_0_to_2_0", "1_0_to_1_2"}
    for key, found in reading.skips.items():
        gate = [sigmoid(g) for g in reference.weights[f"skips.{key}.gate"]]
        assert found["keep"].mean == near(sum(gate) / DIM)
        assert found["scale"].rms == near(rms(reference.weights[f"skips.{key}.scale"]))


def test_spectral_norms_are_of_whole_matrices_that_visits_share():
    config = model_config(
        attention={"num_heads": 4, "num_kv_heads": 2, "head_dim": 8, "q": {"kind": "low_rank", "rank": 3}},
        mlp={"kind": "swiglu", "mlp_dim": 40},
    )
    model, schedule = build_model(config)
    with torch.no_grad():
        model.blocks[1].mlps[0].down.weight.zero_()
        model.blocks[1].mlps[0].down.weight[3, 5] = -2.5
    found = {
        repeat.block: repeat.spectral_norms
        for repeat in probe(eager_twin(model, [schedule]), schedule, tokens(1, 3), tokens(1, 3)).repeats
    }
    names = {"attention.q", "attention.k", "attention.v", "attention.out", "mlp.gate", "mlp.up", "mlp.down"}
    assert set(found) == {1, 2}
    assert set(found[1]) == names
    assert found[1]["mlp.down"] == near(2.5)
    q = model.blocks[2].attentions[0].q
    product = (q.up.weight @ q.down.weight).double()
    largest = torch.linalg.eigvalsh(product @ product.mT)[-1].sqrt().item()
    assert found[2]["attention.q"] == near(largest)


@pytest.mark.parametrize(("untied", "left"), [("mlp", "attention"), ("attention", "mlp")])
def test_matrices_that_visits_do_not_share_have_no_spectral_norm(untied, left):
    model, schedule = build_model(model_config(depth={"schedule": "0 (1-2)x2 3", "untied": untied}))
    found = probe(eager_twin(model, [schedule]), schedule, tokens(1, 3), tokens(1, 3))
    assert {name.partition(".")[0] for name in found.repeats[0].spectral_norms} == {left}


def test_a_summary_is_mean_deviation_and_root_mean_square():
    assert Summary.of(torch.tensor([1.0, 2.0, 6.0])) == Summary(3.0, near(math.sqrt(14 / 3)), near(math.sqrt(41 / 3)))


@pytest.mark.parametrize("case", CASES)
def test_a_probe_reads_every_technique_and_leaves_nothing_behind(case):
    model, schedule = build_model(model_config(**CASES[case]))
    twin = eager_twin(model, [schedule])
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    text = tokens(2, 9)
    found = probe(twin, schedule, text[:, :-1], text[:, 1:])
    assert len(found.visits) == schedule.num_layers
    numbers = msgspec.json.decode(msgspec.json.encode(found))
    assert all(math.isfinite(value) for value in leaves(numbers) if not isinstance(value, str))
    for half in (model, twin):
        assert all(value.grad is None for value in half.parameters())
        assert not any(hooks_of(module) for module in half.modules())
    for name, value in model.named_parameters():
        assert torch.equal(value, before[name])
    asked = {type(module) for module in twin.modules() if isinstance(module, Probed)}
    said = {name.partition(".")[0] for visit in found.visits for name in visit.values} | {"skips"}
    assert {kind.__module__.rpartition(".")[2] for kind in asked} <= said


def leaves(tree):
    if isinstance(tree, dict):
        tree = tree.values()
    if isinstance(tree, str | int | float) or tree is None:
        return [] if tree is None else [tree]
    return [leaf for branch in tree for leaf in leaves(branch)]


def hooks_of(module):
    return [*module._forward_hooks, *module._forward_pre_hooks, *module._backward_hooks]


def test_hooks_go_even_when_the_forward_fails():
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    with pytest.raises(IndexError), watched(model):
        model(tokens(1, 3) + 10_000, schedule)
    assert not any(hooks_of(module) for module in model.modules())


def test_a_twin_shares_tensors_and_follows_the_model():
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    twin = eager_twin(model, [schedule])
    ours, theirs = dict(model.named_parameters()), dict(twin.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name].data_ptr() == theirs[name].data_ptr() for name in ours)
    assert all(value.requires_grad for value in theirs.values())
    with torch.no_grad():
        model.embedding.mul_(1.5)
        assert torch.equal(twin(tokens(1, 5), schedule), model(tokens(1, 5), schedule))


def test_a_probe_sees_what_the_forward_without_it_computes():
    """With the hooks on, the logits are those without, to the bit; and each visit's stream is the next one's."""
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    text = tokens(2, 9)
    with torch.no_grad():
        plain = model(text, schedule)
        with watched(model) as runs:
            assert torch.equal(model(text, schedule), plain)
    targets = {skip.target for skip in schedule.skips}
    for one, two in pairwise(runs):
        assert two.visit in targets or lanes(two.entered)[0] is lanes(one.left)[0]


def test_another_schedule_than_the_trained_one():
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    longer = schedule.extended("0 (1-2)x3 3")
    found = probe(eager_twin(model, [schedule]), longer, tokens(2, 5), tokens(2, 5))
    assert found.schedule == "0 (1-2)x3 3"
    assert [len(found.visits), len(found.retention.passes)] == [8, 3]
    flat_reading = probe(eager_twin(model, [schedule]), DepthSchedule.parse("0-3"), tokens(2, 5), tokens(2, 5))
    assert (flat_reading.repeats, flat_reading.retention.passes, flat_reading.skips) == ([], [], {})


def test_a_model_that_overflowed_is_read_as_nothing():
    config = model_config()
    model = LM(config, [config.depth.parse()])
    model.init_weights(0)
    with torch.no_grad():
        model.embedding.fill_(math.nan)
    found = probe(eager_twin(model, [config.depth.parse()]), config.depth.parse(), tokens(1, 3), tokens(1, 3))
    assert msgspec.json.decode(msgspec.json.encode(found))["visits"][0]["stream_rms"] is None


def test_a_probe_compiles_nothing_and_makes_nothing_compile_again():
    model, schedule = build_model(model_config(**ALL_TOGETHER))
    twin, graphs = eager_twin(model, [schedule]), []

    def count(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    for block in model.blocks:
        block.compile(backend=count, fullgraph=True, dynamic=False)
    text = tokens(2, 8)
    with torch.no_grad():
        before = model(text, schedule)
        compiled = len(graphs)
        probe(twin, schedule, text, text)
        assert torch.equal(model(text, schedule), before)
    assert len(graphs) == compiled > 0
