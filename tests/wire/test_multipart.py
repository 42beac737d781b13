"""Forms: taken apart in whatever cut they arrive, and refused where two readers could differ."""

from __future__ import annotations

import unittest
from collections.abc import Iterable

from filestoraged.errors import MalformedMultipart
from filestoraged.wire.multipart import Multipart, Part, form_boundary
from tests.wire.cuts import cuts, one_by_one

BOUNDARY = "boundary"
FIELD = b'Content-Disposition: form-data; name="a"'

# What the page sets for itself. Its own constants are not asked: changing them is to fail here.
MAX_PARTS = 1000
MAX_PART_HEAD = 8 * 1024

# As browsers send it, but for the preamble and the epilogue that mail once had.
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
    (Part("title", None, {"content-disposition": 'form-data; name="title"'}), b"A cat"),
    (
        Part(
            "file",
            "cat.jpg",
            {"content-disposition": 'form-data; name="file"; filename="cat.jpg"', "content-type": "image/jpeg"},
        ),
        b"\r\n--boundar\r\r\n-\r\n\r\n--\xff",
    ),
    (Part(None, None, {}), b""),
]

Parts = list[tuple[Part, bytes]]


def take_apart(pieces: Iterable[bytes], boundary: str = BOUNDARY) -> Parts:
    """Feed a whole form, and return each part with its bytes."""
    form = Multipart(boundary)
    parts: Parts = []
    for piece in pieces:
        for event in form.feed(piece):
            if isinstance(event, Part):
                parts.append((event, b""))
            else:
                parts[-1] = parts[-1][0], parts[-1][1] + bytes(event)
    form.finish()
    return parts


def form_of(content: bytes, head: bytes = FIELD) -> bytes:
    """A form of one part."""
    return b"--boundary\r\n" + head + b"\r\n\r\n" + content + b"\r\n--boundary--\r\n"


def part_of(head: bytes) -> Part:
    return take_apart([form_of(b"", head)])[0][0]


class MultipartCase(unittest.TestCase):
    def assert_malformed(self, form: bytes) -> None:
        """In every cut."""
        for name, pieces in cuts(form):
            with self.subTest(name, form=form), self.assertRaises(MalformedMultipart):
                take_apart(pieces)


class PartsTest(MultipartCase):
    def test_a_form_is_the_same_in_every_cut(self) -> None:
        for name, pieces in cuts(FORM):
            with self.subTest(name):
                self.assertEqual(FORM_PARTS, take_apart(pieces))

    def test_a_form_may_come_as_views(self) -> None:
        views = [memoryview(piece) for piece in one_by_one(FORM)]

        self.assertEqual(FORM_PARTS, take_apart(views))  # type: ignore[arg-type]

    def test_a_form_cut_off_anywhere_is_not_finished(self) -> None:
        whole = FORM.index(b"--boundary--") + len(b"--boundary--")

        for length in range(whole):
            with self.subTest(length=length), self.assertRaises(MalformedMultipart):
                take_apart([FORM[:length]])
        self.assertEqual(FORM_PARTS, take_apart([FORM[:whole]]))

    def test_a_form_that_never_came_is_not_finished(self) -> None:
        self.assertRaises(MalformedMultipart, take_apart, [])

    def test_empty_cuts_change_nothing(self) -> None:
        pieces = [piece for byte in one_by_one(FORM) for piece in (b"", byte)]

        self.assertEqual(FORM_PARTS, take_apart(pieces))

    def test_a_form_may_have_no_part(self) -> None:
        for form in (b"--boundary--", b"--boundary--\r\n", b"\r\n--boundary--", b"preamble\r\n--boundary--epilogue"):
            for name, pieces in cuts(form):
                with self.subTest(name, form=form):
                    self.assertEqual([], take_apart(pieces))

    def test_content_that_looks_nearly_like_a_delimiter_is_content(self) -> None:
        contents = (
            b"",
            b"\r",
            b"\n",
            b"\r\n",
            b"\n\r",
            b"-",
            b"--",
            b"\r\n-",
            b"\r\n--",
            b"\r\n--\r\n",
            b"\r\n--boundar",
            b"\r\n--boundar\r\n",
            b"\r\n--boundarY",
            b"\r\n--Boundary\r\n",
            b"\r\n--boundary"[:-1] * 3,
            b"\r\n-boundary",
            b"\r\n---boundary",
            b"\r\n --boundary",
            b"\r--boundary",
            b"\n--boundary\n",
            b"\n--boundary--\n",
            b"\r\r\n--boundar",
            b"\r\n\r\n--boundar",
            b"\r\r\r",
            b"x--boundary--\r\n",
            b"x--boundary\r\n",
            b"\r\n\r\n",
            b"--\r\n--",
            b"\x00\xff\r\n--bound\x00",
        )
        for content in contents:
            for name, pieces in cuts(form_of(content)):
                with self.subTest(name, content=content):
                    self.assertEqual([content], [taken for _, taken in take_apart(pieces)])

    def test_dashes_in_a_boundary_are_its_own(self) -> None:
        for boundary in ("-", "--", "----WebKitFormBoundary", "a--", "--a--"):
            delimiter = b"--" + boundary.encode()
            contents = (b"", b"\r\n--", b"\r\n-", delimiter[:-1], b"\r\n" + delimiter[:-1])
            for content in contents:
                form = delimiter + b"\r\n" + FIELD + b"\r\n\r\n" + content + b"\r\n" + delimiter + b"--\r\n"
                for name, pieces in cuts(form):
                    with self.subTest(name, boundary=boundary, content=content):
                        self.assertEqual([content], [taken for _, taken in take_apart(pieces, boundary)])

    def test_bytes_are_handed_on_before_their_part_is_whole(self) -> None:
        form = Multipart(BOUNDARY)
        head = b"--boundary\r\n" + FIELD + b"\r\n\r\n"

        events = [event if isinstance(event, Part) else bytes(event) for event in form.feed(head + b"some\r\nbytes")]

        self.assertEqual([Part("a", None, {"content-disposition": 'form-data; name="a"'}), b"some\r\nbytes"], events)

    def test_the_epilogue_is_for_nobody(self) -> None:
        for epilogue in (b"", b"\r\n", b"x", b"--", b"\r\n--boundary\r\n\r\nx\r\n--boundary--", b"\x00" * 100):
            form = form_of(b"tea")[:-2] + epilogue
            with self.subTest(epilogue=epilogue):
                self.assertEqual([b"tea"], [taken for _, taken in take_apart([form])])
                self.assertEqual([b"tea"], [taken for _, taken in take_apart(one_by_one(form))])

    def test_blanks_behind_a_delimiter_are_dropped(self) -> None:
        # RFC 2046, section 5.1.1: gateways may have added them.
        for blanks in (b" ", b"\t", b" \t \t", b" " * 100):
            form = b"--boundary" + blanks + b"\r\n" + FIELD + b"\r\n\r\ntea\r\n--boundary" + blanks + b"\r\n\r\nmilk"
            for name, pieces in cuts(form + b"\r\n--boundary--" + blanks):
                with self.subTest(name, blanks=blanks):
                    self.assertEqual([b"tea", b"milk"], [taken for _, taken in take_apart(pieces)])

    def test_how_many_blanks_are_too_many_does_not_depend_on_the_cut(self) -> None:
        for count in (250, 254, 255, 256, 257, 258, 300, 10_000):
            form = b"--boundary" + b" " * count + b"\r\n" + FIELD + b"\r\n\r\ntea\r\n--boundary--"
            behind_the_return = form.index(b"\r") + 1
            outcomes = set()
            for pieces in ([form], one_by_one(form), [form[:behind_the_return], form[behind_the_return:]]):
                try:
                    outcomes.add(take_apart(pieces)[0][1])
                except MalformedMultipart:
                    outcomes.add(b"refused")

            with self.subTest(count=count):
                self.assertEqual(1, len(outcomes), outcomes)

    def test_anything_else_behind_a_delimiter_is_refused(self) -> None:
        for behind in (b"x", b"-", b"-x", b" x", b" --", b"\n", b"\r", b"\rx", b"\r\r\n", b"- -", b"\x00", b"y2"):
            self.assert_malformed(b"--boundary" + behind + b"\r\n" + FIELD + b"\r\n\r\ntea\r\n--boundary--")
            self.assert_malformed(form_of(b"tea\r\n--boundary" + behind + b"\r\n" + FIELD + b"\r\n\r\n"))

    def test_a_form_with_bare_line_feeds_is_refused(self) -> None:
        self.assert_malformed(form_of(b"tea").replace(b"\r\n", b"\n"))
        self.assert_malformed(b"--boundary\n" + form_of(b"tea")[12:])

    def test_a_form_of_another_boundary_is_refused(self) -> None:
        self.assert_malformed(form_of(b"tea").replace(b"--boundary", b"--bound"))
        self.assert_malformed(form_of(b"tea").replace(b"--boundary", b"boundary"))


class PartHeadTest(MultipartCase):
    def assert_head_refused(self, head: bytes) -> None:
        self.assert_malformed(form_of(b"tea", head))

    def test_a_parts_fields_have_names_in_lower_case(self) -> None:
        fields = part_of(b"content-DISPOSITION: form-data\r\nX-Thing:  a \r\nContent-Type:text/plain").fields

        self.assertEqual({"content-disposition": "form-data", "x-thing": "a", "content-type": "text/plain"}, fields)

    def test_a_part_need_not_have_a_name(self) -> None:
        self.assertEqual((None, None), part_of(b"Content-Disposition: form-data")[:2])
        self.assertEqual((None, None), part_of(b"Content-Type: text/plain")[:2])

    def test_the_disposition_is_read_whatever_its_case_and_blanks(self) -> None:
        heads = (
            b'Content-Disposition:form-data;name="a";filename="b"',
            b'CONTENT-DISPOSITION: FORM-DATA; NAME="a"; FileName="b"',
            b"content-disposition: form-data ; filename = b ; name = a",
            b'Content-Disposition: form-data; name=a; x="y;z"; filename="b";',
        )
        for head in heads:
            with self.subTest(head=head):
                self.assertEqual(("a", "b"), part_of(head)[:2])

    def test_the_name_of_a_file_is_what_the_client_meant(self) -> None:
        # Of each pair: the parameters as clients write them, and the name.
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

    def test_the_name_of_a_field_may_be_utf_8_too(self) -> None:
        self.assertEqual("größe", part_of('Content-Disposition: form-data; name="größe"'.encode()).name)

    def test_a_malformed_disposition_is_refused(self) -> None:
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
        )
        for disposition in dispositions:
            self.assert_head_refused(b"Content-Disposition: " + disposition)

    def test_a_charset_that_looks_like_latin_1_to_a_careless_reader_is_refused(self) -> None:
        # U+017F folds to "s": "iso" in another hand, which no table of charsets knows.
        head = "Content-Disposition: form-data; filename*=\"i\u017fo-8859-1''%41\"".encode()

        self.assertRaises(MalformedMultipart, part_of, head)

    def test_a_part_that_is_no_form_data_is_refused(self) -> None:
        for kind in (b"attachment", b"inline", b"form-data-not", b"file"):
            self.assert_head_refused(b"Content-Disposition: " + kind + b'; name="a"')

    def test_a_part_that_is_encoded_for_transfer_is_refused(self) -> None:
        # RFC 7578, section 4.7. Kept as it is, it would not be the file that the client has.
        for encoding in (b"base64", b"quoted-printable", b"Base64", b"x-thing", b""):
            self.assert_head_refused(FIELD + b"\r\nContent-Transfer-Encoding: " + encoding)

    def test_an_encoding_that_changes_nothing_is_taken(self) -> None:
        for encoding in (b"binary", b"8bit", b"7bit", b"BINARY"):
            with self.subTest(encoding=encoding):
                self.assertEqual("a", part_of(FIELD + b"\r\nContent-Transfer-Encoding: " + encoding).name)

    def test_a_part_that_has_one_field_twice_is_refused(self) -> None:
        # Two readers could take the one or the other for the name of the file.
        for line in (FIELD, b'content-disposition: form-data; name="b"', b"Content-Type: a/b\r\nCONTENT-TYPE: c/d"):
            self.assert_head_refused(FIELD + b"\r\n" + line)

    def test_malformed_fields_of_a_part_are_refused(self) -> None:
        lines = (
            b"X",
            b"X : a",
            b" X: a",
            b": a",
            b"X(: a",
            b"X: a\rb",
            b"X: a\nb",
            b"X: a\x00",
            b"X: a\x7f",
            b"X: a\r\n folded",
        )
        for line in lines:
            self.assert_head_refused(FIELD + b"\r\n" + line)


class LimitsTest(MultipartCase):
    def form_of_parts(self, count: int) -> bytes:
        return (b"--boundary\r\n" + FIELD + b"\r\n\r\n\r\n") * count + b"--boundary--"

    def head_of_size(self, size: int) -> bytes:
        """The head of a part with so many bytes, its empty line included."""
        bare = FIELD + b"\r\nX: \r\n\r\n"
        return FIELD + b"\r\nX: " + b"x" * (size - len(bare))

    def test_a_form_may_have_a_thousand_parts(self) -> None:
        form = self.form_of_parts(MAX_PARTS)

        self.assertEqual(MAX_PARTS, len(take_apart([form])))
        self.assertEqual(MAX_PARTS, len(take_apart(one_by_one(form))))

    def test_one_part_more_is_refused(self) -> None:
        form = self.form_of_parts(MAX_PARTS + 1)

        self.assertRaises(MalformedMultipart, take_apart, [form])
        self.assertRaises(MalformedMultipart, take_apart, one_by_one(form))

    def test_the_head_of_a_part_may_have_8_kib(self) -> None:
        form = form_of(b"tea", self.head_of_size(MAX_PART_HEAD))

        for pieces in ([form], one_by_one(form)):
            self.assertEqual(b"tea", take_apart(pieces)[0][1])

    def test_one_byte_more_is_refused(self) -> None:
        form = form_of(b"tea", self.head_of_size(MAX_PART_HEAD + 1))

        for pieces in ([form], one_by_one(form)):
            self.assertRaises(MalformedMultipart, take_apart, pieces)

    def test_a_head_that_never_ends_is_refused_while_it_comes(self) -> None:
        form = Multipart(BOUNDARY)
        list(form.feed(b"--boundary\r\n"))

        with self.assertRaises(MalformedMultipart):
            for _ in range(MAX_PART_HEAD + 4):
                list(form.feed(b"X"))

    def test_a_delimiters_line_that_never_ends_is_refused_while_it_comes(self) -> None:
        # It is held until it ends: what may be held without end fills the memory.
        for byte in (b" ", b"\t", b"\r", b"-"):
            form = Multipart(BOUNDARY)
            list(form.feed(b"--boundary"))

            with self.subTest(byte=byte), self.assertRaises(MalformedMultipart):
                # Two dashes would close the form.
                for piece in one_by_one((b" -" if byte == b"-" else byte) * 1000):
                    list(form.feed(piece))

    def test_content_of_truncated_delimiters_is_whole(self) -> None:
        content = b"\r\n--boundar" * 400_000
        form = form_of(content)

        parts = take_apart([form[start : start + 65536] for start in range(0, len(form), 65536)])

        self.assertEqual(len(content), len(parts[0][1]))


class FormBoundaryTest(unittest.TestCase):
    def test_a_form_has_a_boundary(self) -> None:
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

    def test_another_type_is_no_form(self) -> None:
        types = (
            "",
            "text/plain",
            "application/x-www-form-urlencoded",
            "multipart/mixed; boundary=x",
            "multipart/form-data-not; boundary=x",
            "multipart/form; boundary=x",
            "x-multipart/form-data; boundary=x",
            "nonsense; boundary=x",
            "; boundary=x",
        )
        for content_type in types:
            with self.subTest(content_type=content_type):
                self.assertIsNone(form_boundary(content_type))

    def test_a_form_without_a_usable_boundary_is_refused(self) -> None:
        parameters = (
            "",
            ";",
            "; boundary",
            "; boundary=",
            '; boundary=""',
            '; boundary="x',
            '; boundary="x "',
            '; boundary=" "',
            '; boundary="x\ty"',
            '; boundary="x\\"y"',
            '; boundary="x\\\\y"',
            '; boundary="é"',
            '; boundary="x*y"',
            "; boundary=x*y",
            "; boundary=a/b",
            "; boundary=x; boundary=y",
            "; boundary=x, multipart/form-data; boundary=y",
            "; boundary=x y",
            "; charset=utf-8",
        )
        for each in parameters:
            with self.subTest(each), self.assertRaises(MalformedMultipart):
                form_boundary("multipart/form-data" + each)

    def test_every_character_that_rfc_2046_allows_may_stand_in_a_boundary(self) -> None:
        # Section 5.1.1; only the blank may not end it.
        for character in "09AZaz'()+_,-./:=?":
            for boundary in (character, "x" + character, character + "x"):
                with self.subTest(boundary=boundary):
                    self.assertEqual(boundary, form_boundary(f'multipart/form-data; boundary="{boundary}"'))

    def test_a_boundary_has_70_characters_at_most(self) -> None:
        # RFC 2046, section 5.1.1.
        self.assertEqual("x" * 70, form_boundary("multipart/form-data; boundary=" + "x" * 70))
        self.assertRaises(MalformedMultipart, form_boundary, "multipart/form-data; boundary=" + "x" * 71)

    def test_the_longest_boundary_takes_a_form_apart_in_every_cut(self) -> None:
        boundary = "".join(chr(ord("0") + number % 10) for number in range(70))
        form = form_of(b"\r\n--" + boundary[:-1].encode()).replace(b"--boundary", b"--" + boundary.encode())

        for name, pieces in cuts(form):
            with self.subTest(name):
                self.assertEqual(b"\r\n--" + boundary[:-1].encode(), take_apart(pieces, boundary)[0][1])
