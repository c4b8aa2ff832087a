"""Calibration: one pass over some text that says how far the loss moves where each matrix does.

Let G_b [R C] be the gradient of a batch's summed loss with respect to a matrix, for labels drawn from the model's own
distribution. Given the text, the scores of different tokens are then uncorrelated with mean zero, so the mean of
vec(G_b) vec(G_b)^T over batches, per token, is the Fisher information F, and a change d of the weights costs
1/2 vec(d)^T F vec(d) nats a token. It is approximated by a Kronecker product, of which two things are kept exact:

    row_weights[r]  the trace of F over row r, so that the cost of white noise in that row is right;
    hessian         under "gradients" the sum over rows of F, that is the mean of G_b^T G_b: the inputs' factor as in
                    Shampoo (Gupta et al. 2018, arXiv:1802.09568; Morwani et al. 2024, arXiv:2406.17748);
                    under "inputs" the mean of x x^T over the matrix' inputs, as GPTQ takes it (Frantar et al. 2022,
                    arXiv:2210.17323), scaled by the same traces.

Both sum over tokens and visits inside G_b or outside of it. Inside, what the plain Kronecker factors leave out counts:
an error that a shared block makes at every visit, and a mean input that attention averages over positions. What that
changes is measured in docs/log.md.

Labels of the text itself would give the empirical Fisher, whose scores have no mean of zero: the same mean gradient in
every batch, and more weight where the model is wrong.

The head is the last product of the forward. Given its input x, the labels need not be drawn there: with logits
z = f(y), f acting on each by itself, the expected squared gradient of output r is u_r = f'(y_r)^2 p_r (1 - p_r).
Row r of F is the mean of u_r x x^T, and positions do not mix. A drawn label would leave a rare token without weight.

A table looked up by token has the gradients of the looked-up vectors, added up by row. The factor of its "inputs" is
then that of the gradients; a row that the text never uses counts as used half a time (Krichevsky and Trofimov 1981).
A tied table is looked up and is the head: F is the sum of both, cross terms left out, and so are its two factors.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the field's name for it
from torch.overrides import TorchFunctionMode

from nutshell.machine import num_threads
from nutshell.quant.statistics import Statistics
from nutshell.quant.workers import in_order
from nutshell.ranks import ALONE, Ranks

T = TypeVar("T")
R = TypeVar("R")

Metric = Literal["gradients", "inputs"]
# What is added up of a matrix; float32 within a chunk of batches, float64 over the chunks.
Part = Literal["outer", "inputs", "input_energy", "rows", "lookups", "tokens"]
Sums = dict[tuple[str, Part], Tensor]
_TOKENS: tuple[str, Part] = ("", "tokens")  # of no matrix

# Batches whose sums are added in float32. Fixed, so that the rounding does not depend on the number of threads.
CHUNK = 8
# Columns of a product that is symmetric are computed so many at a time, from the diagonal on.
SYMMETRIC_COLUMNS = 256
# Share of the mean weight that every row has at least: a gradient that no batch had is small, not known to be zero.
LEAST_ROW_WEIGHT = 1e-4
# Of a row without any gradient in a matrix without any.
TINY = 1e-12
# What a row of a table counts as used besides its uses.
PRIOR_USES = 0.5
# Keeps the labels apart from other draws of the same seed.
_LABEL_STREAM = 5


def calibrate(
    model: nn.Module,
    schedule: Any,
    batches: Iterable[Int[np.ndarray, "B T"]],
    *,
    names: Collection[str],
    metric: Metric = "gradients",
    seed: int = 0,
    ranks: Ranks = ALONE,
) -> dict[str, Statistics]:
    """Measure the statistics of some matrices, in one pass forward and backward.

    Batches run beside one another, each on one thread, and sums are taken in their order: the result does not depend
    on the number of threads. Batches should be small, some 512 tokens: each gives one sample of F.

    Args:
        model: an eager model whose forward takes tokens [B T] and the schedule, and gives logits [B T V]; none of its
            parameters requires a gradient.
        schedule: what it runs.
        batches: the text, the same on all ranks, which share it.
        names: parameters that act in a matrix product or as a table looked up by token.
        metric: what `hessian` is.
        seed: of the labels.
        ranks: the processes that share the work.

    Returns:
        The statistics by name, in the order of `names`; the same to the bit on all ranks and on any number of them, for
        sums are taken in the order of the text.
    """
    assert not any(value.requires_grad for value in model.parameters()), "calibration needs frozen parameters"
    measure = partial(_measure, model, schedule, frozenset(names), metric, seed)
    totals: Sums = {}
    for part in _of_all_ranks(_streamed(measure, _chunks(batches, ranks)), ranks):
        for key, value in part.items():
            totals[key] = totals[key].add_(value) if key in totals else value.double()
    num_tokens = int(totals.pop(_TOKENS))
    return {name: _statistics(totals, name, num_tokens) for name in names}


def _chunks(
    batches: Iterable[Int[np.ndarray, "B T"]], ranks: Ranks
) -> Iterator[list[tuple[int, Int[np.ndarray, "B T"]]]]:
    """Number the batches and group them; give this rank's groups."""
    numbered = enumerate(batches)
    groups = iter(lambda: list(islice(numbered, CHUNK)), [])
    return islice(groups, ranks.rank, None, ranks.size)


def _of_all_ranks(parts: Iterator[Sums], ranks: Ranks) -> Iterator[Mapping[tuple[str, Part], Tensor]]:
    """Give the parts of all ranks in the order of the text; each round has one of every rank that has any left."""
    more = True
    while more:
        more = False
        for part in ranks.in_turn(next(parts, None)):
            more = True
            yield part


def _streamed(work: Callable[[T], R], items: Iterator[T]) -> Iterator[R]:
    """Do the same work on each item, as many at a time as there are processors; only so many results are held."""
    while group := list(islice(items, num_threads())):
        yield from in_order(work, group)


def _measure(
    model: nn.Module,
    schedule: Any,
    names: frozenset[str],
    metric: Metric,
    seed: int,
    chunk: list[tuple[int, Int[np.ndarray, "B T"]]],
) -> Sums:
    """Add up what a chunk of batches says, its tokens included."""
    sums: Sums = {_TOKENS: torch.tensor(sum(tokens.size for _, tokens in chunk), dtype=torch.float64)}
    for index, tokens in chunk:
        drawn = np.random.default_rng([seed, index, _LABEL_STREAM]).integers(2**63)
        generator = torch.Generator().manual_seed(int(drawn))
        _Pass(model, names, metric, sums).run(tokens, schedule, generator)
    return sums


class _Product(NamedTuple):
    """One product of the forward: whose matrix it was, its input, and its output in the graph."""

    name: str
    x: Float[Tensor, "N C"]
    y: Tensor


class _Pass(TorchFunctionMode):
    """One batch, forward and backward; every product and every look-up is seen as it is called, whoever calls it."""

    def __init__(self, model: nn.Module, names: frozenset[str], metric: Metric, sums: Sums) -> None:
        super().__init__()
        self._model, self._wanted, self._metric, self._sums = model, names, metric, sums
        self._params = {id(value): name for name, value in model.named_parameters()}
        self._last: _Product | None = None
        self._gradients: dict[str, Tensor] = {}

    def run(self, tokens: Int[np.ndarray, "B T"], schedule: Any, generator: torch.Generator) -> None:
        """Add what the batch says to the sums."""
        device = next(self._model.parameters()).device
        with torch.enable_grad():
            with self:
                logits = self._model(torch.from_numpy(tokens).to(device), schedule)
            assert self._last is not None
            # Hooks in the graph hold this pass: were it to hold the graph too, no collector would find the circle.
            head, self._last = self._last, None
            (slopes,) = torch.autograd.grad(logits, head.y, torch.ones_like(logits), retain_graph=True)
        probabilities = logits.detach().softmax(dim=-1)
        self._read_head(head, (slopes.square() * probabilities * (1 - probabilities)).flatten(0, 1))
        head.y.backward(slopes * _score(probabilities, generator))
        for name, gradient in self._gradients.items():
            self._read_gradient(name, gradient)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func not in (F.linear, F.embedding):
            return out
        read, weight = args
        name = self._params[id(weight)]
        if func is F.embedding:
            return self._see_look_up(name, read.flatten(), out, num_rows=len(weight))
        self._see_product(_Product(name, read.detach().flatten(0, -2), out))
        return out

    def _see_product(self, product: _Product) -> None:
        """Wait for the gradient of the product before this one, which was not the head's."""
        if self._last is not None and self._last.name in self._wanted:
            self._last.y.register_hook(partial(self._add_gradient, self._last.name, self._last.x))
        self._last = product
        if product.name not in self._wanted:
            return
        if self._metric == "inputs":
            self._add_gram(product.name, "inputs", product.x)
        else:
            self._add(product.name, "input_energy", product.x.square().sum())

    def _see_look_up(self, name: str, rows: Int[Tensor, " N"], out: Tensor, *, num_rows: int) -> Tensor:
        """Begin the graph at the vectors that were looked up, and wait for their gradient."""
        leaf = out.detach().requires_grad_()
        if name in self._wanted:
            leaf.register_hook(partial(self._read_table, name, rows, num_rows))
        return leaf

    def _add_gradient(self, name: str, x: Float[Tensor, "N C"], grad: Tensor) -> None:
        """Add one visit's share to the gradient of a matrix."""
        g = grad.flatten(0, -2)
        if name not in self._gradients:
            self._gradients[name] = g.new_zeros(g.shape[1], x.shape[1])
        self._gradients[name].addmm_(g.T, x)

    def _read_gradient(self, name: str, gradient: Float[Tensor, "R C"]) -> None:
        self._add(name, "rows", gradient.square().sum(dim=1))
        if self._metric == "gradients":
            self._add_gram(name, "outer", gradient)

    def _read_head(self, head: _Product, variance: Float[Tensor, "N V"]) -> None:
        """Add the expectation over labels of the head's part, by the variance u of each output's gradient."""
        if head.name not in self._wanted:
            return
        self._add(head.name, "rows", variance.T @ head.x.square().sum(dim=1))
        if self._metric == "gradients":
            self._add_gram(head.name, "outer", head.x * variance.sum(dim=1, keepdim=True).sqrt())

    def _read_table(self, name: str, rows: Int[Tensor, " N"], num_rows: int, grad: Tensor) -> None:
        """Add the gradients of the rows of a table that the batch used."""
        used, places = rows.unique(return_inverse=True)
        g = grad.flatten(0, -2)
        gradient = g.new_zeros(len(used), g.shape[1]).index_add_(0, places, g)
        energy = gradient.square().sum(dim=1)
        self._add(name, "rows", energy.new_zeros(num_rows).index_add_(0, used, energy))
        self._add(name, "lookups", torch.stack([energy.sum(), energy.new_tensor(len(rows))]))
        self._add_gram(name, "outer", gradient)

    def _add(self, name: str, part: Part, value: Tensor) -> None:
        key = (name, part)
        self._sums[key] = self._sums[key] + value if key in self._sums else value

    def _add_gram(self, name: str, part: Part, x: Float[Tensor, "N C"]) -> None:
        """Add x^T x to a sum of which only the upper triangle is kept."""
        total = self._sums.setdefault((name, part), x.new_zeros(x.shape[1], x.shape[1]))
        for start in range(0, x.shape[1], SYMMETRIC_COLUMNS):
            columns = slice(start, start + SYMMETRIC_COLUMNS)
            total[columns, start:].addmm_(x[:, columns].T, x[:, start:])


def _score(probabilities: Float[Tensor, "B T V"], generator: torch.Generator) -> Float[Tensor, "B T V"]:
    """Draw a label for each position; give the gradient of its loss with respect to the logits."""
    uniform = torch.rand(*probabilities.shape[:-1], 1, generator=generator).to(probabilities.device)
    labels = torch.searchsorted(probabilities.cumsum(dim=-1), uniform).clamp_max(probabilities.shape[-1] - 1)
    return probabilities.scatter_add(-1, labels, probabilities.new_full((1,), -1.0).expand(labels.shape))


def _statistics(totals: Sums, name: str, num_tokens: int) -> Statistics:
    """Turn the sums of one matrix into its two factors; they leave the totals, which are not needed twice."""
    keys: list[tuple[str, Part]] = [(name, part) for part in get_args(Part)]
    found = {key[1]: totals.pop(key).cpu() / num_tokens for key in keys if key in totals}
    assert "rows" in found, f"'{name}' is in no product and is not looked up"
    rows: Float64[Tensor, " R"] = found["rows"]
    if "lookups" in found:
        energy, uses = found["lookups"].tolist()
        rows = rows + PRIOR_USES * energy / max(uses * num_tokens, 1)
    hessian = _whole(found["inputs"] if "inputs" in found else found["outer"])
    trace = hessian.trace().item()
    if "input_energy" in found and trace:
        hessian = hessian * (found["input_energy"].item() / trace)
        trace = hessian.trace().item()
    weights = rows / trace if trace else torch.zeros_like(rows)
    return Statistics(hessian, weights.clamp_min(max(LEAST_ROW_WEIGHT * weights.mean().item(), TINY)))


def _whole(upper: Float64[Tensor, "C C"]) -> Float64[Tensor, "C C"]:
    """Mirror a symmetric matrix's upper triangle; what lies below it is of no meaning."""
    return upper.triu() + upper.triu(1).T
