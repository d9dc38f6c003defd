r"""The names of functions that expressions may use, in all their spellings.

`NAMES` maps a LaTeX command or a plain word to the operation of `evaluation`.
"""

from __future__ import annotations

TRIGONOMETRIC = frozenset(["sin", "cos", "tan", "cot", "sec", "csc"])
INVERSE = {name: f"arc{name}" for name in TRIGONOMETRIC} | {
    name: f"ar{name}" for name in ("sinh", "cosh", "tanh", "coth")
}
NAMES = {
    **{name: name for name in (*TRIGONOMETRIC, "sinh", "cosh", "tanh", "coth", "sech", "csch")},
    **{name: name for name in INVERSE.values()},
    **{"cosec": "csc", "tg": "tan", "ctg": "cot", "sh": "sinh", "ch": "cosh", "th": "tanh"},
    **{f"a{name}": f"arc{name}" for name in TRIGONOMETRIC},
    **{"arctg": "arctan", "arcctg": "arccot", "arccosec": "arccsc"},
    **{
        f"{start}{name}": f"ar{name}" for start in ("a", "arc") for name in ("sinh", "cosh", "tanh")
    },
    **{"exp": "exp", "ln": "log", "log": "log", "lg": "log10"},
    **{"abs": "abs", "floor": "floor", "ceil": "ceil", "sgn": "sign", "sign": "sign"},
    **{"gcd": "gcd", "lcm": "lcm", "max": "max", "min": "min", "Re": "re", "Im": "im"},
    **{"Gamma": "gamma", "fact": "factorial", "factorial": "factorial", "cis": "cis"},
}
SEVERAL_ARGUMENTS = frozenset(["gcd", "lcm", "max", "min"])
# Words that stand for a function in plain text, without a backslash. The one- and two-letter ones
# are products there: th is t times h.
PLAIN = frozenset(name for name in NAMES if len(name) > 2 and name.islower()) | {"ln", "sqrt"}

_GREEK = (
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi "
    "rho sigma tau upsilon phi varphi chi psi omega Delta Theta Lambda Xi Sigma Phi Psi Omega "
    "Upsilon ell hbar Pi aleph partial nabla"
)
GREEK = frozenset(_GREEK.split())
# Decorations that make a name of their argument: \vec{v}, \overline{AB}.
_DECORATIONS = (
    "vec overline hat bar tilde widehat widetilde dot ddot underline overrightarrow angle triangle "
    "measuredangle overset"
)
DECORATIONS = frozenset(_DECORATIONS.split())
