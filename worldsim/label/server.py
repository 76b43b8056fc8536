"""The local page that asks: on loopback alone, behind a token in its address, with nothing from elsewhere.

Requests that another page could send are refused: the address holds a random token, the host must be this one, and what
writes must come from the page itself.
"""

import importlib.util
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from importlib import resources
from typing import Any

from worldsim.data.labels import Outcome
from worldsim.errors import InvalidInputError, StorageError, WorldsimError, missing_extra
from worldsim.json_values import from_json, parse_json, to_json
from worldsim.label.session import Session

HOST = "127.0.0.1"
_MOST_BYTES = 4096
"""Of what the page may send."""
_Scope = dict[str, Any]
_Send = Callable[[Any], Awaitable[None]]
_Receive = Callable[[], Awaitable[Any]]
_App = Callable[[_Scope, _Receive, _Send], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What the page sends: an outcome, and where it shows."""

    episode: int
    outcome: Outcome
    frame: int | None = None


class LabelServer:
    """Serves one session.

    Args:
        session: Whose questions.
        port: Where; 0 takes a free one.

    Raises:
        MissingExtraError: starlette or uvicorn is not installed.
        StorageError: The port is taken.
    """

    def __init__(self, session: Session, *, port: int = 0) -> None:
        require_server()
        import uvicorn

        self.session, self._token = session, secrets.token_urlsafe(24)
        self._socket = _listen(port)
        self.port = int(self._socket.getsockname()[1])
        app = _Guard(make_app(session, self._token), port=self.port, token=self._token)
        settings = uvicorn.Config(
            app, log_level="error", access_log=False, lifespan="off", ws="none", server_header=False
        )
        self._server = uvicorn.Server(settings)

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.port}/{self._token}/"

    def run(self) -> None:
        """Serve until `stop`, or until the process is interrupted."""
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Make `run` return; from another thread."""
        self._server.should_exit = True


def require_server() -> None:
    """Check that what serves pages is installed.

    Raises:
        MissingExtraError: It is not.
    """
    for module in ("starlette", "uvicorn"):
        if importlib.util.find_spec(module) is None:
            raise missing_extra(module, "serve")


def _listen(port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen(64)  # a browser that opens the address before the server runs waits, and is not refused
    except (OSError, OverflowError) as error:
        found.close()
        raise StorageError(f"Cannot listen on port {port}: {error}. Leave --port out to take a free one.") from error
    return found


class _Guard:
    """Refuses what does not come from the page, and forbids the page everything but itself."""

    def __init__(self, app: _App, *, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._hosts = {f"{name}:{port}" for name in (HOST, "localhost")}

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        from starlette.responses import JSONResponse

        reason = self._reason_to_refuse(scope)

        async def guarded(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        if scope["type"] != "http":
            return
        if reason:
            await JSONResponse({"error": reason}, status_code=403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)

    def _reason_to_refuse(self, scope: _Scope) -> str:
        headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope.get("headers", ())}
        given = str(scope.get("path", "")).split("/")[1:2]
        if headers.get("host") not in self._hosts:
            return "This page is served on this machine only."
        if not given or not secrets.compare_digest(given[0].encode(), self._token.encode()):
            return "Open the address that `worldsim label` printed, with its token."
        origin = headers.get("origin")
        if scope["method"] not in ("GET", "HEAD"):
            if origin is None or origin not in {f"http://{host}" for host in self._hosts}:
                return "Labels are taken from the page itself only."
            if headers.get("content-type") != "application/json":
                return "Labels are sent as JSON."
        return ""


_HEADERS = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]


def make_app(session: Session, token: str) -> "_App":
    """The routes below the token: the page, the next question, one episode's question and film, and what is said.

    Args:
        session: Whose questions.
        token: First part of every path.
    """
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import HTMLResponse, JSONResponse, Response
    from starlette.routing import Route

    async def page(request: Request) -> Response:
        text, policy = render_page()
        return HTMLResponse(text, headers={"content-security-policy": policy})

    async def ask(request: Request) -> Response:
        episode = request.path_params.get("episode")
        return JSONResponse(to_json(await run_in_threadpool(session.ask, episode)))

    async def film(request: Request) -> Response:
        data = await run_in_threadpool(session.film, request.path_params["episode"])
        return Response(data, media_type="video/mp4")

    async def say(request: Request) -> Response:
        said = from_json(Said, parse_json(await _read_body(request), source="The label"))
        await run_in_threadpool(session.say, episode=said.episode, outcome=said.outcome, frame=said.frame)
        return JSONResponse(to_json(await run_in_threadpool(session.ask)))

    async def refuse(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": str(error)}, status_code=422)

    routes = [
        Route(f"/{token}/", page),
        Route(f"/{token}/next", ask),
        Route(f"/{token}/episode/{{episode:int}}", ask),
        Route(f"/{token}/film/{{episode:int}}", film),
        Route(f"/{token}/label", say, methods=["POST"]),
    ]
    app: _App = Starlette(routes=routes, exception_handlers={WorldsimError: refuse})
    return app


async def _read_body(request: Any) -> bytes:
    """What the page sent, up to a limit."""
    data = b""
    async for part in request.stream():
        data += part
        if len(data) > _MOST_BYTES:
            raise InvalidInputError(f"A label has at most {_MOST_BYTES} bytes.")
    return data


def render_page() -> tuple[str, str]:
    """The page and its content security policy: only its own script and style run, and only this server is asked."""
    nonce = secrets.token_urlsafe(16)
    text = resources.files("worldsim.label").joinpath("page.html").read_text(encoding="utf8").replace("NONCE", nonce)
    policy = (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; media-src blob:; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return text, policy
