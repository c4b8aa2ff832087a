"""Calibration on tiny models, against hooks, a gradient for each label, and finite differences."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import calibration_worker
from models import CASES, DEPTH, VOCAB, build_model, model_config
from nutshell.nn.params import ParamTable
from nutshell.nn.projection import Projection
from nutshell.quant import calibrate as calibrating
from nutshell.quant import workers
from nutshell.quant.calibrate import calibrate

LOOPED = {"depth": {"schedule": "0 (1)x3", "skips": "none"}}
UNTIED = {"depth": {**LOOPED["depth"], "untied": "mlp"}}
SOFTCAP = {"logits": [{"kind": "softcap", "cap": 3.0}]}
BIGRAM = {"inputs": [{"kind": "bigram_hash", "buckets": 11, "dim": 6}]}


def frozen(noise=0.3, **changes):
    model, schedule = build_model(model_config(**changes), noise=noise)
    return model.requires_grad_(requires_grad=False), schedule


def text(batches=1, rows=2, length=12, vocab=VOCAB, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab, (rows, length)) for _ in range(batches)]


def matrices(model):
    table = ParamTable.of(model).with_role("matrix", "projection", "embedding", "head", "gate")
    return [row.name for row in table if len(row.shape) == 2]


def inputs_of(model, schedule, tokens):
    """Collect the inputs of every matrix through hooks on the modules: of each visit, float64."""
    seen = {}
    names = {module: name for name, module in model.named_modules()}

    def note(module, args):
        seen.setdefault(f"{names[module]}.weight", []).append(args[0].detach().double().flatten(0, -2))

    handles = [m.register_forward_pre_hook(note) for m in model.modules() if isinstance(m, Projection)]
    model(torch.from_numpy(tokens), schedule)
    for handle in handles:
        handle.remove()
    return seen


def second_moment(visits, num_tokens):
    """Sum x x^T over vectors and visits, entry by entry."""
    channels = visits[0].shape[1]
    total = np.zeros((channels, channels))
    for x in visits:
        for vector in x.numpy():
            for i in range(channels):
                total[i] += vector[i] * vector
    return total / num_tokens


@pytest.mark.parametrize("changes", [LOOPED, UNTIED, CASES["kronecker"], CASES["low_rank"]])
def test_the_hessian_is_the_inputs_second_moment_summed_over_visits(changes):
    model, schedule = frozen(**changes)
    batches = text(3)
    names = [name for name in matrices(model) if name.startswith("blocks.")]
    found = calibrate(model, schedule, batches, names=names, metric="inputs")
    seen = inputs_of(model, schedule, np.concatenate(batches))
    for name in names:
        expected = second_moment(seen[name], sum(tokens.size for tokens in batches))
        np.testing.assert_allclose(found[name].hessian, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


def test_visits_of_a_shared_block_add_up_and_untied_ones_do_not():
    model, schedule = frozen(**LOOPED)
    visits = inputs_of(model, schedule, text()[0])
    assert [len(visits[f"blocks.{block}.mlps.0.up.weight"]) for block in (0, 1)] == [1, 3]
    untied, schedule = frozen(**UNTIED)
    assert {len(xs) for name, xs in inputs_of(untied, schedule, text()[0]).items() if ".mlps." in name} == {1}


def label_scores(model, schedule, tokens, names):
    """Give the gradient of every matrix for every position and label, and the labels' probabilities."""
    params = dict(model.named_parameters())
    chosen = [params[name].requires_grad_() for name in names]
    log_p = model(torch.from_numpy(tokens), schedule).log_softmax(-1).flatten(0, 1)
    for row in log_p:
        for label in row:
            yield (
                label.exp().item(),
                [
                    torch.zeros_like(p) if g is None else g.double()
                    for p, g in zip(chosen, torch.autograd.grad(label, chosen, retain_graph=True), strict=True)
                ],
            )
    for value in chosen:
        value.requires_grad_(requires_grad=False)


def exact_fisher(model, schedule, tokens, names):
    """Sum over positions and labels p g g^T, as its trace by row and its sum over rows."""
    rows, factors = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for probability, gradients in label_scores(model, schedule, tokens, names):
        for name, gradient in zip(names, gradients, strict=True):
            rows[name] = rows[name] + probability * gradient.square().sum(1) / tokens.size
            factors[name] = factors[name] + probability * gradient.T @ gradient / tokens.size
    return rows, factors


NARROW = {"vocab_size": 16, "logits": SOFTCAP["logits"], **LOOPED}


@pytest.fixture(scope="module")
def fisher():
    model, schedule = frozen(**NARROW, tied_head=False)
    tokens = text(rows=2, length=8, vocab=16)[0]
    names = [name for name in matrices(model) if name.startswith("blocks.1.") or name in ("head.weight", "embedding")]
    found = calibrate(model, schedule, [tokens] * 600, names=names)
    return names, found, exact_fisher(model, schedule, tokens, names)


def test_row_weights_are_the_trace_of_the_fisher_information(fisher):
    names, found, (rows, _) = fisher
    for name in names:
        trace = found[name].row_weights * found[name].hessian.trace()
        used = rows[name] > 0.01 * rows[name].mean()
        assert used.sum() > 5, name
        torch.testing.assert_close(trace[used], rows[name][used], rtol=0.35, atol=0.02 * rows[name].max().item())
        assert trace.sum().item() == pytest.approx(rows[name].sum().item(), rel=0.1), name


def test_the_hessian_is_the_inputs_factor_of_the_fisher_information(fisher):
    names, found, (_, factors) = fisher
    for name in names:
        expected = factors[name] / factors[name].trace()
        shape = found[name].hessian / found[name].hessian.trace()
        assert torch.linalg.norm(shape - expected) < 0.1 * torch.linalg.norm(expected), name


def test_the_heads_part_is_exact(fisher):
    _, found, (rows, factors) = fisher
    head = found["head.weight"]
    torch.testing.assert_close(head.row_weights * head.hessian.trace(), rows["head.weight"], rtol=1e-3, atol=1e-7)
    shape, expected = head.hessian / head.hessian.trace(), factors["head.weight"] / factors["head.weight"].trace()
    torch.testing.assert_close(shape, expected, rtol=1e-3, atol=1e-6)


def divergence(model, schedule, tokens, value, change):
    """Measure the mean of both signs' divergence from the unchanged model, in nats a token."""
    exact = model(tokens, schedule).double().log_softmax(-1)
    total = 0.0
    for sign in (1, -1):
        kept = value.clone()
        value.add_(sign * change)
        changed = model(tokens, schedule).double().log_softmax(-1)
        value.copy_(kept)
        total += (
            torch.nn.functional.kl_div(changed, exact, log_target=True, reduction="sum").item() / tokens.numel() / 2
        )
    return total


@pytest.mark.parametrize("part", ["attentions.0.q", "attentions.0.v", "attentions.0.out", "mlps.0.up", "mlps.0.down"])
@pytest.mark.parametrize("changes", [{}, LOOPED], ids=["mirrored", "looped"])
def test_the_predicted_cost_of_noise_is_the_measured_one(changes, part):
    model, schedule = frozen(**changes)
    name, generator = f"blocks.1.{part}.weight", torch.Generator().manual_seed(0)
    batches = text(256, length=32)
    known = calibrate(model, schedule, batches, names=[name])[name]
    tokens, value = torch.from_numpy(np.concatenate(batches[:16])), dict(model.named_parameters())[name]
    predicted = measured = 0.0
    for _ in range(8):
        change = 0.01 * torch.randn(value.shape, generator=generator)
        predicted += known.cost(change)
        measured += divergence(model, schedule, tokens, value, change)
    assert predicted / measured == pytest.approx(1.0, abs=0.2)


def rank_correlation(left, right):
    """Spearman's: the correlation of the places in order."""
    return np.corrcoef(*(np.argsort(np.argsort(values)) for values in (left, right)))[0, 1]


@pytest.mark.parametrize("changes", [{}, {"tied_head": False}, BIGRAM], ids=["tied", "untied", "bigram"])
def test_rows_of_a_table_weigh_what_finite_differences_say(changes):
    model, schedule = frozen(**{**LOOPED, **changes, "vocab_size": 24})
    name, generator = "inputs.0.table" if "inputs" in changes else "embedding", torch.Generator().manual_seed(0)
    # Some tokens are frequent and some rare, so that the rows differ.
    rng = np.random.default_rng(1)
    shares = 0.8 ** np.arange(24)
    batches = [rng.choice(24, (4, 16), p=shares / shares.sum()) for _ in range(120)]
    known = calibrate(model, schedule, batches, names=[name])[name]
    tokens, value = torch.from_numpy(np.concatenate(batches)), dict(model.named_parameters())[name]
    predicted, measured = [], []
    for row in range(len(value)):
        change = torch.zeros(4, *value.shape)
        change[:, row] = 0.02 * torch.randn(4, value.shape[1], generator=generator)
        predicted.append(sum(known.cost(each) for each in change))
        measured.append(sum(divergence(model, schedule, tokens, value, each) for each in change))
    ratios = np.array(predicted) / np.array(measured)
    used = np.array(measured) > 0.02 * np.mean(measured)
    assert used.sum() > 8
    assert rank_correlation(predicted, measured) > 0.9
    assert 0.5 < np.median(ratios[used]) < 2.0
    assert ((ratios[used] > 0.5) & (ratios[used] < 2.0)).all()


def test_a_row_that_no_text_uses_counts_as_used_half_a_time():
    model, schedule = frozen(**LOOPED, tied_head=False)
    half = VOCAB // 2
    tokens = text(16, vocab=half)
    known = calibrate(model, schedule, tokens, names=["embedding"])["embedding"]
    uses = np.bincount(np.concatenate(tokens).ravel(), minlength=VOCAB)
    assert (uses[:half] > 0).all()
    assert not uses[half:].any()
    weight = known.row_weights
    assert (weight[half:] == weight[half]).all()
    assert weight[half].item() == pytest.approx(weight.sum().item() / (uses.sum() + VOCAB / 2) / 2, rel=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_every_matrix_of_every_technique_has_statistics(case):
    model, schedule = frozen(**CASES[case])
    params = {name: value for name, value in model.named_parameters() if name in matrices(model)}
    found = calibrate(model, schedule, text(2), names=params)
    assert list(found) == list(params)
    for name, value in params.items():
        rows, channels = value.shape
        assert found[name].hessian.shape == (channels, channels)
        assert found[name].row_weights.shape == (rows,)
        assert found[name].hessian.trace() > 0, name
        assert torch.linalg.eigvalsh(found[name].hessian).min() > -1e-6 * found[name].hessian.trace()


@pytest.mark.parametrize("metric", ["gradients", "inputs"])
def test_the_number_of_threads_changes_no_bit(metric, monkeypatch):
    model, schedule = frozen(**{"depth": DEPTH, **SOFTCAP})
    found = []
    for threads in (1, 2, 3):
        for module in (calibrating, workers):
            monkeypatch.setattr(module, "num_threads", lambda count=threads: count)
        before = torch.get_num_threads()
        found.append(calibrate(model, schedule, text(50), names=matrices(model), metric=metric))
        assert torch.get_num_threads() == before
    for other in found[1:]:
        for name, expected in found[0].items():
            assert torch.equal(other[name].hessian, expected.hessian)
            assert torch.equal(other[name].row_weights, expected.row_weights)


def test_the_labels_go_by_the_seed():
    model, schedule = frozen(**LOOPED)
    name = "blocks.0.mlps.0.up.weight"
    first, again, other = (
        calibrate(model, schedule, text(4), names=[name], seed=seed)[name].row_weights for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_what_cannot_be_measured_is_refused():
    model, schedule = frozen(**LOOPED)
    with pytest.raises(AssertionError, match=r"'blocks.0.nothing' is in no product"):
        calibrate(model, schedule, text(), names=["blocks.0.nothing"])
    with pytest.raises(AssertionError, match="frozen parameters"):
        calibrate(model.requires_grad_(), schedule, text(), names=[])


def test_two_ranks_find_what_one_does(tmp_path):
    torch.multiprocessing.spawn(calibration_worker.work, (str(tmp_path),), nprocs=2)
    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in range(2))
    expected = calibration_worker.measured()
    assert first.keys() == second.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(first[name], value)
        assert torch.equal(second[name], value)
