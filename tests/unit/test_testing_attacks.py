"""Attacks know no more than they may."""

from __future__ import annotations

import pytest

from grpo_core.testing.attacks import ATTACKS, KINDS, Attack, Problem, attempts
from grpo_core.testing.attacks.text import neighbours

PROBLEMS = [
    Problem("What is 6 * 7?", "42"),
    Problem("Which? (A) Rome (B) Paris", "B"),
    Problem("Simplify.", "\\frac{\\sqrt{3}}{2}"),
    Problem("So?", "We add. 3 + 4 = 7\n#### 7"),
    Problem("Either will do.", ["Paris", "paris"]),
    Problem("Write `area(w, h)`.", {"tests": "assert area(2, 3) == 6", "entry_point": "area"}),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.prompt)
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.title)
def test_what_an_attack_says_depends_on_the_reference_only_where_it_sprays(
    attack: Attack, problem: Problem
) -> None:
    if attack.spray is not None:
        assert attack.blind is None
        return
    names = problem.functions
    other = Problem(problem.prompt, {"entry_point": names[0]})
    assert set(attempts(attack, problem)) <= set(attempts(attack, other))


@pytest.mark.parametrize("problem", PROBLEMS[:-1], ids=lambda problem: problem.prompt)
@pytest.mark.parametrize(
    "attack", [a for a in ATTACKS if a.spray is not None], ids=lambda attack: attack.title
)
def test_a_spray_never_states_the_answer_alone(attack: Attack, problem: Problem) -> None:
    answer = str(problem.answer)
    for text in attempts(attack, problem):
        visible = text.rpartition("</think>")[2] if "<think>" in text else text
        if text.startswith("<think>") and "</think>" not in text:
            visible = ""
        one, two = neighbours(answer)
        rest = visible.replace(answer, "", 1)
        states_another = any(other in rest for other in (one, two))
        assert answer not in visible or states_another or "<think>" in visible, text


def test_programs_get_no_spray() -> None:
    for attack in ATTACKS:
        if attack.spray is not None:
            assert list(attempts(attack, PROBLEMS[-1])) == []


def test_a_lucky_hit_is_left_out() -> None:
    [attack] = [attack for attack in ATTACKS if attack.name == "words for the answer"]
    assert "None" in list(attempts(attack, Problem("", "42")))
    assert "None" not in list(attempts(attack, Problem("", "none")))
    [boxes] = [attack for attack in ATTACKS if attack.name == "answers that always hold"]
    assert "\\boxed{x}" not in list(attempts(boxes, Problem("", "x")))


def test_code_attacks_use_the_name_that_is_asked_for() -> None:
    for prompt in ("def area(w, h):\n    '''...'''", "Write `area(w, h)`.", "the function area"):
        assert Problem(prompt, None).functions[0] == "area"
    cases = {"cases": [{"call": "area(1, 2)", "equals": 2}]}
    assert Problem("Write it.", cases).functions == ["area"]
    assert Problem("Write it.", {"cases": [{"stdin": "", "stdout": "1"}]}).functions == ["solve"]
    [attack] = [attack for attack in ATTACKS if attack.name == "always equal"]
    texts = list(attempts(attack, PROBLEMS[-1]))
    assert texts and all("def area(*args, **kwargs):" in text for text in texts)
    for text in texts:
        compile(text.removeprefix("```python\n").removesuffix("```"), "attack", "exec")


def test_every_kind_has_attacks_with_names_of_their_own() -> None:
    assert {attack.kind for attack in ATTACKS} == set(KINDS)
    titles = [attack.title for attack in ATTACKS]
    assert len(set(titles)) == len(titles)
    for attack in ATTACKS:
        assert (attack.blind is None) != (attack.spray is None)
        assert any(list(attempts(attack, problem)) for problem in PROBLEMS), attack.title


@pytest.mark.parametrize("answer", ["42", "-1", "A", "b", "Z", "z", "17", "18", "yes", "0.5"])
def test_neighbours_are_other_answers(answer: str) -> None:
    assert answer not in neighbours(answer) and len(set(neighbours(answer))) == 2
