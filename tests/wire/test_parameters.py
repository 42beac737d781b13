"""Header fields with parameters: parsed strictly, formatted so that every client decodes the same name."""

from __future__ import annotations

import unittest
from unittest import mock

from filestoraged.errors import BadRequest
from filestoraged.wire import parameters as parameters_module
from filestoraged.wire.parameters import attachment, decode_extended, parse_parameters


class ParseParametersTest(unittest.TestCase):
    def test_value_and_parameters_are_returned(self) -> None:
        for field, expected in {
            "text/plain": ("text/plain", {}),
            "Text/PLAIN;Charset=UTF-8": ("text/plain", {"charset": "UTF-8"}),
            "form-data; name=a; filename=b": ("form-data", {"name": "a", "filename": "b"}),
            "  a  ;  b  =  c  ;d=e  ": ("a", {"b": "c", "d": "e"}),
            "a;\tb\t=\tc": ("a", {"b": "c"}),
            "*/*;q=0.5": ("*/*", {"q": "0.5"}),
            "a;b*=UTF-8''x": ("a", {"b*": "UTF-8''x"}),
            # RFC 9110, section 5.6.6: parameters = *( OWS ";" OWS [ parameter ] ).
            **dict.fromkeys(("a;", "a ; ", "a;;;", "a" + ";" * 32000), ("a", {})),
            **dict.fromkeys(("a;;b=c", "a;b=c;", "a; ;b=c; ;"), ("a", {"b": "c"})),
        }.items():
            with self.subTest(field=field[:30]):
                self.assertEqual(expected, parse_parameters(field))

    def test_many_empty_parameters_are_skipped_at_once(self) -> None:
        with mock.patch.object(parameters_module, "_next_parameter", wraps=parameters_module._next_parameter) as steps:
            self.assertEqual({"b": "c"}, parse_parameters("a" + ";" * 8000 + "b=c" + "; " * 8000)[1])

        self.assertEqual(2, steps.call_count)

    def test_too_many_parameters_are_refused(self) -> None:
        most = "a" + "".join(f";p{number}=1" for number in range(32))

        self.assertEqual(32, len(parse_parameters(most)[1]))
        with self.assertRaisesRegex(BadRequest, "more than 32 parameters"):
            parse_parameters(most + ";b=1")

    def test_quoted_value_is_unquoted(self) -> None:
        values = {
            '""': "",
            '"c"': "c",
            '" c  d "': " c  d ",
            '"c;d=e"': "c;d=e",
            '"c, d"': "c, d",
            '"\\""': '"',
            '"\\\\"': "\\",
            '"\\\\\\""': '\\"',
            '"c\\"d"': 'c"d',
            '"C:\\cat.jpg"': "C:\\cat.jpg",
            '"é☕"': "é☕",
        }
        for quoted, value in values.items():
            with self.subTest(quoted=quoted):
                self.assertEqual(("a", {"b": value}), parse_parameters(f"a; b={quoted}"))

    def test_malformed_field_is_refused(self) -> None:
        for rule, fields in {
            "malformed": (
                "", " ", ";", ";b=c", "=b", '"a"', "a b", "a/", "/a", "a/b/c", "a,b", "é", "a;b", "a;b=", "a;=c",
                "a;b==c", "a;b=c d", "a;b c", "a;b=c=d", 'a;b="c', 'a;b=c"', 'a;b="c"d', 'a;b="c""d"', 'a;b="c\\"',
                "a;b='c;d'", "a;b=é", "a;é=b", "a;b=c/d", "a;b=c,d", "a;b=c, a;b=d",
            ),
            "duplicate parameter": ("a;b=c;b=c", "a;b=c;B=d", 'a;b="c";b=d', "a;b=;b=c", "a;b=c;c=d;b=e"),
            # As long as a head may be.
            "long": (
                "a" + " " * 32000 + "x", "a;" + " " * 32000 + "=", "a;b=" + " " * 32000, 'a;b="' + "\\" * 32000,
                'a;b="' + "\\a" * 16000, "a" * 32000 + "/" + "\x00", "a" + ";b=c " * 6400 + '"',
            ),
        }.items():  # fmt: skip
            for field in fields:
                with self.subTest(rule, field=field[:20]), self.assertRaises(BadRequest):
                    parse_parameters(field)


class DecodeExtendedTest(unittest.TestCase):
    def test_extended_value_is_decoded_by_its_charset(self) -> None:
        # RFC 8187, section 3.2.
        values = {
            "UTF-8''caf%C3%A9": "café",
            "utf-8''caf%c3%a9": "café",
            "UTF-8'en'%e2%82%ac%20rates": "€ rates",
            "UTF-8'de-CH-1996'x": "x",
            "ISO-8859-1''caf%E9": "café",
            "iso-8859-1'en'%A3%20rates": "£ rates",
            "UTF-8''%F0%9F%90%B1": "🐱",
            "UTF-8''": "",
            "UTF-8''a!#$&+-.^_`|~z09": "a!#$&+-.^_`|~z09",
            "UTF-8''%25%27%22%2F": "%'\"/",
            "UTF-8''a%2Bb+c": "a+b+c",
        }
        for encoded, value in values.items():
            with self.subTest(encoded=encoded):
                self.assertEqual(value, decode_extended(encoded))

    def test_malformed_extended_value_is_refused(self) -> None:
        for rule, values in {
            "malformed": (
                "", "cat.jpg", "UTF-8", "UTF-8'", "UTF-8'x", "''x", "UTF-8''a b", "UTF-8''a'b", "UTF-8''a%",
                "UTF-8''a%2", "UTF-8''a%zz", "UTF-8''a/b", "UTF-8''a\"b", "UTF-8''é", "UTF-8'e n'x", " UTF-8''x",
                "UTF-8''x ", "UTF-8''x\n", "UTF8''x", "UTF-16''x", "us-ascii''x", "windows-1252''x",
            ),
            "invalid bytes": (
                "UTF-8''%C3", "UTF-8''%E9", "UTF-8''%FF", "UTF-8''%C0%AF", "UTF-8''%ED%A0%80", "UTF-8''a%80b",
            ),
            # Unicode folds U+017F to "s", U+212A to "k", U+0130 and U+0131 to "i"; RFC 8187 allows ASCII letters alone.
            "letters that fold to ASCII": (
                "i\u017fo-8859-1''%41", "\u0131so-8859-1''%41", "UTF-8'\u212a'x", "UTF-8''\u017f", "UTF-8''\u0130",
            ),
        }.items():  # fmt: skip
            for value in values:
                with self.subTest(rule, value=value), self.assertRaises(BadRequest):
                    decode_extended(value)


class AttachmentTest(unittest.TestCase):
    def test_plain_name_is_quoted(self) -> None:
        for name in ("cat.jpg", "my cat (1).jpg", "a;b,c=d", "it's", "-._~!#$&+^`{}[]@"):
            self.assertEqual(f'attachment; filename="{name}"', attachment(name))

    def test_other_name_has_an_ascii_fallback(self) -> None:
        # RFC 6266, appendix D.
        self.assertEqual("attachment; filename=\"caf_.txt\"; filename*=UTF-8''caf%C3%A9.txt", attachment("café.txt"))
        self.assertEqual("attachment; filename=\"a_b\"; filename*=UTF-8''a%22b", attachment('a"b'))
        self.assertEqual("attachment; filename=\"100_\"; filename*=UTF-8''100%25", attachment("100%"))

    def test_name_is_decoded_unchanged_from_a_field_of_printable_ascii(self) -> None:
        # No name can split the head of a response.
        for name in (
            "cat.jpg", "café ☕.txt", "🐱", 'a"b', "a\\b", "C:\\cat.jpg", "a/b", "../../etc/passwd", "a%20b", "%41",
            "100%", "a*b?c:d<e>f|g", "'; filename=evil.exe", '"; filename=evil.exe; x="', "UTF-8''x",
            " leading and trailing ", "\u202egpj.exe", "\x85\xa0", "e\u0301", "é", "☕", "a\r\nX: y", "\x00", "\x7f",
            "\x85", '"', "\\", *(f"a{chr(code)}b" for code in range(0x20, 0x7F)),
        ):  # fmt: skip
            with self.subTest(name=name):
                self.assertEqual(name, _read(attachment(name)))
                self.assertRegex(attachment(name), r"\A[ -~]+\Z")


def _read(field: str) -> str:
    """Return the name as which a client saves the download."""
    disposition, parameters = parse_parameters(field)
    if disposition != "attachment":
        raise AssertionError(f"{disposition} is not attachment")
    if "filename*" in parameters:
        return decode_extended(parameters["filename*"])
    return parameters["filename"]
