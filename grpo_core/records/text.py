"""Untrusted text made fit for showing: no terminal escapes, no invisible reordering."""

from __future__ import annotations

import re

# C0 controls except tab and newline, DEL, C1 controls, marks that reorder text, lone surrogates.
_UNFIT = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_SECRET_OPTION = re.compile(
    r"(?i)((?:^|[\s.\-_'\"])(?:api[-_]?key|token|password|passwd|secret)['\"]?\s*[=:]\s*)\S+"
)
_SECRET_VALUE = re.compile(r"\b(?:hf_|sk-|ghp_|github_pat_|xox[abp]-|AKIA)[A-Za-z0-9_\-]{12,}")
REDACTED = "[redacted]"


def printable(text: str, limit: int | None = None) -> str:
    """`text` with control characters made visible, cut to `limit` characters.

    Escape sequences cannot reach a terminal, and text cannot be reordered on a page. Carriage
    returns and Unicode line separators become newlines.
    """
    hidden = 0
    if limit is not None and len(text) > limit:
        text, hidden = text[:limit], len(text) - limit
    text = re.sub("\r\n?|\u2028|\u2029", "\n", text)
    text = _UNFIT.sub(_picture, text)
    return f"{text} … ({hidden} more characters)" if hidden else text


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # control pictures: ␀ ␛ ...
    return "\u2421" if code == 0x7F else "\ufffd"


def redact(text: str) -> str:
    """`text` without what looks like a token, key, or password."""
    text = _SECRET_OPTION.sub(lambda match: match[1] + REDACTED, text)
    return _SECRET_VALUE.sub(REDACTED, text)
