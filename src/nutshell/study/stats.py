"""What a handful of seeds lets one conclude about two arms of a study.

Everything rests on one interval of the difference of means, arm less baseline: Student's over pairs that share a seed,
Welch's where there are none. With a margin m, a verdict is a region that holds the whole interval:

    better                 below -m       (a metric is bits or bytes: less is better)
    worse                  above m
    no larger difference   within [-m, m]
    undecided              none of them

So a verdict is false only if the interval misses the truth: at most `alpha` of the time. It stays so for all
comparisons of a study together if each has the share alpha / k (Bonferroni), and for looks at growing numbers of seeds
if their shares add up to alpha (`spent`). That is less sharp than tests made for one of these cases; it needs no
assumption about how the comparisons hang together. One bound of the interval is a one-sided test at alpha / 2
against the margin: Schuirmann 1987 (TOST), Welch 1947, Lan and DeMets 1983 (spending).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float64
from scipy import stats as distributions

Verdict = Literal["better", "worse", "no larger difference", "undecided"]
BySeed = Mapping[int, float]
"""A metric of an arm, by seed."""

# Of the distribution of a sample's standard deviation, where power is averaged over it.
_QUANTILES = (np.arange(4_000) + 0.5) / 4_000
MOST_SEEDS = 1_000


class Difference(NamedTuple):
    """How far an arm's mean lies from the baseline's.

    Attributes:
        mean: Arm less baseline.
        error: Its standard error.
        df: Degrees of freedom of that.
        seeds: Pairs, or seeds of the smaller side.
        paired: Whether seeds were paired.
    """

    mean: float
    error: float
    df: float
    seeds: int
    paired: bool


class Interval(NamedTuple):
    """Bounds that hold the true difference at a confidence level."""

    low: float
    high: float


def difference(arm: BySeed, baseline: BySeed) -> Difference | None:
    """Compare two arms, by the seeds that both have where there are two or more; None if there are too few."""
    common = sorted(arm.keys() & baseline.keys())
    if len(common) >= 2:
        pairs = np.array([arm[seed] - baseline[seed] for seed in common])
        return Difference(float(pairs.mean()), _error(pairs), len(pairs) - 1, len(pairs), paired=True)
    sides = [np.array(list(values.values())) for values in (arm, baseline)]
    if min(map(len, sides)) < 2:
        return None
    return _welch(*sides)


def _welch(arm: Float64[np.ndarray, " N"], baseline: Float64[np.ndarray, " M"]) -> Difference:
    squares = [_error(values) ** 2 for values in (arm, baseline)]
    smaller = min(len(arm), len(baseline))
    parts = sum(square**2 / (len(values) - 1) for square, values in zip(squares, (arm, baseline), strict=True))
    df = sum(squares) ** 2 / parts if parts else smaller - 1
    mean = float(arm.mean() - baseline.mean())
    return Difference(mean, math.sqrt(sum(squares)), df, smaller, paired=False)


def _error(values: Float64[np.ndarray, " N"]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def interval(found: Difference, alpha: float) -> Interval:
    """Give the bounds that miss the truth at most `alpha` of the time."""
    reach = found.error * float(distributions.t.isf(alpha / 2, found.df))
    return Interval(found.mean - reach, found.mean + reach)


def verdict(bounds: Interval, margin: float) -> Verdict:
    """Say which region holds the whole interval."""
    if bounds.high < -margin:
        return "better"
    if bounds.low > margin:
        return "worse"
    if margin > 0 and -margin <= bounds.low and bounds.high <= margin:
        return "no larger difference"
    return "undecided"


def p_value(found: Difference, margin: float) -> float:
    """Give the smallest `alpha` at which there is a verdict, twice the one-sided p of the nearest one; at most 1."""
    if not found.error:
        return 0.0 if abs(found.mean) != margin else 1.0
    beyond = abs(abs(found.mean) - margin)
    # Within the margin, the far bound decides; beyond it, the near one: both lie `beyond` from the mean.
    return min(1.0, 2 * float(distributions.t.sf(beyond / found.error, found.df)))


def power(effect: float, sd: float, seeds: int, *, margin: float, alpha: float) -> float:
    """Give the probability of the verdict that is true of a difference `effect`, over pairs that scatter by `sd`."""
    if seeds < 2:
        return 0.0
    if not sd:
        return 1.0
    df, error = seeds - 1, sd / math.sqrt(seeds)
    drawn = error * np.sqrt(distributions.chi2.ppf(_QUANTILES, df) / df)
    reach = drawn * distributions.t.isf(alpha / 2, df)
    if abs(effect) > margin:
        return float(distributions.norm.cdf((abs(effect) - margin - reach) / error).mean())
    up, down = (margin - reach - effect) / error, (-margin + reach - effect) / error
    return float(np.maximum(distributions.norm.cdf(up) - distributions.norm.cdf(down), 0).mean())


def seeds_for(effect: float, sd: float, *, margin: float, alpha: float, wanted: float) -> int | None:
    """Give the fewest pairs at which the true verdict is likely enough; None if even `MOST_SEEDS` are too few."""
    enough = [MOST_SEEDS] if power(effect, sd, MOST_SEEDS, margin=margin, alpha=alpha) >= wanted else []
    low, high = 1, MOST_SEEDS
    while enough and high - low > 1:
        middle = (low + high) // 2
        if power(effect, sd, middle, margin=margin, alpha=alpha) >= wanted:
            high = middle
        else:
            low = middle
    return high if enough else None


def smallest_effect(sd: float, seeds: int, *, margin: float, alpha: float, wanted: float) -> float | None:
    """Give the smallest difference beyond the margin that so many pairs would find with the wanted probability."""
    if seeds < 2:
        return None
    low, high = margin, margin + 1.0
    while power(high, sd, seeds, margin=margin, alpha=alpha) < wanted:
        high *= 2
        if high > 1e6:
            return None
    for _ in range(50):
        middle = (low + high) / 2
        if power(middle, sd, seeds, margin=margin, alpha=alpha) < wanted:
            low = middle
        else:
            high = middle
    return high


def noise_floor(values: Sequence[float], *, alpha: float) -> tuple[float, Interval] | None:
    """Give the standard deviation over the seeds of one arm, and bounds on the true one."""
    if len(values) < 2:
        return None
    df, sd = len(values) - 1, float(np.std(values, ddof=1))
    ends = [sd * math.sqrt(df / distributions.chi2.ppf(tail, df)) for tail in (1 - alpha / 2, alpha / 2)]
    return sd, Interval(*map(float, ends))


def spent(alpha: float, looks: Sequence[int]) -> list[float]:
    """Share alpha out over looks at growing numbers of seeds: little at first, as O'Brien and Fleming (1979) do."""
    quantile = distributions.norm.isf(alpha / 2)
    so_far = [2 * float(distributions.norm.sf(quantile / math.sqrt(look / looks[-1]))) for look in looks]
    return [now - before for now, before in zip(so_far, [0.0, *so_far], strict=False)]


class Ranking(NamedTuple):
    """How alike two sizes rank the arms: Spearman's correlation, with its interval over resampled seeds."""

    correlation: float
    bounds: Interval
    arms: int


def rank_correlation(
    small: Mapping[str, BySeed], large: Mapping[str, BySeed], *, alpha: float, draws: int = 2_000, seed: int = 0
) -> Ranking | None:
    """Correlate the ranks of the arms that two sizes share; None for fewer than three.

    Seeds are resampled within each arm and size (Efron 1979), so the interval is about these arms with other seeds.
    """
    names = sorted(small.keys() & large.keys())
    if len(names) < 3:
        return None
    rng = np.random.default_rng(seed)
    sides = [[np.array(list(side[name].values())) for name in names] for side in (small, large)]
    found = _spearman(*([float(values.mean()) for values in side] for side in sides))
    drawn = [
        _spearman(*([float(rng.choice(values, len(values)).mean()) for values in side] for side in sides))
        for _ in range(draws)
    ]
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    return Ranking(found, Interval(float(low), float(high)), len(names))


def _spearman(small: Sequence[float], large: Sequence[float]) -> float:
    ranks = [distributions.rankdata(side) for side in (small, large)]
    if any(np.ptp(side) == 0 for side in ranks):
        return 0.0  # arms that all tie are in no order that another could share
    return float(np.corrcoef(*ranks)[0, 1])
