r"""Unicode characters -> the LaTeX and ASCII that mean the same.

Full-width digits, mathematical alphabets and ligatures by Unicode's own compatibility forms;
superscripts, vulgar fractions and mathematical signs by the tables below.
"""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ⁿˣⁱ"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉₊₋ₙₓᵢ"
_PLAIN = "0123456789+-nxi"
_GREEK = {
    char: f"\\{unicodedata.name(char).split()[-1].lower()} "
    for char in "αβγδεζηθικλμνξρστυφχψω"
    if char not in "λ"
} | {"λ": r"\lambda ", "ϕ": r"\phi ", "Δ": r"\Delta ", "Σ": r"\Sigma ", "Ω": r"\Omega "}
_GREEK |= {"Γ": r"\Gamma ", "Φ": r"\Phi ", "Ψ": r"\Psi ", "Θ": r"\Theta ", "Λ": r"\Lambda "}
_FRACTIONS = {
    char: r"\frac{" + unicodedata.normalize("NFKC", char).replace("⁄", "}{") + "}"
    for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
}
_SIGNS = {
    **dict.fromkeys("−–—‐‑‒﹣－", "-"),
    **dict.fromkeys("\u200b\u200c\u200d\u200e\u2060\ufeff\u00ad", ""),
    # Variation selectors and embeddings; the override U+202E, which reorders, is left to fail.
    **dict.fromkeys("\ufe0e\ufe0f\u202a\u202c\u202d\u2066\u2068\u2069", ""),
    **dict.fromkeys("€£¥₹￥￡", ""),
    **dict.fromkeys("’′ʹ", "'"),
    **dict.fromkeys("⟨〈", r"\langle "),
    **dict.fromkeys("⟩〉", r"\rangle "),
    **dict.fromkeys("·⋅∙•", r"\cdot "),
    **{"×": r"\times ", "÷": r"\div ", "∗": "*", "⁄": "/", "∕": "/", "⁎": "*"},
    **{"π": r"\pi ", "∞": r"\infty ", "√": r"\sqrt ", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"},
    **{"±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "∘": r"\circ "},
    **{"≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∈": r"\in "},
    **{"⩽": r"\leq ", "⩾": r"\geq ", "≦": r"\leq ", "≧": r"\geq ", "≡": r"\equiv "},
    **{"∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ", "∖": r"\setminus "},
    **{"⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil "},
    **{"∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∠": r"\angle ", "△": r"\triangle "},
    **{"ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}"},
    **{"ℂ": r"\mathbb{C}", "∨": " or ", "∧": " and ", "¢": r"\text{ cents}", "％": "%"},
    **{"、": ",", "。": ".", "⋯": r"\cdots ", "…": r"\ldots ", "∣": "|"},
    **{"²": "^{2}", "³": "^{3}"},
}
_TABLE = str.maketrans(_GREEK | _FRACTIONS | _SIGNS)
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_SUBSCRIPT_RUN = re.compile(f"[{_SUBSCRIPTS}]+")
_RAISED = str.maketrans(_SUPERSCRIPTS, _PLAIN)
_LOWERED = str.maketrans(_SUBSCRIPTS, _PLAIN)


def plain_characters(text: str) -> str:
    """The text in LaTeX and ASCII, as far as its characters have such a spelling."""
    if text.isascii():
        return text
    text = _SUPERSCRIPT_RUN.sub(lambda run: f"^{{{run[0].translate(_RAISED)}}}", text)
    text = _SUBSCRIPT_RUN.sub(lambda run: f"_{{{run[0].translate(_LOWERED)}}}", text)
    text = text.translate(_TABLE)
    return text if text.isascii() else unicodedata.normalize("NFKC", text).translate(_TABLE)
