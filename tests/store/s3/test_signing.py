"""Signatures, compared with botocore's on generated requests."""

from __future__ import annotations

import datetime
import unittest
from unittest import mock
from urllib.parse import quote

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from filestoraged.store.s3.signing import EMPTY_SHA256, Credentials, encode_query, signed_fields

# botocore takes a path as it is sent; characters beyond ASCII reach it as their UTF-8.
PATHS = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable() and "/../" not in text)
VALUES = st.text(max_size=20).filter(lambda text: all(letter.isprintable() for letter in text))
NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,12}", fullmatch=True)
KEYS = st.from_regex(r"[A-Za-z0-9+/]{1,40}", fullmatch=True)
ASCII = st.from_regex(r"[!-~]([ -~]{0,20}[!-~])?", fullmatch=True)

_UNHURRIED = settings(database=None, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


class SigningTest(unittest.TestCase):
    @_UNHURRIED  # type: ignore[untyped-decorator]
    @given(  # type: ignore[untyped-decorator]
        method=st.sampled_from(["GET", "PUT", "POST", "DELETE", "HEAD"]),
        path=PATHS,
        query=st.dictionaries(NAMES, VALUES, max_size=4),
        fields=st.dictionaries(NAMES.map(lambda name: f"x-amz-meta-{name}"), ASCII, max_size=3),
        credentials=st.builds(Credentials, KEYS, KEYS, st.one_of(st.just(""), KEYS)),
        region=st.from_regex(r"[a-z]{2}-[a-z]{4,9}-[0-9]", fullmatch=True),
        now=st.integers(0, 4_000_000_000),
    )
    # White space within a value is signed as one space.
    @example(  # type: ignore[untyped-decorator]
        method="PUT",
        path="cup",
        query={},
        fields={"x-amz-meta-tea": "green   tea"},
        credentials=Credentials("AKIA", "secret"),
        region="eu-north-1",
        now=0,
    )
    def test_signature_is_that_of_botocore(
        self,
        *,
        method: str,
        path: str,
        query: dict[str, str],
        fields: dict[str, str],
        credentials: Credentials,
        region: str,
        now: int,
    ) -> None:
        target = "/bucket/" + quote(path, safe="/-_.~")
        encoded = encode_query(query.items())

        signed = signed_fields(
            method,
            target,
            encoded,
            {"host": "localhost:9000", **fields},
            sha256=EMPTY_SHA256,
            credentials=credentials,
            region=region,
            now=now,
        )

        theirs = self.signed_by_botocore(
            method, f"{target}?{encoded}" if encoded else target, fields, credentials, region=region, now=now
        )
        self.assertEqual(theirs["Authorization"], signed["authorization"])
        self.assertEqual(theirs["X-Amz-Date"], signed["x-amz-date"])
        self.assertEqual(theirs.get("X-Amz-Security-Token"), signed.get("x-amz-security-token"))

    def test_credentials_are_not_shown(self) -> None:
        shown = repr(Credentials("AKIA", "secret", "token"))

        self.assertNotIn("secret", shown)
        self.assertNotIn("token", shown)

    def signed_by_botocore(
        self, method: str, target: str, fields: dict[str, str], credentials: Credentials, *, region: str, now: int
    ) -> dict[str, str]:
        headers = {**fields, "X-Amz-Content-SHA256": EMPTY_SHA256}
        request = AWSRequest(method, f"http://localhost:9000{target}", headers=headers)
        request.context["payload_signing_enabled"] = True
        moment = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(tzinfo=None)
        boto = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token or None)
        with mock.patch.object(auth, "get_current_datetime", lambda remove_tzinfo=True: moment):
            auth.S3SigV4Auth(boto, "s3", region).add_auth(request)
        return dict(request.headers.items())
