"""Mix a model's distributions with counts of what followed the same tokens before: what a text says again costs less.

The model is the lowest order of an interpolated n-gram (Jelinek and Mercer, 1980): from short contexts to long ones,

    p_n(w) = (1 - l_n) p_(n-1)(w) + l_n c_n(w) / C_n,

where c_n(w) counts how often w followed the last n tokens, C_n is the sum of c_n, and orders whose context is new are
passed over. Each p_n is a distribution over the whole vocabulary because p_(n-1) and c_n / C_n are: there is nothing to
normalise, and nothing that could be forgotten. Only the target's own probability is needed to charge it, so the mixture
stands behind any strategy.

The weight l_n begins as Witten and Bell's, C / (C + T) for T different followers, and moves to what expectation
maximisation has found for contexts of the same order, count and variety. Counts and weights are those of targets that
were charged before; a target enters both after it was paid for. Contexts are compared token by token: no two share
counts by a hash.
"""

import math
from collections.abc import MutableMapping
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit, types
from numba.typed import Dict

from nutshell.config.struct import Config

_COUNT_CLASSES, _VARIETIES = 16, 3
_MOST_ORDER = 32


class NgramConfig(Config, frozen=True):
    """What is counted, and how far it is trusted.

    Attributes:
        order: The longest context, in tokens.
        lowest: The shortest one; 0 counts tokens whatever came before them.
        scope: Counts and weights begin anew with each `document`, or run through the `text`.
        variety: Witten and Bell's T counts this often: more trusts new contexts less.
        prior: After so many targets a learned weight counts as much as where it began.
        most: Followers of contexts that are remembered; what comes later is only looked up.
    """

    order: int = 6
    lowest: int = 1
    scope: Literal["document", "text"] = "document"
    variety: float = 16.0
    prior: float = 8.0
    most: int = 50_000_000

    def __post_init__(self) -> None:
        if not 0 <= self.lowest <= self.order <= _MOST_ORDER:
            raise ValueError(
                f"lowest {self.lowest}, order {self.order}: 0 <= lowest <= order <= {_MOST_ORDER} must hold"
            )
        for name in ("variety", "prior"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ValueError(f"{name} {value} must be above 0 and finite")
        if self.most < 1:
            raise ValueError(f"most {self.most} must be at least 1")


class _Rules(NamedTuple):
    """The config as compiled code takes it."""

    vocab_size: int
    lowest: int
    order: int
    variety: float
    prior: float
    most: int


class _Counts(NamedTuple):
    """A tree of contexts, the newest token first, and the followers of each as a chain. Node 0 is the empty context.

    Keys are pairs in one integer, `node * vocab_size + token`: exact.
    """

    children: MutableMapping[int, int]  # (node, token before) -> node
    followers: MutableMapping[int, int]  # (node, follower) -> entry
    sums: Int64[np.ndarray, " N"]  # of a node
    varieties: Int64[np.ndarray, " N"]
    newest: Int64[np.ndarray, " N"]  # a node's follower that was met last, -1 before
    tokens: Int64[np.ndarray, " E"]  # of an entry
    counts: Int64[np.ndarray, " E"]
    older: Int64[np.ndarray, " E"]
    used: Int64[np.ndarray, " 2"]  # nodes, entries


class _Weights(NamedTuple):
    """By order, count and variety of a context: how many targets it was for, and how many of them the counts gave."""

    asked: Float64[np.ndarray, "O C V"]
    given: Float64[np.ndarray, "O C V"]


class Ngram:
    """The counts at one place of a text. Targets come in the order of the text; each is mixed before it is counted."""

    def __init__(self, config: NgramConfig, vocab_size: int) -> None:
        self._config = config
        self._rules = _Rules(
            vocab_size, config.lowest, config.order, float(config.variety), float(config.prior), config.most
        )
        self._forget()

    def begin(self) -> None:
        """Begin a document: no context reaches back behind it."""
        if self._config.scope == "document":
            self._forget()
        self._before = np.zeros(0, np.int64)

    def mix(
        self, inputs: Int64[np.ndarray, " T"], targets: Int64[np.ndarray, " T"], nats: Float64[np.ndarray, " T"]
    ) -> Float64[np.ndarray, " T"]:
        """Mix the model's nats of the next targets of the document with the counts; count each once it is charged.

        Where no context of a target was met before, its nats are the model's, to the bit.

        Args:
            inputs: `inputs[t]` is the token before `targets[t]`.
            targets: The tokens to charge.
            nats: `-log p(target)` by the model.
        """
        self._make_room(len(targets))
        tokens = np.concatenate([self._before, np.asarray(inputs, np.int64)])
        targets, nats, mixed = np.asarray(targets, np.int64), np.asarray(nats, np.float64), np.empty(len(targets))
        _mix_all(self._counts, self._weights, self._rules, tokens, targets, nats, mixed)
        self._before = tokens[max(0, len(tokens) - self._rules.order) :]
        return mixed

    def distribution(self, token: int, log_probs: Float64[np.ndarray, " V"]) -> Float64[np.ndarray, " V"]:
        """Mix the model's log-probabilities of the target that follows `token`, the next input; count nothing."""
        mixed = np.array(log_probs, np.float64)
        _mix_one(self._counts, self._weights, self._rules, np.append(self._before, token), mixed)
        return mixed

    def _forget(self) -> None:
        def table() -> MutableMapping[int, int]:
            return Dict.empty(types.int64, types.int64)

        def none() -> Int64[np.ndarray, " N"]:
            return np.zeros(1, np.int64)

        self._counts = _Counts(
            *(table(), table(), none(), none(), none() - 1, none(), none(), none()), used=np.array([1, 0])
        )
        shape = (self._config.order + 1, _COUNT_CLASSES, _VARIETIES)
        self._weights = _Weights(np.zeros(shape), np.zeros(shape))
        self._before = np.zeros(0, np.int64)

    def _make_room(self, targets: int) -> None:
        """Let the arrays hold what so many targets may add, twice as much at a time."""
        counts = self._counts
        more = min(targets * (self._config.order + 1), self._config.most)
        room = {}
        for used, names in zip(
            counts.used, (("sums", "varieties", "newest"), ("tokens", "counts", "older")), strict=True
        ):
            if used + more > len(getattr(counts, names[0])):
                grown = np.zeros((3, max(used + more, 2 * used)), np.int64)
                for row, name in zip(grown, names, strict=True):
                    row[:used] = getattr(counts, name)[:used]
                    room[name] = row
        if "newest" in room:
            room["newest"][counts.used[0] :] = -1
        self._counts = counts._replace(**room)


@njit(cache=True, nogil=True)
def _mix_all(counts, weights, rules, tokens, targets, nats, mixed):  # noqa: ANN001, ANN202  (for arrays alone)
    """Mix and then count each target; `tokens` ends with the inputs, and what is before them is older context."""
    path = np.zeros(rules.order + 1, np.int64)
    gave = np.zeros(rules.order + 1)  # of each order: how likely it was its counts that gave the target
    begin = len(tokens) - len(targets)
    for place in range(len(targets)):
        target, end = targets[place], begin + place + 1
        depth = _walk(counts, rules, tokens, end, path)
        value = -nats[place]
        for n in range(rules.lowest, depth + 1):
            share = _share(counts, weights, rules, path[n], n)
            entry = _find(counts.followers, path[n] * rules.vocab_size + target)
            value += math.log1p(-share)
            gave[n] = 0.0
            if entry >= 0:
                part = math.log(share * counts.counts[entry] / counts.sums[path[n]])
                value = _log_sum(part, value)
                gave[n] = math.exp(part - value)
        mixed[place] = -value
        reach = 1.0  # that the target was not given by a longer context: expectation maximisation, one step
        for n in range(depth, rules.lowest - 1, -1):
            size, kind = _class(counts, path[n])
            weights.asked[n, size, kind] += reach
            weights.given[n, size, kind] += reach * gave[n]
            reach *= 1.0 - gave[n]
        _count(counts, rules, tokens, end, target, path, depth)


@njit(cache=True, nogil=True)
def _mix_one(counts, weights, rules, tokens, mixed):  # noqa: ANN001, ANN202
    """Mix the whole distribution of what follows `tokens`, in place."""
    path = np.zeros(rules.order + 1, np.int64)
    depth = _walk(counts, rules, tokens, len(tokens), path)
    for n in range(rules.lowest, depth + 1):
        share = _share(counts, weights, rules, path[n], n)
        mixed += math.log1p(-share)
        entry = counts.newest[path[n]]
        while entry >= 0:
            part = math.log(share * counts.counts[entry] / counts.sums[path[n]])
            mixed[counts.tokens[entry]] = _log_sum(part, mixed[counts.tokens[entry]])
            entry = counts.older[entry]


@njit(cache=True, nogil=True)
def _log_sum(one, other):  # noqa: ANN001, ANN202
    """Add two numbers of which the logarithms are given."""
    high, low = max(one, other), min(one, other)
    return high + math.log1p(math.exp(low - high))


@njit(cache=True, nogil=True)
def _find(table, key):  # noqa: ANN001, ANN202
    """Look a pair up; -1 if it is not there."""
    return table[key] if key in table else np.int64(-1)


@njit(cache=True, nogil=True)
def _walk(counts, rules, tokens, end, path):  # noqa: ANN001, ANN202
    """Follow the contexts of `tokens[:end]` that were met before; give the length of the longest, -1 of none."""
    if counts.sums[0] == 0:
        return -1
    for n in range(1, min(rules.order, end) + 1):
        path[n] = _find(counts.children, path[n - 1] * rules.vocab_size + tokens[end - n])
        if path[n] < 0:
            return n - 1
    return min(rules.order, end)


@njit(cache=True, nogil=True)
def _share(counts, weights, rules, node, n):  # noqa: ANN001, ANN202
    """Give the weight of a context's counts, from what was charged before."""
    size, kind = _class(counts, node)
    begun = counts.sums[node] / (counts.sums[node] + rules.variety * counts.varieties[node])
    return (rules.prior * begun + weights.given[n, size, kind]) / (rules.prior + weights.asked[n, size, kind])


@njit(cache=True, nogil=True)
def _class(counts, node):  # noqa: ANN001, ANN202
    """Give a context's class of counts, by octaves, and whether one token followed it, few, or mostly new ones."""
    size, total = 0, counts.sums[node]
    while total > 1 and size < _COUNT_CLASSES - 1:
        total >>= 1
        size += 1
    kinds = counts.varieties[node]
    return size, 0 if kinds == 1 else 1 if 2 * kinds <= counts.sums[node] else 2


@njit(cache=True, nogil=True)
def _count(counts, rules, tokens, end, target, path, depth):  # noqa: ANN001, ANN202
    """Count a target behind each of its contexts; new ones as long as there is room."""
    for n in range(min(rules.order, end) + 1):
        if n > max(depth, 0):
            if counts.used.max() >= rules.most:
                return
            path[n] = counts.used[0]
            counts.used[0] += 1
            counts.children[path[n - 1] * rules.vocab_size + tokens[end - n]] = path[n]
        node = path[n]
        entry = _find(counts.followers, node * rules.vocab_size + target)
        if entry < 0:
            if counts.used[1] >= rules.most:
                return
            entry = counts.used[1]
            counts.used[1] += 1
            counts.followers[node * rules.vocab_size + target] = entry
            counts.tokens[entry] = target
            counts.counts[entry] = 0
            counts.older[entry] = counts.newest[node]
            counts.newest[node] = entry
            counts.varieties[node] += 1
        counts.counts[entry] += 1
        counts.sums[node] += 1
