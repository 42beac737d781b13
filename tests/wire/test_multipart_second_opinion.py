"""Forms made at random, taken apart by us and by the parser that other frameworks use: both must find the same.

What is made is what both are to accept. Left out, for the two may rightly differ there:

- blanks behind a delimiter: RFC 2046 allows them, the other parser does not;
- a preamble with the delimiter's text within a line, and content that begins with the delimiter's text: RFC 2046
  tells composers not to write them, and readers have to guess;
- parts without Content-Disposition: the other asks for one, in vain where a part has none;
- backslashes and percent signs in names: a browser means them as they are, others as escapes, and each parser
  believes somebody else. A quote behind a backslash is the one escape that both know;
- `filename*`, which the other does not read; Content-Length in a part, which we do not; fields given twice;
  bytes beyond ASCII in other fields than Content-Disposition, which we leave as Latin-1.
"""

from __future__ import annotations

import itertools
import random
import unittest
from collections.abc import Iterable
from typing import NamedTuple

from multipart import PushMultipartParser

from filestoraged.wire.multipart import Multipart, Part, form_boundary

FORMS = 3000

# RFC 2046, section 5.1.1. Dashes come more often than by chance: they are what delimiters are made of.
_BOUNDARY_CHARACTERS = "0123456789ABCXYZabcxyz'()+_,-./:=?" + "-" * 10
_NAME_CHARACTERS = "abc XYZ012;:,=/-_.'()[]{}<>@!&#$^~`|*+?" + 'é☕ß漢🐱\u00a0\u0301"'


class Taken(NamedTuple):
    """A part as both parsers see it."""

    name: str | None
    filename: str | None
    fields: dict[str, str]
    content: bytes


class Form(NamedTuple):
    boundary: str
    body: bytes
    parts: list[Taken]


def ours(boundary: str, pieces: Iterable[bytes]) -> list[Taken]:
    form = Multipart(boundary)
    parts: list[Taken] = []
    for piece in pieces:
        for event in form.feed(piece):
            if isinstance(event, Part):
                # Compared as bytes mean it to the other parser, which reads every field as UTF-8.
                fields = {name: value.encode("latin-1").decode() for name, value in event.fields.items()}
                parts.append(Taken(event.name, event.filename, fields, b""))
            else:
                parts[-1] = parts[-1]._replace(content=parts[-1].content + bytes(event))
    form.finish()
    return parts


def theirs(boundary: str, pieces: Iterable[bytes]) -> list[Taken]:
    parts: list[Taken] = []
    with PushMultipartParser(boundary) as parser:
        for piece in pieces:
            # It takes nothing more once the closing delimiter has come.
            for event in parser.parse(piece):
                if event is None:
                    continue
                if isinstance(event, (bytes, bytearray)):
                    parts[-1] = parts[-1]._replace(content=parts[-1].content + event)
                else:
                    fields = {name.lower(): value for name, value in event.headerlist}
                    parts.append(Taken(event.name, event.filename, fields, b""))
    return parts


class Maker:
    """Makes forms, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def form(self) -> Form:
        boundary = self._boundary()
        delimiter = b"--" + boundary.encode()
        parts = [self._part(delimiter) for _ in range(self._random.randint(1, 4))]
        body = self._preamble(delimiter)
        for part in parts:
            lines = [f"{self._any_case(name)}: {value}".encode() for name, value in part.fields.items()]
            body += b"\r\n".join((delimiter, *lines, b"", part.content, b""))
        return Form(boundary, body + delimiter + b"--" + self._epilogue(delimiter), parts)

    def cut(self, data: bytes) -> list[bytes]:
        """Cut `data` where the network might: anywhere, into few pieces or into many."""
        count = self._random.choice((0, 1, 2, 5, 20, len(data)))
        positions = sorted(self._random.randint(1, len(data) - 1) for _ in range(count))
        edges = [0, *positions, len(data)]
        # An empty piece tells the other parser that the form is over.
        return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]

    def _boundary(self) -> str:
        return self._text(_BOUNDARY_CHARACTERS, self._random.choice((1, 2, 5, 30, 70)))

    def _part(self, delimiter: bytes) -> Taken:
        name = self._text(_NAME_CHARACTERS, self._random.randint(0, 12))
        filename = self._text(_NAME_CHARACTERS, self._random.randint(0, 20)) if self._random.random() < 0.5 else None
        disposition = f"form-data; name={_quoted(name)}"
        if filename is not None:
            disposition += f"; filename={_quoted(filename)}"
        fields = {"content-disposition": disposition}
        if self._random.random() < 0.3:
            fields["content-type"] = self._random.choice(("text/plain", "image/jpeg; a=b", "application/x-ndjson"))
        if self._random.random() < 0.2:
            fields["x-comment"] = self._random.choice(("", "a: b", "--", '";"', delimiter.decode()))
        # In the order of a dice, for the disposition need not come first.
        ordered = dict(self._random.sample(sorted(fields.items()), len(fields)))
        return Taken(name, filename, ordered, self._content(delimiter))

    def _content(self, delimiter: bytes) -> bytes:
        while True:
            content = self._noise(delimiter, self._random.choice((0, 1, 3, 10, 40)))
            if b"\r\n" + delimiter not in b"\r\n" + content:
                return content

    def _preamble(self, delimiter: bytes) -> bytes:
        if self._random.random() < 0.6:
            return b""
        while True:
            preamble = self._noise(delimiter, self._random.randint(0, 10)) + b"\r\n"
            if delimiter not in preamble:
                return preamble

    def _epilogue(self, delimiter: bytes) -> bytes:
        return self._noise(delimiter, self._random.choice((0, 0, 1, 10)))

    def _noise(self, delimiter: bytes, count: int) -> bytes:
        """Bytes that a hasty parser takes for a delimiter."""
        line = b"\r\n" + delimiter
        morsels = (
            b"\r",
            b"\n",
            b"\r\n",
            b"-",
            b"--",
            b"\r\n--",
            b"\r\n\r\n",
            b"text",
            bytes([self._random.randrange(256)]),
            line[: self._random.randint(1, len(line) - 1)],
            line[self._random.randint(1, len(line) - 1) :],
            b"\n" + delimiter,
            delimiter + b"--",
        )
        return b"".join(self._random.choice(morsels) for _ in range(count))

    def _text(self, characters: str, length: int) -> str:
        return "".join(self._random.choice(characters) for _ in range(length))

    def _any_case(self, name: str) -> str:
        return self._random.choice((name, name.title(), name.upper()))


def _quoted(text: str) -> str:
    escaped = text.replace('"', '\\"')
    return f'"{escaped}"'


class SecondOpinionTest(unittest.TestCase):
    def test_both_parsers_find_what_was_put_in_whatever_the_cut(self) -> None:
        maker = Maker(seed=7578)

        for number in range(FORMS):
            form = maker.form()
            pieces, other_pieces = maker.cut(form.body), maker.cut(form.body)

            # Not in a subtest each: three thousand of them take longer than the forms.
            self.assertEqual(form.parts, theirs(form.boundary, other_pieces), f"form {number}: {form.body!r}")
            self.assertEqual(form.parts, ours(form.boundary, pieces), f"form {number}: {pieces!r}")

    def test_the_forms_are_worth_the_comparison(self) -> None:
        # A maker that was changed to make only easy forms would go unnoticed otherwise.
        maker = Maker(seed=7578)
        forms = [maker.form() for _ in range(FORMS)]
        contents = [(form, part.content) for form in forms for part in form.parts]

        self.assertEqual([form.boundary for form in forms], [form_boundary(_content_type(form)) for form in forms])
        self.assertGreater(sum(not content for _, content in contents), 100)
        self.assertGreater(sum(content.endswith(b"\r") for _, content in contents), 100)
        self.assertGreater(sum(b"\r\n--" in content for _, content in contents), 100)
        self.assertGreater(sum(f"--{form.boundary}".encode() in content for form, content in contents), 100)
        self.assertGreater(sum(not form.body.startswith(b"--") for form in forms), 100)
        self.assertGreater(sum(not form.body.endswith(b"--") for form in forms), 100)


def _content_type(form: Form) -> str:
    return f'multipart/form-data; boundary="{form.boundary}"'
