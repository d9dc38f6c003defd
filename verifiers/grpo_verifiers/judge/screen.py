"""Answers without content, which judges are known to pass; they are wrong without a call.

Source: Zhao et al., "One Token to Fool LLM-as-a-Judge", 2025 (arXiv 2507.08794): a colon, or an
opening such as "Thought process:", made judges call empty answers correct in up to 80% of cases.
"""

from __future__ import annotations

import re
import unicodedata

from grpo_core.types import Json

# Openings of a solution; longer ones first, so that no part of one is left over.
_OPENINGS = sorted(
    [
        "thought process",
        "thinking process",
        "reasoning process",
        "chain of thought",
        "let's solve this problem step by step",
        "let's solve this step by step",
        "let's solve the problem",
        "let's solve this problem",
        "let's think step by step",
        "let's break it down",
        "let's break this down",
        "let's work through this",
        "let me think step by step",
        "let me think about this",
        "let me solve this",
        "we need to solve this problem",
        "to solve this problem",
        "step by step",
        "here is the solution",
        "here is the answer",
        "here is my answer",
        "here's the solution",
        "the final answer is",
        "the correct answer is",
        "the answer is",
        "final answer",
        "solution",
        "explanation",
        "reasoning",
        "analysis",
        "answer",
        "reference",
        "thought",
        "thinking",
        "proof",
        "step 1",
        "sure",
        "okay",
        "certainly",
        "respuesta",
        "solución",
        "réponse",
        "lösung",
        "antwort",
        "soluzione",
        "risposta",
        "resposta",
        "решение",
        "ответ",
        "解",
        "解答",
        "解析",
        "答案",
        "答",
        "思考过程",
        "让我们一步一步来解决这个问题",
        "かいせつ",
        "解説",
        "回答",
        "풀이",
        "정답",
    ],
    key=len,
    reverse=True,
)
_OPENING = re.compile("|".join(rf"(?<!\w){re.escape(text)}(?!\w)" for text in _OPENINGS))
_WRAPPING = re.compile(r"\\(?:boxed|fbox|text\w*|math\w+)\b")  # LaTeX around an answer
_SHORT_REFERENCE = 3  # words; against a longer one a single word is no answer


def find_emptiness(text: str, reference: Json, prompt: str = "") -> str | None:
    """Why a text is no answer, in words that complete "the answer ..."; None if it may be one.

    A single word may be one where the reference is as short; an opening may be one where it is the
    reference itself.
    """
    if text.strip() == str(reference).strip():
        return None
    said = _plain(text)
    wanted = _plain(str(reference)) if isinstance(reference, str | int | float) else ""
    if not said:
        return "has neither a letter nor a digit"
    if said == wanted:
        return None
    if re.sub(r"\W", "", said) == re.sub(r"\W", "", _plain(prompt)):
        return "only repeats the question"
    if not _plain(_OPENING.sub(" ", said)):
        return "is only the opening of one"
    if _num_words(said) == 1 and not 1 <= _num_words(wanted) <= _SHORT_REFERENCE:
        return "is a single word"
    return None


def _plain(text: str) -> str:
    """Words in lower case; everything that is no letter, digit, or sign of arithmetic is a gap."""
    folded = (
        unicodedata.normalize("NFKC", text)
        .casefold()
        .replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    folded = _WRAPPING.sub(" ", folded)
    words = re.sub(r"[^\w'%+/^=<>*.-]+|_", " ", folded).split()
    return " ".join(word for word in words if any(char.isalnum() for char in word))


def _num_words(text: str) -> int:
    """Words; of scripts that write none apart, two letters are about one."""
    letters = sum(unicodedata.category(char) == "Lo" for char in text)
    return len(text.split()) + letters // 2
