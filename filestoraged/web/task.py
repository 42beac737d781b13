"""A page that is a coroutine, driven to its response."""

from __future__ import annotations

from typing import Any

from filestoraged.digest import Bytes
from filestoraged.errors import ClientGone
from filestoraged.future import Future
from filestoraged.web.request import Request
from filestoraged.web.request_body import RequestBody
from filestoraged.web.response import Page, Response
from filestoraged.web.sites import App


class Task:
    """Each call runs the page until it returns, wants a piece of the body, or awaits a future.

    Returns its response, or None while there is none; then `future` is what it awaits, None for a piece. One thread at
    a time has it. Nothing is raised but ClientGone.
    """

    __slots__ = ("_app", "_page", "_request", "_response", "future")

    def __init__(self, app: App, request: Request, page: Page) -> None:
        self._app = app
        self._request = request
        self._page = page
        self._response: Response | None = None
        self.future: Future[Any] | None = None

    def run(self) -> Response | None:
        """The page is new, or its future is done: it asks that for the result, or gets its error."""
        self._feed(None)
        return self._response

    def receive(self, body: RequestBody) -> Response | None:
        """Some of the body may have come. Raises also what `deliver` does."""
        body.deliver(self._feed)
        return self._response

    def fail(self, error: Exception) -> Response:
        """What the page waits for will not come."""
        try:
            self._page.throw(error)
        except StopIteration as ended:
            return self._app.complete(self._request, ended.value)
        except Exception as raised:
            return self._app.refuse(self._request, raised)
        raise AssertionError("the page continues without what it waits for") from error

    def close(self) -> None:
        """The client is gone: the page undoes what it has begun."""
        self._page.close()

    def _feed(self, value: Bytes | Any) -> bool:
        """Returns whether the page wants a piece of the body next."""
        try:
            self.future = self._page.send(value)
        except StopIteration as ended:
            self._response = self._app.complete(self._request, ended.value)
            return False
        except ClientGone:
            raise
        except Exception as error:
            self._response = self._app.refuse(self._request, error)
            return False
        return self.future is None
