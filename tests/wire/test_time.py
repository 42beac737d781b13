"""Time against length: each parser is linear, from an input of 256 bytes up to the largest that it accepts.

A quadratic parser lets one request keep a worker busy. Ratios of CPU times are compared, not times.
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import time
import unittest
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

from filestoraged.errors import Error
from filestoraged.wire import (
    accept,
    authorization,
    conditions,
    dates,
    expectations,
    head,
    lfs,
    multipart,
)
from filestoraged.wire.body import Chunked, body_framing
from filestoraged.wire.head import MAX_HEAD, MAX_TARGET
from filestoraged.wire.json_text import parse_object, parse_pair, parse_string
from filestoraged.wire.origin import parse_origin
from filestoraged.wire.parameters import attachment, decode_extended, parse_parameters
from filestoraged.wire.ranges import parse_range
from filestoraged.wire.redaction import redact_target
from tests.runner.marks import thorough
from tests.wire.heads import parse

KIB = 1024
MIB = 1024 * KIB

# Each input is compared with one of a sixteenth of its size. Linear time makes the ratio 16, quadratic time 256; noise,
# load and caches, which make a parser of a large input slower, stay far below that difference.
_STEP = 16
# The time of twice the input may be this many times twice the time. Quadratic time would be 2.0.
_SLACK = 1.5
_MAX_RATIO = (2 * _SLACK) ** 4
# Bytes of the smallest input.
_SMALLEST = 256
# Seconds; smaller differences are ignored.
_NOISE = 0.0005
# Tries before a ratio counts as a failure. The least time of each size counts.
_TRIES = 20


class Case(NamedTuple):
    """A parser, a function that makes an input of about the given size, and the largest size, in bytes."""

    parse: Callable[[Any], object]
    make: Callable[[int], Any]
    bound: int = MAX_HEAD


def repeat(pattern: str, start: str = "", end: str = "") -> Callable[[int], str]:
    """Return a function that repeats the pattern between `start` and `end`."""
    return lambda size: start + pattern * ((size - len(start) - len(end)) // len(pattern)) + end


def repeat_bytes(pattern: bytes, start: bytes = b"", end: bytes = b"") -> Callable[[int], bytes]:
    text = repeat(pattern.decode("latin-1"), start.decode("latin-1"), end.decode("latin-1"))
    return lambda size: text(size).encode("latin-1")


def numbered(pattern: str, start: str = "", end: str = "") -> Callable[[int], str]:
    """Return a function that repeats the pattern with a different number in place of "#" each time."""
    return lambda size: (
        start + "".join(pattern.replace("#", f"{number:07}") for number in range(size // (len(pattern) + 6))) + end
    )


def as_bytes(make: Callable[[int], str]) -> Callable[[int], bytes]:
    return lambda size: make(size).encode("latin-1")


# Calls of the parsers.


def find_byte_by_byte(data: bytes) -> None:
    """Search a head that arrives byte by byte, as `web.receiver` does."""
    buffer = bytearray()
    for byte in data:
        buffer.append(byte)
        head.find_head_end(buffer, len(buffer) - 1)


def read_digests(field: str) -> None:
    expectations.expected_digests({"content-digest": field})


def match_tags(field: str) -> None:
    conditions.matches_if_none_match({"if-none-match": field}, "x")


def apply_range(field: str) -> None:
    conditions.if_range_holds({"if-range": field}, "x", 0)


def read_range(field: str) -> None:
    parse_range(field, 100)


def decode_chunks(data: bytes) -> None:
    Chunked().decode(memoryview(data))


def decode_chunks_byte_by_byte(data: bytes) -> None:
    framing = Chunked()
    for byte in one_by_one(data):
        framing.decode(byte)


def feed_form(data: bytes) -> None:
    drain(multipart.Multipart("b").feed(data))


def feed_form_by_64_kib(data: bytes) -> None:
    form = multipart.Multipart("boundary")
    for start in range(0, len(data), 64 * KIB):
        drain(form.feed(data[start : start + 64 * KIB]))


def feed_form_byte_by_byte(data: bytes) -> None:
    form = multipart.Multipart("b")
    for byte in one_by_one(data):
        drain(form.feed(byte))


def drain(events: Iterator[Any]) -> None:
    for _ in events:
        pass


def one_by_one(data: bytes) -> list[memoryview]:
    view = memoryview(data)
    return [view[position : position + 1] for position in range(len(data))]


PARSERS: dict[str, Case] = {
    # Bodies of the key-value interface.
    "json: a quote behind 101 brackets, then escapes": Case(
        parse_pair, repeat_bytes(b'\\"', b'{"a":[' + b"[]," * 101 + b'"'), MIB
    ),
    "json: quotes behind 101 brackets": Case(parse_pair, repeat_bytes(b'" ', b'{"a":[' + b"[]," * 101), MIB),
    "json: backslashes behind 101 brackets": Case(
        parse_pair, repeat_bytes(b"\\", b'{"a":[' + b"[]," * 101 + b'"'), MIB
    ),
    "json: a long string": Case(parse_pair, repeat_bytes(b"x", b'{"a":"', b'"}'), MIB),
    "json: a string of escapes": Case(parse_pair, repeat_bytes(b"\\u00e9", b'{"a":"', b'"}'), MIB),
    "json: a string of surrogates": Case(parse_pair, repeat_bytes(b"\\ud83d\\ude00", b'{"a":"', b'"}'), MIB),
    "json: digits": Case(parse_pair, repeat_bytes(b"1", b'{"a":', b"}"), MIB),
    "json: digits and an end": Case(parse_pair, repeat_bytes(b"1", b'{"a":', b"x"), MIB),
    "json: open brackets": Case(parse_pair, repeat_bytes(b"[", b'{"a":'), MIB),
    "json: many arrays": Case(parse_pair, repeat_bytes(b"[],", b'{"a":[', b"[]]}"), MIB),
    "json: many objects": Case(parse_pair, repeat_bytes(b'{"b":1},', b'{"a":[', b"1]}"), MIB),
    "json: an object of many pairs": Case(parse_pair, as_bytes(numbered('"#":1,', '{"a":{', '"x":1}}')), MIB),
    "json: many times one name": Case(parse_pair, repeat_bytes(b'"b":1,', b'{"a":{', b'"b":1}}'), MIB),
    "json: blanks": Case(parse_pair, repeat_bytes(b" \n", b'{"a"', b"x"), MIB),
    "json: blanks alone": Case(parse_string, repeat_bytes(b" "), MIB),
    "json: a string that does not end": Case(parse_string, repeat_bytes(b'\\"', b'"'), MIB),
    # Bodies of Git LFS.
    "lfs: digits": Case(parse_object, repeat_bytes(b"1", b'{"a":', b"}"), MIB),
    "lfs: digits of a fraction": Case(parse_object, repeat_bytes(b"1", b'{"a":0.', b"}"), MIB),
    "lfs: digits of an exponent": Case(parse_object, repeat_bytes(b"1", b'{"a":1e-', b"}"), MIB),
    "lfs: many objects": Case(
        lfs.parse_batch, repeat_bytes(b"{},", b'{"operation":"upload","objects":[', b"{}]}"), MIB
    ),
    "lfs: a long oid": Case(
        lfs.parse_batch, repeat_bytes(b"0", b'{"operation":"upload","objects":[{"size":1,"oid":"', b'"}]}'), MIB
    ),
    "lfs: many transfers": Case(
        lfs.parse_batch, repeat_bytes(b'"x",', b'{"operation":"upload","objects":[],"transfers":[', b'"x"]}'), MIB
    ),
    "lfs: a path of many segments": Case(lfs.parse_lock, repeat_bytes(b"x/", b'{"path":"', b'x"}'), MIB),
    # Heads.
    "head: found": Case(head.find_head_end, repeat_bytes(b"a: b\r\n", b"GET / HTTP/1.1\r\n", b"\r\n")),
    "head: fields byte by byte": Case(find_byte_by_byte, repeat_bytes(b"a: b\r\n", b"GET / HTTP/1.1\r\n")),
    "head: one long field byte by byte": Case(find_byte_by_byte, repeat_bytes(b"a", b"GET / HTTP/1.1\r\na:")),
    "head: carriage returns byte by byte": Case(find_byte_by_byte, repeat_bytes(b"\r", b"GET / HTTP/1.1\r\na:")),
    "head: a method byte by byte": Case(find_byte_by_byte, repeat_bytes(b"a")),
    "head: a version byte by byte": Case(find_byte_by_byte, repeat_bytes(b"1", b"GET / HTTP/")),
    "head: a target byte by byte": Case(find_byte_by_byte, repeat_bytes(b"a", b"GET /"), MAX_TARGET),
    "head: a field with a control byte": Case(head.parse_fields, repeat_bytes(b"a", b"a:", b"\x00\r\n\r\n")),
    "head: a name without a colon": Case(head.parse_fields, repeat_bytes(b"a", b"", b"\r\n\r\n")),
    "head: fields of one name": Case(
        head.parse_fields, lambda size: b"a: %b\r\n" % (b"b" * (size // 100)) * 99 + b"\r\n"
    ),
    "head: fields, the last of them bad": Case(head.parse_fields, repeat_bytes(b"a:b\r\n", b"", b"a\r\n\r\n")),
    "head: a whole URL": Case(
        head.parse_head, repeat_bytes(b"/", b"GET http://x", b" HTTP/1.1\r\nHost: x\r\n\r\n"), MAX_TARGET
    ),
    "head: a Host": Case(head.parse_fields, repeat_bytes(b"a.", b"Host: ", b"/\r\n\r\n")),
    "head: a Host of escapes": Case(head.parse_fields, repeat_bytes(b"%41", b"Host: ", b"%\r\n\r\n")),
    "head: a Host of colons": Case(head.parse_fields, repeat_bytes(b":", b"Host: [", b"]\r\n\r\n")),
    "head: Connection": Case(lambda value: parse(b"Connection: " + value).keep_alive, repeat_bytes(b"a, ")),
    "head: Expect": Case(lambda value: parse(b"Expect: " + value).expects_continue, repeat_bytes(b",")),
    "framing: digits": Case(lambda value: body_framing(parse(b"Content-Length: " + value)), repeat_bytes(b"9")),
    "framing: zeros": Case(lambda value: body_framing(parse(b"Content-Length: " + value)), repeat_bytes(b"0")),
    "framing: codings": Case(
        lambda value: body_framing(parse(b"Transfer-Encoding: " + value)), repeat_bytes(b"chunked,")
    ),
    # Fields.
    "accept: ranges": Case(accept.prefers_text, repeat("text/plain;q=0.5,")),
    "accept: blanks": Case(accept.prefers_text, repeat(" ", "text/plain;")),
    "accept: a quoted value": Case(accept.prefers_text, repeat('\\"', 'text/plain;a="')),
    "authorization: a token": Case(authorization.parse_token, repeat("a", "Bearer ")),
    "authorization: base64": Case(authorization.parse_token, repeat("aaaa", "Basic ")),
    "authorization: no base64": Case(authorization.parse_token, repeat("=a", "Basic ")),
    "conditions: tags": Case(match_tags, repeat('"a", ')),
    "conditions: blanks": Case(match_tags, repeat(" ", '"a"', "x")),
    "conditions: commas": Case(match_tags, repeat(" ,")),
    "conditions: a tag that does not end": Case(match_tags, repeat("a", 'W/"')),
    "conditions: a date": Case(dates.parse_date, repeat(" ", "Sun,", "x")),
    "dates: blanks between": Case(dates.parse_date, repeat(" ", "Sun, 06 Nov", "1994")),
    "dates: blanks before the year": Case(dates.parse_date, repeat(" ", "Sun, 06")),
    "dates: blanks in the form of asctime": Case(dates.parse_date, repeat(" ", "Sun Nov", "x")),
    "dates: digits": Case(dates.parse_date, repeat("0", "Sun, 06 Nov ", " 08:49:37 GMT")),
    "conditions: blanks alone": Case(match_tags, repeat(" ", "", "x")),
    "conditions: weak tags that do not end": Case(match_tags, repeat('W/"')),
    "conditions: If-Range with blanks": Case(apply_range, repeat(" ", "Sun,", "x")),
    "conditions: If-Range with tags": Case(apply_range, repeat('"a",')),
    "expectations: members": Case(read_digests, repeat("x=:YQ==:,")),
    "expectations: parameters": Case(read_digests, repeat(";a=a", "x=:YQ==:", "\x00")),
    "expectations: parameters without values": Case(read_digests, repeat("; a", "x=:YQ==:", "\x00")),
    "expectations: a string": Case(read_digests, repeat('\\"', 'x=:YQ==:;a="', "\x00")),
    "expectations: base64": Case(read_digests, repeat("a", "x=:", "\x00")),
    "expectations: blanks before a value": Case(read_digests, repeat(" ", "a=::;a=", '"')),
    "expectations: parameters with blanks": Case(read_digests, repeat(";a=    ", "a=::", '"')),
    "expectations: blanks after a member": Case(read_digests, repeat(" ", "a=::", "x")),
    "expectations: blanks before a parameter": Case(read_digests, repeat(" ", "a=::;", "=")),
    "expectations: a key": Case(read_digests, repeat("a")),
    "expectations: a token": Case(read_digests, repeat("x", "a=::;a=", '"')),
    "expectations: Content-MD5": Case(lambda field: expectations.expected_digests({"content-md5": field}), repeat("a")),
    "origin: a host": Case(parse_origin, repeat("a", "http://", "/")),
    "origin: a scheme": Case(parse_origin, repeat("a")),
    "origin: colons": Case(parse_origin, repeat(":1", "http://")),
    "parameters: semicolons": Case(parse_parameters, repeat(";", "a")),
    "parameters: blanks": Case(parse_parameters, repeat(" ", "a", "x")),
    "parameters: blanks before a name": Case(parse_parameters, repeat(" ", "a;", "=")),
    "parameters: blanks before a value": Case(parse_parameters, repeat(" ", "a;b=")),
    "parameters: a type": Case(parse_parameters, repeat("a", "", "/\x00")),
    "parameters: blanks after values": Case(parse_parameters, numbered(";p#=c ", "a", '"')),
    "parameters: backslashes": Case(parse_parameters, repeat("\\", 'a;b="')),
    "parameters: escapes": Case(parse_parameters, repeat("\\a", 'a;b="')),
    "parameters: escaped quotes": Case(parse_parameters, repeat('\\"', 'a;filename="')),
    "parameters: many": Case(parse_parameters, numbered(';p#="a"', "a")),
    "parameters: many with a backslash at the end": Case(parse_parameters, numbered(';p#="\\"', "a")),
    "parameters: many names of files": Case(parse_parameters, repeat(';filename="\\"', "a")),
    "parameters: an extended value": Case(decode_extended, repeat("%41", "UTF-8''", "%")),
    "parameters: a name that is written": Case(attachment, repeat("é"), 4 * KIB),
    "ranges: many": Case(read_range, repeat("0-1,", "bytes=")),
    "ranges: blanks after the unit": Case(read_range, repeat(" ", "bytes", "x")),
    "ranges: commas": Case(read_range, repeat(",", "bytes=")),
    "ranges: digits": Case(read_range, repeat("9", "bytes=0-")),
    "ranges: zeros": Case(read_range, repeat("0", "bytes=0-", "x")),
    # Log lines.
    **{
        f"redaction: {pattern}": Case(redact_target, repeat(pattern, "/?"), MAX_TARGET)
        for pattern in ("token", "%25", "%2574oken", "0123456789abcdef", "&;", "password=", "=token")
    },
    # Bodies.
    "body: tiny chunks": Case(decode_chunks, repeat_bytes(b"1\r\nx\r\n"), MIB),
    "body: chunks byte by byte": Case(decode_chunks_byte_by_byte, repeat_bytes(b"1\r\nx\r\n"), 32 * KIB),
    "body: an extension": Case(decode_chunks, repeat_bytes(b"a", b"1;", b"\r\n"), 4 * KIB),
    "body: an extension byte by byte": Case(decode_chunks_byte_by_byte, repeat_bytes(b"a", b"1;", b"\r\n"), 4 * KIB),
    "body: many extensions": Case(decode_chunks, repeat_bytes(b" ; a = b", b"1", b"\x00\r\n"), 4 * KIB),
    "body: blanks in an extension": Case(decode_chunks, repeat_bytes(b" ", b"1;a", b"x\r\n"), 4 * KIB),
    "body: a quoted extension": Case(decode_chunks, repeat_bytes(b'\\"', b'1;a="', b"\r\n"), 4 * KIB),
    "body: trailers": Case(decode_chunks, repeat_bytes(b"a:\r\n", b"0\r\n"), 32 * KIB),
    "body: trailers byte by byte": Case(decode_chunks_byte_by_byte, repeat_bytes(b"a:\r\n", b"0\r\n"), 32 * KIB),
    "multipart: data like delimiters": Case(feed_form, repeat_bytes(b"\r\n--", b"--b\r\n\r\n"), 256 * KIB),
    "multipart: data like delimiters byte by byte": Case(
        feed_form_byte_by_byte, repeat_bytes(b"\r\n--", b"--b\r\n\r\n"), 32 * KIB
    ),
    "multipart: content of truncated delimiters": Case(
        feed_form_by_64_kib, repeat_bytes(b"\r\n--boundar", b"--boundary\r\n\r\n"), 4 * MIB
    ),
    # The smallest part.
    "multipart: many parts": Case(feed_form, repeat_bytes(b"\r\n--b\r\n\r\n", b"--b\r\n\r\n"), 9 * KIB),
    "multipart: many parts before much data": Case(
        feed_form, lambda size: repeat_bytes(b"\r\n--b\r\n\r\n", b"--b\r\n\r\n")(size // 32) + b"x" * size, 256 * KIB
    ),
    "multipart: a part's head byte by byte": Case(feed_form_byte_by_byte, repeat_bytes(b"a", b"--b\r\na:"), 8 * KIB),
    "multipart: a part's head": Case(feed_form, repeat_bytes(b"a:b\r\n", b"--b\r\n", b"\x00\r\n\r\n"), 8 * KIB),
    "multipart: a name": Case(
        feed_form, repeat_bytes(b'\\"', b'--b\r\nContent-Disposition: form-data; name="', b"\r\n\r\n"), 8 * KIB
    ),
    "multipart: a preamble": Case(feed_form, repeat_bytes(b"\r\n-"), 256 * KIB),
    "multipart: an encoded name": Case(
        feed_form,
        lambda size: (
            b"--b\r\nContent-Disposition: form-data; filename*=UTF-8''%b\r\n\r\n" % quote("é" * (size // 6)).encode()
        ),
        8 * KIB,
    ),
}


@thorough("it measures")
class TimeTest(unittest.TestCase):
    def test_parse_of_twice_the_input_takes_at_most_twice_the_time(self) -> None:
        for name, case in PARSERS.items():
            with self.subTest(parser=name):
                self.assertEqual({}, growth(case))

    def test_quadratic_parser_is_reported(self) -> None:
        def quadratic(text: str) -> None:
            for start in range(0, len(text), 16):
                text[start:].count("x")

        self.assertNotEqual({}, growth(Case(quadratic, repeat("x"), 64 * KIB)))


def growth(case: Case) -> dict[int, float]:
    """Return the sizes whose time is too long compared with a sixteenth of the size, and the ratio of the times."""
    sizes = [case.bound]
    while sizes[0] >= _STEP * _SMALLEST:
        sizes.insert(0, sizes[0] // _STEP)
    inputs = {size: case.make(size) for size in sizes}
    least = {size: float("inf") for size in sizes}
    too_long: dict[int, float] = {}
    for _ in range(_TRIES):
        for size in sizes:
            least[size] = min(least[size], seconds(case.parse, inputs[size]))
        pairs = itertools.pairwise(sizes)
        too_long = {
            size: least[size] / least[part] for part, size in pairs if least[size] > _MAX_RATIO * least[part] + _NOISE
        }
        if not too_long:
            break
    return too_long


def seconds(parse: Callable[[Any], object], data: Any) -> float:
    """Return the CPU time of this thread: the load of the machine does not count.

    Without the garbage collector, whose passes examine the objects of all other tests too.
    """
    gc.disable()
    try:
        started = time.thread_time()
        with contextlib.suppress(Error):
            parse(data)
        return time.thread_time() - started
    finally:
        gc.enable()
