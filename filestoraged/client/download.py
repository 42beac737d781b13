"""Downloads: verified by the digest that names the object, and continued by `Range` where a connection broke."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

from filestoraged.client.hashing import BLOCK_SIZE, BackgroundHash
from filestoraged.client.refusals import ServerUnreachable, UnexpectedResponse
from filestoraged.client.retries import Retries
from filestoraged.client.transport import ClientResponse
from filestoraged.digest import Digest
from filestoraged.errors import BadRequest, DigestMismatch, RangeNotSatisfiable
from filestoraged.wire.grammar import parse_decimal
from filestoraged.wire.parameters import decode_extended, parse_parameters

_CONTENT_RANGE = re.compile(r"bytes (\*|([0-9]{1,19})-[0-9]{1,19})/([0-9]{1,19})")

# Asks for the bytes from an offset on.
Ask = Callable[[int], ClientResponse]


class Download:
    """The bytes of an object, in blocks. One thread iterates over it, once, and closes it or uses it in a with-block.

    `size` is in bytes, None where the server does not say. `name` is the file's name that the server suggests.
    """

    def __init__(
        self,
        ask: Ask,
        retries: Retries,
        *,
        digest: str | None,
        algorithms: Sequence[str],
        hashed: BackgroundHash | None,
        limit: int | None = None,
    ) -> None:
        """Ask for the object, from where `hashed` ends, which has the bytes in front.

        Without a `digest` the bytes are not verified, and they come once: a broken connection is not continued. Raises
        UnexpectedResponse where a server that tells no size sends more than `limit` bytes.
        """
        self._ask = ask
        self._retries = retries
        self._expected = digest
        self._hash = hashed or BackgroundHash(algorithms)
        self._limit = limit
        self._response: ClientResponse | None = None
        try:
            self._response = self._open(self._hash.position)
        except RangeNotSatisfiable as error:
            # Nothing is left: an earlier run has received all of it, or more than there is.
            self.size: int | None = error.size
        else:
            self.size = _whole_size(self._response)
        self.name = None if self._response is None else _name(self._response)

    def __enter__(self) -> Download:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def position(self) -> int:
        """Bytes that were received, those of earlier runs included."""
        return self._hash.position

    def __iter__(self) -> Iterator[bytes]:
        """Yield blocks. Raises DigestMismatch behind the last one, if what was yielded is not the object."""
        attempts = self._retries.begin()
        while self._response is not None:
            try:
                block = self._response.read(BLOCK_SIZE)
            except ServerUnreachable as error:
                if self._expected is None:
                    raise
                attempts.wait(error)
                self._response = self._open(self._hash.position)
                continue
            if not block:
                break
            attempts.progressed()
            self._check_size(self._hash.position + len(block))
            self._hash.update(block)
            yield block
        self.verify()

    def verify(self) -> None:
        """Raise DigestMismatch where the bytes received so far are not the object."""
        if self._expected is None:
            return
        found = [self._hash.digest(each) for each in self._hash.algorithms]
        if self._expected not in found:
            raise DigestMismatch(self._hash.algorithms[0], self._expected, found[0])

    def digest(self, algorithm: str) -> Digest:
        """Return the digest of the bytes received so far."""
        return self._hash.digest(algorithm)

    def close(self) -> None:
        self._hash.close()
        if self._response is not None:
            self._response.close()

    def _check_size(self, size: int) -> None:
        """Raise UnexpectedResponse where the server sends more than there is: it may never end."""
        limit = self._limit if self.size is None else self.size
        if limit is not None and size > limit:
            self.close()
            raise UnexpectedResponse(f"the server sends {size} bytes or more; expected at most {limit}")

    def _open(self, start: int) -> ClientResponse:
        """Ask, and skip what is known if the server answers with the whole. Raises RangeNotSatisfiable."""

        def ask() -> ClientResponse:
            response = self._ask(start)
            if "content-encoding" in response.fields:
                response.close()
                raise UnexpectedResponse("the server has encoded the bytes, which was not asked for")
            if start and response.status == 206:
                _check_start(response, start)
            else:
                response.require_status(200)
                _skip(response, start)
            return response

        return self._retries.run(ask)


def _check_start(response: ClientResponse, start: int) -> None:
    matched = _CONTENT_RANGE.fullmatch(response.fields.get("content-range", ""))
    if matched is None or matched.group(2) is None or int(matched.group(2)) != start:
        response.close()
        raise UnexpectedResponse(f"the server answered another range than that from {start} on")


def _skip(response: ClientResponse, size: int) -> None:
    """Read on to `size` bytes: the object has the same bytes each time."""
    while size:
        block = response.read(min(size, BLOCK_SIZE))
        if not block:
            response.close()
            raise RangeNotSatisfiable("", _whole_size(response) or 0)
        size -= len(block)


def _whole_size(response: ClientResponse) -> int | None:
    if response.status == 206:
        matched = _CONTENT_RANGE.fullmatch(response.fields.get("content-range", ""))
        return None if matched is None else int(matched.group(3))
    return _length_field(response)


def _length_field(response: ClientResponse) -> int | None:
    return parse_decimal(response.fields.get("content-length", ""))


def _name(response: ClientResponse) -> str | None:
    """The file's name by Content-Disposition (RFC 6266), None without a valid one."""
    try:
        parameters = parse_parameters(response.fields.get("content-disposition", ""))[1]
        if "filename*" in parameters:
            return decode_extended(parameters["filename*"])
    except BadRequest:
        return None
    return parameters.get("filename")
