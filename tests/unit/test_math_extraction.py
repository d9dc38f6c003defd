"""Which text of a completion is its answer."""

from __future__ import annotations

import pytest

from grpo_verifiers.math.extraction import extract_answer, extract_choice

CASES = [
    # completion, answer, method, why
    (r"so \boxed{7}.", "7", "boxed", "a box"),
    (r"First \boxed{3}. Wait, actually \boxed{7}", "7", "boxed", "the last box"),
    (r"\boxed {\frac12}", r"\frac12", "boxed", "space before the brace"),
    (r"\boxed{\frac{1}{2}} and }", r"\frac{1}{2}", "boxed", "braces are balanced"),
    (r"\boxed{\{1,2\}}", r"\{1,2\}", "boxed", "escaped braces are no braces"),
    (r"\text{so \boxed{5}", "5", "boxed", "a brace left open outside the box"),
    (r"\boxed{5} and then \boxed{72", "5", "boxed", "the last *balanced* box"),
    (r"\fbox{9}", "9", "boxed", "fbox"),
    (r"So \\boxed{42}", "42", "boxed", "escaped twice"),
    ("so \x08oxed{42}", "42", "boxed", "an escape that was executed"),
    (r"\boxed{5} \quad \text{and} \quad \boxed{1}", "5 , 1", "boxed", "joined over spaces"),
    (r"$\boxed{1} \text{ for part (a) and } \boxed{2}$", "1 , 2", "boxed", "joined over words"),
    (r"$x_1 = \boxed{1}$ and $x_2 = \boxed{2}$", "1 , 2", "boxed", "joined over a name"),
    (r"\boxed{3}, but wait, \boxed{4}", "4", "boxed", "a turn joins nothing"),
    (r"\boxed{3} no no no no no \boxed{4}", "4", "boxed", "words without and"),
    (r"\boxed{8}\phantom{\boxed{7}}", "8", "boxed", "nobody sees a phantom"),
    (r"\boxed{\text{The answer is } \boxed{5}}", "5", "boxed", "a box in words in a box"),
    (
        r"\boxed{255}. The final answer is $10,455$. I hope it is correct.",
        "10,455",
        "statement",
        "a set phrase",
    ),
    (r"\boxed{255}. The final answer is $10,455$.", "255", "boxed", "not the set phrase"),
    ("The answer isn't 7.", "not 7.", "statement", "a shortened negation"),
    ("The answer is at least 7.", "at least 7", "statement", "a bound"),
    ("The answer is half of 7.", "half of 7", "statement", "a part of it"),
    ("The answer is negative 7.", "-7", "statement", "a sign in words"),
    ("The answer is 7 to 8.", "7 to 8", "statement", "a range"),
    ("The answer is red, blue, green.", "red, blue, green", "statement", "a list of words"),
    ("**Yes**", "Yes", "whole", "a bold word"),
    ("The answer is not $7$.", "not $7$.", "statement", "a negation"),
    ("The answer is $7$, or maybe $8$.", "7 or 8", "statement", "a second formula"),
    ("The answer is $7$. Or $8$.", "7 or 8", "statement", "a second formula of its own"),
    ("x=4 or x=3", "x=4 or x=3", "whole", "two equations"),
    (r"\boxed{3} (alternatively \boxed{4})", "3 , 4", "boxed", "another or"),
    (r"\boxed{3 or \boxed{4}}", r"3 or \boxed{4}", "boxed", "a box beside a number in a box"),
    (r"<thinking>\boxed{3}</thinking> So \boxed{7}", "7", "boxed", "another name of reasoning"),
    ("The answer is 7 times 8.", "7 times 8", "statement", "a product in words"),
    ("The answer is 7, maybe 8.", "7 or 8", "statement", "another hedge"),
    (r"The answer is \$12.", "12", "statement", "an escaped dollar"),
    ("12<|im_end|>", "12", "whole", "a token that ends the turn"),
    ("$odd$", "odd", "whole", "a word in mathematics"),
    ("Soucis : 2,74 $ a..", "2,74", "prose", "a decimal comma"),
    (r"\boxed{3} or \boxed{4}", "3 , 4", "boxed", "boxes joined by or are one answer"),
    (r"$\boxed{3}$, $\boxed{4}$", "3 , 4", "boxed", "boxes joined by a comma"),
    (r"\boxed{7}, \boxed{7}", "7", "boxed", "the same box twice"),
    (r"\boxed{5}, although 4 is the answer: 4", "5", "boxed", "a box outranks a sentence"),
    (r"<think>\boxed{3}</think> So \boxed{7}", "7", "boxed", "after the reasoning"),
    (r"最终答案是\boxed{42}。", "42", "boxed", "any language"),
    ("<answer>42</answer>", "42", "answer_tag", "a tag"),
    ("<answer>The answer is 5</answer>", "5", "statement", "a sentence in a tag"),
    ("It is clear.\n#### 1,234\n", "1,234", "hashes", "GSM8K's own form"),
    ("#### $18.00", "$18.00", "hashes", "with currency"),
    ("3 + 4 = 7\nA: 18", "18", "line", "the labelled GSM8K solutions"),
    ("A: -2.5\n", "-2.5", "line", "a negative number"),
    ("The answer is 42. It was easy, 1 minute.", "42", "statement", "a sentence ends"),
    ("**Answer:** 42", "42", "statement", "emphasis"),
    ("**Final Answer**\n\n42", "42", "statement", "a heading"),
    ("The answer is:\n\n\\[ x = 5 \\]", "x = 5", "statement", "displayed mathematics"),
    ("The final answer is $x = 7$. I hope so.", "x = 7", "statement", "inline mathematics"),
    ("The answer is 3. No, the answer is 4.", "4", "statement", "the last statement"),
    ("The answer is either 3 or 4.", "3 or 4", "statement", "a hedge stays a hedge"),
    ("The answer is $3$ or $4$.", "3 or 4", "statement", "a hedge in mathematics"),
    ("The answer is 12 and 13.", "12 and 13", "statement", "two answers"),
    ("The answer is about 3.5 miles because 7/2 = 3.5.", "3.5", "statement", "a clause ends"),
    ("The answer is that she has 42 apples left.", "42", "statement", "the number of a clause"),
    ("The answer is 18 dollars per day.", "18 dollars per day", "statement", "a unit"),
    ("The correct answer is (B).", "(B)", "statement", "a choice"),
    ("The answer is yes.", "yes", "statement", "a word"),
    ("答案：7", "7", "statement", "Chinese"),
    ("71 + 26 = 97.", "97", "whole", "the right side of a plain equation"),
    (r"\frac{1}{2}", r"\frac{1}{2}", "whole", "nothing but LaTeX"),
    ("(1,2]", "(1,2]", "whole", "nothing but an interval"),
    ("y = 2x+1", "y = 2x+1", "whole", "nothing but an equation"),
    ("Monday.", "Monday", "whole", "nothing but a word"),
    ("-5", "-5", "whole", "nothing but a number"),
    ("The sum is 97", "97", "prose", "the last number"),
    ("It costs $12 per hour, so she earns 12*5 = $60.", "$60", "prose", "dollars, not mathematics"),
    ("It takes 1 3/4 hours", "1 3/4", "prose", "a mixed number"),
    ("He ran 10-5 = 5 miles", "5", "prose", "a minus between numbers is no sign"),
    ("It is -5 degrees.", "-5", "prose", "a sign"),
    ("The total is 1,200.", "1,200", "prose", "thousands separators"),
    ("It is 3 or 4", "3 or 4", "prose", "a hedge at the end"),
    ("The sum of $3$ and $4$ is 7", "7", "prose", "the number after the mathematics"),
    (r"Thus $x=\frac12$, where $x$ is it", r"x=\frac12", "prose", "a lone symbol is no answer"),
]


@pytest.mark.parametrize(("completion", "text", "method", "why"), CASES, ids=[c[3] for c in CASES])
def test_extraction(completion: str, text: str, method: str, why: str) -> None:
    found = extract_answer(completion)
    assert found is not None, why
    assert (found.text, found.method) == (text, method), why


@pytest.mark.parametrize(
    ("completion", "why"),
    [
        ("", "nothing"),
        (r"<think> so \boxed{3}", "the reasoning never ended"),
        (r"<think>\boxed{3}</think>", "nothing after the reasoning"),
        (r"Hence \boxed{7", "may be the beginning of 72"),
        ("It was on the 3rd day", "an ordinal is no number"),
        ("I could not find out how to begin with this problem at all", "no number"),
    ],
)
def test_no_answer(completion: str, why: str) -> None:
    assert extract_answer(completion) is None, why


def test_empty_box_is_an_answer_of_nothing() -> None:
    found = extract_answer(r"The answer is \boxed{}, or 5")
    assert found is not None and found.text == ""


def test_prompt_that_opens_the_reasoning() -> None:
    assert extract_answer(r"so \boxed{3}", prompt="Why?\n<think>\n") is None
    found = extract_answer(r"so \boxed{3}</think>\boxed{4}", prompt="Why?\n<think>\n")
    assert found is not None and found.text == "4"


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("The correct option is (C).", "C"), ("I choose C.", "C"), ("(B) is right", "B"),
        ("B.", "B"),
        ("Option (A) fails. The answer is (D)", "D"), ("The answer is **B**.", "B"),
        ("Options: (A) 3 (B) 4. I take 4", None), ("(A) or (B)", None), ("A car is slower", None),
        ("It is 12", None), ("The answer is B (or C).", None),
    ],
)  # fmt: skip
def test_choices(completion: str, letter: str | None) -> None:
    found = extract_choice(completion)
    assert (found.text if found else None) == letter


def test_boxes_are_all_told() -> None:
    found = extract_answer(r"First \boxed{3}. Then, after work, \boxed{7}. And again \boxed{3}.")
    assert found is not None and found.text == "3" and found.boxes == ("3", "7")


def test_require_boxed() -> None:
    assert extract_answer("The answer is 42", require_boxed=True) is None
    assert extract_answer(r"It is \boxed{42}", require_boxed=True) is not None


def test_only_the_end_of_a_long_completion_is_read() -> None:
    found = extract_answer(r"\boxed{3} " + "so " * 100_000 + r"\boxed{7}")
    assert found is not None and found.text == "7"
    assert extract_answer(r"\boxed{3} " + "so " * 100_000) is None
