import math

from hypothesis import given
from hypothesis import strategies as st

from grpo_core.config import VerificationConfig, VerifierConfig
from grpo_core.rewards import WeightedShaper, score_group
from grpo_core.types import Completion, Prompt, Status, Verdict

PROMPT = Prompt("p", [{"role": "user", "content": "?"}], None)
UNIT = st.floats(0, 1).map(lambda value: round(value, 6))  # no subnormal numbers
WEIGHTS = UNIT.map(lambda value: 200 * value - 100)
NO_SCORE = (Status.ABSTAIN, Status.TIMEOUT, Status.ERROR)


class Table:
    """Returns what is written for a completion's index."""

    range = (-1.0, 1.0)

    def __init__(self, values):
        self.values = values

    def shape(self, group):
        return [self.values[scored.completion.index] for scored in group]


@st.composite
def verdicts(draw):
    status = draw(st.sampled_from(Status))
    scores = {Status.CORRECT: 1.0, Status.WRONG: draw(UNIT), Status.UNPARSEABLE: 0.0}
    return Verdict(status, scores.get(status))


@st.composite
def groups(draw):
    size = draw(st.integers(0, 6))
    num_verifiers, num_shapers = draw(st.integers(1, 3)), draw(st.integers(0, 3))
    verifiers = [VerifierConfig(name=f"v{i}", weight=draw(WEIGHTS)) for i in range(num_verifiers)]
    values = st.lists(UNIT, min_size=size, max_size=size)
    shapers = [
        WeightedShaper(f"s{i}", draw(WEIGHTS), Table(draw(values))) for i in range(num_shapers)
    ]
    rows = [[draw(verdicts()) for _ in verifiers] for _ in range(size)]
    policies = VerificationConfig(
        **{f"on_{status}": draw(st.sampled_from(["exclude", "zero"])) for status in NO_SCORE}
    )
    completions = [Completion([], "", [], "eos", index) for index in range(size)]
    return completions, rows, verifiers, shapers, policies


def score(completions, rows, verifiers, shapers, policies):
    return score_group(PROMPT, completions, rows, verifiers, shapers, policies, 8)


@given(groups())
def test_components_add_up_to_the_reward_exactly(group):
    completions, rows, verifiers, shapers, policies = group
    rewards = score(*group)
    assert len(rewards) == len(completions)
    for reward, row in zip(rewards, rows, strict=True):
        excluded = any(
            verdict.score is None and getattr(policies, f"on_{verdict.status}") == "exclude"
            for verdict in row
        )
        assert (reward.total is None) == excluded
        if excluded:
            assert reward.components == {}
        else:
            assert reward.total == math.fsum(reward.components.values())
            assert math.isfinite(reward.total)
            assert list(reward.components) == [part.name for part in (*verifiers, *shapers)]


@given(groups(), st.randoms(use_true_random=False))
def test_rewards_follow_a_permutation_of_the_group(group, random):
    completions, rows, *rest = group
    order = random.sample(range(len(rows)), len(rows))
    permuted = score([completions[i] for i in order], [rows[i] for i in order], *rest)
    rewards = score(*group)
    assert permuted == [rewards[i] for i in order]


@given(groups())
def test_a_completion_earns_the_same_alone(group):
    completions, rows, *rest = group
    for index, reward in enumerate(score(*group)):
        assert score([completions[index]], [rows[index]], *rest) == [reward]


@given(groups())
def test_one_weight_at_a_time_is_linear(group):
    """Twice the weights are twice the components."""
    completions, rows, verifiers, shapers, policies = group
    verifiers = [VerifierConfig(name=v.name, weight=2 * v.weight) for v in verifiers]
    shapers = [WeightedShaper(s.name, 2 * s.weight, s.shaper) for s in shapers]
    for once, twice in zip(
        score(*group), score(completions, rows, verifiers, shapers, policies), strict=True
    ):
        assert twice.components == {name: 2 * part for name, part in once.components.items()}
