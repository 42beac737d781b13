"""Mutations of the ground, of `wire` and of `web`: bounds, framing, deadlines, and who may do what."""

from __future__ import annotations

from tests.proofs.mutations.mutation import in_file

_digest = in_file("digest.py", "tests.test_digest")
_bounded_cache = in_file("bounded_cache.py", "tests.test_bounded_cache")
_future = in_file("future.py", "tests.test_future")
_errors = in_file("errors.py", "tests.test_errors", "tests.web.test_error_responses", "tests.web.test_connection")

_ranges = in_file("wire/ranges.py", "tests.wire.test_ranges")
_head = in_file("wire/head.py", "tests.wire.test_head", "tests.wire.test_framing")
_body = in_file("wire/body.py", "tests.wire.test_body", "tests.wire.test_framing")
_conditions = in_file("wire/conditions.py", "tests.wire.test_conditions")
_json_text = in_file("wire/json_text.py", "tests.wire.test_json_text")
_multipart = in_file("wire/multipart.py", "tests.wire.test_multipart")
_parameters = in_file("wire/parameters.py", "tests.wire.test_parameters")
_expectations = in_file("wire/expectations.py", "tests.wire.test_expectations")
_tus = in_file("wire/tus.py", "tests.wire.test_tus")
_lfs = in_file("wire/lfs.py", "tests.api.test_lfs")
_redaction = in_file("wire/redaction.py", "tests.wire.test_redaction")
_accept = in_file("wire/accept.py", "tests.wire.test_accept")

_auth = in_file("web/auth.py", "tests.api.test_tokens")
_cross_site = in_file("web/cross_site.py", "tests.web.test_cross_site")
_trusted_proxies = in_file("web/trusted_proxies.py", "tests.web.test_trusted_proxies")
_client_limit = in_file("web/client_limit.py", "tests.web.test_client_limit")
_connection_limit = in_file("web/connection_limit.py", "tests.web.test_connection_limit", "tests.web.test_admission")
_lingering_close = in_file("web/transport.py", "tests.web.test_lingering_close")
_receiver = in_file("web/receiver.py", "tests.web.test_connection")
_request_body = in_file("web/request_body.py", "tests.web.test_request_body", "tests.web.test_slow_clients.CutOffTest")
_steps = in_file("web/steps.py", "tests.web.test_slow_clients.CutOffTest")
_response_steps = in_file("web/response_steps.py", "tests.web.test_connection", "tests.web.test_server")
_eviction = in_file("web/eviction.py", "tests.web.test_admission", "tests.web.test_slow_clients")
_acceptor = in_file("web/acceptor.py", "tests.web.test_admission")
_admission = in_file("web/admission.py", "tests.web.test_admission", "tests.web.test_slow_clients")
_server = in_file("web/server.py", "tests.web.test_admission", "tests.web.test_slow_clients", "tests.web.test_server")
_drain = in_file("web/drain.py", "tests.web.test_server")
_router = in_file("web/mounts.py", "tests.web.test_router", "tests.api.test_kv")
_error_responses = in_file("web/error_responses.py", "tests.web.test_error_responses")
_exchange = in_file("web/exchange.py", "tests.web.test_connection", "tests.api.test_drops.BrokenDownloadTest")

MUTATIONS = (
    # The ground.
    _digest("digest-checks-the-first-expected-alone", "expected in self.expected:", "expected in self.expected[:1]:"),
    _bounded_cache("cache-is-full-by-number-and-size", "_max_entries or self.size +", "_max_entries and self.size +"),
    _bounded_cache("clock-cache-exceeds-its-size", "self.size + size <= self._max_size", "self.size <= self._max_size"),
    _future("future-wakes-for-each-result", "            wakes[wake] = None", "            wake()"),
    _errors(
        "503-lacks-retry-after",
        "    retry_after: float = 5\n\n    @property\n    def fields",
        "    retry_after: float = 5\n\n    @property\n    def no_fields",
    ),
    _errors("405-lacks-allow", 'return (("Allow", ", ".join(self.allowed)),)', "return ()"),
    # The wire.
    _ranges("range-lacks-its-last-byte", "min(last + 1, size)", "min(last, size)"),
    _ranges("range-from-the-end-is-satisfiable", "if first >= size:", "if first > size:"),
    _ranges("range-of-one-byte-is-ignored", "last is not None and last < first", "last is not None and last <= first"),
    _head("target-of-8-kib-is-refused", "if len(target) > MAX_TARGET:", "if len(target) >= MAX_TARGET:"),
    _head("100-fields-are-refused", "if len(pairs) > MAX_FIELDS:", "if len(pairs) >= MAX_FIELDS:"),
    _head("head-of-32-kib-is-refused", "end >= 4 and end <= MAX_HEAD", "end >= 4 and end < MAX_HEAD"),
    _head("first-of-two-content-lengths-counts", 'content-length" and value == fields[name]:', 'content-length":'),
    _body("length-beside-chunked-is-accepted", "length is not None:", "length is not None and head.version < (1, 1):"),
    _body("trailers-are-unlimited-together", "if self._trailers_size > _MAX_TRAILERS", "if len(line) > _MAX_TRAILERS"),
    _body("chunk-line-is-unlimited", "if len(self._line) > _MAX_LINE:", "if len(window) > _MAX_LINE:"),
    _body("chunked-twice-is-accepted", "if len(codings) != 1:", "if not codings:"),
    _conditions("weak-tag-satisfies-if-match", "tag not in _strong_tags(match)", "tag not in _weak_tags(match)"),
    _conditions("unmodified-within-the-second-is-sent-again", "None or modified > since", "None or modified >= since"),
    _conditions("if-range-with-a-weak-tag-holds", "condition == f'\"{tag}\"'", "condition.endswith(f'\"{tag}\"')"),
    _json_text("nesting-of-100-is-refused", "default=0) > _MAX_DEPTH", "default=0) >= _MAX_DEPTH"),
    _json_text("nested-objects-are-unlimited", 'text.count("[") + text.count("{") <=', 'text.count("[") <='),
    _json_text("lone-surrogate-in-a-key-is-accepted", "text, [name, value]", "text, [value]"),
    _multipart("1000-parts-are-refused", "if self._parts > MAX_PARTS:", "if self._parts >= MAX_PARTS:"),
    _multipart("padding-of-256-is-refused", "len(padding) > _MAX_PADDING or", "len(padding) >= _MAX_PADDING or"),
    _multipart("form-without-its-end-is-whole", "        if not self._done:\n", "        if not self._parts:\n"),
    _parameters("32-parameters-are-refused", "len(parameters) > _MAX_PARAMETERS", "len(parameters) >= _MAX_PARAMETERS"),
    _expectations("second-announced-digest-replaces-the-first", "expected +=", "expected ="),
    _tus("offset-of-2-63-minus-1-is-refused", "int(text) > MAX_SIZE:\n", "int(text) >= MAX_SIZE:\n"),
    _lfs("batch-of-1000-objects-is-refused", "if len(objects) > MAX_OBJECTS:", "if len(objects) >= MAX_OBJECTS:"),
    _lfs("empty-object-of-lfs-is-refused", "and 0 <= size <= MAX_OBJECT_SIZE", "and 0 < size <= MAX_OBJECT_SIZE"),
    _redaction("mistyped-drop-id-is-logged", "{30,34}(?!", "{32}(?!"),
    _accept("equal-weights-mean-text", 'text/plain") > _quality(weights, "', 'text/plain") >= _quality(weights, "'),
    # The web.
    _auth("any-scope-suffices", "if wanted and scopes.isdisjoint(wanted):", "if wanted and not scopes:"),
    _auth(
        "anonymous-scope-allows-everything",
        "return not self._anybodys.isdisjoint(self._wanted(request, match))",
        "return bool(self._anybodys)",
    ),
    _auth("reserved-prefix-is-a-place", "if prefix and not self._is_reserved(prefix):", "if prefix:"),
    _cross_site("same-site-page-may-post", '("cross-site", "same-site")', '("cross-site",)'),
    _cross_site("null-origin-is-own", "origin is None or not self._is_own", "origin is not None and not self._is_own"),
    _cross_site("host-ends-with-localhost", 'name.endswith(".localhost")', 'name.endswith("localhost")'),
    _cross_site("own-response-lacks-vary", 'CrossSiteResult(fault, "Vary: Origin\\r\\n")', "CrossSiteResult(fault)"),
    _trusted_proxies("forwarded-address-is-believed", "client is None or not self._has(client):", "client is None:"),
    _client_limit("ipv6-client-has-a-limit-for-each-address", "address.packed[:8]", "address.packed"),
    _connection_limit("one-connection-too-many", "self.count - self.limit", "self.count - self.limit - 1"),
    _lingering_close("lingering-close-discards-without-end", "received > 0 and self._left > 0", "received > 0"),
    _lingering_close(
        "lingering-close-lasts-while-bytes-come",
        "min(self._now() + self._silence, self._end)",
        "self._now() + self._silence",
    ),
    _receiver(
        "empty-lines-are-unlimited",
        "if self.skipped > 2 * _MAX_EMPTY_LINES:",
        "if len(self.buffer) - len(data) > 2 * _MAX_EMPTY_LINES * _RECEIVE_SIZE:",
    ),
    _request_body("slow-body-is-never-too-slow", "limits.body_rate * seconds", "limits.body_rate"),
    _steps("silent-body-has-no-deadline", "deadline = body.arrived + limits.body", "deadline = math.inf"),
    _steps(
        "head-has-the-time-of-an-idle-connection",
        "connection.context.now() + connection.context.limits.head",
        "connection.context.now() + connection.context.limits.idle",
    ),
    _response_steps("body-that-waits-for-100-is-waited-for", "return is_coming and framing.", "return framing."),
    _response_steps("refused-body-resets-the-connection", "parsed.keep_alive or not", "parsed.keep_alive and"),
    _response_steps("draining-connection-is-kept-alive", "        or connection.context.is_draining\n", ""),
    _eviction("any-idle-connection-is-evicted", "idle.sort(key=itemgetter(0))", "idle.reverse()"),
    _acceptor("connections-without-a-place-are-refused-at-once", "_REFUSING_CHECK = 2", "_REFUSING_CHECK = 1"),
    _eviction("sent-request-does-not-keep-a-connection", "and _is_idle(connection):", "and True:"),
    _acceptor("worker-that-is-ahead-accepts", "return self._limit.is_ahead and not self._helps", "return False"),
    _admission("reserved-places-are-unlimited", "and len(self._reserved) < _MAX_RESERVED:", "and True:"),
    _admission("refused-connections-are-unlimited", "return list(itertools.islice(self.refused, excess))", "return []"),
    _server("lack-of-descriptors-keeps-the-loop-busy", "                self._acceptor.on_exhausted()\n", ""),
    _server("each-refusal-is-logged", "-math.inf) >= _QUIET:", "-math.inf) >= 0:"),
    _drain(
        "idle-connections-are-closed-when-a-drain-begins",
        "if connection.is_idle and now >= self._idle_end:",
        "if connection.is_idle:",
    ),
    _server("unread-responses-are-unlimited", "        self._cut_off_slow_readers(now)\n", ""),
    _drain("drain-lasts-without-end", "return now >= self._end\n        self", "return False\n        self"),
    _router("mount-matches-within-a-segment", "path.startswith(below) or path", "path.startswith(below[:-1]) or path"),
    _router("body-of-unknown-size-is-read-on-the-loop", "is None or size > route.", "is not None and size > route."),
    _error_responses("full-quota-answers-500", "if error.errno in DISK_FULL:", "if error.errno == errno.ENOSPC:"),
    _error_responses(
        "log-has-ids-of-drops", 'redact_text(printable(" ".join(text.split())))', 'printable(" ".join(text.split()))'
    ),
    _exchange("cut-off-response-is-not-closed", "close_task, close_response, functools", "close_task, functools"),
)
