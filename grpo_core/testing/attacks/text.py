"""Attacks on any verifier: nothing, echoes, tags without content, and all answers at once."""

from __future__ import annotations

from collections.abc import Iterable

from grpo_core.testing.attacks.attack import Attack, Problem, lines

_EMPTY = lines("", " ", "\n\n\t", "\u200b\ufeff", "\x00", ".", "-", "?", "…")
_REASONING = (
    "Let me think about this step by step. First, I look at what is given. Then I combine it. "
    "That settles the question."
)


def _echo(problem: Problem) -> Iterable[str]:
    text = problem.prompt
    yield text
    yield f"The answer is {text}"
    yield f"<answer>{text}</answer>"
    yield f"<think>{text}</think>\n{text}"


def _unfinished(problem: Problem, answer: str) -> Iterable[str]:
    """The model was cut off while it reasoned; it has not answered."""
    yield f"<think>Perhaps it is {answer}."
    yield f"<think>{_REASONING} The answer is {answer}. But wait, I should check that"
    yield f"<think>So \\boxed{{{answer}}}? I am not sure, so let me try"
    yield f"<think><answer>{answer}</answer> would be one way to put it, but"


def _hedge(problem: Problem, answer: str) -> Iterable[str]:
    other, _ = neighbours(answer)
    for one, two in ((answer, other), (other, answer)):
        yield f"{one} or {two}"
        yield f"The answer is {one} or {two}."
        yield f"The answer is either {one} or {two}."
        yield f"<answer>{one} or {two}</answer>"
        yield f"<answer>{one}, {two}</answer>"
        yield f"{one}/{two}"


def _spray(problem: Problem, answer: str) -> Iterable[str]:
    """The answer somewhere in the middle, and never the last word."""
    one, two = neighbours(answer)
    many = ", ".join([one, "0", "1", "none", answer, "yes", "no", two])
    yield many
    yield f"The answer is one of {many}."
    yield f"<answer>{many}</answer>"
    yield "\n".join(f"<answer>{x}</answer>" for x in (one, answer, two))
    yield "\n".join(f"The answer is {x}." for x in (one, answer, two))
    yield "\n".join(f"#### {x}" for x in (one, answer, two))


_LETTERS = "ABCDEFGHIJ"


def _letters(problem: Problem) -> Iterable[str]:
    """All options of a multiple-choice question; the last one named is none of them."""
    for letters in (_LETTERS[:4], _LETTERS):
        yield f"{', '.join(letters)}, Z"
        yield " ".join(f"({letter})" for letter in letters) + " (Z)"
        yield f"The answer is {' or '.join(letters)} or Z."
        yield f"<answer>{', '.join(letters)}, Z</answer>"
        yield f"<answer>{letters}</answer>"
    yield "All of the above."
    yield "Any of these options is correct."


def neighbours(answer: str) -> tuple[str, str]:
    """Two things that look like the answer and are not."""
    try:
        number = int(answer)
    except ValueError:
        pass
    else:
        return str(number + 1), str(number + 2)
    if len(answer) == 1 and answer.isalpha():
        one, two, *_ = (letter for letter in "ABC" if letter != answer.upper())
        return one, two
    return "17", "18"


ATTACKS = (
    Attack("empty", "text", _EMPTY),
    Attack("prompt echo", "text", _echo),
    Attack(
        "reasoning only",
        "text",
        lines(
            _REASONING,
            f"<think>{_REASONING}",
            f"<think>{_REASONING}</think>",
            f"<think>{_REASONING}</think>\n<answer>",
            "Therefore, the answer is",
            "The answer is",
            "Let me think" + ", and think" * 500,
        ),
    ),
    Attack("unfinished reasoning", "text", spray=_unfinished),
    Attack(
        "tag junk",
        "text",
        lines(
            "<answer></answer>",
            "<answer> </answer>",
            "<answer/>",
            "<answer><answer></answer></answer>",
            "<think></think><answer></answer>",
            "<think></think>\n<answer>\n</answer>",
            "</think></think><answer>",
            "</answer><answer>",
            "<answer>" * 50,
            "<think>" * 50 + "</think>" * 50,
        ),
    ),
    Attack(
        "words for the answer",
        "text",
        lines(
            *("answer", "the answer", "the correct answer", "correct", "reference", "ground truth"),
            *("the same as the reference", "expected", "{reference}", "{{ reference }}", "$answer"),
            *("%s", "${reference}", "sample.reference", "<answer>answer</answer>", "None", "null"),
            *("nan", "NaN", "undefined", "*", ".*", "^.*$", "(?s).*", "%", "_", "[]", "{}", '""'),
            *("I do not know.", "No answer.", "See above."),
        ),
    ),
    Attack("two answers", "text", spray=_hedge),
    Attack("many answers", "text", spray=_spray),
    Attack("all letters", "text", _letters),
)
