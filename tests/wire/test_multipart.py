"""Forms: parsed the same in any cut, and refused where two parsers could differ."""

from __future__ import annotations

import unittest
from collections.abc import Iterable

from filestoraged.errors import MalformedMultipart
from filestoraged.wire.multipart import FormPart, Multipart, form_boundary
from tests.wire.cuts import cuts, one_by_one

BOUNDARY = "boundary"
FIELD = b'Content-Disposition: form-data; name="a"'

# Not imported from the module: a change of the module's constants must fail here.
MAX_PARTS = 1000
MAX_PART_HEAD = 8 * 1024

# As browsers send it, with a preamble and an epilogue as in mail.
FORM = (
    b"This is a form.\r\n--boundar is no delimiter.\r\n"
    b"--boundary\r\n"
    b'Content-Disposition: form-data; name="title"\r\n'
    b"\r\n"
    b"A cat\r\n"
    b"--boundary\r\n"
    b'Content-Disposition: form-data; name="file"; filename="cat.jpg"\r\n'
    b"Content-Type: image/jpeg\r\n"
    b"\r\n"
    b"\r\n--boundar\r\r\n-\r\n\r\n--\xff\r\n"
    b"--boundary\r\n"
    b"\r\n"
    b"\r\n"
    b"--boundary--\r\n"
    b"--boundary\r\nThe end."
)
FORM_PARTS = [
    (FormPart("title", None, {"content-disposition": 'form-data; name="title"'}), b"A cat"),
    (
        FormPart(
            "file",
            "cat.jpg",
            {"content-disposition": 'form-data; name="file"; filename="cat.jpg"', "content-type": "image/jpeg"},
        ),
        b"\r\n--boundar\r\r\n-\r\n\r\n--\xff",
    ),
    (FormPart(None, None, {}), b""),
]

Parts = list[tuple[FormPart, bytes]]


def parse_form(pieces: Iterable[bytes], boundary: str = BOUNDARY) -> Parts:
    """Parse a whole form. Returns each part with its content."""
    form = Multipart(boundary)
    parts: Parts = []
    for piece in pieces:
        for event in form.feed(piece):
            if isinstance(event, FormPart):
                parts.append((event, b""))
            else:
                parts[-1] = parts[-1][0], parts[-1][1] + bytes(event)
    form.finish()
    return parts


def form_of(content: bytes, head: bytes = FIELD) -> bytes:
    """Return a form of one part."""
    return b"--boundary\r\n" + head + b"\r\n\r\n" + content + b"\r\n--boundary--\r\n"


def part_of(head: bytes) -> FormPart:
    return parse_form([form_of(b"", head)])[0][0]


class MultipartCase(unittest.TestCase):
    def assert_malformed(self, form: bytes) -> None:
        """The form is refused in any cut."""
        for name, pieces in cuts(form):
            with self.subTest(name, form=form), self.assertRaises(MalformedMultipart):
                parse_form(pieces)


class PartsTest(MultipartCase):
    def test_form_is_parsed_the_same_in_any_cut_from_bytes_and_views(self) -> None:
        for name, pieces in cuts(FORM):
            with self.subTest(name):
                self.assertEqual(FORM_PARTS, parse_form(pieces))
        # Empty pieces change nothing.
        self.assertEqual(FORM_PARTS, parse_form([piece for byte in one_by_one(FORM) for piece in (b"", byte)]))
        self.assertEqual(FORM_PARTS, parse_form(map(memoryview, one_by_one(FORM))))  # type: ignore[arg-type]

    def test_truncated_form_is_not_finished(self) -> None:
        whole = FORM.index(b"--boundary--") + len(b"--boundary--")

        for length in range(whole):
            with self.subTest(length=length), self.assertRaises(MalformedMultipart):
                parse_form([FORM[:length]])
        self.assertEqual(FORM_PARTS, parse_form([FORM[:whole]]))
        self.assertRaises(MalformedMultipart, parse_form, [])

    def test_form_without_parts_is_accepted(self) -> None:
        for form in (b"--boundary--", b"--boundary--\r\n", b"\r\n--boundary--", b"preamble\r\n--boundary--epilogue"):
            for name, pieces in cuts(form):
                with self.subTest(name, form=form):
                    self.assertEqual([], parse_form(pieces))

    def test_content_similar_to_a_delimiter_is_content(self) -> None:
        contents = (
            b"", b"\r", b"\n", b"\r\n", b"\n\r", b"-", b"--", b"\r\n-", b"\r\n--", b"\r\n--\r\n", b"\r\n--boundar",
            b"\r\n--boundar\r\n", b"\r\n--boundarY", b"\r\n--Boundary\r\n", b"\r\n--boundar" * 3, b"\r\n-boundary",
            b"\r\n---boundary", b"\r\n --boundary", b"\r--boundary", b"\n--boundary\n", b"\n--boundary--\n",
            b"\r\r\n--boundar", b"\r\n\r\n--boundar", b"\r\r\r", b"x--boundary--\r\n", b"x--boundary\r\n", b"\r\n\r\n",
            b"--\r\n--", b"\x00\xff\r\n--bound\x00",
        )  # fmt: skip
        for content in contents:
            for name, pieces in cuts(form_of(content)):
                with self.subTest(name, content=content):
                    self.assertEqual([content], [taken for _, taken in parse_form(pieces)])

    def test_boundary_with_dashes_is_parsed(self) -> None:
        for boundary in ("-", "--", "----WebKitFormBoundary", "a--", "--a--"):
            delimiter = b"--" + boundary.encode()
            contents = (b"", b"\r\n--", b"\r\n-", delimiter[:-1], b"\r\n" + delimiter[:-1])
            for content in contents:
                form = delimiter + b"\r\n" + FIELD + b"\r\n\r\n" + content + b"\r\n" + delimiter + b"--\r\n"
                for name, pieces in cuts(form):
                    with self.subTest(name, boundary=boundary, content=content):
                        self.assertEqual([content], [taken for _, taken in parse_form(pieces, boundary)])

    def test_bytes_are_returned_before_their_part_is_complete(self) -> None:
        form = Multipart(BOUNDARY)
        head = b"--boundary\r\n" + FIELD + b"\r\n\r\n"

        events = [
            event if isinstance(event, FormPart) else bytes(event) for event in form.feed(head + b"some\r\nbytes")
        ]

        self.assertEqual(
            [FormPart("a", None, {"content-disposition": 'form-data; name="a"'}), b"some\r\nbytes"], events
        )

    def test_epilogue_is_discarded(self) -> None:
        for epilogue in (b"", b"\r\n", b"x", b"--", b"\r\n--boundary\r\n\r\nx\r\n--boundary--", b"\x00" * 100):
            form = form_of(b"tea")[:-2] + epilogue
            with self.subTest(epilogue=epilogue):
                self.assertEqual([b"tea"], [taken for _, taken in parse_form([form])])
                self.assertEqual([b"tea"], [taken for _, taken in parse_form(one_by_one(form))])

    def test_blanks_after_a_delimiter_are_discarded(self) -> None:
        # RFC 2046, section 5.1.1: gateways may add them.
        for blanks in (b" ", b"\t", b" \t \t", b" " * 100):
            form = b"--boundary" + blanks + b"\r\n" + FIELD + b"\r\n\r\ntea\r\n--boundary" + blanks + b"\r\n\r\nmilk"
            for name, pieces in cuts(form + b"\r\n--boundary--" + blanks):
                with self.subTest(name, blanks=blanks):
                    self.assertEqual([b"tea", b"milk"], [taken for _, taken in parse_form(pieces)])

    def test_256_blanks_after_a_delimiter_are_discarded_and_one_more_is_refused_in_any_cut(self) -> None:
        for count in (250, 254, 255, 256, 257, 258, 300, 10_000):
            form = b"--boundary" + b" " * count + b"\r\n" + FIELD + b"\r\n\r\ntea\r\n--boundary--"
            behind_the_return = form.index(b"\r") + 1
            for pieces in ([form], one_by_one(form), [form[:behind_the_return], form[behind_the_return:]]):
                with self.subTest(count=count, pieces=len(pieces)):
                    if count <= 256:
                        self.assertEqual(b"tea", parse_form(pieces)[0][1])
                    else:
                        self.assertRaises(MalformedMultipart, parse_form, pieces)

    def test_other_characters_after_a_delimiter_are_refused(self) -> None:
        for behind in (b"x", b"-", b"-x", b" x", b" --", b"\n", b"\r", b"\rx", b"\r\r\n", b"- -", b"\x00", b"y2"):
            self.assert_malformed(b"--boundary" + behind + b"\r\n" + FIELD + b"\r\n\r\ntea\r\n--boundary--")
            self.assert_malformed(form_of(b"tea\r\n--boundary" + behind + b"\r\n" + FIELD + b"\r\n\r\n"))

    def test_form_with_bare_line_feeds_or_another_boundary_is_refused(self) -> None:
        form = form_of(b"tea")
        self.assert_malformed(form.replace(b"\r\n", b"\n"))
        self.assert_malformed(b"--boundary\n" + form[12:])
        self.assert_malformed(form.replace(b"--boundary", b"--bound"))
        self.assert_malformed(form.replace(b"--boundary", b"boundary"))


class PartHeadTest(MultipartCase):
    def test_field_names_of_a_part_are_in_lower_case(self) -> None:
        fields = part_of(b"content-DISPOSITION: form-data\r\nX-Thing:  a \r\nContent-Type:text/plain").fields

        self.assertEqual({"content-disposition": "form-data", "x-thing": "a", "content-type": "text/plain"}, fields)

    def test_disposition_is_parsed_in_any_case_and_spacing_and_may_have_no_name(self) -> None:
        for head, names in {
            b'Content-Disposition:form-data;name="a";filename="b"': ("a", "b"),
            b'CONTENT-DISPOSITION: FORM-DATA; NAME="a"; FileName="b"': ("a", "b"),
            b"content-disposition: form-data ; filename = b ; name = a": ("a", "b"),
            b'Content-Disposition: form-data; name=a; x="y;z"; filename="b";': ("a", "b"),
            'Content-Disposition: form-data; name="größe"'.encode(): ("größe", None),
            b"Content-Disposition: form-data": (None, None),
            b"Content-Type: text/plain": (None, None),
        }.items():
            with self.subTest(head=head):
                self.assertEqual(names, part_of(head)[:2])

    def test_file_name_is_decoded_as_clients_encode_it(self) -> None:
        # The parameters as clients send them, and the name.
        names = (
            (b'filename="cat.jpg"', "cat.jpg"),
            (b"filename=cat.jpg", "cat.jpg"),
            (b'filename=""', ""),
            (b'filename=" a  b "', " a  b "),
            (b'filename="a;b=c.txt"', "a;b=c.txt"),
            (b'filename="a, b"', "a, b"),
            (b'filename="a\\"b"', 'a"b'),
            (b'filename="a\\\\b"', "a\\b"),
            (b'filename="\\\\"', "\\"),
            (b'filename="a\\\\\\"b"', 'a\\"b'),
            (b'filename="C:\\cats\\cat.jpg"', "C:\\cats\\cat.jpg"),
            (b'filename="back\\"', "back\\"),
            (b'filename="\\"; x=y', "\\"),
            (b'filename="a\\b\\" ; x="y"', "a\\b\\"),
            (b'filename="a\\";b"', 'a";b'),
            (b'filename="../../etc/passwd"', "../../etc/passwd"),
            (b'filename="it\'s"', "it's"),
            # Of curl, requests and browsers; a percent sign of the name is sent as it is.
            (b'filename="we%22ird 100%25.txt"', 'we"ird 100%25.txt'),
            (b'filename="caf\xc3\xa9 \xe2\x98\x95.txt"', "café ☕.txt"),
            (b'filename="\xf0\x9f\x90\xb1"', "🐱"),
            (b'filename="caf\xe9"', "café"),
            (b"filename*=UTF-8''caf%C3%A9", "café"),
            (b"filename*=utf-8'en'%e2%82%ac%20rates", "€ rates"),
            (b"filename*=ISO-8859-1''caf%E9", "café"),
            (b"filename=\"cafe\"; filename*=UTF-8''caf%C3%A9", "café"),
            (b"filename*=UTF-8''caf%C3%A9; filename=\"cafe\"", "café"),
            (b"filename*=UTF-8''", ""),
        )
        for parameters, name in names:
            with self.subTest(parameters=parameters):
                self.assertEqual(name, part_of(b"Content-Disposition: form-data; " + parameters).filename)

    def test_malformed_head_of_a_part_is_refused(self) -> None:
        disposition = b"Content-Disposition: "
        dispositions = (
            b"",
            b"; name=a",
            b"form-data name=a",
            b"form-data; name",
            b"form-data; name=",
            b"form-data; =a",
            b'form-data; name="a',
            b'form-data; name="a\\"',
            b'form-data; name=a"b',
            b'form-data; name="a"b',
            b'form-data; name="a" filename="b"',
            b"form-data; name=a, name=b",
            b'form-data; name="a"; name="b"',
            b'form-data; name="a"; filename="b"; FILENAME="c"',
            b"form-data; filename=caf\xc3\xa9",
            b"form-data; filename=a b",
            b"form-data; filename*=cat.jpg",
            b"form-data; filename*=UTF-8''%",
            b"form-data; filename*=UTF-8''%E",
            b"form-data; filename*=UTF-8''%C3",
            b"form-data; filename*=UTF-8''%ED%A0%80",
            b"form-data; filename*=UTF-7''a",
            b"form-data; filename*=''a",
            b"form-data; filename*=\"UTF-8''a b\"",
            # U+017F folds to "s", but no charset has that name.
            "form-data; filename*=\"i\u017fo-8859-1''%41\"".encode(),
            *(kind + b'; name="a"' for kind in (b"attachment", b"inline", b"form-data-not", b"file")),
        )
        lines = (
            # Two parsers could take different values as the file name.
            *(FIELD, b'content-disposition: form-data; name="b"', b"Content-Type: a/b\r\nCONTENT-TYPE: c/d"),
            *(b"X", b"X : a", b" X: a", b": a", b"X(: a", b"X: a\rb", b"X: a\nb", b"X: a\x00", b"X: a\x7f"),
            b"X: a\r\n folded",
        )
        # RFC 7578, section 4.7. Undecoded, the stored bytes would not be the client's file.
        encodings = (b"base64", b"quoted-printable", b"Base64", b"x-thing", b"")
        for head in (
            *(disposition + each for each in dispositions),
            *(FIELD + b"\r\n" + line for line in lines),
            *(FIELD + b"\r\nContent-Transfer-Encoding: " + encoding for encoding in encodings),
        ):
            self.assert_malformed(form_of(b"tea", head))

    def test_identity_transfer_encodings_are_accepted(self) -> None:
        for encoding in (b"binary", b"8bit", b"7bit", b"BINARY"):
            with self.subTest(encoding=encoding):
                self.assertEqual("a", part_of(FIELD + b"\r\nContent-Transfer-Encoding: " + encoding).name)


class LimitsTest(MultipartCase):
    def test_1000_parts_with_heads_of_8_kib_are_accepted_and_more_are_refused(self) -> None:
        part = b"--boundary\r\n" + FIELD + b"\r\n\r\n\r\n"
        bare = FIELD + b"\r\nX: \r\n\r\n"
        for count, form in (
            (MAX_PARTS, lambda more: part * (MAX_PARTS + more) + b"--boundary--"),
            (1, lambda more: form_of(b"", FIELD + b"\r\nX: " + b"x" * (MAX_PART_HEAD + more - len(bare)))),
        ):
            for cut in (lambda data: [data], one_by_one):
                self.assertEqual(count, len(parse_form(cut(form(0)))))
                self.assertRaises(MalformedMultipart, parse_form, cut(form(1)))

    def test_part_head_without_end_is_refused(self) -> None:
        form = Multipart(BOUNDARY)
        list(form.feed(b"--boundary\r\n"))

        with self.assertRaises(MalformedMultipart):
            for _ in range(MAX_PART_HEAD + 4):
                list(form.feed(b"X"))

    def test_delimiter_line_without_end_is_refused(self) -> None:
        # The parser buffers the line: without a bound it would fill the memory.
        for byte in (b" ", b"\t", b"\r", b"-"):
            form = Multipart(BOUNDARY)
            list(form.feed(b"--boundary"))

            with self.subTest(byte=byte), self.assertRaises(MalformedMultipart):
                # Two dashes would end the form.
                for piece in one_by_one((b" -" if byte == b"-" else byte) * 1000):
                    list(form.feed(piece))

    def test_content_of_truncated_delimiters_is_complete(self) -> None:
        content = b"\r\n--boundar" * 400_000
        form = form_of(content)

        parts = parse_form([form[start : start + 65536] for start in range(0, len(form), 65536)])

        self.assertEqual(len(content), len(parts[0][1]))


class FormBoundaryTest(unittest.TestCase):
    def test_boundary_of_a_form_is_returned(self) -> None:
        types = {
            "multipart/form-data; boundary=x": "x",
            'Multipart/FORM-DATA;BOUNDARY="x"': "x",
            "multipart/form-data ; charset=utf-8 ; boundary=x;": "x",
            "multipart/form-data; boundary=----WebKitFormBoundaryAbC": "----WebKitFormBoundaryAbC",
            'multipart/form-data; boundary="a\'()+_,-./:=? b"': "a'()+_,-./:=? b",
            'multipart/form-data; boundary=" x"': " x",
        }
        for content_type, boundary in types.items():
            with self.subTest(content_type=content_type):
                self.assertEqual(boundary, form_boundary(content_type))

    def test_other_content_type_returns_none(self) -> None:
        types = (
            "", "text/plain", "application/x-www-form-urlencoded", "multipart/mixed; boundary=x",
            "multipart/form-data-not; boundary=x", "multipart/form; boundary=x", "x-multipart/form-data; boundary=x",
            "nonsense; boundary=x", "; boundary=x",
        )  # fmt: skip
        for content_type in types:
            with self.subTest(content_type=content_type):
                self.assertIsNone(form_boundary(content_type))

    def test_form_without_valid_boundary_is_refused(self) -> None:
        parameters = (
            "", ";", "; boundary", "; boundary=", '; boundary=""', '; boundary="x', '; boundary="x "',
            '; boundary=" "', '; boundary="x\ty"', '; boundary="x\\"y"', '; boundary="x\\\\y"', '; boundary="é"',
            '; boundary="x*y"', "; boundary=x*y", "; boundary=a/b", "; boundary=x; boundary=y",
            "; boundary=x, multipart/form-data; boundary=y", "; boundary=x y", "; charset=utf-8",
        )  # fmt: skip
        for each in parameters:
            with self.subTest(each), self.assertRaises(MalformedMultipart):
                form_boundary("multipart/form-data" + each)

    def test_every_character_of_rfc_2046_is_accepted_in_a_boundary(self) -> None:
        # Section 5.1.1: a boundary does not end with a space.
        for character in "09AZaz'()+_,-./:=?":
            for boundary in (character, "x" + character, character + "x"):
                with self.subTest(boundary=boundary):
                    self.assertEqual(boundary, form_boundary(f'multipart/form-data; boundary="{boundary}"'))

    def test_boundary_over_70_characters_is_refused(self) -> None:
        # RFC 2046, section 5.1.1.
        self.assertEqual("x" * 70, form_boundary("multipart/form-data; boundary=" + "x" * 70))
        self.assertRaises(MalformedMultipart, form_boundary, "multipart/form-data; boundary=" + "x" * 71)

    def test_form_with_the_longest_boundary_is_parsed_in_any_cut(self) -> None:
        boundary = "".join(chr(ord("0") + number % 10) for number in range(70))
        form = form_of(b"\r\n--" + boundary[:-1].encode()).replace(b"--boundary", b"--" + boundary.encode())

        for name, pieces in cuts(form):
            with self.subTest(name):
                self.assertEqual(b"\r\n--" + boundary[:-1].encode(), parse_form(pieces, boundary)[0][1])
