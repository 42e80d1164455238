"""The binary tree: brute force over every participation pattern, and Honaker's estimate as matrices."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from carpool.privacy.dp import tree
from tests.privacy.dp.test_toeplitz import patterns


def nodes(rounds):
    """(start, end) of every complete node, by level."""
    return [
        [(start, start + (1 << level)) for start in range(0, rounds - (1 << level) + 1, 1 << level)]
        for level in range(rounds.bit_length())
    ]


def node_matrix(rounds):
    flat = [node for level in nodes(rounds) for node in level]
    return np.array([[float(start <= t < end) for t in range(rounds)] for start, end in flat])


def estimate_matrix(rounds, *, plain=False):
    """B of the streaming estimate, [rounds, nodes]: the nodes of t's binary digits, each from below."""
    flat = [node for level in nodes(rounds) for node in level]
    index = {node: place for place, node in enumerate(flat)}

    def estimate(start, end):
        own = np.eye(len(flat))[index[start, end]]
        if end - start == 1 or plain:
            return own
        middle = (start + end) // 2
        share = tree.weights(rounds.bit_length())[(end - start).bit_length() - 1] / (1 << tree.WEIGHT_BITS)
        return (1 - share) * own + share * (estimate(start, middle) + estimate(middle, end))

    rows = []
    for t in range(1, rounds + 1):
        row, start = np.zeros(len(flat)), 0
        for level in reversed(range(t.bit_length())):
            if t >> level & 1:
                row += estimate(start, start + (1 << level))
                start += 1 << level
        rows.append(row)
    return np.array(rows)


def brute(rounds, separation, most):
    c = node_matrix(rounds)
    return max(np.linalg.norm(c[:, rows].sum(axis=1)) for rows in patterns(rounds, separation, most))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 14), st.integers(1, 6), st.integers(1, 4))
def test_sensitivity_is_that_of_the_worst_pattern(rounds, separation, most):
    assert tree.sensitivity(rounds, separation, most) == pytest.approx(brute(rounds, separation, most))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 16), st.integers(1, 6), st.integers(1, 4))
def test_shortcuts_never_say_less(rounds, separation, most):
    truth, times = brute(rounds, separation, most), min(most, -(-rounds // separation))
    assert math.sqrt(tree._bound(rounds, separation, times)) >= truth * (1 - 1e-12)
    for skipped in range(separation.bit_length() - 1):
        units, apart = -(-rounds >> skipped), separation >> skipped
        assert math.sqrt(tree._largest(units, apart, times) + skipped * times) >= truth * (1 - 1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("large", [(5000, 129, 10), (5000, 700, 3), (300, 1, 300), (10**6, 10**5, 10)])
def test_large_trainings_lie_between_the_count_of_levels_and_the_bound(large):
    rounds, separation, most = large
    # Rounds 0, b, 2b, ... are one pattern of all.
    rows = list(range(0, rounds, separation))[:most]
    reached = 0
    for level in range(rounds.bit_length()):
        whole = rounds >> level
        reached += sum(count**2 for count in np.bincount([t >> level for t in rows if t >> level < whole]))
    found = tree.sensitivity(*large)
    assert math.sqrt(reached) <= found <= math.sqrt(tree._bound(*large)) * (1 + 1e-12)


def test_repeated_participation_costs_more_than_the_levels_by_themselves():
    # sqrt(k levels) = 10.49 forgets that a node sees a vehicle several times.
    assert tree.sensitivity(1000, 100, 10) == pytest.approx(math.sqrt(143))
    assert tree.sensitivity(1000, 100, 1) == pytest.approx(math.sqrt(10))


@pytest.mark.parametrize("rounds", [1, 2, 3, 8, 13])
@pytest.mark.parametrize("plain", [False, True])
def test_variances_and_unbiasedness(rounds, plain):
    b = estimate_matrix(rounds, plain=plain)
    assert np.allclose(b @ node_matrix(rounds), np.tril(np.ones((rounds, rounds))))
    assert np.allclose(tree.variances(rounds, plain=plain), (b**2).sum(axis=1))


def test_the_weights_are_those_of_least_variance():
    exact = [0, 1 / 3]
    assert tree.weights(2)[1] / (1 << tree.WEIGHT_BITS) == pytest.approx(exact[1], abs=2e-4)
    assert tree.weights(12)[-1] / (1 << tree.WEIGHT_BITS) == pytest.approx(0.5, abs=1e-3)
    assert tree.variances(1024)[-1] == pytest.approx(0.5 / (1 - 2.0**-11), abs=1e-3)  # Honaker 2015


def test_tree_numbers_below_one_are_refused():
    for numbers in ((0, 1, 1), (5, 0, 1), (5, 1, 0)):
        with pytest.raises(ValueError, match="1 or more"):
            tree.sensitivity(*numbers)
