"""Parts of verification that need no process."""

import json
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core.types import Sample, Status, StepScore, Verdict
from grpo_core.verification import protocol
from grpo_core.verification.backlog import Backlog
from grpo_core.verification.calls import Job, VerifierCard, died
from grpo_core.verification.protocol import FrameReader, to_frame


def card(name, batch_size, placement="workers"):
    return VerifierCard(name, "1", "p", placement, batch_size, 5.0, 64, (), False, True)


ONE, FOUR, MODEL = card("one", 1), card("four", 4), card("model", 3, "process")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(st.text(), max_size=5), st.data())
def test_frames_survive_any_cut(texts, data):
    stream = b"".join(to_frame(text) for text in texts)
    reader, frames = FrameReader(), []
    while stream:
        cut = data.draw(st.integers(1, len(stream)))
        frames += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert [frame.decode() for frame in frames] == texts


def test_a_frame_above_the_limit_is_refused_before_it_is_read():
    reader = FrameReader(limit=3)
    assert reader.feed(to_frame("abc")) == [b"abc"]
    with pytest.raises(ValueError, match="a message of 4 bytes, more than 3"):
        reader.feed(to_frame("abcd")[:4])


@given(st.text(), st.text(), json_values, st.dictionaries(st.text(), json_values))
def test_samples_travel_unchanged(prompt, completion, reference, meta):
    sample = Sample(prompt, completion, reference, meta)
    assert protocol.decode_sample(json.loads(protocol.encode_sample(sample))) == sample


def test_large_fields_travel_only_to_verifiers_that_read_them():
    messages = [{"role": "system", "content": "short"}, {"role": "user", "content": "?"}]
    sample = Sample("?", "4", "4", {}, messages, [3, 4])

    def arrived(*reads):
        return protocol.decode_sample(json.loads(protocol.encode_sample(sample, reads)))

    assert arrived("messages", "token_ids") == sample
    assert (arrived("messages").messages, arrived("messages").token_ids) == (messages, [])
    assert (arrived("token_ids").messages, arrived("token_ids").token_ids) == ([], [3, 4])
    assert (arrived().messages, arrived().token_ids) == ((), ())


steps = st.dictionaries(st.integers(0, 10_000), st.floats(0, 1), max_size=5).map(
    lambda scores: tuple(StepScore(end, scores[end]) for end in sorted(scores))
)


@given(
    st.sampled_from(Status), st.floats(0, 1), st.text(), st.dictionaries(st.text(), json_values),
    steps,
)  # fmt: skip
def test_verdicts_travel_unchanged(status, score, reason, details, steps):
    verdict = Verdict(
        status, score if status.is_candidates else None, reason, details, 0.5, "v", "1", steps
    )
    text = protocol.encode_verdict(verdict)
    assert protocol.decode_verdict(json.loads(text), "v", "1", 0.5) == verdict


@pytest.mark.parametrize(
    "value",
    [None, [], ["correct"], ["correct", 1, "", {}],
     *([*head, []] for head in (
        ["correct", 2, "", {}], ["correct", None, "", {}], ["timeout", 1, "", {}],
        ["fine", 1, "", {}], ["correct", 1, 3, {}], ["correct", 1, "", []],
        ["correct", True, "", {}], ["correct", "1", "", {}], [["correct"], 1, "", {}])),
     *(["correct", 1, "", {}, steps] for steps in (
        None, [1], [[1]], [[2, 0.5], [1, 0.5]], [[1, 0.5], [1, 0.5]], [[-1, 0.5]], [[1, 1.5]]))],
)  # fmt: skip
def test_what_is_no_verdict_is_refused(value):
    with pytest.raises((ValueError, TypeError)):
        protocol.decode_verdict(value, "v", "1", 0.5)


def take_all(backlog, role=""):
    taken = []
    while jobs := backlog.take(role):
        taken.append("".join(job.item for job in jobs))
    return taken


def jobs_of(text, card, kind="verify"):
    return [Job(kind, card, letter) for letter in text]


def test_jobs_are_taken_in_order_and_together_where_they_may():
    backlog = Backlog()
    for job in (*jobs_of("ab", ONE), *jobs_of("cdefg", FOUR), *jobs_of("h", ONE)):
        backlog.add(job)
    assert len(backlog) == 8
    assert take_all(backlog) == ["a", "b", "cdef", "g", "h"]


def test_reference_checks_are_taken_alone():
    backlog = Backlog()
    for job in (*jobs_of("ab", FOUR, "check"), *jobs_of("cd", FOUR)):
        backlog.add(job)
    assert take_all(backlog) == ["a", "b", "cd"]


def test_what_was_put_back_comes_first_in_order_and_alone():
    backlog = Backlog()
    for job in jobs_of("abcdef", FOUR):
        backlog.add(job)
    backlog.put_back(backlog.take(""))
    assert take_all(backlog) == ["a", "b", "c", "d", "ef"]


def test_a_verifier_with_a_worker_of_its_own_is_served_by_that_one_alone():
    backlog = Backlog()
    for job in (*jobs_of("ab", MODEL), *jobs_of("cde", FOUR), *jobs_of("fg", MODEL)):
        backlog.add(job)
    assert take_all(backlog) == ["cde"]
    assert len(backlog) == 4
    backlog.put_back(backlog.take("model"))
    assert take_all(backlog) == []
    assert take_all(backlog, "model") == ["a", "b", "f", "g"]
    assert len(backlog) == 0


def test_cancelled_jobs_are_skipped():
    backlog = Backlog()
    jobs = jobs_of("abcd", ONE) + jobs_of("ef", FOUR)
    for job in jobs:
        backlog.add(job)
    for cancelled in (jobs[0], jobs[3], jobs[5]):
        assert cancelled.future.cancel()
    assert take_all(backlog) == ["b", "c", "e"]


@pytest.mark.parametrize(
    ("status", "cause", "limit"),
    [
        (77 << 8, "ran out of memory (limit 64 MB)", "64 MB of memory"),
        (0, "ended its worker process (exit code 0)", ""),
        (1 << 8, "ended its worker process (exit code 1)", ""),
        (79 << 8, "closed its connection to the trainer", ""),
        (signal.SIGSEGV, "crashed: its worker process was killed by SIGSEGV", ""),
        (signal.SIGRTMIN + 2, "crashed: its worker process was killed by signal 36", ""),
    ],
)
def test_the_end_of_a_process_is_told(status, cause, limit):
    failure = died(status, forced=False, memory_mb=64)
    assert (failure.cause, failure.limit) == (cause, limit)
    verdict = failure.verdict(ONE)
    assert verdict.status is Status.ERROR
    assert verdict.reason == f"verifier 'one' of plugin 'p' {cause}"
