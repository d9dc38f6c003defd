"""Finds where a completion states its choice: boxes, tags, "the answer is", a bare last line.

The last statement that can be read counts. Statements with nothing but "or" and the like between
them are one: "Answer: A. Answer: B." names both. A last box, tag or #### that names none of the
options takes back those before it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grpo_verifiers.choice.reading import OTHER, Options, clean, read_choice, texts_within
from grpo_verifiers.parts import closing_brace

_MAX_STATEMENT = 400  # characters that are read behind a marker
_MAX_JOINT = 60
_MAX_LINES = 30
_MAX_MARKERS = 200
_MAX_ENCLOSED = 10
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# Case and what stands before are looked at apart: a pattern that begins with plain letters is
# searched for ten times as fast.
_MARKER = re.compile(
    r"(?:answers?|choice|option)\b[^.:=\n]{0,60}?(?:\bis\b|\bare\b|\bbe\b|[:=])"
    r"|answers?\b|choose\b|select\b|pick\b|chose\b|selected\b|going with\b|go with\b|opt for\b"
    r"|\#\#\#\#|答案[是为选]?|选择?"
)
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)
_LABELS = r"\(?[A-Z]\)?(?:\s*(?:,|/|&|or\b|and\b)\s*\(?[A-Z]\)?){0,9}"
_APPROVAL = re.compile(
    rf"(?:^|[.!?,;:]\s+|\b(?i:so|thus|therefore|hence|option|choice|answer|that|and|or)\s+)"
    rf"({_LABELS})[.:]?\s+(?:is|are|would be|must be|seems to be|appears to be)\s+"
    r"(?:(?:therefore|thus|indeed|clearly|both|the|most|likely|only)\s+){0,4}"
    r"(?:correct|right|best|answer|appropriate)\b",
    re.MULTILINE,
)
_APPROVING = re.compile(r"correct\b|right\b|best\b|answer\b|appropriate\b")
_MAX_APPROVAL = 150
_NUMBER = re.compile(r"[\s(\\-]{0,9}[0-9]")
_MENTION = re.compile(r"\b(?i:option|choice|answer)\s+\(?([A-Z])\b|\(([A-Z])\)")
_DENIAL = re.compile(r"\b(?:not|no|neither|never|or|either)\b|n['’]t\b", re.IGNORECASE)
_LINE_REST = re.compile(r"[\s.!)\]}\"'”’]*(?:\Z|[,;(]|\b(?:because|since|as|due)\b)")
_LABELLED_LINE = re.compile(r"\s*\(?[A-Za-z]\s*[).:]")
_JOINT = re.compile(
    r"(?:[\W_]|\b(?:or|and|the|my|a|final|correct|right|best|answers?|option|choice|also|maybe|is|are|"
    r"perhaps|possibly|alternatively|else|so|either|both|could|can|be|it|choose|say|boxed|fbox)\b)*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Statement:
    """Where a choice is stated, how, and the labels of the options that it names."""

    start: int
    end: int
    kind: str
    labels: frozenset[str]

    @property
    def is_readable(self) -> bool:
        """Whether it names an option at all."""
        return self.labels != {OTHER}


def find_choice(text: str, options: Options) -> frozenset[str]:
    """The labels of the options that the last statement of a text chooses; none if it has none."""
    text = clean(text)
    found = list(_statements(text, options))
    found += _bare_lines(text, options, [statement.start for statement in found])
    statements = _upheld(sorted(found, key=lambda statement: statement.end))
    readable = [i for i, found in enumerate(statements) if found.is_readable]
    if not readable:
        is_prose = all(found.kind == "prose" for found in statements)
        return _last_mention(text, options) if is_prose else frozenset()
    last = statements[readable[-1]]
    labels, start = last.labels, last.start
    for earlier in reversed(statements[: readable[-1]]):
        between = text[earlier.end : start]
        if not _is_joint(between):
            break
        # In prose a value before the letter is no other choice, unless there is an "or".
        if earlier.is_readable or (earlier.kind == last.kind and _is_hedge(last.kind, between)):
            labels, start = labels | earlier.labels, min(start, earlier.start)
    same = [later for later in statements[readable[-1] + 1 :] if later.kind == last.kind]
    if same and _is_joint(text[last.end : same[0].start]):
        labels |= same[0].labels
    return labels


def _upheld(statements: list[Statement]) -> list[Statement]:
    """The statements without boxes, tags and #### that a last one of their kind takes back."""
    last = {found.kind: found for found in statements}
    return [
        found
        for found in statements
        if found.kind in ("prose", "line") or not found.is_readable or last[found.kind].is_readable
    ]


def _is_hedge(kind: str, between: str) -> bool:
    return kind != "prose" or _DENIAL.search(between) is not None


def _is_joint(between: str) -> bool:
    return len(between) <= _MAX_JOINT and _JOINT.fullmatch(between) is not None


def _statements(text: str, options: Options) -> Iterator[Statement]:
    other = frozenset(OTHER)
    for start, content in _places(text):
        said = text[content : content + _MAX_STATEMENT].partition("\n")[0]
        reading = read_choice(said, options)
        kind = "hashes" if text[start] == "#" else "prose"
        if reading:
            yield Statement(start, content + reading.end, kind, reading.labels)
        elif number := _NUMBER.match(said):
            yield Statement(start, content + number.end(), kind, other)
    for kind, start, end in _enclosed(text):
        if text[start:end].strip():
            reading = read_choice(text[start:end], options)
            yield Statement(start, end, kind, reading.labels if reading else other)
    for word in list(_APPROVING.finditer(text))[-_MAX_MARKERS:]:
        begin = max(0, word.start() - _MAX_APPROVAL)
        match = _APPROVAL.search(text, begin, word.end())
        reading = read_choice(match.group(1), options) if match else None
        if match and reading and match.end() == word.end():
            yield Statement(match.start(1), match.end(), "prose", reading.labels)


def _places(text: str) -> Iterator[tuple[int, int]]:
    """Where markers begin, and where what they announce begins, perhaps on the next line."""
    for match in list(_MARKER.finditer(text.translate(_LOWER)))[-_MAX_MARKERS:]:
        before = text[match.start() - 1 : match.start()]
        if before in ("<", "/") or (before.isascii() and before.isalnum()):
            continue  # a tag, or the end of a longer word
        window = text[match.end() : match.end() + _MAX_STATEMENT]
        yield match.start(), match.end() + len(window) - len(window.lstrip(" \t\r\n:*#"))


def _enclosed(text: str) -> Iterator[tuple[str, int, int]]:
    """Where the contents of the last boxes and answer tags begin and end."""
    for box in list(_BOX.finditer(text))[-_MAX_ENCLOSED:]:
        end = closing_brace(text[: box.end() + _MAX_STATEMENT], box.end())
        if end is not None:
            yield "box", box.end(), end
    end = len(text)
    for _ in range(_MAX_ENCLOSED):
        end = text.rfind("</answer>", 0, end)
        tag = text.rfind("<answer>", 0, max(end, 0))
        if tag < 0:
            return
        yield "tag", tag + len("<answer>"), end
        end = tag


def _bare_lines(text: str, options: Options, others: Sequence[int]) -> Iterator[Statement]:
    """The lines at the end of a text that hold nothing but a choice, and no statement in words."""
    end = len(text.rstrip())
    for _ in range(_MAX_LINES):
        start = text.rfind("\n", 0, end) + 1
        line = text[start:end]
        reading = read_choice(line, options) if len(line) <= _MAX_STATEMENT else None
        if reading is None:
            return
        is_labelled = _LABELLED_LINE.match(line) and not any(start < i < end for i in others)
        if not (is_labelled or _LINE_REST.match(line, reading.end)):
            return
        yield Statement(start, end, "line", reading.labels)
        end = len(text[:start].rstrip())


def _last_mention(text: str, options: Options) -> frozenset[str]:
    """The one option that the last line mentions, if it mentions only one, and without an "or"."""
    line = text.rstrip().rpartition("\n")[2][-_MAX_STATEMENT:]
    if _DENIAL.search(line):
        return frozenset()
    labels = {next(filter(None, match.groups())) for match in _MENTION.finditer(line)}
    found = frozenset(labels & set(options.labels)) or texts_within(line, options)
    return found if len(found) == 1 else frozenset()
