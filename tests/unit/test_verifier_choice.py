"""The choice verifier: which option a completion chooses, and which references it can read."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpo_core import Sample
from grpo_core.errors import VerifierError
from grpo_core.testing import check_conformance, check_verifier
from grpo_core.types import Json, Verdict
from grpo_verifiers.choice import ChoiceVerifier

CITIES: dict[str, Json] = {"answer": "B", "options": ["London", "Paris", "New York", "York"]}
NUMBERS: dict[str, Json] = {"answer": "B", "options": ["3", "4", "42", "4 cm"]}
BLOOD: dict[str, Json] = {"answer": "B", "options": ["O", "A", "B", "AB"]}
GENES: dict[str, Json] = {"answer": "B", "options": ["AA", "Aa", "aa", "none of the above"]}

CORRECT: list[tuple[str, Json]] = [
    *((text, "B") for text in ("B", "(B)", "B.", "b", "b)", "[B]", "**B**", "Ｂ", "Ⓑ", "$B$")),
    *((text, "B") for text in ("answer: B", "Answer: (b)", "ANSWER: B", "Answer - B", "#### B")),
    *((text, "B") for text in ("The answer is B.", "The answer is letter B", "I choose option B")),
    *((text, "B") for text in ("Option B is correct.", "Thus, (B).", "答案是B", "正确答案选B")),
    *((text, "B") for text in (r"so \boxed{B}", r"$\boxed{\textbf{B}}$", r"\boxed{\text{(B)}}")),
    *((text, "B") for text in ("Answer:\n\nB", "**Answer:** B", "<answer>B</answer>")),
    *((text, "B") for text in ("The best answer is therefore B", r"The answer is B\)")),
    ("Final Answer: The final answer is $\\boxed{B}$. I hope it is correct.", "B"),
    ("The answer is B, not C.", "B"),
    ("My answer is B because A is wrong", "B"),
    ("The answer is B, or equivalently 4.", "B"),
    ("<answer>B, Paris</answer>", "B"),
    ("The answer is A. No wait, the answer is B.", "B"),
    ("\\boxed{A}\n\nWait, that is wrong. \\boxed{B}", "B"),
    ("Choose A? No. Choose B.", "B"),
    ("<think>The answer is A</think>The answer is B", "B"),
    ("x = \\boxed{4}. So the answer is B.", "B"),
    ("The correct option is (B) $\\boxed{4}$.", "B"),
    ("The answer is 4, which is option (B).", "B"),
    ("The value is 4. This corresponds to option B.", "B"),
    ("Answer: B\n\nExplanation: 3 + 1 = 4, so the answer is 4.", "B"),
    ("Answer: B\n\nExplanation: A is wrong since it is in England, and C is no capital.", "B"),
    *((text, CITIES) for text in ("Paris", "The answer is Paris.", "So it is Paris.", "B: Paris")),
    *((text, CITIES) for text in ("**Answer: B) Paris**", r"\boxed{\text{Paris}}", "Paris (B)")),
    *((text, CITIES) for text in ("B - Paris", "B. Paris is the capital of France")),
    ("The answer is paris, because it is", CITIES),
    ("A. London is in England. B. Paris is in France. The correct choice is (B) Paris.", CITIES),
    ("The answer is (B) Paris, since London is in England.", CITIES),
    ("The answer is 4", NUMBERS),
    ("We compute 3 + 1 = 4, so the answer is 4 (option B).", NUMBERS),
    ("B. A", BLOOD),
    ("Answer: B", BLOOD),
    ("Aa", GENES),
    ("None of the above", GENES | {"answer": "D"}),
]
WRONG: list[tuple[str, Json]] = [
    *((text, "B") for text in ("A", "The answer is A.", "E. None", "The answer is (C), i.e. York")),
    *((text, "B") for text in ("A or B", "either B or C", "B and C", "B/C", "B or possibly C")),
    *((text, "B") for text in ("The answer is A or B", "Both A and B", "A and B are correct")),
    *((text, "B") for text in ("A, B, C, D", "(A) (B) (C)", "A is correct. B is correct.")),
    *(
        (text, "B")
        for text in (r"\boxed{A} \boxed{B}", r"\boxed{B \lor A}", "<answer>B/17</answer>")
    ),
    ("The answer is B or 17", "B"),
    ("Answer: A\nAnswer: B", "B"),
    ("The answer is A. The answer is B.", "B"),
    ("A. x\nB. y\nC. z\nD. w", "D"),
    *((text, CITIES) for text in ("York", "New York", "London", "B) London", "Paris (A)")),
    *((text, CITIES) for text in ("London, Paris", "Paris or London")),
    ("The answer is New York", CITIES | {"answer": "York"}),
    ("The answer is 42", NUMBERS),
    ("4 cm", NUMBERS),
    ("A", BLOOD),
    ("aa", GENES),
]
UNPARSEABLE: list[tuple[str, Json]] = [
    *((text, "B") for text in ("", "I do not know", "17 or B", "B-cell", "The answer is not B.")),
    *((text, "B") for text in ("B is not correct", "<think>B</think>", "<think>The answer is B")),
    *((text, "A") for text in ("A dog", "The answer is a dog", "A = 5", "A B C D")),
    ("I think so", "I"),
    ("The answer is D'Artagnan", "D"),
    ("#### 17\n#### B\n#### 18", "B"),
    ("First \\boxed{B}. Wait, rather \\boxed{17}.", "B"),
    ("<answer>17</answer>\n<answer>B</answer>\n<answer>18</answer>", "B"),
    ("The answer is 4/5", NUMBERS),
    ("4.2", NUMBERS),
    ("14", NUMBERS),
]


def judge(completion: str, reference: Json, prompt: str = "", **options: Any) -> Verdict:
    verifier = ChoiceVerifier(ChoiceVerifier.Config(**options))
    [verdict] = verifier.verify([Sample(prompt, completion, reference)])
    return verdict


@pytest.mark.slow
def test_conformance() -> None:
    check_conformance("choice")


def test_contract() -> None:
    check_verifier(ChoiceVerifier, accept=CORRECT[:5], reject=[*WRONG[:5], *UNPARSEABLE[:3]])


@pytest.mark.parametrize(
    ("completion", "reference", "status"),
    [
        *((*pair, "correct") for pair in CORRECT),
        *((*pair, "wrong") for pair in WRONG),
        *((*pair, "unparseable") for pair in UNPARSEABLE),
    ],
)
def test_verdicts(completion: str, reference: Json, status: str) -> None:
    verdict = judge(completion, reference)
    assert verdict.status == status, verdict


@given(st.sampled_from("ABCDEFGHIJ"), st.sampled_from("ABCDEFGHIJ"), st.sampled_from(CORRECT[:30]))
def test_letters_are_alike(stated: str, right: str, form: tuple[str, Json]) -> None:
    text = form[0].replace("B", stated).replace("(b)", f"({stated.lower()})")
    if text.strip() in ("b", "b)", "Ｂ", "Ⓑ"):
        return
    assert judge(text, right).is_correct == (stated == right)


@given(
    st.permutations("ABCDE"), st.sampled_from([", ", " or ", " and ", "/", ") (", " (or ", "; "])
)
def test_naming_all_is_wrong(letters: list[str], joint: str) -> None:
    for start in ("", "The answer is ", "\\boxed{", "<answer>"):
        end = {"\\boxed{": "}", "<answer>": "</answer>"}.get(start, "")
        for right in "ABCDE":
            assert not judge(start + joint.join(letters) + end, right).is_correct


@given(st.text(alphabet="AB ()or.,:\n\\boxed{}answer is<>/#*not"), st.sampled_from("AB"))
def test_a_text_is_right_for_one_letter_at_most(text: str, right: str) -> None:
    other = "B" if right == "A" else "A"
    assert not (judge(text, right).is_correct and judge(text, other).is_correct)


def test_what_was_found_is_in_the_details() -> None:
    assert judge("A or B", "C").details == {"extracted": "A, B", "expected": "C"}


def test_a_prompt_can_open_the_reasoning() -> None:
    assert judge("The answer is B", "B", "Think: <think>").status == "unparseable"


def test_options() -> None:
    assert judge("Paris", CITIES, accept_text=False).status == "unparseable"
    assert judge("Paris (B)", CITIES, accept_text=False).is_correct
    assert judge("The answer is P.", "P", letters=16).is_correct
    assert judge("The answer is P.", "B").status == "unparseable"
    assert judge("So B.\n\\boxed{A}", "A", part="boxed").is_correct
    assert judge("A", "A", part="boxed").status == "unparseable"


def test_references() -> None:
    options = CITIES["options"]
    for answer in ("B", "(B)", "b.", "Paris", 1):
        assert judge("B", {"answer": answer, "options": options}).is_correct, answer
    by_letter = {"answer": "Z", "options": {"A": "one", "Z": "two"}}
    assert judge("two", by_letter).is_correct and judge("Z", by_letter).is_correct
    many = {"answer": 25, "options": [str(i) for i in range(26)]}
    assert judge("(Z)", many).is_correct and judge("25", many).is_correct
    assert judge("B", {"answer": "B"}).is_correct


def test_options_with_one_text_are_the_same_option() -> None:
    twins = {"answer": "A", "options": ["yes", "no", "yes"]}
    assert judge("C", twins).is_correct and judge("yes", twins).is_correct
    assert judge("A or C", twins).is_correct
    assert not judge("B", twins).is_correct


@pytest.mark.parametrize(
    "reference",
    [
        None, 1, True, "", "K", "BC", "Paris", [], {}, {"options": ["a", "b"]},
        {"answer": "B", "options": ["a"]}, {"answer": "C", "options": ["a", "b"]},
        {"answer": 2, "options": ["a", "b"]}, {"answer": True, "options": ["a", "b"]},
        {"answer": "B", "options": "ab"}, {"answer": "B", "options": [["a"], "b"]},
        {"answer": "B", "options": {"1": "a", "2": "b"}}, {"answer": "B", "choices": ["a", "b"]},
        {"answer": "B", "options": [str(i) for i in range(27)]},
    ],
)  # fmt: skip
def test_refuses_references_that_name_no_option(reference: Any) -> None:
    with pytest.raises(VerifierError, match="cannot be read"):
        ChoiceVerifier().check_reference(reference)
    assert judge("B", reference).status == "error"


def test_hostile_texts_cost_little() -> None:
    hostile = [
        "answer " * 8000, "(" * 50_000, "A " * 25_000, "\\boxed{" * 8000, "\\text{" * 8000,
        "answer is A or " * 4000, " \n" * 25_000, "B\n" * 25_000, "<answer>" * 6000,
        "A, " * 17_000, "answer" + " " * 50_000, "####" * 12_000, "A is correct" * 4000,
    ]  # fmt: skip
    started = time.process_time()
    for text in hostile:
        judge(text, CITIES)
    assert time.process_time() - started < 30  # a few tenths; exponential ones take years
