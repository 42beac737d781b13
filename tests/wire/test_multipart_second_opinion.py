"""Random forms, parsed by our parser and by the one that other frameworks use, with the same result.

Both parsers must accept all of these forms. The forms do not contain elements where the two may differ:

- blanks after a delimiter: RFC 2046 allows them, the other parser refuses them;
- a preamble with the delimiter's text within a line, and content that begins with the delimiter's text: RFC 2046
  forbids composers to write them, and parsers have to guess;
- parts without Content-Disposition, which the other parser requires;
- backslashes and percent signs in names: browsers send them unescaped, other clients as escapes, and each parser
  chooses one. An escaped quote is the one escape that both know;
- `filename*`, which the other parser ignores; Content-Length in a part, which ours ignores; repeated fields; other
  bytes than ASCII in fields other than Content-Disposition, which ours decodes as Latin-1.
"""

from __future__ import annotations

import itertools
import random
import unittest
from collections.abc import Iterable
from typing import NamedTuple

from multipart import PushMultipartParser

from filestoraged.wire.multipart import FormPart, Multipart, form_boundary
from tests.runner.marks import thorough

FORMS = 3000

# RFC 2046, section 5.1.1. Dashes are more frequent than others, since delimiters begin and end with them.
_BOUNDARY_CHARACTERS = "0123456789ABCXYZabcxyz'()+_,-./:=?" + "-" * 10
_NAME_CHARACTERS = "abc XYZ012;:,=/-_.'()[]{}<>@!&#$^~`|*+?" + 'é☕ß漢🐱\u00a0\u0301"'


class ParsedPart(NamedTuple):
    """A part as both parsers return it."""

    name: str | None
    filename: str | None
    fields: dict[str, str]
    content: bytes


class Form(NamedTuple):
    boundary: str
    body: bytes
    parts: list[ParsedPart]


def ours(boundary: str, pieces: Iterable[bytes]) -> list[ParsedPart]:
    form = Multipart(boundary)
    parts: list[ParsedPart] = []
    for piece in pieces:
        for event in form.feed(piece):
            if isinstance(event, FormPart):
                # The other parser decodes every field as UTF-8.
                fields = {name: value.encode("latin-1").decode() for name, value in event.fields.items()}
                parts.append(ParsedPart(event.name, event.filename, fields, b""))
            else:
                parts[-1] = parts[-1]._replace(content=parts[-1].content + bytes(event))
    form.finish()
    return parts


def theirs(boundary: str, pieces: Iterable[bytes]) -> list[ParsedPart]:
    parts: list[ParsedPart] = []
    with PushMultipartParser(boundary) as parser:
        for piece in pieces:
            # The other parser refuses bytes after the closing delimiter.
            for event in parser.parse(piece):
                if event is None:
                    continue
                if isinstance(event, (bytes, bytearray)):
                    parts[-1] = parts[-1]._replace(content=parts[-1].content + event)
                else:
                    fields = {name.lower(): value for name, value in event.headerlist}
                    parts.append(ParsedPart(event.name, event.filename, fields, b""))
    return parts


class FormGenerator:
    """Generates random forms, the same ones for the same seed."""

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
        """Cut `data` at random positions, into few pieces or into many."""
        count = self._random.choice((0, 1, 2, 5, 20, len(data)))
        positions = sorted(self._random.randint(1, len(data) - 1) for _ in range(count))
        edges = [0, *positions, len(data)]
        # An empty piece means the end of the form to the other parser.
        return [data[start:stop] for start, stop in itertools.pairwise(edges) if start < stop]

    def _boundary(self) -> str:
        return self._text(_BOUNDARY_CHARACTERS, self._random.choice((1, 2, 5, 30, 70)))

    def _part(self, delimiter: bytes) -> ParsedPart:
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
        # In random order: the disposition may not be the first field.
        ordered = dict(self._random.sample(sorted(fields.items()), len(fields)))
        return ParsedPart(name, filename, ordered, self._content(delimiter))

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
        """Return bytes similar to a delimiter."""
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
    @thorough("600 random forms, each cut anywhere")
    def test_both_parsers_return_the_form_in_any_cut(self) -> None:
        generator = FormGenerator(seed=7578)

        for number in range(FORMS):
            form = generator.form()
            pieces, other_pieces = generator.cut(form.body), generator.cut(form.body)

            # Not in subtests: 3,000 of them take longer than the forms.
            self.assertEqual(form.parts, theirs(form.boundary, other_pieces), f"form {number}: {form.body!r}")
            self.assertEqual(form.parts, ours(form.boundary, pieces), f"form {number}: {pieces!r}")

    def test_random_forms_cover_the_difficult_cases(self) -> None:
        # A generator of simple forms alone would make the comparison worthless.
        generator = FormGenerator(seed=7578)
        forms = [generator.form() for _ in range(FORMS)]
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
