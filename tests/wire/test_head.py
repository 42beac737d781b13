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
        head = parse(line=b"PUT /data/cats?name=a%20b HTTP/1.1")

        self.assertEqual("PUT", head.method)
        self.assertEqual("/data/cats", head.path)
        self.assertEqual("name=a%20b", head.query)
        self.assertEqual((1, 1), head.version)

    def test_method_is_any_token_in_its_case(self) -> None:
        for method in ("GET", "get", "M-SEARCH", "!#$%&'*+-.^_`|~09"):
            with self.subTest(method=method):
                self.assertEqual(method, parse(line=f"{method} / HTTP/1.1".encode()).method)

    def test_later_minor_version_is_read_as_1_1(self) -> None:
        # RFC 9110, section 2.5.
        self.assertEqual((1, 1), parse(line=b"GET / HTTP/1.2").version)
        self.assertEqual((1, 1), parse(line=b"GET / HTTP/1.9").version)

    def test_http_1_0_is_version_1_0(self) -> None:
        self.assertEqual((1, 0), parse(line=OLD_GET).version)

    def test_other_major_version_is_not_supported(self) -> None:
        for version in (b"HTTP/2.0", b"HTTP/2", b"HTTP/3", b"HTTP/0.9", b"HTTP/9.9", b"HTTP/10.1", b"HTTP/11.1"):
            with self.subTest(version=version), self.assertRaises(VersionNotSupported):
                parse(line=b"GET / " + version)

    def test_preface_of_http_2_is_not_supported(self) -> None:
        with self.assertRaises(VersionNotSupported):
            parse_head(b"PRI * HTTP/2.0\r\n\r\n")

    def test_version_of_a_million_digits_is_not_supported(self) -> None:
        with self.assertRaises(VersionNotSupported):
            parse(line=b"GET / HTTP/" + b"9" * 1_000_000)

    def test_malformed_request_lines_are_refused(self) -> None:
        lines = (
            b"", b"GET", b"GET /", b"GET / ", b"GET  / HTTP/1.1", b"GET /  HTTP/1.1", b"GET / HTTP/1.1 ",
            b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\tHTTP/1.1", b"GET / a HTTP/1.1", b"GET / HTTP/1.10",
            b"GET / HTTP/01.1", b"GET / HTTP/1", b"GET / HTTP/1.", b"GET / HTTP/1.x", b"GET / HTTP/+1.1",
            b"GET / http/1.1", b"GET / HTTPS/1.1", b"GET / HTTP 1.1", b"/ GET HTTP/1.1", b"G(T / HTTP/1.1",
            b"G\xc9T / HTTP/1.1", b"GET: / HTTP/1.1", b"HTTP/1.1 200 OK",
        )  # fmt: skip
        for line in lines:
            with self.subTest(line=line):
                self.assert_malformed(head_of(HOST, line=line))

    def test_control_characters_in_the_request_line_are_refused(self) -> None:
        for byte in [*CONTROLS, 0x0A, 0x0D]:
            for line in (b"G%cT / HTTP/1.1", b"GET /a%cb HTTP/1.1", b"GET / HTTP/1.1%c", b"%cGET / HTTP/1.1"):
                with self.subTest(line=line, byte=byte):
                    self.assert_malformed(head_of(HOST, line=line % byte))


class TargetTest(HeadCase):
    def test_target_is_not_decoded(self) -> None:
        head = parse(line=b"GET /a%2Fb/%2e%2E//c?x=%26&y?z HTTP/1.1")

        self.assertEqual("/a%2Fb/%2e%2E//c", head.path)
        self.assertEqual("x=%26&y?z", head.query)

    def test_target_may_have_all_visible_ascii_but_the_number_sign(self) -> None:
        for character in map(chr, range(0x21, 0x7F)):
            if character not in "#?":
                with self.subTest(character=character):
                    self.assertEqual(f"/{character}x", parse(line=f"GET /{character}x HTTP/1.1".encode()).path)

    def test_target_with_two_slashes_is_a_path(self) -> None:
        head = parse(line=b"GET //elsewhere/x HTTP/1.1")

        self.assertEqual("//elsewhere/x", head.path)
        self.assertEqual("localhost", head.fields["host"])

    def test_target_without_leading_slash_is_refused(self) -> None:
        for target in (b"a", b"a/b", b"?hash=x", b"../x", b"ftp://h/x", b"http:/x", b"http:x", b"**", b"\\x", b"%2F"):
            with self.subTest(target=target):
                self.assert_malformed(head_of(HOST, line=b"GET " + target + b" HTTP/1.1"))

    def test_target_with_fragment_is_refused(self) -> None:
        # RFC 9112, section 3.2: clients do not send the fragment.
        for target in (b"/#top", b"/a#b", b"/?a#b", b"http://localhost/#"):
            with self.subTest(target=target):
                self.assert_malformed(head_of(HOST, line=b"GET " + target + b" HTTP/1.1"))

    def test_target_with_non_ascii_is_refused(self) -> None:
        for target in ("/é".encode("latin-1"), "/é".encode(), b"/\x80", b"/\xff"):
            with self.subTest(target=target):
                self.assert_malformed(head_of(HOST, line=b"GET " + target + b" HTTP/1.1"))

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

    def test_absolute_url_names_the_host_on_http_1_0(self) -> None:
        head = parse_head(head_of(line=b"GET http://elsewhere/a HTTP/1.0"))

        self.assertEqual("elsewhere", head.fields["host"])

    def test_absolute_url_without_host_field_is_refused(self) -> None:
        # RFC 9112, section 3.2.2: the client must send the field too.
        self.assert_malformed(head_of(line=b"GET http://localhost/ HTTP/1.1"))

    def test_absolute_url_with_malformed_host_is_refused(self) -> None:
        for url in (
            b"http://", b"http:///a", b"http://?a", b"http://user@h/", b"http://a:b@h/", b"http://h:x/",
            b"http://[::/",
        ):  # fmt: skip
            with self.subTest(url=url):
                self.assert_malformed(head_of(HOST, line=b"GET " + url + b" HTTP/1.1"))

    def test_asterisk_is_a_target_of_options(self) -> None:
        self.assertEqual("*", parse(line=b"OPTIONS * HTTP/1.1").path)

    def test_asterisk_with_another_method_is_refused(self) -> None:
        # RFC 9112, section 3.2.4.
        for method in (b"GET", b"POST", b"DELETE", b"options"):
            with self.subTest(method=method):
                self.assert_malformed(head_of(HOST, line=method + b" * HTTP/1.1"))

    def test_host_and_port_are_a_target_of_connect_alone(self) -> None:
        # RFC 9112, section 3.2.3.
        self.assertEqual("localhost:80", parse(line=b"CONNECT localhost:80 HTTP/1.1").path)
        self.assert_malformed(head_of(HOST, line=b"GET localhost:80 HTTP/1.1"))

    def test_target_of_8_kib_is_accepted(self) -> None:
        target = b"/" + b"x" * (MAX_TARGET - 1)

        self.assertEqual(target.decode(), parse(line=b"GET " + target + b" HTTP/1.1").path)

    def test_target_over_8_kib_raises_414(self) -> None:
        with self.assertRaises(TargetTooLong) as caught:
            parse(line=b"GET /" + b"x" * MAX_TARGET + b" HTTP/1.1")

        self.assertEqual(414, caught.exception.status)
        self.assertTrue(caught.exception.closes)


class HostTest(HeadCase):
    def test_http_1_1_without_host_is_refused(self) -> None:
        self.assert_malformed(head_of())
        self.assert_malformed(head_of(b"X-Host: localhost"))

    def test_http_1_0_without_host_is_accepted(self) -> None:
        self.assertNotIn("host", parse_head(head_of(line=OLD_GET)).fields)

    def test_two_hosts_are_refused(self) -> None:
        for line in (GET, OLD_GET):
            for second in (b"Host: elsewhere", HOST, b"HOST: localhost", b"Host:"):
                with self.subTest(line=line, second=second):
                    self.assert_malformed(head_of(HOST, b"X: y", second, line=line))

    def test_names_and_addresses_are_accepted_as_host(self) -> None:
        hosts = (
            "a", "files.example.com", "files.example.com.", "under_score", "a:0", "a:80", "a:65535", "a:",
            "127.0.0.1:8080", "[::1]", "[::1]:8080", "[2001:db8::192.0.2.1]", "%C3%A9", "EXAMPLE.com",
        )  # fmt: skip
        for host in hosts:
            with self.subTest(host=host):
                self.assertEqual(host, parse_head(head_of(b"Host: " + host.encode())).fields["host"])

    def test_every_character_of_rfc_3986_is_accepted_in_a_host(self) -> None:
        # Section 3.2.2: unreserved, and sub-delims.
        for character in "aZ09-._~!$&'()*+,;=":
            with self.subTest(character=character):
                self.assertEqual(character, parse_head(head_of(b"Host: " + character.encode())).fields["host"])

    def test_malformed_host_is_refused(self) -> None:
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


class FieldsTest(HeadCase):
    def test_names_are_in_lower_case_and_values_stripped(self) -> None:
        fields = parse(b"X-One:1", b"x-TWO: \t 2 \t", b"X-Three:", b"X-Four:  a \t b:c ").fields

        self.assertEqual({"host": "localhost", "x-one": "1", "x-two": "2", "x-three": "", "x-four": "a \t b:c"}, fields)

    def test_field_name_is_any_token(self) -> None:
        self.assertEqual("v", parse(b"!#$%&'*+-.^_`|~09aZ: v").fields["!#$%&'*+-.^_`|~09az"])

    def test_non_ascii_value_is_decoded_as_latin_1(self) -> None:
        self.assertEqual("\x80\x85\xa0\xe9\xff", parse(b"X: \x80\x85\xa0\xe9\xff").fields["x"])

    def test_repeated_field_is_joined_to_a_list(self) -> None:
        self.assertEqual("a, b, c", parse(b"X: a", b"Y: -", b"x: b", b"X: c").fields["x"])

    def test_folded_field_is_refused(self) -> None:
        for blank in (b" ", b"\t", b"  \t"):
            with self.subTest(blank=blank):
                self.assert_malformed(head_of(HOST, b"X: a", blank + b"b"))
                self.assert_malformed(head_of(HOST, b"X: a", blank + b"Content-Length: 5"))
                self.assert_malformed(head_of(HOST, b"X: a", blank))
                self.assert_malformed(head_of(blank + b"X: a", HOST))

    def test_white_space_before_the_colon_is_refused(self) -> None:
        for name in (b"X ", b"X\t", b"X  \t", b"Content-Length ", b"Transfer-Encoding\t"):
            with self.subTest(name=name):
                self.assert_malformed(head_of(HOST, name + b": 5"))

    def test_field_name_with_other_characters_is_refused(self) -> None:
        for name in (
            b"", b"a b", b"a(b", b'"a"', b"a/b", b"a@b", b"[a]", b"a{", b"a,b", b"a;b", b"a=b", b"\xe9", b"a\\b",
        ):  # fmt: skip
            with self.subTest(name=name):
                self.assert_malformed(head_of(HOST, name + b": v"))

    def test_line_without_colon_is_refused(self) -> None:
        for line in (b"X", b"Content-Length 5", b"=", b"GET / HTTP/1.1"):
            with self.subTest(line=line):
                self.assert_malformed(head_of(HOST, line))

    def test_control_characters_are_refused(self) -> None:
        for byte in CONTROLS:
            for line in (b"X: a%cb", b"X:%c", b"X: a%c", b"X%c: a", b"%cX: a", b"X%cY: a"):
                with self.subTest(line=line, byte=byte):
                    self.assert_malformed(head_of(HOST, line % byte))

    def test_bare_carriage_return_is_refused(self) -> None:
        for line in (b"X: a\rb", b"X: a\r", b"X: \rContent-Length: 5", b"X\r: a", b"\rX: a", b"\r", b"X: a\r\r"):
            with self.subTest(line=line):
                self.assert_malformed(head_of(HOST, line))
                self.assert_malformed(head_of(HOST, line, b"Y: b"))

    def test_bare_line_feed_is_refused(self) -> None:
        for line in (b"X: a\nb", b"X: a\nContent-Length: 5", b"X: a\n", b"\nX: a", b"\n", b"X: a\n\n", b"X: a\n\r"):
            with self.subTest(line=line):
                self.assert_malformed(head_of(HOST, line))
                self.assert_malformed(head_of(HOST, line, b"Y: b"))

    def test_bytes_after_the_empty_line_are_refused(self) -> None:
        self.assert_malformed(head_of(HOST) + b"X: a\r\n")
        self.assert_malformed(head_of(HOST) + b"\r\n")

    def test_head_without_empty_line_is_refused(self) -> None:
        self.assert_malformed(head_of(HOST)[:-2])

    def test_head_of_100_fields_is_accepted(self) -> None:
        fields = [b"X-%d: v" % number for number in range(MAX_FIELDS - 1)]

        self.assertEqual(MAX_FIELDS, len(parse(*fields).fields))

    def test_head_of_101_fields_raises_431(self) -> None:
        for template in (b"X-%d: v", b"X: %d"):
            with self.subTest(template=template):
                with self.assertRaises(HeadTooLarge) as caught:
                    parse(*[template % number for number in range(MAX_FIELDS)])

                self.assertEqual(431, caught.exception.status)
                self.assertTrue(caught.exception.closes)


class FieldLinesTest(HeadCase):
    def test_lines_are_parsed_to_pairs_in_their_order(self) -> None:
        self.assertEqual([("b", "1"), ("a", "2"), ("b", "3")], parse_field_lines(b"B: 1\r\nA:2\r\nb:3 \r\n\r\n"))

    def test_no_line_returns_no_pair(self) -> None:
        self.assertEqual([], parse_field_lines(b"\r\n"))

    def test_lines_are_parsed_from_start_on(self) -> None:
        self.assertEqual([("a", "1")], parse_field_lines(b"junk\r\nA: 1\r\n\r\n", 6))

    def test_lines_without_end_are_refused(self) -> None:
        for lines in (b"", b"A: 1", b"A: 1\r\n", b"A: 1\r\n\r", b"A: 1\r\n\r\n\r\n"):
            with self.subTest(lines=lines):
                self.assertRaises(MalformedRequest, parse_field_lines, lines)


class KeepAliveTest(unittest.TestCase):
    def test_keep_alive_follows_version_and_connection_field(self) -> None:
        # Of each row: the Connection field, whether it lives on under HTTP/1.1, and under HTTP/1.0.
        rows = (
            (None, True, False),
            (b"", True, False),
            (b"close", False, False),
            (b"Close", False, False),
            (b"CLOSE", False, False),
            (b"keep-alive", True, True),
            (b"Keep-Alive", True, True),
            (b"keep-alive, close", False, False),
            (b"close, keep-alive", False, False),
            (b"keep-alive,close", False, False),
            (b"upgrade", True, False),
            (b"TE, keep-alive", True, True),
            (b"TE ,\tclose", False, False),
            (b", ,close,", False, False),
            (b"closed", True, False),
            (b"not-close", True, False),
            (b"keep-alives", True, False),
        )
        for connection, new, old in rows:
            fields = [] if connection is None else [b"Connection: " + connection]
            with self.subTest(connection=connection):
                self.assertEqual(new, parse(*fields).keep_alive)
                self.assertEqual(old, parse(*fields, line=OLD_GET).keep_alive)

    def test_repeated_connection_fields_are_one_list(self) -> None:
        self.assertFalse(parse(b"Connection: keep-alive", b"Connection: close").keep_alive)
        self.assertTrue(parse(b"Connection: TE", b"Connection: keep-alive", line=OLD_GET).keep_alive)


class ExpectationTest(unittest.TestCase):
    def test_request_without_expect_does_not_wait(self) -> None:
        self.assertFalse(parse().expects_continue)

    def test_expect_100_continue_is_recognised_in_any_case(self) -> None:
        for expectation in (b"100-continue", b"100-Continue", b"100-CONTINUE"):
            with self.subTest(expectation=expectation):
                self.assertTrue(parse(b"Expect: " + expectation).expects_continue)

    def test_expectation_on_http_1_0_is_ignored(self) -> None:
        # RFC 9110, section 10.1.1: the server ignores it.
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
        for head in self.valid_heads():
            with self.subTest(head=head[:60]):
                self.assert_incomplete_until_whole(head)

    def test_incomplete_head_with_the_longest_target_returns_minus_1(self) -> None:
        self.assert_incomplete_until_whole(head_of(HOST, line=b"GET /" + b"x" * (MAX_TARGET - 1) + b" HTTP/1.1"))

    def test_incomplete_head_below_32_kib_returns_minus_1(self) -> None:
        self.assert_incomplete_until_whole(head_of_size(MAX_HEAD), step=101)

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

    def test_head_of_32_kib_is_accepted(self) -> None:
        self.assertEqual(2, len(parse_head(head_of_size(MAX_HEAD)).fields))

    def test_head_over_32_kib_raises_431(self) -> None:
        head = head_of_size(MAX_HEAD + 1)
        for data in (head, head + b"body", head[:-1] + b"x", head * 2):
            with self.subTest(size=len(data)), self.assertRaises(HeadTooLarge):
                find_head_end(data)

    def test_bytes_after_a_large_head_do_not_change_its_error(self) -> None:
        head = head_of_size(MAX_HEAD + 1)
        long_target = head_of(HOST, line=b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1")
        for body in (b"a\nb", b"\n", b"\r\n\n", b"\x00\r"):
            with self.subTest(body=body):
                self.assertRaises(HeadTooLarge, find_head_end, head + body)
                self.assertRaises(TargetTooLong, find_head_end, long_target + body)

    def test_head_without_end_raises_431(self) -> None:
        endless = {
            "a field": GET + b"\r\nX: " + b"x" * MAX_HEAD,
            "fields": GET + b"\r\n" + b"X: y\r\n" * MAX_HEAD,
            "a method": b"G" * (MAX_HEAD + 1),
            "a version": b"GET / " + b"H" * MAX_HEAD,
        }
        for name, data in endless.items():
            with self.subTest(name), self.assertRaises(HeadTooLarge):
                find_head_end(data)

    def test_target_without_end_raises_414(self) -> None:
        for data in (b"GET /" + b"x" * MAX_TARGET, b"GET /" + b"x" * MAX_HEAD, b"GET " + b"http://" + b"x" * MAX_HEAD):
            with self.subTest(size=len(data)), self.assertRaises(TargetTooLong):
                find_head_end(data)

    def test_target_over_the_limit_in_a_head_over_the_limit_raises_414(self) -> None:
        with self.assertRaises(TargetTooLong):
            find_head_end(head_of(HOST, line=b"GET /" + b"x" * MAX_HEAD + b" HTTP/1.1"))

    def test_bare_line_feed_is_refused_before_the_head_is_complete(self) -> None:
        for data in (
            b"GET / HTTP/1.1\n", b"GET / HTTP/1.1\r\nHost: a\n", b"GET / HTTP/1.1\nHost: a\n\n", b"\n", b"\nGET",
        ):  # fmt: skip
            with self.subTest(data=data), self.assertRaises(MalformedRequest):
                find_head_end(data)

    def test_other_protocol_is_refused_before_the_head_is_complete(self) -> None:
        greetings = (
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
            b"\x00\x00\x00\x00",
            b"\x80abc",
            b"{}",
            b'"GET / HTTP/1.1',
            b"G(T / HTTP/1.1",
        )
        for data in greetings:
            with self.subTest(data=data), self.assertRaises(MalformedRequest):
                find_head_end(data)

    def test_complete_malformed_head_is_not_reported_as_incomplete(self) -> None:
        for data in (head_of(b"X : y"), head_of(b" X: y"), head_of(b"X: a\nb"), head_of(b"X: a\rb"), head_of(b"\x00")):
            with self.subTest(data=data):
                try:
                    end: int | None = find_head_end(data)
                except Error:
                    end = None

                self.assertIn(end, (len(data), None))


class EmptyLinesTest(unittest.TestCase):
    def test_empty_lines_before_a_request_are_skipped(self) -> None:
        # RFC 9112, section 2.2.
        for before in (b"", b"\r\n", b"\r\n\r\n", b"\r\n" * 1000):
            with self.subTest(lines=len(before) // 2):
                self.assertEqual(head_of(HOST), skip_empty_lines(before + head_of(HOST)))

    def test_only_the_lines_before_a_request_are_skipped(self) -> None:
        self.assertEqual(b"G\r\n\r\n", skip_empty_lines(b"\r\nG\r\n\r\n"))

    def test_half_an_empty_line_is_incomplete(self) -> None:
        self.assertEqual(b"\r", skip_empty_lines(b"\r\n\r"))
        self.assertEqual(-1, find_head_end(b"\r"))
        self.assertEqual(b"", skip_empty_lines(b"\r\n"))
        self.assertEqual(-1, find_head_end(b""))

    def test_malformed_line_end_is_not_skipped(self) -> None:
        for data in (b"\nGET", b"\r\rGET", b" \r\nGET", b"\n\rGET"):
            with self.subTest(data=data):
                self.assertEqual(data, skip_empty_lines(data))


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
