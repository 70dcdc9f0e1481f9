"""No text that people read uses a phrase that the house style bans."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(
    [
        *ROOT.glob("*.md"),
        *(path for folder in ("docs", "tests") for path in (ROOT / folder).rglob("*.md")),
        *(
            path
            for folder in ("pipeline", "tests", "benchmarks")
            for path in (ROOT / folder).rglob("*.py")
        ),
        *(path for end in ("*.yaml", "*.yml", "*.json") for path in (ROOT / "deploy").rglob(end)),
    ]
)

# Each banned phrase, and what to write. In the text, any white space is one space.
BANNED = {
    r"\bThis file\b": "say what the module does: 'Read …'",
    r"\banew\b": "again, from the start",
    r"\bwho(?:m|se)?(?:so)?ever\b": "anyone who, the process that",
    r"\btold as such\b": "reported",
    r"\b(?:is|are|was|were) told (?!to\b|apart\b)": "is reported",
    r"\bby that(?=[.,;:)])": "name the cause, or leave it out",
    r"\b(?:hold|holds|held|holding) (?:\w+ )?against\b": "compare with",
    r"(?<!there )\b(?:is|are|was|were) no (?!longer|more|less|other|better|worse|different)\w+": (
        "is not a …, or: there is no …"
    ),
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bthe like\b": "the same, and so on",
    r"\bhear[sd]? (?:of|from)\b": "received, the last event of",
    r"\bcom(?:e|es|ing) to nothing\b": "has no effect",
    r"\bthere (?:it|he|she) is\b": "leave it out",
    r"\b(?:put|puts|putting) away\b": "seal",
    r"\b(?:set|sets|setting) aside\b": "quarantine",
    r"\bthat which\b": "name the thing",
    r"\bas (?:it|they) must be\b": "as required",
    r"\btak(?:e|es|ing) (?:its|their) time(?=[.,;:)])": "is slow",
    r"\bin (?:its|their|our) hands\b": "holds, has",
    r"\bout of (?:a |the )?wheels?\b": "from a wheel",
    r"\b(?:where|there|here)(?:by|in|of|upon|to|unto)\b|\bhenceforth\b": "in which, by which, from",
}


def test_no_text_uses_a_banned_phrase() -> None:
    findings = [
        f"{path.relative_to(ROOT)}:{line}: '{phrase}'; write: {instead}"
        for path in FILES
        for line, phrase, instead in _find(path.suffix, path.read_text("utf-8"))
    ]

    assert not findings, "\n".join(["the house style bans these phrases:", *findings])


@pytest.mark.parametrize(
    ("suffix", "text", "lines"),
    [
        (".md", "A worker starts\nanew.\n", [2]),
        (".md", "Nothing is lost\nby\nthat.\n", [2]),
        (".md", "`anew` is a name.\n```\nanew\n```\nwhoever\n", [5]),
        (".md", "There\nis no key. The key is no longer here. It is no key.\n", [2]),
        (".py", '"""A module.\n\nThis file does it."""\n', [3]),
        (".py", "x = 1\n# It was\n# mended.\n", [3]),
        (".py", "option('--x', help='Start '\n    'anew.')\n", [1]),
        (".py", "x = 'anew'\n", []),
        (".yaml", "a: 1  # or the\n# like\n", [1]),
    ],
)
def test_a_banned_phrase_is_found_on_its_line(suffix: str, text: str, lines: list[int]) -> None:
    assert [line for line, _, _ in _find(suffix, text)] == lines


def _find(suffix: str, text: str) -> Iterator[tuple[int, str, str]]:
    """Yield line, phrase and alternative of each banned phrase in a file's text."""
    blocks = {".md": _read_markdown, ".py": _read_python}.get(suffix, _read_data)(text)
    for first, block in blocks:
        words = [
            (word, first + number)
            for number, line in enumerate(block.split("\n"))
            for word in line.split()
        ]
        joined = " ".join(word for word, _ in words)
        for pattern, instead in BANNED.items():
            flags = 0 if pattern.startswith(r"\bThis") else re.IGNORECASE
            for match in re.finditer(pattern, joined, flags):
                yield words[joined.count(" ", 0, match.start())][1], match[0], instead


def _read_markdown(text: str) -> Iterator[tuple[int, str]]:
    """Yield the page without its code, and with the same lines."""
    code = r"^ *(```+|~~~+).*?^ *\1 *$|`[^`\n]*`"
    yield (
        1,
        re.sub(
            code, lambda match: "\n" * match[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL
        ),
    )


def _read_python(text: str) -> Iterator[tuple[int, str]]:
    """Yield each docstring, block of comments, help text and description with its first line."""
    yield from _comments(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            if docstring is not None:
                yield node.body[0].lineno, docstring
        elif isinstance(node, ast.keyword) and node.arg in {"help", "short_help", "description"}:
            for part in ast.walk(node.value):
                if isinstance(part, ast.Constant) and isinstance(part.value, str):
                    yield part.lineno, part.value.replace("\n", " ")


def _comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield each block of comments on successive lines."""
    first, block = 0, list[str]()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        line = token.start[0]
        if line != first + len(block):
            yield first, "\n".join(block)
            first, block = line, []
        block.append(token.string.lstrip("# "))
    yield first, "\n".join(block)


def _read_data(text: str) -> Iterator[tuple[int, str]]:
    """Yield the whole text of a YAML or JSON file, without the marks of comments."""
    yield 1, text.replace("#", " ")
