"""The `uploads` interface: tus 1.0.0, the protocol for resumable uploads, over the engine in `store.uploads`."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

from filestoraged.api import drop_form
from filestoraged.api.interface import Data, Description, Interface, Resources
from filestoraged.api.metrics import numbers_by_state
from filestoraged.api.objects import check_name
from filestoraged.api.upload_targets import DROPS, FILES, Targets
from filestoraged.digest import Expected, digest_length, parse_digest
from filestoraged.errors import (
    BadRequest,
    Error,
    NotFound,
    OffsetConflict,
    ProtocolVersionUnsupported,
    TooLarge,
    quoted,
)
from filestoraged.store import layout
from filestoraged.store.cleanup_lock import CleanupLock, FileLock
from filestoraged.store.janitors import UploadsJanitor
from filestoraged.store.passwords import Guard
from filestoraged.store.uploads.local_storage import LocalStorage
from filestoraged.store.uploads.registry import UPLOADS_SCHEMA, Draft, Registry, Upload
from filestoraged.store.uploads.storage import Storage
from filestoraged.store.uploads.uploads import Uploads
from filestoraged.web.auth import Tokens
from filestoraged.web.error_responses import refusal
from filestoraged.web.request import Request, RunsOn
from filestoraged.web.response import NO_STORE, Fields, Response, field_lines, json_response
from filestoraged.web.router import PUBLIC, WRITE, Route, Router
from filestoraged.wire import tus
from filestoraged.wire.dates import format_date
from filestoraged.wire.expectations import expected_digests

_RESUMABLE = field_lines(("Tus-Resumable", tus.VERSION))

# Seconds after the last byte for which an upload can be continued.
_TTL = 24 * 3600.0

# The name of a drop without one.
_UNNAMED = "file"


def routes(
    uploads: Uploads,
    targets: Targets,
    guard: Guard,
    *,
    authorizer: Tokens | None = None,
    public_url: str | None = None,
    remote: bool,
) -> Router:
    """`remote`: the objects are on other machines. Pages ask for the scope of the target, which its row names."""
    pages = _Pages(uploads, targets, guard, authorizer, public_url)
    runs_on = RunsOn.REMOTE if remote else RunsOn.THREAD
    return Router(
        "uploads",
        [
            Route("POST", "/", pages.create, WRITE, runs_on),
            Route("OPTIONS", "/", pages.describe, PUBLIC, RunsOn.INLINE),
            Route("GET", "/{id}", pages.result, WRITE, runs_on),
            Route("HEAD", "/{id}", pages.offset, WRITE, runs_on),
            Route("PATCH", "/{id}", pages.append, WRITE, runs_on),
            Route("DELETE", "/{id}", pages.terminate, WRITE, runs_on),
            Route("OPTIONS", "/{id}", pages.describe, PUBLIC, RunsOn.INLINE),
        ],
        refuse=_refuse,
        # An id leads to the link of a drop.
        secret=True,
        public=True,
        overrides_method=True,
    )


class _Pages:
    def __init__(
        self,
        uploads: Uploads,
        targets: Targets,
        guard: Guard,
        authorizer: Tokens | None,
        public_url: str | None,
    ) -> None:
        self._uploads = uploads
        self._targets = targets
        self._guard = guard
        self._authorizer = authorizer
        self._public_url = public_url

    def describe(self, _: Request, __: str = "") -> Response:
        fields = field_lines(
            ("Tus-Version", tus.VERSION),
            ("Tus-Extension", ",".join(tus.EXTENSIONS)),
            ("Tus-Checksum-Algorithm", ",".join(tus.CHECKSUM_ALGORITHMS)),
        )
        if self._targets.max_size is not None:
            fields += field_lines(("Tus-Max-Size", str(self._targets.max_size)))
        return Response(204, _RESUMABLE + fields)

    async def create(self, request: Request) -> Response:
        self._require_token(request)
        tus.check_version(request.fields)
        metadata = tus.parse_metadata(request.fields)
        target = metadata.get("target", FILES)
        self._require(request, target)
        length, checksum = tus.parse_length(request.fields), tus.parse_checksum(request.fields)
        has_body = request.size != 0
        if has_body:
            tus.check_media_type(request.fields)
            _check_fits(request.size, length)
        draft = Draft(
            target,
            length,
            expected=self._expected(request, target, metadata.get("hash")),
            name=_file_name(target, metadata.get("filename", "")),
        )
        password = metadata.pop("password", "")
        if password and target == DROPS:
            drop_form.check_password_size(len(password.encode()))
            kept = await self._guard.keep(request.client, password)
            draft = draft._replace(password=kept)
        upload = self._uploads.create(draft._replace(note=tus.format_metadata(metadata)))
        if has_body or length == 0:
            upload = await self._receive_first(request, upload, checksum)
        start = self._public_url or ""
        fields = field_lines(("Location", f"{start}{request.mount}/{upload.id}"))
        return Response(201, fields + self._progress(request, upload))

    async def append(self, request: Request, id_: str) -> Response:
        upload = self._find(request, id_)
        tus.check_media_type(request.fields)
        offset, checksum = tus.parse_offset(request.fields), tus.parse_checksum(request.fields)
        length = tus.parse_late_length(request.fields)
        _check_length(upload, offset, length)
        if not upload.is_complete:
            upload = await self._receive(request, upload, offset, length, checksum)
        elif offset != upload.received:
            raise OffsetConflict(upload.received, offset)
        else:
            await _require_empty(request, upload)
        return Response(204, self._progress(request, upload))

    def offset(self, request: Request, id_: str) -> Response:
        upload = self._uploads.settle(self._find(request, id_).id)
        fields = NO_STORE + self._progress(request, upload)
        if upload.length is None:
            fields += field_lines(("Upload-Defer-Length", "1"))
        else:
            fields += field_lines(("Upload-Length", str(upload.length)))
        if upload.note:
            fields += field_lines(("Upload-Metadata", upload.note))
        return Response(200, fields)

    def terminate(self, request: Request, id_: str) -> Response:
        self._uploads.terminate(self._find(request, id_).id)
        return Response(204, _RESUMABLE)

    def result(self, request: Request, id_: str) -> Response:
        """What the target would have answered. Plain HTTP, which asks for no version."""
        upload = self._look_up(request, id_)
        if not upload.is_complete:
            raise NotFound("The upload is not complete.")
        return json_response(200, self._targets.result(request, upload), NO_STORE + _RESUMABLE)

    async def _receive_first(self, request: Request, upload: Upload, checksum: Expected | None) -> Upload:
        try:
            return await self._receive(request, upload, 0, None, checksum)
        except BaseException:
            # The client was not told the id, so nothing could continue the upload: it would take room until it expires.
            with contextlib.suppress(Error, OSError):
                self._uploads.terminate(upload.id)
            raise

    async def _receive(
        self, request: Request, upload: Upload, offset: int, length: int | None, checksum: Expected | None
    ) -> Upload:
        """Receive the body, which begins at `offset`. Where it breaks off, what arrived is kept."""
        with self._uploads.receive(upload.id) as reception:
            if reception.upload.is_complete:
                raise OffsetConflict(reception.upload.received, offset)
            # Again: another request may have told a length since this one looked the upload up.
            _check_length(reception.upload, offset, length)
            reception.begin(offset, length=length, size=request.size, checksum=checksum)
            async for piece in request.body:
                reception.write(piece)
            reception.finish()
            return self._uploads.complete_if_whole(reception)

    def _find(self, request: Request, id_: str) -> Upload:
        self._require_token(request)
        tus.check_version(request.fields)
        return self._look_up(request, id_)

    def _look_up(self, request: Request, id_: str) -> Upload:
        self._require_token(request)
        upload = self._uploads.get(id_)
        self._require(request, upload.target)
        return upload

    def _require_token(self, request: Request) -> None:
        """Before anything else is told: which scope is needed is in the metadata, or in the row of the upload."""
        if self._authorizer is not None:
            self._authorizer.require_token(request, WRITE)

    def _require(self, request: Request, target: str) -> None:
        self._targets.target_of(target)
        if self._authorizer is not None:
            interface, _, area = target.partition("/")
            self._authorizer.require_at(request, WRITE, interface, area)

    def _expected(self, request: Request, target: str, announced: str | None) -> Sequence[Expected]:
        """The digests that the whole upload must have."""
        representation = {name: value for name, value in request.fields.items() if name == "repr-digest"}
        expected = list(expected_digests(representation))
        if announced is not None:
            algorithm = self._targets.target_of(target).store.algorithm
            digest = parse_digest(announced)
            if digest is None or len(digest) != digest_length(algorithm):
                raise BadRequest(f"Invalid hash {quoted(announced)}: expected a {algorithm} in hexadecimal.")
            expected.append(Expected(algorithm, digest))
        return expected

    def _progress(self, request: Request, upload: Upload) -> Fields:
        fields = _RESUMABLE + field_lines(("Upload-Offset", str(upload.received)))
        if upload.is_complete:
            return fields + self._targets.result_fields(request, upload)
        expires = max(upload.expires, self._uploads.clock.date())
        return fields + field_lines(("Upload-Expires", format_date(int(expires))))


def _check_fits(size: int | None, length: int | None) -> None:
    if size is not None and length is not None and size > length:
        raise TooLarge(length, size=size)


def _check_length(upload: Upload, offset: int, length: int | None) -> None:
    """A length may be told once."""
    if length is None:
        return
    if upload.length not in (None, length):
        raise BadRequest(f"Invalid Upload-Length {length}: the upload has a length of {upload.length}.")
    if length < offset:
        raise BadRequest(f"Invalid Upload-Length {length}: the upload has {offset} bytes already.")


async def _require_empty(request: Request, upload: Upload) -> None:
    """The repetition of a request whose answer was lost has no bytes left to send."""
    async for _ in request.body:
        raise TooLarge(upload.received)


def _file_name(target: str, name: str) -> str:
    """The name of a drop is one that its form accepts. Others have none: theirs only comes back to the client."""
    if target == DROPS and name:
        return drop_form.file_name(name)
    check_name(name)
    return name or _UNNAMED


def _refuse(error: Error) -> Response:
    response = refusal(error)
    response.fields += _RESUMABLE + NO_STORE
    if isinstance(error, ProtocolVersionUnsupported):
        response.fields += field_lines(("Tus-Version", tus.VERSION))
    return response


def open_uploads(resources: Resources) -> None:
    """Open the resumable uploads, which `repositories` hands out to Git LFS as well."""
    transactions = resources.databases.open_transactions(layout.UPLOADS_DATABASE, UPLOADS_SCHEMA)
    registry = Registry(transactions, ttl=_TTL, clock=resources.clock)
    storage = _open_storage(resources, registry)
    resources.uploads = Uploads(registry, storage, resources.targets.target_of, clock=resources.clock)
    janitor = UploadsJanitor(resources.uploads, _cleanup_lock(resources, storage), resources.clock)
    janitor.start()
    resources.test("Uploads", registry.probe)
    resources.gauges["uploads"] = numbers_by_state(
        "filestoraged_uploads", "Resumable uploads by state.", registry.count
    )
    resources.closing.append((janitor.stop, registry.close))


def _open_storage(resources: Resources, registry: Registry) -> Storage:
    """Where unfinished uploads have their bytes: the directory, unless other machines share rows and segments."""
    databases = resources.databases
    if not databases.is_remote or resources.segments is None:
        return LocalStorage(resources.disk, registry, resources.clock)
    from filestoraged.store.uploads.remote_storage import RemoteStorage

    # Closed with the registry.
    shared = databases.shared
    return RemoteStorage(shared, shared, resources.segments, clock=databases.clock)


def _cleanup_lock(resources: Resources, storage: Storage) -> CleanupLock:
    """One janitor works for all who reach the same bytes."""
    if storage.is_remote:
        return resources.databases.open_cleanup_lock(layout.JANITOR_LOCK)
    return FileLock(resources.path(layout.UPLOADS_JANITOR_LOCK), resources.disk.volume.identity)


def _build(resources: Resources) -> Router:
    assert resources.uploads is not None
    return routes(
        resources.uploads,
        resources.targets,
        resources.guard,
        authorizer=resources.authorizer,
        public_url=resources.public_url,
        remote=resources.objects.remote or resources.databases.is_remote,
    )


def _describe() -> Description:
    from filestoraged.api import openapi_terms as terms

    number = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}
    version = terms.header("Tus-Resumable", "The version of the protocol.", {"const": "1.0.0"}, required=True)
    length = terms.header("Upload-Length", "Bytes of the whole upload.", number, required=True)
    offset = terms.header("Upload-Offset", "Bytes that have been received.", number, required=True)
    metadata = terms.header("Upload-Metadata", "Keys with values in base64.", required=False)
    piece = terms.body({"application/offset+octet-stream": {}}, required=False)
    result = {"anyOf": [terms.object_of(**{key: {} for key in keys}) for keys in _RESULTS]}
    # Their pages ask for the token: which scope it needs is in the upload.
    operation, answered = functools.partial(terms.operation, needs_token=True), terms.answered
    options = terms.operation("What of the protocol is supported.", answered("204", "Tus-Extension lists it."))
    operations = {
        ("POST", "/"): operation(
            "Begin a resumable upload (tus 1.0.0).",
            answered("201", "Begun; Location is that of the upload."),
            parameters=[version, length, metadata],
            body=piece,
        ),
        ("GET", "/{id}"): operation(
            "What the target of a complete upload has answered.",
            answered("200", "It.", terms.json_content(result)),
        ),
        ("HEAD", "/{id}"): operation(
            "How many bytes have been received.",
            answered("200", "Upload-Offset is their number."),
            parameters=[version],
        ),
        ("PATCH", "/{id}"): operation(
            "Send the next bytes.",
            answered("204", "Received; Upload-Offset is the new number."),
            parameters=[version, offset],
            body=piece,
        ),
        ("DELETE", "/{id}"): operation("Give an upload up.", answered("204", "Removed."), parameters=[version]),
        ("OPTIONS", "/"): options,
        ("OPTIONS", "/{id}"): options,
    }
    return Description(operations)


# The members of what targets answer, in OpenAPI.
_RESULTS = (("hash", "size"), ("oid", "size"), ("status", "url"))


UPLOADS = Interface(
    "uploads",
    _build,
    _describe,
    layout.UPLOADS,
    Data(layout.UPLOADS_DATABASE, UPLOADS_SCHEMA, "uploads"),
    open_uploads,
)
