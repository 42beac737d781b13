"""What an S3 store answers: listings and errors in XML, and the meaning of an error.

All of it is bounded in size, and none of it is trusted to be well-formed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from filestoraged.errors import Error, NotFound, PreconditionFailed, StorageFull, StoreUnavailable, printable
from filestoraged.wire.dates import parse_date, parse_timestamp
from filestoraged.wire.grammar import parse_decimal

# In bytes. A page of 1,000 keys, each of 1 KiB and encoded, has 4 MiB.
MAX_BODY_SIZE = 8 * 1024 * 1024

# The body of an error, in bytes. A code is looked for several times, and in bodies of this size at most.
_MAX_ERROR_SIZE = 64 * 1024

# Bounds of a document within its size, for the memory of its parser: a page of 1,000 keys has 13 elements for each, and
# an encoded key has 3 KiB. A tag and the text behind it are as long together, so it has few attributes.
_MAX_TAGS = 100_000
_MAX_TAG_SIZE = 16 * 1024

# Characters of an id that a store makes. AWS' have 128.
_MAX_ID = 2048

# Characters of a store's own message that the log gets.
_MAX_MESSAGE = 300

# Answers after which an equal request may succeed soon, and which have changed nothing that it would change twice.
RETRIED_STATUSES = frozenset((500, 502, 503, 504))
_RETRIED_CODES = frozenset(
    (
        "RequestTimeout",
        "SlowDown",
        "InternalError",
        "ServiceUnavailable",
        "OperationAborted",
        "ConditionalRequestConflict",
        "BadDigest",
    )
)
REFUSED_CREDENTIALS = frozenset(
    ("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired")
)
_FULL_CODES = frozenset(("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "EntityTooLargeForQuota"))

_WRONG_REGION = "the bucket is in another region (--s3-region), or at another host"
_HINTS = {
    "NoSuchBucket": "the bucket of --s3 does not exist",
    "PermanentRedirect": _WRONG_REGION,
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    **dict.fromkeys(REFUSED_CREDENTIALS, "the credentials are refused"),
}

_MISSING_CODES = frozenset(("NoSuchKey", "NoSuchVersion"))
SKEWED = "RequestTimeTooSkewed"


class Answer(NamedTuple):
    """A whole answer. Names of header fields are in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """The code of an error, such as NoSuchKey; empty where the store gives none, as in answers to HEAD."""
        return _error_text(self.body, "Code")

    @property
    def message(self) -> str:
        return _error_text(self.body, "Message")

    @property
    def is_retried(self) -> bool:
        return self.status in RETRIED_STATUSES or (self.status >= 400 and self.code in _RETRIED_CODES)


class StoreRefusal(Exception):
    """What the store said, for the log: the cause of the error that the client gets."""

    def __init__(self, answer: Answer, hint: str = "") -> None:
        said = " ".join(filter(None, (str(answer.status), answer.code, answer.message)))
        super().__init__(f"the S3 store answered {printable(said[:_MAX_MESSAGE])}{hint and f': {hint}'}")
        self.answer = answer


def error_of(answer: Answer, *, name: str = "", now: float | None = None) -> Error:
    """The meaning of an error, with what the store said as its cause. `now` is the time at which it was received."""
    code = answer.code
    # An answer to HEAD has no body. A body without a code is that of another server, such as a proxy in front.
    if answer.status == 404 and (code in _MISSING_CODES or not answer.body):
        return NotFound(name=name)
    if answer.status == 412:
        return PreconditionFailed("The store has another object by that name, or has one.")
    error: Error = StoreUnavailable()
    if answer.status == 507 or code in _FULL_CODES:
        error = StorageFull("There is no room left to store this.")
    error.__cause__ = StoreRefusal(answer, _hint(answer, code, now))
    return error


def _hint(answer: Answer, code: str, now: float | None) -> str:
    """What an operator can do about a refusal; empty where that is not known."""
    if code == SKEWED:
        return _describe_skew(answer, now)
    if code in _HINTS:
        return _HINTS[code]
    return "the credentials are refused, or permit too little" if answer.status in (401, 403) else ""


def _describe_skew(answer: Answer, now: float | None) -> str:
    theirs = parse_date(answer.fields.get("date", ""))
    if now is None or theirs is None:
        return "the clocks of this machine and of the store differ too much"
    return f"the clock of this machine is off by {now - theirs:+.0f} s"


class ListedObject(NamedTuple):
    """`modified` is in seconds since 1970. `etag` is without quotes, and no digest."""

    key: str
    size: int
    modified: int
    etag: str


class ListingPage(NamedTuple):
    """A page of a listing. Keys and prefixes are without the location's own prefix."""

    objects: list[ListedObject]
    prefixes: list[str]
    is_last: bool


class ListedUpload(NamedTuple):
    """A multipart upload that is neither complete nor aborted."""

    key: str
    upload_id: str
    initiated: int


def parse_listing(answer: Answer, prefix: str) -> ListingPage:
    """Raises StoreUnavailable for what is no listing."""
    root = _parsed(answer)
    decode = unquote_plus if _text(root, "EncodingType") == "url" else str
    objects = []
    for each in _children(root, "Contents"):
        key = decode(_text(each, "Key"))
        size, modified = parse_decimal(_text(each, "Size")), parse_timestamp(_text(each, "LastModified"))
        if size is None or modified is None or not key.startswith(prefix):
            raise _malformed(answer)
        objects.append(ListedObject(key.removeprefix(prefix), size, modified, _text(each, "ETag").strip('"')))
    common = [decode(_text(each, "Prefix")) for each in _children(root, "CommonPrefixes")]
    return ListingPage(objects, [each.removeprefix(prefix) for each in common], _text(root, "IsTruncated") != "true")


def parse_uploads(answer: Answer, prefix: str) -> list[ListedUpload]:
    """Raises StoreUnavailable for what is no listing of multipart uploads."""
    root = _parsed(answer)
    decode = unquote_plus if _text(root, "EncodingType") == "url" else str
    uploads = []
    for each in _children(root, "Upload"):
        key, initiated = decode(_text(each, "Key")), parse_timestamp(_text(each, "Initiated"))
        upload_id = _text(each, "UploadId")
        if initiated is not None and key.startswith(prefix) and len(upload_id) <= _MAX_ID:
            uploads.append(ListedUpload(key.removeprefix(prefix), upload_id, initiated))
    return uploads


def parse_upload_id(answer: Answer) -> str:
    """The id of a multipart upload that was begun. Raises StoreUnavailable."""
    upload_id = _text(_parsed(answer), "UploadId")
    if not 0 < len(upload_id) <= _MAX_ID:
        raise _malformed(answer)
    return upload_id


def check_completion(answer: Answer) -> None:
    """Raises what the answer means where a multipart upload was not completed, StoreUnavailable for no S3 answer.

    To keep the connection alive, a store sends the head with 200 before it joins the parts. An error, or nothing, may
    follow.
    """
    if answer.code:
        raise error_of(answer)
    if _name(_parsed(answer)) != "CompleteMultipartUploadResult":
        raise _malformed(answer)


def _parsed(answer: Answer) -> ElementTree.Element:
    root = _parse_document(answer.body)
    if root is None:
        raise _malformed(answer)
    return root


def _parse_document(body: bytes) -> ElementTree.Element | None:
    """Return the root of a document in XML, None for what S3 does not write: with declarations, or beyond the bounds.

    As text, it is read as UTF-8 whatever encoding it declares: some codecs of Python are for no text. The parser still
    recognizes UTF-16, by its zero bytes, and a declaration in it would not be seen here.
    """
    # Declared entities could expand to any size.
    if (
        b"\0" in body
        or b"<!" in body
        or body.count(b"<") > _MAX_TAGS
        or max(map(len, body.split(b"<"))) > _MAX_TAG_SIZE
    ):
        return None
    try:
        return ElementTree.fromstring(body.decode("utf-8-sig"))
    except (UnicodeDecodeError, ElementTree.ParseError):
        return None


def _malformed(answer: Answer) -> StoreUnavailable:
    error = StoreUnavailable()
    error.__cause__ = ValueError(f"the S3 store answered {answer.status} with {answer.body[:80]!r}: not what S3 says")
    return error


# Some stores leave the namespace of S3 out, so names are compared without it.


def _name(element: ElementTree.Element) -> str:
    return element.tag.rpartition("}")[2]


def _children(element: ElementTree.Element, name: str) -> Iterator[ElementTree.Element]:
    return (each for each in element if _name(each) == name)


def _text(element: ElementTree.Element, name: str) -> str:
    return next(((each.text or "") for each in _children(element, name)), "")


def _error_text(body: bytes, name: str) -> str:
    if not body or len(body) > _MAX_ERROR_SIZE:
        return ""
    root = _parse_document(body)
    return _text(root, name) if root is not None and _name(root) == "Error" else ""
