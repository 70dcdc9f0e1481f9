"""This file makes text of others safe to be shown on a terminal.

Ids and outcomes are chosen by chat services: an escape sequence in one would rewrite what stands
above it, and a bill would read as somebody else wishes.
"""

import re

# C0, delete and C1; then what turns the direction of writing.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    r"""Return the text with every control character as `\u001b`; that is valid in JSON too."""
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
