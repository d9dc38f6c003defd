"""pass@k: the chance that at least one of k completions of a prompt is correct.

    pass@k = 1 - C(n - c, k) / C(n, k)            n completions sampled, c of them correct

Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv 2107.03374,
eq. 1. It is the unbiased estimate: the share of all k-subsets of the n that hold a correct one.
Drawing k of them *with* replacement, or 1 - (1 - c/n)^k, is biased low. Imports no torch.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import numpy.typing as npt

from grpo_core.errors import ConfigError

Counts = npt.NDArray[np.int64]


@overload
def pass_at_k(n: int, c: int, k: int) -> float: ...
@overload
def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: npt.ArrayLike) -> Any: ...
def pass_at_k(n: npt.ArrayLike, c: npt.ArrayLike, k: npt.ArrayLike) -> Any:
    """Unbiased pass@k of one prompt, or of many at once.

    The binomials are never formed; their quotient is the product of (n - c - j) / (n - j) over
    j = 0 .. k - 1. The factors lie in [0, 1] and round monotonically, so the result never falls
    when c or k grows. It is exactly 0 when c = 0, every factor being 1, and exactly 1 when fewer
    than k failed, one factor being 0.

    Args:
        n: completions sampled for the prompt, errors of the verifier not counted.
        c: how many of them are correct, 0 <= c <= n.
        k: 1 <= k <= n.
            All three are integers or arrays of integers, broadcast against each other.

    Returns:
        A float if all three are scalars, else a float64 array of the broadcast shape.

    Raises:
        ConfigError: if a count is not an integer or out of range, or the shapes do not broadcast.
    """
    counts = [_as_counts(name, value) for name, value in (("n", n), ("c", c), ("k", k))]
    try:
        num, correct, draws = np.broadcast_arrays(*counts)
    except ValueError as error:
        raise ConfigError(f"n, c and k must broadcast to one shape: {error}.") from error
    _check_range("c", correct, 0, num)
    _check_range("k", draws, 1, num)
    all_fail = np.ones(num.shape)
    for j in range(int(draws.max(initial=0))):
        drawn = j < draws
        factor = (num - correct - j) / np.where(drawn, num - j, 1)
        all_fail = np.where(drawn, all_fail * factor, all_fail)
    return 1.0 - all_fail if num.ndim else float(1.0 - all_fail)


def _as_counts(name: str, value: npt.ArrayLike) -> Counts:
    array = np.asarray(value)
    if array.size == 0:
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise ConfigError(
            f"{name} must be an integer, got {value!r}: it counts completions. Pass int({name}), "
            "and leave out prompts without a verdict."
        )
    return array.astype(np.int64)


def _check_range(name: str, values: Counts, low: int, num: Counts) -> None:
    wrong = (values < low) | (values > num)
    if wrong.any():
        got, limit = values[wrong].flat[0], num[wrong].flat[0]
        raise ConfigError(
            f"{name} must be in [{low}, n], got {got} with n = {limit}: both count completions of "
            f"one prompt. {'Sample more, or ask for a smaller k.' if name == 'k' else 'Check n.'}"
        )
