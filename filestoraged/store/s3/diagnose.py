"""Examines whether an S3 store has the properties that objects need, by objects that are removed again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from filestoraged.errors import Error, StorageFull
from filestoraged.store.diagnosis import BAD, GOOD, NOTE, Diagnosis
from filestoraged.store.s3.answers import REFUSED_CREDENTIALS, SKEWED, Answer, StoreRefusal
from filestoraged.store.s3.client import S3Client, checksum_field
from filestoraged.store.s3.probe import Probe
from filestoraged.store.s3.transport import NO_FIELDS
from filestoraged.wire.dates import parse_date

# Seconds. Stores refuse requests whose time differs by more than 15 minutes (AWS, RequestTimeTooSkewed).
_MAX_SKEW = 15 * 60
# Above it, a clock is not synchronised.
_NOTED_SKEW = 60

# Rounds of writing and reading: stores that are consistent eventually are so most of the time.
_ROUNDS = 3

# Requests at the same time, of which one alone may make an object.
_RACERS = 8

_BODY = bytes(range(256)) * 256
_OTHER = _BODY[::-1]

_Check = Callable[[Probe], Iterator[Diagnosis]]


def examine(client: S3Client, raise_if_stopped: Callable[[], None]) -> Generator[Diagnosis, None, None]:
    """Yield a diagnosis for each property, and remove the objects that this made; also if it is closed early.

    `raise_if_stopped` is called between requests, and its exception ends the examination.
    """
    probe = Probe(client, raise_if_stopped)
    reached = list(_reach(client, probe))
    yield from reached
    if any(each.verdict == BAD for each in reached):
        return
    try:
        for check in _CHECKS:
            yield from _outcome(check, probe)
    finally:
        left = _remove(probe)
    yield from left


def _outcome(check: _Check, probe: Probe) -> Iterator[Diagnosis]:
    try:
        yield from check(probe)
    except Error as error:
        yield _bad(f"{check.__name__.lstrip('_').replace('_', ' ')}: cannot be examined: {error.__cause__ or error}")


def _remove(probe: Probe) -> list[Diagnosis]:
    try:
        left = probe.remove_all()
    except Error as error:
        return [_bad(f"cannot remove what this check has made: {error.__cause__ or error}")]
    return [_bad(f"still lists {key!r}, which this check has removed") for key in left]


def _reach(client: S3Client, probe: Probe) -> Iterator[Diagnosis]:
    location = client.location
    if not location.endpoint.is_encrypted and not location.is_loopback:
        yield _note("is not encrypted: others on the network can read and change objects on their way")
    try:
        answer = probe.request("GET", query=(("list-type", "2"), ("max-keys", "1"), ("prefix", location.prefix)))
    except Error as error:
        cause = error.__cause__ or error
        # A ValueError says which credentials are missing.
        yield _bad(str(cause) if isinstance(cause, ValueError) else f"cannot be reached: {cause}")
        return
    yield _good(f"is reachable at {location}")
    clocks = list(_compare_clocks(answer, client.clock.date()))
    if answer.status != 200:
        yield _refusal(answer)
        yield from (each for each in clocks if each.verdict != GOOD)
        return
    yield _good("accepts the credentials")
    yield _good(f"has the bucket {location.bucket!r}")
    yield from clocks


def _refusal(answer: Answer) -> Diagnosis:
    if answer.code == "NoSuchBucket" or (answer.status == 404 and not answer.code):
        return _bad("has no such bucket")
    reason = str(StoreRefusal(answer))
    if answer.code == SKEWED:
        return _bad(f"refuses the clock of this machine: {reason}")
    if answer.code in REFUSED_CREDENTIALS or answer.status in (401, 403):
        return _bad(f"does not accept the credentials, or permits them too little: {reason}")
    return _bad(f"does not list the bucket: {reason}")


def _compare_clocks(answer: Answer, ours: float) -> Iterator[Diagnosis]:
    theirs = parse_date(answer.fields.get("date", ""))
    if theirs is None:
        yield _note("does not say what its time is, so the clocks cannot be compared")
        return
    skew = round(ours - theirs)
    text = f"its clock and this machine's are {abs(skew)} s apart"
    if abs(skew) > _MAX_SKEW:
        yield _bad(f"{text}: signatures are valid for {_MAX_SKEW} s")
    elif abs(skew) > _NOTED_SKEW:
        yield _note(f"{text}: beyond {_MAX_SKEW} s, it refuses all requests")
    else:
        yield _good(text)


def _writing(probe: Probe) -> Iterator[Diagnosis]:
    answer = _put(probe, "written", _BODY)
    yield _good("stores objects") if answer.status == 200 else _bad(f"does not store objects: {StoreRefusal(answer)}")


def _digests(probe: Probe) -> Iterator[Diagnosis]:
    answer = probe.request("PUT", "digest", body=_BODY, sha256=hashlib.sha256(_OTHER).hexdigest())
    stored = probe.request("HEAD", "digest").status == 200
    if answer.status < 300:
        yield _bad("accepts bytes with a wrong digest: what changes on the way to it is stored with success")
    elif stored:
        yield _bad("refuses bytes with a wrong digest, and stores them all the same")
    else:
        yield _good("refuses bytes with a wrong digest")


def _consistency(probe: Probe) -> Iterator[Diagnosis]:
    stale: list[str] = []
    for number in range(_ROUNDS):
        stale += _stale(probe, f"consistent/{number}")
    for what in dict.fromkeys(stale):
        yield _bad(what)
    if not stale:
        yield _good("reads, lists and deletes what was written last")


def _stale(probe: Probe, name: str) -> Iterator[str]:
    for body, what in ((_BODY, "does not read what was just written"), (_OTHER, "reads what was just replaced")):
        _put(probe, name, body)
        probe.reconnect()
        if probe.request("GET", name).body != body:
            yield what
    if [each.size for each in probe.listing(name).objects] != [len(_OTHER)]:
        yield "does not list what was just written"
    probe.request("DELETE", name)
    probe.reconnect()
    if probe.request("HEAD", name).status != 404:
        yield "reads what was just deleted"
    if probe.listing(name).objects:
        yield "lists what was just deleted"


def _ranges(probe: Probe) -> Iterator[Diagnosis]:
    etag = _put(probe, "range", _BODY).fields.get("etag", "")
    middle = probe.request("GET", "range", fields={"range": "bytes=1000-1999"})
    end = probe.request("GET", "range", fields={"range": "bytes=65000-", "if-match": etag})
    # rclone answers 200 to both.
    whole = "bytes 1000-1999/65536", "bytes 65000-65535/65536"
    are_right = (middle.body, end.body) == (_BODY[1000:2000], _BODY[65000:])
    if not are_right or tuple(each.fields.get("content-range") for each in (middle, end)) != whole:
        yield _bad("does not send ranges of objects: downloads cannot be resumed, nor go on after an interruption")
        return
    yield _good("sends ranges of objects")
    if probe.request("GET", "range", fields={"if-match": '"0123456789abcdef0123456789abcdef"'}).status == 412:
        yield _good("refuses to go on with another object (If-Match)")
    else:
        yield _note("ignores If-Match: a download that goes on after an interruption may meet a replaced object")


def _listing(probe: Probe) -> Iterator[Diagnosis]:
    names = ["list/a", "list/a.b", "list/b/c", "list/b/d", "list/e"]
    for name in names:
        _put(probe, name, b"")
    paged: list[str] = []
    for _ in names:
        paged += [each.key for each in probe.listing("list/", after=paged[-1] if paged else "", limit=2).objects]
    after = [each.key for each in probe.listing("list/", after="list/a.b").objects]
    yield (
        _good("lists in order, page by page (start-after)")
        if paged == names and after == names[2:]
        else _bad("does not list in order from a name on (start-after): listings of repositories are wrong")
    )
    listing = probe.listing("list/", delimiter="/")
    yield (
        _good("lists by directories (delimiter)")
        if listing.prefixes == ["list/b/"]
        and [each.key for each in listing.objects] == ["list/a", "list/a.b", "list/e"]
        else _bad("does not list by directories (delimiter): repositories cannot be listed")
    )


def _conditional_writes(probe: Probe) -> Iterator[Diagnosis]:
    first, again = (_put_new(probe, "condition", body) for body in (_BODY, _OTHER))
    if first.status != 200 or again.status != 412 or probe.request("GET", "condition").body != _BODY:
        yield _note(
            "ignores If-None-Match: of several uploads at once that must not replace, more than one may succeed"
        )
        return
    with ThreadPoolExecutor(_RACERS) as racers:
        answers = list(racers.map(lambda number: _put_new(probe, "race", b"%d" % number), range(_RACERS)))
    if sum(answer.status == 200 for answer in answers) == 1:
        yield _good("lets one alone of several uploads at once make an object (If-None-Match)")
    else:
        yield _note("lets several uploads at once make an object, in spite of If-None-Match")


def _multipart_uploads(probe: Probe) -> Iterator[Diagnosis]:
    upload_id = probe.begin_parts("parts")
    if isinstance(upload_id, Answer):
        yield _note(f"does not accept objects in parts, so none above 5 GiB: {StoreRefusal(upload_id)}")
        return
    part = _put(probe, "parts", _BODY, query=(("partNumber", "1"), ("uploadId", upload_id)))
    listed = f"<Part><PartNumber>1</PartNumber><ETag>{part.fields.get('etag', '')}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode()
    digest = hashlib.sha256(body).hexdigest()
    probe.request("POST", "parts", query=(("uploadId", upload_id),), body=body, sha256=digest)
    if probe.request("GET", "parts").body == _BODY:
        yield _good("accepts objects in parts")
    else:
        yield _note("does not put objects together from their parts: none above 5 GiB can be stored")
    yield from _abort(probe)


def _abort(probe: Probe) -> Iterator[Diagnosis]:
    upload_id = probe.begin_parts("aborted")
    if isinstance(upload_id, Answer):
        return
    _put(probe, "aborted", _BODY, query=(("partNumber", "1"), ("uploadId", upload_id)))
    probe.request("DELETE", "aborted", query=(("uploadId", upload_id),))
    left = probe.uploads()
    if left is None:
        yield _note("does not list uploads in parts: what a crash leaves of them takes room, and is not found")
    elif left:
        yield _note("does not abort uploads in parts: what is left of them takes room")
    else:
        yield _good("aborts uploads in parts")


def _checksums(probe: Probe) -> Iterator[Diagnosis]:
    right, wrong = (checksum_field(hashlib.sha256(body).hexdigest()) for body in (_BODY, _OTHER))
    refused = _put(probe, "checksum", _BODY, fields=wrong).status >= 400
    _put(probe, "checksum", _BODY, fields=right)
    kept = probe.request("HEAD", "checksum", fields={"x-amz-checksum-mode": "ENABLED"}).fields
    is_whole = kept.get("x-amz-checksum-type") == "FULL_OBJECT"
    if refused and is_whole and right.items() <= kept.items():
        yield _good("keeps a SHA-256 of objects: `filestoraged check` downloads none that has one")
    else:
        yield _note("keeps no SHA-256 of objects: `filestoraged check` downloads all of them")


def _put(
    probe: Probe,
    name: str,
    body: bytes,
    *,
    query: Sequence[tuple[str, str]] = (),
    fields: Mapping[str, str] = NO_FIELDS,
) -> Answer:
    digest = hashlib.sha256(body).hexdigest()
    answer = probe.request("PUT", name, query=query, fields=fields, body=body, sha256=digest)
    if answer.status == 507:
        raise StorageFull from StoreRefusal(answer)
    return answer


def _put_new(probe: Probe, name: str, body: bytes) -> Answer:
    return _put(probe, name, body, fields={"if-none-match": "*"})


def _good(text: str) -> Diagnosis:
    return Diagnosis(GOOD, text)


def _note(text: str) -> Diagnosis:
    return Diagnosis(NOTE, text)


def _bad(text: str) -> Diagnosis:
    return Diagnosis(BAD, text)


_CHECKS: tuple[_Check, ...] = (
    _writing,
    _digests,
    _consistency,
    _ranges,
    _listing,
    _conditional_writes,
    _multipart_uploads,
    _checksums,
)
