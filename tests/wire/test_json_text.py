"""Strict JSON: each value is returned unchanged or refused."""

from __future__ import annotations

import json
import unittest

from hypothesis import HealthCheck, given, settings, strategies

from filestoraged.errors import BadRequest
from filestoraged.wire.json_text import encode_pair, parse_object, parse_pair, parse_string
from tests.runner.marks import thorough

# Hypothesis measures how long it takes to make examples, and would fail a test on a machine that stops it meanwhile.
_UNHURRIED = settings(database=None, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])

GOOD_VALUES = (
    *(b"1.0", b"1", b"-0", b"0.10", b"1e999", b"1E+2", b"1" * 5000, b"0." + b"1" * 5000, b"true", b"null"),
    *(b'""', b'"\\u00e9"', '"é"'.encode(), b'"\\ud83d\\ude00"', b'"\\\\ud800"', b'"\\u0000"', b'"a\\/b"', b'"\x7f"'),
    *(b"[]", b"{}", b"[1, 2,3 ]", b'{"a": {"a": 1}}', b'[[{"a":1},{"a":2}]]', b"[" * 99 + b"]" * 99),
    *(b'"' + b"[{" * 500 + b'"', b'["' + b'\\"[' * 200 + b'"]', b"[" + b"[]," * 500 + b"[]]"),
    # As deep as is allowed, with more brackets than levels.
    b"[[]," + b"[" * 98 + b"]" * 98 + b"]",
    b'"' + b"x" * 100_000 + b'"',
)

BAD_VALUES = (
    *(b"NaN", b"Infinity", b"-Infinity", b"01", b"1.", b".5", b"+1", b"0x1", b"1e", b"-", b"'a'", b"undefined"),
    *(b'"', b'"\\x"', b'"\\u12"', b'"\n"', b'"\x00"', b'"\\ud800"', b'"\\udc00\\ud800"', b'["\\ud800x"]'),
    *(b"[1,]", b"[", b"{", b"]", b"[1 2]", b'{"a": 1,}', b'{"a" 1}', b"{1: 2}", b'{"a": 1, "a": 2}', b'{"\\ud800": 1}'),
    *(b"[" * 100 + b"]" * 100, b"[" * 10_000 + b"]" * 10_000, b"[" * 10_000, b'{"a":' * 200 + b"1" + b"}" * 200),
    *(b'"\xff"', b'"\xed\xa0\x80"', b'"\xc0\x80"', b'"\xf5\x80\x80\x80"', b"", b" ", b"1 2", b"1, 2", b"// 1"),
    *(b'[{"a":1,"\\u0061":2}]', b"\xa01"),
)


class PairTest(unittest.TestCase):
    def test_value_is_returned_unchanged(self) -> None:
        for value in GOOD_VALUES:
            with self.subTest(value=value[:50]):
                self.assertEqual(("key", value), parse_pair(b'{"key": %b}' % value))
                self.assertEqual(("key", value), parse_pair(b' {\r\n"key"\t:%b } ' % value))

    def test_invalid_json_is_refused(self) -> None:
        for value in BAD_VALUES:
            with self.subTest(value=value[:50]):
                self.assertRaises(BadRequest, parse_pair, b'{"key": %b}' % value)

    def test_anything_but_one_pair_is_refused(self) -> None:
        for data in (
            *(b"{}", b'{"a": 1, "b": 2}', b'{"a": 1, "a": 1}', b"[]", b'"a"', b"1", b"null", b"", b" ", b'{"a": 1}}'),
            *(b'{"a": 1} x', b'\xef\xbb\xbf{"a": 1}', b'{"a": 1}\x00', b"{a: 1}", b'{"a": 1', b'{"a"', b'{"a":', b"{"),
            *('{"a": 1}'.encode("utf-16"), '{"a": 1}'.encode("utf-32"), b'\x0b{"a": 1}', b'{"a"\xc2\xa0: 1}'),
        ):
            with self.subTest(data=data):
                self.assertRaises(BadRequest, parse_pair, data)

    def test_name_is_any_string(self) -> None:
        for text, name in (
            *((b'""', ""), (b'"a/b"', "a/b"), (b'"\\u0000"', "\0"), ('"é"'.encode(), "é"), (b'"\\u00e9"', "é")),
            *((b'"\\ud83d\\ude00"', "\U0001f600"), (b'"set"', "set"), (b'".."', ".."), (b'"\\""', '"')),
        ):
            with self.subTest(text=text):
                self.assertEqual((name, b"1"), parse_pair(b"{%b: 1}" % text))

    def test_name_with_lone_surrogate_is_refused(self) -> None:
        self.assertRaises(BadRequest, parse_pair, b'{"\\ud800": 1}')
        self.assertRaises(BadRequest, parse_pair, b'{"\\udc00\\ud800": 1}')

    @thorough("random documents")
    @_UNHURRIED  # type: ignore[untyped-decorator]
    @given(  # type: ignore[untyped-decorator]
        strategies.text(),
        strategies.recursive(
            strategies.none()
            | strategies.booleans()
            | strategies.integers()
            | strategies.text()
            | strategies.floats(allow_nan=False, allow_infinity=False),
            lambda inner: strategies.lists(inner) | strategies.dictionaries(strategies.text(), inner),
        ),
        strategies.booleans(),
    )
    def test_json_of_python_is_parsed(self, name: str, value: object, ascii_only: bool) -> None:
        text = json.dumps({name: value}, ensure_ascii=ascii_only)
        try:
            data = text.encode()
            name.encode()
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            self.assertRaises(BadRequest, parse_pair, text.encode("utf-8", "surrogatepass"))
            return

        read, raw = parse_pair(data)

        self.assertEqual((name, value), (read, json.loads(raw)))
        self.assertEqual({name: value}, json.loads(encode_pair(read, raw)))

    @_UNHURRIED  # type: ignore[untyped-decorator]
    @given(strategies.binary())  # type: ignore[untyped-decorator]
    def test_random_bytes_are_refused_or_parsed_as_python_does(self, data: bytes) -> None:
        try:
            name, raw = parse_pair(data)
        except BadRequest:
            return
        self.assertEqual({name: json.loads(raw)}, json.loads(data))


class StringTest(unittest.TestCase):
    def test_string_is_parsed(self) -> None:
        for text, value in ((b'"a"', "a"), (b' "\\u00e9"\n', "é"), (b'""', ""), (b'"\\ud83d\\ude00"', "\U0001f600")):
            self.assertEqual(value, parse_string(text))

    def test_anything_but_a_string_is_refused(self) -> None:
        for data in (b"", b"a", b"1", b'["a"]', b'"a" "b"', b'"a', b'"\\ud800"', b'"\xff"', b'"\n"', b"null", b'"a",'):
            with self.subTest(data=data):
                self.assertRaises(BadRequest, parse_string, data)


class ObjectTest(unittest.TestCase):
    def test_object_is_parsed_into_values(self) -> None:
        text = ' {"a": 1, "b": [1.5, "x", null, true, {"c": -2}], "": "\\u00e9"}\n'

        self.assertEqual(json.loads(text), parse_object(text.encode()))
        self.assertEqual({}, parse_object(b"{}"))

    def test_invalid_json_is_refused(self) -> None:
        for value in BAD_VALUES:
            with self.subTest(value=value[:50]):
                self.assertRaises(BadRequest, parse_object, b'{"key": %b}' % value)

    def test_anything_but_an_object_is_refused(self) -> None:
        for data in (b"", b"[]", b"1", b'"a"', b"null", b"{", b"{} {}", b"{}x", b'\xef\xbb\xbf{"a": 1}'):
            with self.subTest(data=data):
                self.assertRaises(BadRequest, parse_object, data)

    def test_integer_is_exact_up_to_30_characters_and_huge_above(self) -> None:
        for text in (str(2**63), "9" * 30, "-" + "9" * 29):
            self.assertEqual({"a": int(text)}, parse_object(b'{"a": %b}' % text.encode()))
        for text in ("9" * 31, "1" * 1_000_000):
            self.assertEqual({"a": 10**30}, parse_object(b'{"a": %b}' % text.encode()))
            self.assertEqual({"a": -(10**30)}, parse_object(b'{"a": -%b}' % text.encode()))


class MessagesTest(unittest.TestCase):
    def test_message_names_the_fault_and_what_is_expected(self) -> None:
        reasons = {
            b'{"a": 1 "b"}': "syntax error at offset 7",
            b'{"a": tea}': "syntax error at offset 6",
            b'{"a": 1} x': "unexpected text at offset 9",
            b'{"a": "\xff"}': "invalid UTF-8 at offset 7",
            b'{"a": "\\ud800"}': "a string has a lone surrogate",
            b'{"a": NaN}': "NaN is not a JSON value",
            b'{"a": {"b\\n": 1, "b\\n": 2}}': "duplicate name 'b\\n' in an object",
            b'{"a": %b}' % (b"[" * 200): "nesting exceeds the limit of 100 levels",
        }
        for data, reason in reasons.items():
            with self.subTest(data=data[:50]), self.assertRaises(BadRequest) as caught:
                parse_pair(data)

            self.assertEqual(
                f"Invalid body, {reason}: expected a JSON object of exactly one pair.", str(caught.exception)
            )
