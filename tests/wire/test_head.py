"""The head of a request: accepted, refused, or incomplete."""

from __future__ import annotations

import unittest
from collections.abc import Iterator

from filestoraged.errors import (
    Error,
    ExpectationFailed,
    HeadTooLarge,
    MalformedRequest,
    TargetTooLong,
    VersionNotSupported,
)
from filestoraged.wire.head import find_head_end, parse_field_lines, parse_head, skip_empty_lines
from tests.wire.heads import GET, HOST, HeadCase, head_of, parse

OLD_GET = b"GET / HTTP/1.0"

# Bounds of the contract, not imported from the module: a change of the module's constants must fail here.
MAX_TARGET = 8 * 1024
MAX_HEAD = 32 * 1024
MAX_FIELDS = 100

# Control characters that no part of a head may contain. The tab is allowed in a value.
CONTROLS = [*range(0x09), 0x0B, 0x0C, *range(0x0E, 0x20), 0x7F]


def head_of_size(size: int) -> bytes:
    """Return a valid head of `size` bytes."""
    bare = head_of(HOST, b"X-Padding: ")
    return head_of(HOST, b"X-Padding: " + b"x" * (size - len(bare)))


class RequestLineTest(HeadCase):
    def test_request_line_is_parsed(self) -> None:
        for line, expected in {
            b"PUT /data/cats?name=a%20b HTTP/1.1": ("PUT", "/data/cats", "name=a%20b", (1, 1)),
            # The method is any token, in its case.
            b"get / HTTP/1.1": ("get", "/", "", (1, 1)),
            b"M-SEARCH / HTTP/1.1": ("M-SEARCH", "/", "", (1, 1)),
            b"!#$%&'*+-.^_`|~09 / HTTP/1.1": ("!#$%&'*+-.^_`|~09", "/", "", (1, 1)),
            # RFC 9110, section 2.5: a later minor version is read as 1.1.
            b"GET / HTTP/1.2": ("GET", "/", "", (1, 1)),
            b"GET / HTTP/1.9": ("GET", "/", "", (1, 1)),
            OLD_GET: ("GET", "/", "", (1, 0)),
            # The target is not decoded.
            b"GET /a%2Fb/%2e%2E//c?x=%26&y?z HTTP/1.1": ("GET", "/a%2Fb/%2e%2E//c", "x=%26&y?z", (1, 1)),
            b"GET //elsewhere/x HTTP/1.1": ("GET", "//elsewhere/x", "", (1, 1)),
            # RFC 9112, sections 3.2.3 and 3.2.4.
            b"OPTIONS * HTTP/1.1": ("OPTIONS", "*", "", (1, 1)),
            b"CONNECT localhost:80 HTTP/1.1": ("CONNECT", "localhost:80", "", (1, 1)),
        }.items():
            with self.subTest(line=line):
                head = parse(line=line)

                self.assertEqual(expected, (head.method, head.path, head.query, head.version))
                self.assertEqual("localhost", head.fields["host"])

    def test_other_major_version_is_not_supported(self) -> None:
        for version in (
            b"HTTP/2.0", b"HTTP/2", b"HTTP/3", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/10.1", b"HTTP/11.1",
            b"HTTP/" + b"9" * 1_000_000,
        ):  # fmt: skip
            with self.subTest(version=version[:20]), self.assertRaises(VersionNotSupported):
                parse(line=b"GET / " + version)
        with self.assertRaises(VersionNotSupported):
            parse_head(b"PRI * HTTP/2.0\r\n\r\n")

    def test_malformed_request_lines_are_refused(self) -> None:
        for line in (
            b"", b"GET", b"GET /", b"GET / ", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / a HTTP/1.1", b"GET / HTTP/1.10",
            b"GET / HTTP/01.1", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/1.x", b"GET / HTTP/+1.1",
            b"GET / http/1.1", b"GET / HTTPS/1.1", b"GET / HTTP 1.1", b"/ GET HTTP/1.1", b"G(T / HTTP/1.1",
            b"G\xc9T / HTTP/1.1", b"GET: / HTTP/1.1", b"HTTP/1.1 200 OK",
        ):  # fmt: skip
            with self.subTest(line=line):
                self.assert_malformed(head_of(HOST, line=line))

    def test_control_characters_in_the_request_line_are_refused(self) -> None:
        for byte in [*CONTROLS, 0x0A, 0x0D]:
            for line in (b"G%cT / HTTP/1.1", b"GET /a%cb HTTP/1.1", b"GET / HTTP/1.1%c", b"%cGET / HTTP/1.1"):
                with self.subTest(line=line, byte=byte):
                    self.assert_malformed(head_of(HOST, line=line % byte))


class TargetTest(HeadCase):
    def test_target_may_have_all_visible_ascii_but_the_number_sign(self) -> None:
        for character in map(chr, range(0x21, 0x7F)):
            if character not in "#?":
                with self.subTest(character=character):
                    self.assertEqual(f"/{character}x", parse(line=f"GET /{character}x HTTP/1.1".encode()).path)

    def test_malformed_target_is_refused(self) -> None:
        for rule, targets in {
            "without a leading slash": (
                b"a", b"a/b", b"?hash=x", b"../x", b"ftp://h/x", b"http:/x", b"http:x", b"**", b"\\x", b"%2F",
            ),
            # RFC 9112, section 3.2: clients do not send the fragment.
            "with a fragment": (b"/#top", b"/a#b", b"/?a#b", b"http://localhost/#"),
            "not ASCII": ("/é".encode("latin-1"), "/é".encode(), b"/\x80", b"/\xff"),
            "absolute, with a malformed host": (
                b"http://", b"http:///a", b"http://?a", b"http://user@h/", b"http://a:b@h/", b"http://h:x/",
                b"http://[::/",
            ),
            # RFC 9112, sections 3.2.3 and 3.2.4.
            "of CONNECT and OPTIONS": (b"localhost:80", b"*"),
        }.items():  # fmt: skip
            for target in targets:
                with self.subTest(rule, target=target):
                    self.assert_malformed(head_of(HOST, line=b"GET " + target + b" HTTP/1.1"))
        for method in (b"POST", b"DELETE", b"options"):
            self.assert_malformed(head_of(HOST, line=method + b" * HTTP/1.1"))

    def test_absolute_url_is_a_target(self) -> None:
        # RFC 9112, section 3.2.2: clients send it to proxies, and every server must accept it.
        urls = {
            b"http://h": ("/", "", "h"),
            b"http://h/": ("/", "", "h"),
            b"http://h?a=b": ("/", "a=b", "h"),
            b"http://h/?": ("/", "", "h"),
            b"http://h/a?b/c?d": ("/a", "b/c?d", "h"),
            b"HTTP://h:8080/a": ("/a", "", "h:8080"),
            b"https://h/a": ("/a", "", "h"),
            b"http://[::1]:80/a": ("/a", "", "[::1]:80"),
        }
        for url, (path, query, host) in urls.items():
            with self.subTest(url=url):
                head = parse(line=b"GET " + url + b" HTTP/1.1")

                self.assertEqual((path, query, host), (head.path, head.query, head.fields["host"]))

    def test_absolute_url_names_the_host_on_http_1_0_and_needs_the_field_on_1_1(self) -> None:
        # RFC 9112, section 3.2.2: the client must send the field too.
        self.assertEqual("elsewhere", parse_head(head_of(line=b"GET http://elsewhere/a HTTP/1.0")).fields["host"])
        self.assert_malformed(head_of(line=b"GET http://localhost/ HTTP/1.1"))

    def test_target_of_8_kib_is_accepted_and_a_longer_one_raises_414(self) -> None:
        target = "/" + "x" * (MAX_TARGET - 1)

        self.assertEqual(target, parse(line=f"GET {target} HTTP/1.1".encode()).path)
        with self.assertRaises(TargetTooLong) as caught:
            parse(line=f"GET {target}x HTTP/1.1".encode())
        self.assertEqual((414, True), (caught.exception.status, caught.exception.closes))


class HostTest(HeadCase):
    def test_host_may_be_missing_on_http_1_0_alone(self) -> None:
        self.assert_malformed(head_of())
        self.assert_malformed(head_of(b"X-Host: localhost"))
        self.assertNotIn("host", parse_head(head_of(line=OLD_GET)).fields)

    def test_names_and_addresses_are_accepted_as_host(self) -> None:
        for host in (
            "a", "files.example.com", "files.example.com.", "under_score", "a:0", "a:80", "a:65535", "a:",
            "127.0.0.1:8080", "[::1]", "[::1]:8080", "[2001:db8::192.0.2.1]", "%C3%A9", "EXAMPLE.com",
            # RFC 3986, section 3.2.2: unreserved, and sub-delims.
            *"aZ09-._~!$&'()*+,;=",
        ):  # fmt: skip
            with self.subTest(host=host):
                self.assertEqual(host, parse_head(head_of(b"Host: " + host.encode())).fields["host"])

    def test_malformed_host_and_a_second_one_are_refused(self) -> None:
        hosts = (
            b"", b":80", b"a b", b"a, b", b"a/b", b"a?b", b"a#b", b"a@b", b"http://a", b"a:b", b"a:-1", b"a:80:80",
            b"a:65536", b"a:000080", b"a:99999999999999999999", b"::1", b"[::1", b"::1]", b"[]", b"[::1]80",
            b"[1.2.3.4]", b"[::g]", b"[1::2::3]", b"[::1%eth0]", b"[" + b"1:" * 5000 + b"]", b"a%", b"a%2", b"a%zz",
            b'a"b', b"a\\b", b"<script>", b"a\tb", b"\xe9",
        )  # fmt: skip
        for line in (GET, OLD_GET):
            for host in hosts:
                with self.subTest(line=line, host=host[:40]):
                    self.assert_malformed(head_of(b"Host: " + host, line=line))
            for second in (b"Host: elsewhere", HOST, b"HOST: localhost", b"Host:"):
                with self.subTest(line=line, second=second):
                    self.assert_malformed(head_of(HOST, b"X: y", second, line=line))


class FieldsTest(HeadCase):
    def test_fields_are_parsed(self) -> None:
        for rule, lines, expected in (
            ("in lower case, stripped", (b"X-One:1", b"x-TWO: \t 2 \t"), {"x-one": "1", "x-two": "2"}),
            ("in lower case, stripped", (b"X-3:", b"X-4:  a \t b:c "), {"x-3": "", "x-4": "a \t b:c"}),
            ("the name is any token", (b"!#$%&'*+-.^_`|~09aZ: v",), {"!#$%&'*+-.^_`|~09az": "v"}),
            ("the value is Latin-1", (b"X: \x80\x85\xa0\xe9\xff",), {"x": "\x80\x85\xa0\xe9\xff"}),
            ("repeated ones are a list", (b"X: a", b"Y: -", b"x: b", b"X: c"), {"x": "a, b, c", "y": "-"}),
        ):
            with self.subTest(rule):
                self.assertEqual({"host": "localhost", **expected}, parse(*lines).fields)

    def test_malformed_field_is_refused(self) -> None:
        names = (b"", b"a b", b"a(b", b'"a"', b"a/b", b"a@b", b"[a]", b"a{", b"a,b", b"a;b", b"a=b", b"\xe9", b"a\\b")
        for rule, lines in {
            "folded": tuple(
                b"X: a\r\n" + blank + rest
                for blank in (b" ", b"\t", b"  \t")
                for rest in (b"b", b"Content-Length: 5", b"")
            ),
            "white space before the colon": (
                b"X : 5", b"X\t: 5", b"X  \t: 5", b"Content-Length : 5", b"Transfer-Encoding\t: 5",
            ),
            "other characters in the name": tuple(name + b": v" for name in names),
            "no colon": (b"X", b"Content-Length 5", b"=", b"GET / HTTP/1.1"),
            "control character": tuple(
                line % byte
                for byte in CONTROLS
                for line in (b"X: a%cb", b"X:%c", b"X: a%c", b"X%c: a", b"%cX: a", b"X%cY: a")
            ),
            "bare carriage return": (
                b"X: a\rb", b"X: a\r", b"X: \rContent-Length: 5", b"X\r: a", b"\rX: a", b"\r", b"X: a\r\r",
            ),
            "bare line feed": (
                b"X: a\nb", b"X: a\nContent-Length: 5", b"X: a\n", b"\nX: a", b"\n", b"X: a\n\n", b"X: a\n\r",
            ),
        }.items():  # fmt: skip
            for line in lines:
                with self.subTest(rule, line=line):
                    self.assert_malformed(head_of(HOST, line))
                    self.assert_malformed(head_of(HOST, line, b"Y: b"))
        for blank in (b" ", b"\t", b"  \t"):
            self.assert_malformed(head_of(blank + b"X: a", HOST))

    def test_head_without_an_empty_line_or_with_bytes_behind_it_is_refused(self) -> None:
        for data in (head_of(HOST)[:-2], head_of(HOST) + b"X: a\r\n", head_of(HOST) + b"\r\n"):
            self.assert_malformed(data)

    def test_head_of_100_fields_is_accepted_and_one_more_raises_431(self) -> None:
        self.assertEqual(MAX_FIELDS, len(parse(*[b"X-%d: v" % number for number in range(MAX_FIELDS - 1)]).fields))
        for template in (b"X-%d: v", b"X: %d"):
            with self.subTest(template=template):
                with self.assertRaises(HeadTooLarge) as caught:
                    parse(*[template % number for number in range(MAX_FIELDS)])

                self.assertEqual((431, True), (caught.exception.status, caught.exception.closes))


class FieldLinesTest(HeadCase):
    def test_lines_are_parsed_to_pairs_in_their_order(self) -> None:
        self.assertEqual([("b", "1"), ("a", "2"), ("b", "3")], parse_field_lines(b"B: 1\r\nA:2\r\nb:3 \r\n\r\n"))
        self.assertEqual([], parse_field_lines(b"\r\n"))
        self.assertEqual([("a", "1")], parse_field_lines(b"junk\r\nA: 1\r\n\r\n", 6))

    def test_lines_without_end_are_refused(self) -> None:
        for lines in (b"", b"A: 1", b"A: 1\r\n", b"A: 1\r\n\r", b"A: 1\r\n\r\n\r\n"):
            with self.subTest(lines=lines):
                self.assertRaises(MalformedRequest, parse_field_lines, lines)


class KeepAliveTest(unittest.TestCase):
    def test_keep_alive_follows_version_and_connection_field(self) -> None:
        # By what the list names: whether the connection lives on under HTTP/1.1, and under HTTP/1.0.
        for (new, old), lists in {
            (True, False): (None, b"", b"upgrade", b"closed", b"not-close", b"keep-alives"),
            (True, True): (b"keep-alive", b"Keep-Alive", b"TE, keep-alive", b"TE\r\nConnection: keep-alive"),
            (False, False): (
                b"close", b"Close", b"CLOSE", b"keep-alive, close", b"close, keep-alive", b"keep-alive,close",
                b"TE ,\tclose", b", ,close,", b"keep-alive\r\nConnection: close",
            ),
        }.items():  # fmt: skip
            for connection in lists:
                fields = [] if connection is None else [b"Connection: " + connection]
                with self.subTest(connection=connection):
                    self.assertEqual(new, parse(*fields).keep_alive)
                    self.assertEqual(old, parse(*fields, line=OLD_GET).keep_alive)


class ExpectationTest(unittest.TestCase):
    def test_expect_100_continue_is_recognised_in_any_case(self) -> None:
        expected = [
            parse(b"Expect: " + each).expects_continue for each in (b"100-continue", b"100-Continue", b"100-CONTINUE")
        ]

        self.assertEqual([True] * 3, expected)
        self.assertFalse(parse().expects_continue)
        # RFC 9110, section 10.1.1: a server ignores it on HTTP/1.0.
        self.assertFalse(parse(b"Expect: 100-continue", line=OLD_GET).expects_continue)

    def test_other_expectation_raises_417(self) -> None:
        for expectation in (
            b"200-ok", b"100", b"100-continue-please", b"100-continue; x=y", b"100-continue, other", b"",
        ):  # fmt: skip
            head = parse(b"Expect: " + expectation)
            with self.subTest(expectation=expectation):
                with self.assertRaises(ExpectationFailed) as caught:
                    _ = head.expects_continue

                self.assertEqual(417, caught.exception.status)


class FindHeadEndTest(unittest.TestCase):
    def valid_heads(self) -> Iterator[bytes]:
        yield head_of(HOST)
        yield head_of(line=OLD_GET)
        yield head_of(HOST, b"Content-Length: 5", line=b"POST /?a=b HTTP/1.1")
        yield head_of(HOST, b"X:", b"Y: \xe9\xff", b"!#$%: \t", line=b"M-SEARCH http://h/ HTTP/1.1")
        yield head_of(*[b"X-%d: v" % number for number in range(MAX_FIELDS)])

    def assert_incomplete_until_whole(self, head: bytes, step: int = 1) -> None:
        for length in range(0, len(head), step):
            self.assertEqual(-1, find_head_end(head[:length]), f"the first {length} bytes")
            self.assertEqual(-1, find_head_end(bytearray(head[:length])), f"the first {length} bytes")
        self.assertEqual(-1, find_head_end(head[:-1]))
        self.assertEqual(len(head), find_head_end(head))

    def test_incomplete_head_returns_minus_1(self) -> None:
        longest = head_of(HOST, line=b"GET /" + b"x" * (MAX_TARGET - 1) + b" HTTP/1.1")
        for head, step in [*((head, 1) for head in (*self.valid_heads(), longest)), (head_of_size(MAX_HEAD), 101)]:
            with self.subTest(head=head[:60]):
                self.assert_incomplete_until_whole(head, step)

    def test_head_received_byte_by_byte_ends_where_it_ends_at_once(self) -> None:
        whole = head_of(HOST, b"A: b", b"Long: " + b"x" * 200)
        for step in (1, 2, 3, 4, 5, 7):
            searched = 0
            for length in range(step, len(whole), step):
                self.assertEqual(-1, find_head_end(whole[:length], searched))
                searched = length
            self.assertEqual(len(whole), find_head_end(whole + b"next", searched))

    def test_bare_line_feed_is_refused_in_any_cut(self) -> None:
        bad = GET + b"\r\nA: b\nC: d\r\n\r\n"
        where = bad.index(b"b\n") + 1

        for before in range(where):
            with self.subTest(before=before), self.assertRaises(MalformedRequest):
                self.assertEqual(-1, find_head_end(bad[:before]))
                find_head_end(bad[: where + 1], before)

    def test_bytes_after_the_head_do_not_change_its_end(self) -> None:
        following = head_of(HOST) + b"body\n\n\r\n\r\n\x00" + b"x" * MAX_HEAD
        for head in [*self.valid_heads(), head_of_size(MAX_HEAD)]:
            with self.subTest(head=head[:60]):
                self.assertEqual(len(head), find_head_end(head + following))
                self.assertEqual(len(head), find_head_end(bytearray(head + following)))

    def test_head_over_its_limit_raises_an_error(self) -> None:
        large, target = head_of_size(MAX_HEAD + 1), b"GET /" + b"x" * MAX_HEAD
        both = head_of(HOST, line=target + b" HTTP/1.1")
        bodies = (b"a\nb", b"\n", b"\r\n\n", b"\x00\r")
        greetings = (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
            *(b"\x00\x00\x00\x00", b"\x80abc", b"{}", b'"GET / HTTP/1.1', b"G(T / HTTP/1.1"),
        )
        without_end = (
            *(GET + b"\r\nX: " + b"x" * MAX_HEAD, GET + b"\r\n" + b"X: y\r\n" * MAX_HEAD),
            *(b"G" * (MAX_HEAD + 1), b"GET / " + b"H" * MAX_HEAD),
        )
        for rule, error, heads in (
            ("over 32 KiB", HeadTooLarge, (large, large + b"body", large[:-1] + b"x", large * 2)),
            ("bytes behind it change nothing", HeadTooLarge, [large + body for body in bodies]),
            ("without end", HeadTooLarge, without_end),
            ("a target without end", TargetTooLong, (target[: MAX_TARGET + 5], target, b"GET http://" + target[5:])),
            ("both are too long", TargetTooLong, [both + body for body in (b"", *bodies)]),
            ("a bare line feed, before the head is complete", MalformedRequest, (
                GET + b"\n", GET + b"\r\nHost: a\n", GET + b"\nHost: a\n\n", b"\n", b"\nGET",
            )),
            ("another protocol, before the head is complete", MalformedRequest, greetings),
        ):  # fmt: skip
            for data in heads:
                with self.subTest(rule, data=data[:40]), self.assertRaises(error):
                    find_head_end(data)
        self.assertEqual(2, len(parse_head(head_of_size(MAX_HEAD)).fields))

    def test_complete_malformed_head_is_not_reported_as_incomplete(self) -> None:
        for data in (head_of(b"X : y"), head_of(b" X: y"), head_of(b"X: a\nb"), head_of(b"X: a\rb"), head_of(b"\x00")):
            with self.subTest(data=data):
                try:
                    end: int | None = find_head_end(data)
                except Error:
                    end = None

                self.assertIn(end, (len(data), None))


class EmptyLinesTest(unittest.TestCase):
    def test_empty_lines_before_a_request_are_skipped_and_no_others(self) -> None:
        # RFC 9112, section 2.2.
        for data, rest in {
            **{b"\r\n" * count + head_of(HOST): head_of(HOST) for count in (0, 1, 2, 1000)},
            b"\r\nG\r\n\r\n": b"G\r\n\r\n",
            b"\r\n\r": b"\r",
            b"\r\n": b"",
            **{data: data for data in (b"\nGET", b"\r\rGET", b" \r\nGET", b"\n\rGET")},
        }.items():
            with self.subTest(data=data[-40:]):
                self.assertEqual(rest, skip_empty_lines(data))
        self.assertEqual([-1, -1], [find_head_end(b"\r"), find_head_end(b"")])


class MessagesTest(unittest.TestCase):
    def test_message_of_invalid_field_line_names_its_number_and_fault(self) -> None:
        reasons = {
            b" X: a": "begins with white space (obsolete line folding)",
            b"X : a": "white space before the colon",
            b"X a": "no colon",
            b"X(: a": "invalid character '(' in the name",
            b": a": "name is empty",
            b"X: \x00": "control character '\\x00' in the value",
            b"X: a\rb": "control character '\\r' in the value",
        }
        for line, reason in reasons.items():
            with self.subTest(line=line), self.assertRaises(MalformedRequest) as caught:
                parse(b"Good: line", line)

            self.assertIn("Invalid header field 3: ", str(caught.exception))
            self.assertIn(reason, str(caught.exception))

    def test_message_quotes_invalid_value_and_names_what_is_expected(self) -> None:
        messages = {
            b"Host: a b": "Invalid host 'a b': expected a name or an address, and an optional port.",
            b"Host: a:65536": "Invalid port '65536' of the host: expected 0 to 65535.",
            b"Host: [1:2]": "Invalid host '[1:2]': expected an IPv6 address in the brackets.",
        }
        for field, message in messages.items():
            with self.subTest(field=field), self.assertRaises(MalformedRequest) as caught:
                parse_head(head_of(field))

            self.assertEqual(message, str(caught.exception))

    def test_message_of_exceeded_limit_has_received_and_expected_number(self) -> None:
        long_target = b"GET /" + b"a" * MAX_TARGET + b" HTTP/1.1"

        with self.assertRaisesRegex(TargetTooLong, "target of 8193 bytes exceeds the limit of 8192 bytes"):
            parse(line=long_target)
        with self.assertRaisesRegex(HeadTooLarge, "has 101 header fields: expected at most 100"):
            parse(*[b"A: b"] * MAX_FIELDS)

    def test_message_quotes_no_secret(self) -> None:
        heads = (
            head_of(HOST, b"Authorization: s3cret\x00"),
            head_of(HOST, b"Authorization : s3cret"),
            head_of(HOST, b"Authorization s3cret"),
            head_of(HOST, b" s3cret"),
            head_of(HOST, b"Authorization Basic s3cret: x"),
            head_of(HOST, line=b"GET s3cret?password=s3cret HTTP/1.1"),
            head_of(HOST, line=b"GET /?password=s3cret\x00 HTTP/1.1"),
            head_of(HOST, line=b"GET http://user:s3cret@host/ HTTP/1.1"),
            head_of(b"Host: user:s3cret@host"),
        )
        for head in heads:
            with self.subTest(head=head), self.assertRaises(MalformedRequest) as caught:
                parse_head(head)

            self.assertNotIn("cret", str(caught.exception))
