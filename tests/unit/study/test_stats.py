"""Intervals against scipy's own tests, and error rates against simulations with known effects."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from nutshell.study import stats

SIMULATIONS = 10_000
VALUES = st.lists(st.floats(-10, 10).map(lambda value: round(value, 3)), min_size=2, max_size=8)


def by_seed(values):
    return dict(enumerate(map(float, values)))


def too_often(count, rate, simulations=SIMULATIONS):
    """Say whether a rate was exceeded by more than chance, four standard errors."""
    return count / simulations > rate + 4 * math.sqrt(rate * (1 - rate) / simulations)


def test_pairs_are_those_of_students_test():
    rng = np.random.default_rng(0)
    arm, base = rng.normal(1.0, 0.1, 5), rng.normal(1.1, 0.2, 5)
    found = stats.difference(by_seed(arm), by_seed(base))
    wanted = scipy.stats.ttest_rel(arm, base)
    assert (found.paired, found.seeds, found.df) == (True, 5, 4)
    low, high = wanted.confidence_interval(0.9)
    assert stats.interval(found, 0.1) == pytest.approx((low, high))
    assert stats.p_value(found, 0.0) == pytest.approx(wanted.pvalue)


def test_without_pairs_it_is_welchs_test():
    rng = np.random.default_rng(1)
    arm, base = rng.normal(1.0, 0.1, 4), rng.normal(1.1, 0.5, 7)
    found = stats.difference(by_seed(arm), {100 + seed: value for seed, value in by_seed(base).items()})
    wanted = scipy.stats.ttest_ind(arm, base, equal_var=False)
    assert (found.paired, found.seeds) == (False, 4)
    assert found.df == pytest.approx(wanted.df)
    assert stats.interval(found, 0.05) == pytest.approx(tuple(wanted.confidence_interval(0.95)))


def test_only_seeds_of_both_are_paired():
    found = stats.difference({0: 1.0, 1: 2.0, 2: 50.0}, {0: 0.0, 1: 0.5, 9: -50.0})
    assert (found.mean, found.seeds, found.paired) == (1.25, 2, True)


@pytest.mark.parametrize(("arm", "base"), [({}, {}), ({0: 1.0}, {0: 1.0}), ({0: 1.0, 1: 2.0}, {5: 1.0})])
def test_too_few_seeds_have_no_difference(arm, base):
    assert stats.difference(arm, base) is None


@pytest.mark.parametrize(
    ("low", "high", "margin", "wanted"),
    [
        (-0.3, -0.11, 0.1, "better"),
        (-0.3, -0.1, 0.1, "undecided"),
        (0.11, 0.3, 0.1, "worse"),
        (-0.1, 0.1, 0.1, "no larger difference"),
        (-0.1, 0.11, 0.1, "undecided"),
        (0.0, 0.0, 0.0, "undecided"),
        (-1.0, 1.0, 0.0, "undecided"),
        (-1.0, -0.5, 0.0, "better"),
    ],
)
def test_a_verdict_is_the_region_of_the_interval(low, high, margin, wanted):
    assert stats.verdict(stats.Interval(low, high), margin) == wanted


@given(VALUES, VALUES, st.sampled_from([0.0, 0.5, 3.0]))
def test_p_is_the_smallest_alpha_with_a_verdict(arm, base, margin):
    found = stats.difference(by_seed(arm), by_seed(base))
    assert found is not None
    p = stats.p_value(found, margin)
    if not found.error:
        return
    if 1e-6 < p < 0.999:
        assert stats.verdict(stats.interval(found, min(1.0, 1.001 * p)), margin) != "undecided"
    if p > 1e-6:
        assert stats.verdict(stats.interval(found, 0.999 * p), margin) == "undecided"


def test_arms_that_never_differ():
    same = stats.difference({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})
    assert stats.verdict(stats.interval(same, 0.05), 0.1) == "no larger difference"
    assert stats.p_value(same, 0.1) == 0.0
    assert stats.p_value(same, 0.0) == 1.0


def true_verdict(effect, margin):
    return "better" if effect < -margin else "worse" if effect > margin else "no larger difference"


@pytest.mark.parametrize("seeds", [3, 6])
@pytest.mark.parametrize("effect", [-0.005, -0.0021, -0.0019, 0.0, 0.002, 0.02])
@pytest.mark.parametrize("margin", [0.0, 0.002])
def test_a_verdict_is_false_no_more_often_than_declared(seeds, effect, margin):
    """At and beside the margin, where errors are likeliest, and with noise far larger and far smaller than it."""
    rng = np.random.default_rng(round(1e6 * (seeds + effect + margin)))
    for sd in (0.0005, 0.02):
        pairs = rng.normal(effect, sd, (SIMULATIONS, seeds))
        errors = pairs.std(axis=1, ddof=1) / math.sqrt(seeds)
        false = 0
        for mean, error in zip(pairs.mean(axis=1), errors, strict=True):
            bounds = stats.interval(stats.Difference(mean, error, seeds - 1, seeds, paired=True), 0.05)
            said = stats.verdict(bounds, margin)
            false += said not in ("undecided", true_verdict(effect, margin))
        assert not too_often(false, 0.05)


def test_a_family_of_comparisons_shares_the_error_rate():
    rng = np.random.default_rng(5)
    arms, seeds, effects = 8, 5, np.array([0.0, 0.0, 0.0, 0.002, -0.002, 0.0, 0.01, -0.01])
    draws = rng.normal(effects[:, None], 0.003, (SIMULATIONS // 4, arms, seeds))
    baseline = rng.normal(0, 0.003, (SIMULATIONS // 4, 1, seeds))
    wrong = 0
    for arm_values, base_values in zip(draws, baseline, strict=True):
        verdicts = [
            stats.verdict(stats.interval(stats.difference(by_seed(own), by_seed(base_values[0])), 0.05 / arms), 0.0)
            for own in arm_values
        ]
        said = [{"better": -1, "worse": 1}.get(verdict, 0) for verdict in verdicts]
        wrong += any(s and s != np.sign(effect) for s, effect in zip(said, effects, strict=True))
    assert not too_often(wrong, 0.05, SIMULATIONS // 4)


@pytest.mark.parametrize("effect", [0.0, 0.003])
def test_looks_share_the_error_rate(effect):
    rng = np.random.default_rng(6)
    looks, margin = (3, 5, 8, 12), 0.003
    alphas = stats.spent(0.05, looks)
    wrong = 0
    for _ in range(SIMULATIONS // 4):
        pairs = rng.normal(effect, 0.004, looks[-1])
        for look, alpha in zip(looks, alphas, strict=True):
            found = stats.difference(by_seed(pairs[:look]), by_seed(np.zeros(look)))
            said = stats.verdict(stats.interval(found, alpha), margin)
            if said != "undecided":
                wrong += said != "no larger difference"
                break
    assert not too_often(wrong, 0.05, SIMULATIONS // 4)


def test_looks_spend_all_and_little_at_first():
    alphas = stats.spent(0.05, (3, 5, 8, 12))
    assert sum(alphas) == pytest.approx(0.05)
    assert all(one < following for one, following in itertools.pairwise(alphas))
    assert stats.spent(0.05, (7,)) == pytest.approx([0.05])


@pytest.mark.parametrize(
    ("effect", "sd", "seeds", "margin"),
    [(-0.01, 0.005, 4, 0.0), (0.01, 0.005, 4, 0.004), (0.0, 0.002, 6, 0.004), (0.002, 0.002, 12, 0.004)],
)
def test_power_is_as_computed(effect, sd, seeds, margin):
    computed = stats.power(effect, sd, seeds, margin=margin, alpha=0.05)
    rng = np.random.default_rng(7)
    pairs = rng.normal(effect, sd, (SIMULATIONS, seeds))
    errors = pairs.std(axis=1, ddof=1) / math.sqrt(seeds)
    reach = errors * scipy.stats.t.isf(0.025, seeds - 1)
    lows, highs = pairs.mean(axis=1) - reach, pairs.mean(axis=1) + reach
    said = [stats.verdict(stats.Interval(*bounds), margin) for bounds in zip(lows, highs, strict=True)]
    seen = said.count(true_verdict(effect, margin)) / SIMULATIONS
    assert computed == pytest.approx(seen, abs=4 * math.sqrt(0.25 / SIMULATIONS))
    assert 0.1 < computed < 0.999


def test_power_beyond_the_margin_is_the_noncentral_t():
    effect, sd, seeds, margin, alpha = -0.01, 0.006, 5, 0.002, 0.02
    wanted = scipy.stats.nct.cdf(
        -scipy.stats.t.isf(alpha / 2, seeds - 1), seeds - 1, (effect + margin) * math.sqrt(seeds) / sd
    )
    assert stats.power(effect, sd, seeds, margin=margin, alpha=alpha) == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("effect", [0.004, 0.0])
def test_the_seeds_needed_are_the_fewest(effect):
    settings = {"margin": 0.002, "alpha": 0.05}
    needed = stats.seeds_for(effect, 0.003, wanted=0.8, **settings)
    assert stats.power(effect, 0.003, needed, **settings) >= 0.8
    assert stats.power(effect, 0.003, needed - 1, **settings) < 0.8


def test_no_number_of_seeds_tells_what_lies_on_the_margin():
    assert stats.seeds_for(0.002, 0.003, margin=0.002, alpha=0.05, wanted=0.8) is None


def test_the_smallest_effect_is_just_found():
    settings = {"margin": 0.001, "alpha": 0.01}
    effect = stats.smallest_effect(0.002, 5, wanted=0.8, **settings)
    assert stats.power(effect, 0.002, 5, **settings) == pytest.approx(0.8, abs=1e-6)
    assert stats.smallest_effect(0.002, 1, wanted=0.8, **settings) is None


def test_the_noise_floor_is_within_its_bounds():
    rng = np.random.default_rng(8)
    inside = 0
    for _ in range(2_000):
        sd, (low, high) = stats.noise_floor(list(rng.normal(0, 0.01, 5)), alpha=0.1)
        assert low < sd < high
        inside += low <= 0.01 <= high
    assert inside / 2_000 == pytest.approx(0.9, abs=0.03)
    assert stats.noise_floor([1.0], alpha=0.1) is None


def test_ranks_of_two_sizes():
    arms = {name: {0: value, 1: value + 0.01} for name, value in zip("abcd", (1.0, 2.0, 3.0, 4.0), strict=True)}
    reversed_arms = {name: {0: -values[0], 1: -values[1]} for name, values in arms.items()}
    assert stats.rank_correlation(arms, arms, alpha=0.1) == (pytest.approx(1.0), pytest.approx((1.0, 1.0)), 4)
    assert stats.rank_correlation(arms, reversed_arms, alpha=0.1).correlation == pytest.approx(-1.0)
    assert stats.rank_correlation({"a": {0: 1.0}, "b": {0: 1.0}}, arms, alpha=0.1) is None


def test_arms_that_all_tie_are_in_no_order():
    tied = {name: {0: 1.0, 1: 1.0} for name in "abc"}
    arms = {name: {0: value, 1: value} for name, value in zip("abc", (1.0, 2.0, 3.0), strict=True)}
    assert stats.rank_correlation(tied, arms, alpha=0.1) == (0.0, (0.0, 0.0), 3)


def test_ranks_within_the_noise_have_a_wide_interval():
    rng = np.random.default_rng(9)
    sides = [{name: by_seed(rng.normal(0, 1, 3)) for name in "abcdef"} for _ in range(2)]
    found = stats.rank_correlation(*sides, alpha=0.1)
    assert found.bounds.high - found.bounds.low > 0.5
