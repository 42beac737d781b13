"""What a diagnosis of servers says, in lines with a verdict each."""

from __future__ import annotations

from typing import NamedTuple

# BAD: the servers are not fit to keep objects.
GOOD, NOTE, BAD = "good", "note", "BAD"


class Diagnosis(NamedTuple):
    verdict: str
    text: str
