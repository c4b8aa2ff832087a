"""Techniques against float64 references, written out token by token and head by head.

The reference shares no code with the model: it reads the model's weights by name and knows the schedule as a list.
"""

import itertools
import math

import pytest
import torch

from models import ATTENTION, build_model, model_config
from nutshell.errors import RecipeError
from nutshell.model.lm import LM
from nutshell.model.techniques.bigram_hash import BigramHash
from nutshell.model.techniques.film import FilmScale, hard_cap, soft_cap
from nutshell.nn.cache import KVCache
from nutshell.nn.params import ParamTable
from nutshell.optim.config import OptimConfig
from nutshell.optim.roles import Optimizers

HEADS, GROUP, WIDTH = 4, 2, 8  # query heads, query heads to a key/value head, channels of a head
SCHEDULE = "0 (1)x2 2"
BOS = 1
TEXT = (5, 17, BOS, 9, 9, 40, 23)  # the second document begins within the window
EPS = 1.1920929e-07


def rms(x):
    return x / math.sqrt(sum(float(value) ** 2 for value in x) / len(x) + EPS)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


class Reference:
    """The looped model without rotary positions and skips; a test overrides the place where its technique acts."""

    visits = ((0, 0), (1, 0), (1, 1), (2, 0))  # SCHEDULE: block and iteration of each virtual layer
    norms = ("pre", "pre")  # of attention, of the MLP
    slope = 0.0

    def __init__(self, weights):
        self.weights = weights

    def inputs(self, x):
        return x

    def enter(self, h, branch, visit):
        return h

    def leave(self, z, branch, visit):
        return z

    def values(self, v, visit):
        return v

    def heads(self, y, v, h, visit):
        return y

    def gain(self, visit):
        return self.weights[f"blocks.{visit[1]}.attentions.0.q_gain.0"]

    def logits(self):
        """Run the model on TEXT; a visit is (index, block, iteration)."""
        x = self.inputs([self.weights["embedding"][token] for token in TEXT])
        for index, (block, iteration) in enumerate(self.visits):
            visit = (index, block, iteration)
            h = [self.before(one, "attention", visit) for one in x]
            x = [one + self.after(z, "attention", visit) for one, z in zip(x, self.attend(h, visit), strict=True)]
            x = [one + self.after(self.expand(self.before(one, "mlp", visit), block), "mlp", visit) for one in x]
        return torch.stack([self.weights["embedding"] @ rms(one) for one in x])

    def before(self, x, branch, visit):
        normed = self.norms[branch == "mlp"] in ("pre", "peri")
        return self.enter(rms(x) if normed else x, branch, visit)

    def after(self, z, branch, visit):
        normed = self.norms[branch == "mlp"] in ("output", "peri")
        return self.leave(rms(z) if normed else z, branch, visit)

    def expand(self, h, block):
        hidden = self.weights[f"blocks.{block}.mlps.0.up.weight"] @ h
        squares = [float(u) ** 2 if u > 0 else (self.slope * float(u)) ** 2 for u in hidden]
        return self.weights[f"blocks.{block}.mlps.0.down.weight"] @ torch.tensor(squares, dtype=torch.float64)

    def attend(self, h, visit):
        q, k, v = (
            [(self.weights[f"blocks.{visit[1]}.attentions.0.{name}.weight"] @ one).view(-1, WIDTH) for one in h]
            for name in ("q", "k", "v")
        )
        v = self.values(v, visit)
        written = []
        for t in range(len(h)):
            y = torch.zeros(HEADS, WIDTH, dtype=torch.float64)
            for head in range(HEADS):
                query = self.gain(visit)[head] * rms(q[t][head])
                scores = [float(query @ rms(k[s][head // GROUP])) / math.sqrt(WIDTH) for s in range(t + 1)]
                total = sum(math.exp(score) for score in scores)
                for s, score in enumerate(scores):
                    y[head] += math.exp(score) / total * v[s][head // GROUP]
            y = self.heads(y, v[t], h[t], visit)
            written.append(self.weights[f"blocks.{visit[1]}.attentions.0.out.weight"] @ y.flatten())
        return written


def small(*, noise=0.3, **changes):
    """Build the model that the reference is of, every weight moved off its first value."""
    attention = {**ATTENTION, "rotary": {"dims": 0}, **changes.pop("attention", {})}
    depth = {"schedule": SCHEDULE, **changes.pop("depth", {})}
    return build_model(model_config(depth=depth, attention=attention, **changes), noise=noise)


def assert_agrees(reference, **changes):
    model, schedule = small(**changes)
    expected = reference({name: value.detach().double() for name, value in model.named_parameters()}).logits()
    text = torch.tensor([TEXT])
    with torch.no_grad():
        actual = model(text, schedule)[0].double()
        cache = KVCache(capacity=len(TEXT))  # a document begins with a piece, and another piece follows its first token
        pieces = [model(text[:, a:b], schedule, cache=cache) for a, b in ((0, 2), (2, 3), (3, 7))]
    torch.testing.assert_close(actual, expected, atol=2e-4, rtol=2e-4)
    torch.testing.assert_close(torch.cat(pieces, dim=1)[0].double(), expected, atol=2e-4, rtol=2e-4)


def test_the_bare_model_is_the_reference():
    assert_agrees(Reference)


def test_leaky_relu2_is_its_formula():
    class Leaky(Reference):
        slope = 0.5

    assert_agrees(Leaky, mlp={"kind": "leaky_relu2", "mlp_dim": 40, "slope": 0.5})


def test_softcap_is_its_formula():
    class Capped(Reference):
        def logits(self):
            return 3 * torch.tanh(super().logits() / 3)

    assert_agrees(Capped, logits=[{"kind": "softcap", "cap": 3.0}])


@pytest.mark.parametrize("learned", [True, False])
def test_an_asymmetric_softcap_is_its_formula(learned):
    class Capped(Reference):
        def logits(self):
            z = super().logits()
            caps = {"above": 3.0, "below": 0.5}
            if learned:
                caps = {side: float(self.weights[f"logits.0.{side}"]) for side in caps}
            for t, token in itertools.product(range(z.shape[0]), range(z.shape[1])):
                cap = caps["above" if z[t, token] > 0 else "below"]
                z[t, token] = cap * math.tanh(float(z[t, token]) / cap)
            return z

    assert_agrees(Capped, logits=[{"kind": "asym_softcap", "above": 3.0, "below": 0.5, "learned": learned}])


def test_an_asymmetric_softcap_with_equal_caps_is_a_softcap_bit_for_bit():
    config = model_config(logits=[{"kind": "asym_softcap"}, {"kind": "softcap"}])
    asymmetric, symmetric = (kind.build(config.dims) for kind in config.logits)
    z = 40 * torch.randn(2, 3, 61, generator=torch.Generator().manual_seed(0))
    assert torch.equal(asymmetric(z, None), symmetric(z, None))


# inputs


def test_embed_norm_is_its_formula():
    class Normed(Reference):
        def inputs(self, x):
            return [rms(one) for one in x]

    assert_agrees(Normed, inputs=[{"kind": "embed_norm"}])


class Hashed(Reference):
    def inputs(self, x):
        added = []
        for t, token in enumerate(TEXT):
            row = 36 if t == 0 or token == BOS else (36313 * token ^ 27191 * TEXT[t - 1]) % 36
            looked_up = self.weights["inputs.0.project.weight"] @ self.weights["inputs.0.table"][row]
            added.append(x[t] + self.weights["inputs.0.scale"] * looked_up)
        return added


@pytest.mark.parametrize("zero", ["table", "projection"])
def test_bigram_hash_is_its_formula(zero):
    assert_agrees(Hashed, inputs=[{"kind": "bigram_hash", "buckets": 37, "dim": 6, "zero": zero}])


def test_the_first_published_bigram_hash_is_its_formula():
    class Paired(Reference):
        def inputs(self, x):
            added = []
            for t, token in enumerate(TEXT):
                if t == 0 or token == BOS:
                    added.append(x[t])
                    continue
                row = self.weights["inputs.0.table"][(61 * TEXT[t - 1] + token) % 37]
                added.append(x[t] + self.weights["inputs.0.project.weight"] @ row)
            return added

    form = {"hash": "product", "scaled": False, "zero": "projection"}
    assert_agrees(Paired, inputs=[{"kind": "bigram_hash", "buckets": 37, "dim": 6, **form}])


def test_the_hash_is_that_of_exact_integers_for_every_token_of_a_shard():
    config = model_config(vocab_size=65_536, inputs=[{"kind": "bigram_hash", "buckets": 2048, "dim": 1}])
    technique = config.inputs[0].build(config.dims)
    generator = torch.Generator().manual_seed(0)
    text = torch.randint(2, 65_536, (400,), generator=generator).tolist()
    text[7] = text[200] = BOS
    expected = [2047]
    for before, token in itertools.pairwise(text):
        expected.append(2047 if token == BOS else (36313 * token ^ 27191 * before) % 2047)
    tokens = torch.tensor([text])
    previous = torch.tensor([[-1, *text[:-1]]])
    assert technique.rows(tokens, previous)[0].tolist() == expected
    wrapped = ((36313 * tokens.int()) ^ (27191 * previous.int())) % 2047
    assert wrapped[0, 8:200].tolist() != expected[8:200], "no token here is large enough to leave int32"


def test_the_reserved_row_is_reached_by_no_pair():
    config = model_config(inputs=[{"kind": "bigram_hash", "buckets": 5, "dim": 1}])
    technique = config.inputs[0].build(config.dims)
    tokens, previous = torch.meshgrid(torch.arange(2, 61), torch.arange(61), indexing="ij")
    assert technique.rows(tokens, previous).unique().tolist() == [0, 1, 2, 3]


def gradient_sizes(model, schedule):
    text = torch.tensor([TEXT])
    model(text[:, :-1], schedule).flatten(0, 1).logsumexp(-1).sum().backward()
    technique = model.inputs[0]
    return [float(part.grad.abs().max()) for part in (technique.table, technique.project.weight, technique.scale)]


@pytest.mark.parametrize(
    ("zero", "alive_at_first"), [("table", (True, False, False)), ("projection", (False, True, False))]
)
def test_with_one_factor_at_zero_the_bigram_hash_learns_from_the_second_step(zero, alive_at_first):
    config = model_config(inputs=[{"kind": "bigram_hash", "buckets": 37, "dim": 6, "zero": zero}])
    model, schedule = LM(config, [config.depth.parse()]), config.depth.parse()
    model.init_weights(0)
    optimizers = Optimizers(ParamTable.of(model), OptimConfig(), dtype=torch.float32)
    assert tuple(size > 0 for size in gradient_sizes(model, schedule)) == alive_at_first
    optimizers.step(0.0)
    assert all(size > 0 for size in gradient_sizes(model, schedule))


def test_with_both_factors_at_zero_as_published_it_never_learns():
    """The defect of 167 that `zero` rules out: table and projection each wait for the other, and the scale for both."""
    config = model_config(inputs=[{"kind": "bigram_hash", "buckets": 37, "dim": 6}])
    model, schedule = LM(config, [config.depth.parse()]), config.depth.parse()
    model.init_weights(0)
    with torch.no_grad():
        model.inputs[0].project.weight.zero_()
    optimizers = Optimizers(ParamTable.of(model), OptimConfig(), dtype=torch.float32)
    for _ in range(5):
        assert gradient_sizes(model, schedule) == [0.0, 0.0, 0.0]
        optimizers.step(0.0)


def test_the_first_values_of_a_bigram_hash():
    for zero in ("table", "projection"):
        inputs = [{"kind": "bigram_hash", "buckets": 300, "dim": 16, "zero": zero}]
        config = model_config(inputs=inputs)
        model = LM(config, [config.depth.parse()])
        model.init_weights(0)
        technique = model.inputs[0]
        assert isinstance(technique, BigramHash)
        assert technique.scale.item() == pytest.approx(0.05)
        silent, drawn = (technique.table, technique.project.weight)[:: 1 if zero == "table" else -1]
        assert silent.abs().max() == 0.0
        assert drawn.abs().min() > 0.0
        if zero == "projection":
            assert drawn.std().item() == pytest.approx(0.02, rel=0.05)


@pytest.mark.parametrize("mask_bos", [True, False])
def test_the_smear_gate_by_channel_is_its_formula(mask_bos):
    class Smeared(Reference):
        def inputs(self, x):
            gate = [sigmoid(float(w)) for w in self.weights["inputs.0.gate"]]
            smeared = []
            for t, token in enumerate(TEXT):
                alone = t == 0 or (mask_bos and token == BOS)
                before = torch.zeros(24, dtype=torch.float64) if alone else x[t - 1]
                channels = [(1 - g) * x[t][d] + g * before[d] for d, g in enumerate(gate)]
                smeared.append(torch.stack(channels))
            return smeared

    assert_agrees(Smeared, inputs=[{"kind": "smear_gate", "mask_bos": mask_bos}])


@pytest.mark.parametrize("mask_bos", [True, False])
def test_the_smear_gate_by_token_is_its_formula(mask_bos):
    class Smeared(Reference):
        def inputs(self, x):
            scale, gate = self.weights["inputs.0.scale"], self.weights["inputs.0.gate.weight"][0]
            smeared = []
            for t, token in enumerate(TEXT):
                taken = scale * sigmoid(sum(float(gate[d] * x[t][d]) for d in range(5)))
                alone = t == 0 or (mask_bos and token == BOS)
                smeared.append(x[t] if alone else x[t] + taken * x[t - 1])
            return smeared

    assert_agrees(Smeared, inputs=[{"kind": "smear_gate", "form": "token", "width": 5, "mask_bos": mask_bos}])


def entering(model, text):
    """Give what enters the stream, [T D]."""
    return model.stream(torch.tensor([text]), dtype=torch.float32, attend_kind="fused").x0[0]


@pytest.mark.parametrize("form", ["channel", "token"])
def test_a_document_enters_the_stream_alike_alone_and_behind_another(form):
    hashed = {"kind": "bigram_hash", "buckets": 37, "dim": 6}
    for mask_bos in (True, False):
        model, _ = small(inputs=[hashed, {"kind": "smear_gate", "form": form, "mask_bos": mask_bos}])
        packed, alone = entering(model, TEXT)[2:], entering(model, TEXT[2:])
        assert torch.equal(packed[0], alone[0]) == mask_bos
        torch.testing.assert_close(packed[1:], alone[1:], rtol=0, atol=1e-6)


# modulate


@pytest.mark.parametrize("by", ["block", "index"])
def test_layer_scale_is_its_formula(by):
    class Scaled(Reference):
        def enter(self, h, branch, visit):
            return h / math.sqrt(visit[0 if by == "index" else 1] + 1)

    assert_agrees(Scaled, modulate=[{"kind": "layer_scale", "by": by}])


def test_branch_scale_by_visit_has_rows_of_its_own_for_each_visit_and_branch():
    class Scaled(Reference):
        def leave(self, z, branch, visit):
            row = visit[2] if branch == "mlp" else 0
            return self.weights[f"blocks.{visit[1]}.modulate_output.0.{branch}.{row}"] * z

    assert_agrees(Scaled, modulate=[{"kind": "branch_scale", "mlp": "visit"}])


@pytest.mark.parametrize("per", ["visit", "block"])
def test_norm_gain_is_its_formula(per):
    class Weighed(Reference):
        def enter(self, h, branch, visit):
            row = visit[2] if per == "visit" else 0
            return self.weights[f"blocks.{visit[1]}.modulate_input.0.{branch}.{row}"] * h

    assert_agrees(Weighed, modulate=[{"kind": "norm_gain", "per": per}])


def capped(gamma, cap, form):
    if cap is None:
        return gamma
    if form == "hard":
        return max(-cap, min(cap, gamma))
    return cap * math.tanh(math.atanh(1 / cap) + (gamma - 1) / (cap - 1 / cap))


@pytest.mark.parametrize("shift", [True, False])
@pytest.mark.parametrize(("cap", "form"), [(None, "hard"), (1.2, "hard"), (1.2, "soft")])
def test_film_is_its_formula(cap, form, shift):
    class Filmed(Reference):
        def leave(self, z, branch, visit):
            name = f"blocks.{visit[1]}.modulate_output.0.parts"
            gamma = self.weights[f"{name}.gamma.{branch}.{visit[2]}"]
            z = torch.stack([capped(float(g), cap, form) * one for g, one in zip(gamma, z, strict=True)])
            return z + self.weights[f"{name}.beta.{branch}.{visit[2]}"] if shift else z

    film = {"kind": "film", "shift": shift, "cap_form": form, **({"cap": cap} if cap else {})}
    assert_agrees(Filmed, modulate=[film])


def test_film_comes_after_the_branch_scale_before_it_in_the_list():
    class Filmed(Reference):
        def leave(self, z, branch, visit):
            name = f"blocks.{visit[1]}.modulate_output"
            return self.weights[f"{name}.0.{branch}.0"] * z + self.weights[f"{name}.1.parts.beta.{branch}.{visit[2]}"]

    assert_agrees(Filmed, modulate=[{"kind": "branch_scale"}, {"kind": "film", "scale": False, "shift": True}])


@pytest.mark.parametrize("cap", [1.01, 1.2, 1.5, 2.0, 4.0, 30.0])
def test_a_soft_cap_starts_as_the_identity_and_keeps_every_gradient(cap):
    gamma = torch.tensor([-2 * cap, -1.0, 0.0, 1.0, 2 * cap], requires_grad=True)
    used = soft_cap(gamma, cap)
    (slope,) = torch.autograd.grad(used.sum(), gamma)
    assert used[3].item() == 1.0
    assert slope[3].item() == pytest.approx(1.0)
    assert (used.abs() <= cap * (1 + 1e-6)).all()
    assert (used.diff() >= 0).all()
    if cap >= 1.5:  # nearer to 1 the bend is sharper than fp32 can show
        assert (slope > 0).all()


def test_a_hard_cap_cuts_the_gradient_beyond_it():
    gamma = torch.tensor([-9.0, -4.0, 1.0, 4.0, 9.0], requires_grad=True)
    used = hard_cap(gamma, 4.0)
    assert used.tolist() == [-4.0, -4.0, 1.0, 4.0, 4.0]
    assert torch.autograd.grad(used.sum(), gamma)[0].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]


def test_a_probe_reads_the_factors_that_act():
    model, schedule = small(modulate=[{"kind": "film", "cap": 1.2}])
    scales = [module for module in model.modules() if isinstance(module, FilmScale)]
    assert [scale.cap for scale in scales] == [1.2] * 3
    used = scales[1].used("mlp", schedule.visits[2])
    stored = dict(model.named_parameters())["blocks.1.modulate_output.0.parts.gamma.mlp.1"]
    assert (stored.abs() > 1.2).any()
    assert used.tolist() == pytest.approx([capped(value, 1.2, "hard") for value in stored.tolist()])


# norms


@pytest.mark.parametrize("attention", ["pre", "output", "peri"])
@pytest.mark.parametrize("mlp", ["pre", "output", "peri"])
def test_norms_stand_where_the_recipe_says(attention, mlp):
    class Placed(Reference):
        norms = (attention, mlp)

    assert_agrees(Placed, norms={"attention": attention, "mlp": mlp})


def logits_of(**changes):
    model, schedule = small(**changes)
    with torch.no_grad():
        return model(torch.tensor([TEXT]), schedule)


@pytest.mark.parametrize("modulate", [[], [{"kind": "norm_gain"}]])
@pytest.mark.parametrize("kind", ["relu2", "leaky_relu2"])
def test_an_mlp_of_degree_two_cannot_tell_output_norms_from_peri_norms(kind, modulate):
    """For c > 0, mlp(c h) = c^2 mlp(h), and the norm of the output divides c^2 out (recurrence-study-855.md 3.4)."""
    mlp = {"kind": kind, "mlp_dim": 40}
    pre, output, peri = (
        logits_of(mlp=mlp, modulate=modulate, norms={"mlp": norm}) for norm in ("pre", "output", "peri")
    )
    torch.testing.assert_close(output, peri, atol=1e-4, rtol=1e-4)
    assert (output - pre).abs().max() > 0.1


def test_attention_can_tell_output_norms_from_peri_norms():
    output, peri = (logits_of(norms={"attention": norm}) for norm in ("output", "peri"))
    assert (output - peri).abs().max() > 0.1


# attention: q gain, values, heads


def test_a_q_gain_by_visit_has_a_row_for_each_visit():
    class Gained(Reference):
        def gain(self, visit):
            return self.weights[f"blocks.{visit[1]}.attentions.0.q_gain.{visit[2]}"]

    assert_agrees(Gained, attention={"q_gain_per": "visit"})


class Embedded(Reference):
    """v + r s P U[token]; r by block, and in block 1 alone where `per` is visit."""

    per = "block"
    position = 0

    def values(self, v, visit):
        if self.per == "visit" and visit[1] != 1:
            return v
        row = visit[2] if self.per == "visit" else 0
        name = f"blocks.{visit[1]}.attentions.0.values.{self.position}.gain.{row}"
        table = "tables.value_embedding"
        factor = self.weights[name] * self.weights[f"{table}.scale"]
        added = []
        for one, token in zip(v, TEXT, strict=True):
            looked_up = self.weights[f"{table}.project.weight"] @ self.weights[f"{table}.table"][token]
            heads = [one[head] + factor * looked_up[head * WIDTH : (head + 1) * WIDTH] for head in range(2)]
            added.append(torch.stack(heads))
        return added


def test_a_value_embedding_is_its_formula():
    assert_agrees(Embedded, values=[{"kind": "value_embedding", "dim": 6}])


def test_a_value_embedding_by_visit_in_one_block_is_its_formula():
    class ByVisit(Embedded):
        per = "visit"

    assert_agrees(ByVisit, values=[{"kind": "value_embedding", "dim": 6, "per": "visit", "blocks": "1"}])


class Mixed(Reference):
    """l0 v_first + l1 v in every virtual layer but the first."""

    position = 0

    def row(self, visit):
        return 0

    def values(self, v, visit):
        if visit[0] == 0:
            self.first = v
            return v
        name = f"blocks.{visit[1]}.attentions.0.values.{self.position}"
        first, own = (self.weights[f"{name}.{part}.{self.row(visit)}"] for part in ("first", "own"))
        return [first * begun + own * one for begun, one in zip(self.first, v, strict=True)]


def test_a_value_residual_is_its_formula():
    assert_agrees(Mixed, values=[{"kind": "value_residual"}])


def test_a_value_residual_by_visit_is_its_formula():
    class ByVisit(Mixed):
        def row(self, visit):
            return visit[2]

    assert_agrees(ByVisit, values=[{"kind": "value_residual", "per": "visit"}])


def test_where_the_first_block_runs_again_its_later_visits_have_rows_for_a_value_residual():
    class Looped(Mixed):
        visits = ((0, 0), (1, 0), (0, 1), (1, 1), (0, 2), (1, 2))

        def row(self, visit):
            return visit[2] - 1 if visit[1] == 0 else visit[2]

    assert_agrees(Looped, depth={"schedule": "(0 1)x3"}, values=[{"kind": "value_residual", "per": "visit"}])


@pytest.mark.parametrize("order", ["embedding first", "residual first"])
def test_a_value_residual_keeps_the_first_values_with_their_value_embedding(order):
    class Both(Embedded, Mixed):
        def values(self, v, visit):
            steps = [Embedded, Mixed] if order == "embedding first" or visit[0] == 0 else [Mixed, Embedded]
            for at, step in enumerate(steps):
                self.position = at
                v = step.values(self, v, visit)
            return v

    values = [{"kind": "value_embedding", "dim": 6}, {"kind": "value_residual"}]
    assert_agrees(Both, values=values[:: 1 if order == "embedding first" else -1])


def without_own(y, v):
    """Take from each head its component along the token's own value."""
    freed = []
    for head in range(HEADS):
        own = v[head // GROUP]
        freed.append(y[head] - float(y[head] @ own) / float(own @ own) * own)
    return torch.stack(freed)


def test_xsa_is_its_formula_and_acts_in_its_blocks_alone():
    class Freed(Reference):
        def heads(self, y, v, h, visit):
            return without_own(y, v) if visit[1] == 1 else y

    assert_agrees(Freed, heads=[{"kind": "xsa", "blocks": "1"}])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_xsa_leaves_exactly_nothing_of_a_token_that_reads_only_itself(dtype):
    """Nor any gradient: a norm behind it would multiply what rounding leaves of either."""
    technique = model_config(heads=[{"kind": "xsa"}]).heads[0].build(None)
    v = torch.randn(3, 5, GROUP, WIDTH, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    y = v.repeat_interleave(HEADS // GROUP, dim=2)
    y = torch.cat([y[:, :2], (y[:, 2:3].float() * (1 + 1.2e-7)).to(dtype), 2 * y[:, 3:]], dim=1)
    freed = technique(y, v, None, None, None)
    assert torch.equal(freed[:, :3], torch.zeros_like(freed[:, :3]))
    (gradient,) = torch.autograd.grad(freed[:, :3].sum(), v)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("norm", ["output", "peri"])
def test_under_a_norm_of_its_output_attention_says_nothing_of_a_first_token(norm):
    model, schedule = small(heads=[{"kind": "xsa"}], norms={"attention": norm}, attention={"within_documents": True})
    said = []
    for block in model.blocks:
        block.attentions[0].register_forward_hook(lambda _module, _inputs, output: said.append(output[0][0]))
    with torch.no_grad():
        for dtype in (torch.float32, torch.bfloat16):
            model(torch.tensor([TEXT]), schedule, dtype=dtype)
    first = torch.tensor([t for t, token in enumerate(TEXT) if t == 0 or token == BOS])
    assert len(said) == 2 * len(schedule.visits)
    assert all(torch.equal(z[first], torch.zeros_like(z[first])) for z in said)


GATES = {
    "1667": {"inputs": 12, "ceiling": 2.0},
    "1736, dense": {"ceiling": 1.0},
    "1787, sparse": {"inputs": 12, "ceiling": 1.0, "scale": 0.5},
    "549, dense with a bias": {"ceiling": 1.0, "bias": 4.0},
}


class Gated(Reference):
    ceiling, scale, width, biased, position = 2.0, 1.0, 12, False, 0

    def heads(self, y, v, h, visit):
        name = f"blocks.{visit[1]}.attentions.0.heads.{self.position}"
        gated = []
        for head in range(HEADS):
            row = self.weights[f"{name}.project.weight"][head]
            opening = self.scale * sum(float(row[d] * h[d]) for d in range(self.width))
            opening += float(self.weights[f"{name}.offset.bias"][head]) if self.biased else 0.0
            gated.append(self.ceiling * sigmoid(opening) * y[head])
        return torch.stack(gated)


@pytest.mark.parametrize("form", GATES)
def test_an_attention_gate_is_its_formula_in_all_published_forms(form):
    class Published(Gated):
        ceiling = GATES[form]["ceiling"]
        scale = GATES[form].get("scale", 1.0)
        width = GATES[form].get("inputs", 24)
        biased = "bias" in GATES[form]

    assert_agrees(Published, heads=[{"kind": "attention_gate", **GATES[form]}])


def test_an_attention_gate_reads_the_modulated_input():
    class Scaled(Gated):
        def enter(self, h, branch, visit):
            return h / math.sqrt(visit[1] + 1)

    assert_agrees(Scaled, heads=[{"kind": "attention_gate", "inputs": 12}], modulate=[{"kind": "layer_scale"}])


@pytest.mark.parametrize("order", ["gate last", "gate first"])
def test_an_attention_gate_and_xsa_commute(order):
    class Both(Gated):
        position = 1 if order == "gate last" else 0

        def heads(self, y, v, h, visit):
            return super().heads(without_own(y, v), v, h, visit)

    heads = [{"kind": "xsa"}, {"kind": "attention_gate", "inputs": 12}]
    assert_agrees(Both, heads=heads[:: 1 if order == "gate last" else -1])


@pytest.mark.parametrize(
    ("form", "opening"),
    [("1667", 1.0), ("1736, dense", 0.5), ("1787, sparse", 0.5), ("549, dense with a bias", sigmoid(4.0))],
)
def test_an_attention_gate_starts_as_published(form, opening):
    config = model_config(heads=[{"kind": "attention_gate", **GATES[form]}])
    model = LM(config, [config.depth.parse()])
    model.init_weights(0)
    gate = model.blocks[0].attentions[0].heads[0]
    y, v, h = torch.ones(1, 3, 4, 8), torch.ones(1, 3, 2, 8), torch.randn(1, 3, 24)
    with torch.no_grad():
        opened = gate(y, v, h, None, None)
    torch.testing.assert_close(opened, torch.full_like(y, opening))


# what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modulate": [{"kind": "film", "scale": False}]}, "neither scale nor shift"),
        ({"modulate": [{"kind": "film", "cap_form": "soft"}]}, "cap_form 'soft' has no effect without cap"),
        (
            {"modulate": [{"kind": "film", "scale": False, "shift": True, "cap": 4.0}]},
            "cap 4.0 has no effect without scale",
        ),
        ({"modulate": [{"kind": "film", "cap": 1.0}]}, "cap must be above 1, where gamma starts, got 1.0"),
        (
            {"inputs": [{"kind": "bigram_hash", "buckets": 1}]},
            "buckets must be at least 2, one of them reserved, got 1",
        ),
        ({"inputs": [{"kind": "bigram_hash", "buckets": 9, "dim": 0}]}, "dim 0"),
        ({"inputs": [{"kind": "bigram_hash", "buckets": 9, "scale": 0.0}]}, "a scale 0.0 that is not 0"),
        ({"inputs": [{"kind": "bigram_hash", "buckets": 9, "zero": "projection", "std": 0.0}]}, "std 0.0 > 0"),
        ({"inputs": [{"kind": "bigram_hash", "buckets": 9, "std": 0.1}]}, "std 0.1 has no effect: the table starts at"),
        ({"logits": [{"kind": "asym_softcap", "learned": False}]}, "equal caps 30.0 that are not learned is softcap"),
        ({"logits": [{"kind": "asym_softcap", "below": 0.0}]}, "above 30.0 and below 0.0 must be positive"),
        (
            {"inputs": [{"kind": "bigram_hash", "buckets": 9, "scaled": False, "scale": 0.1}]},
            "scale 0.1 has no effect: scaled is false",
        ),
        ({"inputs": [{"kind": "smear_gate", "width": 5}]}, "width 5 has no effect: form is 'channel'"),
        ({"inputs": [{"kind": "smear_gate", "form": "token", "width": 0}]}, "width must be at least 1, got 0"),
        (
            {"inputs": [{"kind": "smear_gate", "form": "token", "width": 25}]},
            "smear_gate.width 25 is more than model_dim 24",
        ),
        ({"heads": [{"kind": "attention_gate", "inputs": 0}]}, "inputs must be at least 1, got 0"),
        ({"heads": [{"kind": "attention_gate", "inputs": 25}]}, "attention_gate.inputs 25 is more than model_dim 24"),
        ({"heads": [{"kind": "attention_gate", "ceiling": 0.0}]}, "ceiling 0.0 and scale 1.0 must be positive"),
        ({"heads": [{"kind": "attention_gate", "scale": -1.0}]}, "must be positive"),
        ({"values": [{"kind": "value_embedding", "dim": 0}]}, "dim 0 >= 1"),
        ({"values": [{"kind": "value_residual", "blocks": "0"}]}, "values: 'value_residual' acts in no block"),
        ({"values": [{"kind": "value_residual", "blocks": "4"}]}, "acts in blocks '4', the model has 4"),
    ],
)
def test_a_setting_that_does_nothing_or_does_not_fit_is_refused(changes, message):
    with pytest.raises(RecipeError) as caught:
        model_config(**changes)
    assert message in str(caught.value)
