"""Grammar rules that several modules of this floor share, named as in the RFCs.

Each rule is a regular expression as text; `latin` makes the same rule for bytes.
"""

from __future__ import annotations

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


def latin(rule: str) -> bytes:
    return rule.encode("latin-1")


def members(value: str) -> list[str]:
    """Return the members of a comma-separated list without the empty ones (RFC 9110, section 5.6.1)."""
    return [member for member in (each.strip(" \t") for each in value.split(",")) if member]
