"""What stands before the dashboard: it answers only this machine's browser, with the token, and only reads."""

from __future__ import annotations

import secrets
from http import HTTPStatus

from starlette.datastructures import QueryParams
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
"""Names by which a browser may call it. A page of another site whose name leads here (DNS rebinding) has another."""

_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Headers of each answer that has none of the same name."""


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """Return an application that passes on only requests to read that know the token, to this machine.

    Args:
        app: what answers the others.
        token: in the address; a cookie replaces it after the first request, as Jupyter does it.
    """
    return TrustedHostMiddleware(_Guard(app, token), HOSTS, www_redirect=False)


class _Guard:
    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token
        self._session = secrets.token_urlsafe(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # a websocket is closed
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
                message["headers"] = [*message["headers"], *(one for one in added if one[0] not in given)]
            await send(message)

        answer = self._refusal(Request(scope))
        await (answer or self._app)(scope, receive, with_headers)

    def _refusal(self, request: Request) -> Response | None:
        """Return the answer to a request that is not passed on; None: it is."""
        if request.method not in ("GET", "HEAD"):
            return _plain(HTTPStatus.METHOD_NOT_ALLOWED, "the dashboard only reads")
        name = f"lrflow-{(request.scope.get('server') or ('', 0))[1]}"  # cookies do not tell ports apart
        if _same(request.query_params.get("token", ""), self._token):
            rest = QueryParams([one for one in request.query_params.multi_items() if one[0] != "token"])
            answer = RedirectResponse(f"{_path(request)}{'?' if rest else ''}{rest}", HTTPStatus.SEE_OTHER)
            answer.set_cookie(name, self._session, httponly=True, samesite="lax")
            return answer
        if _same(request.cookies.get(name, ""), self._session):
            return None
        return _plain(
            HTTPStatus.FORBIDDEN, "this address lacks the token: open the one that `lrflow dashboard` printed"
        )


def _path(request: Request) -> str:
    """Return the path of a request with one slash at its start: two would lead to another machine."""
    return "/" + request.url.path.lstrip("/\\")


def _same(given: str, wanted: str) -> bool:
    return secrets.compare_digest(given.encode(errors="replace"), wanted.encode())


def _plain(status: HTTPStatus, text: str) -> Response:
    return PlainTextResponse(f"{status.value}: {text}\n", status)
