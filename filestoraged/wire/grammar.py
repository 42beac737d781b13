"""Grammar rules that several modules of this floor share, named as in the RFCs.

Each rule is a regular expression as text; `latin` makes the same rule for bytes.
"""

from __future__ import annotations

import re

# RFC 9110, section 5.6.2.
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9110, section 5.6.3: optional white space.
OWS = r"[ \t]*"

# RFC 9110, section 5.5: visible ASCII, space, tab, and obs-text, which is passed on as it is.
FIELD_VALUE = r"[\t -~\x80-\xff]*"

# RFC 9110, section 5.6.4.
QUOTED_STRING = r'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'

# TCP has ports of 16 bits.
MAX_PORT = 65535

# More digits are the size of nothing, and int() must not convert a megabyte of them.
_DECIMAL = re.compile(r"[0-9]{1,18}")


def latin(rule: str) -> bytes:
    return rule.encode("latin-1")


def members(value: str) -> list[str]:
    """Return the members of a comma-separated list without the empty ones (RFC 9110, section 5.6.1)."""
    return [member for member in (each.strip(" \t") for each in value.split(",")) if member]


def parse_decimal(text: str) -> int | None:
    """Return a number of 1 to 18 ASCII digits, which has no sign and no spaces; None for any other text."""
    return int(text) if _DECIMAL.fullmatch(text) else None
