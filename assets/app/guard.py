"""What a request must be before Dagster's web app sees it: ours by its host and origin, harmless or JSON, and known.

Dagster's webserver trusts whoever reaches it: it runs mutations from the query string of a GET and from `text/plain`
bodies, under any Host and any Origin. A page of another site can send all of those from the browser of somebody who
has the UI open, and any user of the machine can send them from a shell. So every request passes four questions here:

1. Is the Host ours? A name of somebody else's that resolves to 127.0.0.1 (DNS rebinding) is not.
2. Does it come from our own page? Browsers say so in Origin and Sec-Fetch-Site, and no page can change these.
3. Does it change nothing (GET, HEAD), or is it a POST of JSON, which no other site's page can send?
4. Does it carry the token, in our cookie or as `Authorization: Bearer`?
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from html import escape
from urllib.parse import parse_qsl, quote, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
"""Names of this machine, always allowed with any port: with an SSH tunnel the browser's port is not ours."""
HOST = re.compile(r"(?P<name>[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?")
"""`name` or `name:port` in lower case; an IPv6 address stands in brackets."""
GRAPHQL = "/graphql"
CLOSED = ("/notebook", "/dagit/notebook")
"""Pages of Dagster that show any .ipynb file of the machine as HTML, scripts included. No asset of ours has one."""
_JSON = "application/json"
_COOKIE_DAYS = 30
_KEPT_IN_A_PATH = "/%:@!$&'()*+,;=~"
_NEVER_IN_A_FRAME = "frame-ancestors 'none'"


@dataclass(frozen=True)
class Access:
    """Who may come in: whoever has the `token`. None: whoever reaches the port, because a proxy asks who they are.

    `hosts` are further values of Host and Origin, `name` or `name:port`, beside those of this machine. `remedy` says
    where the token is to be had.
    """

    token: str | None
    hosts: tuple[str, ...] = ()
    remedy: str = ""

    @property
    def cookie(self) -> str:
        """Name of our cookie. Browsers send cookies to all ports of a host, so two UIs must not share a name."""
        return f"tbrm_ui_{sha256((self.token or '').encode()).hexdigest()[:8]}"


def guarded(app: ASGIApp, access: Access) -> ASGIApp:
    """`app` behind the four questions: what fails one is answered here with 401, 403, 405 or 415, and the reason."""

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        answer = _answer(scope, access)
        if answer is None:
            await app(scope, receive, _with_headers(send))
        elif scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
            await answer(scope, receive, _with_headers(send))
        else:
            await send({"type": "websocket.close", "code": 1008, "reason": "refused"})

    return guard


def _answer(scope: Scope, access: Access) -> Response | None:
    """The guard's own answer; None: the request may pass."""
    headers = Headers(scope=scope)
    refusal = _host_refusal(headers, access) or _origin_refusal(scope, headers, access)
    if refusal is not None:
        return PlainTextResponse(refusal + "\n", 403)
    if scope["type"] == "http":
        refused = _method_refusal(scope, headers)
        if refused is not None:
            return PlainTextResponse(refused[1] + "\n", refused[0])
    if access.token is None or _knows(headers, access, access.token):
        return None
    return _ask_for_token(scope, headers, access, access.token)


def _host_refusal(headers: Headers, access: Access) -> str | None:
    named = headers.getlist("host")
    host = named[0].lower() if len(named) == 1 else ""
    found = HOST.fullmatch(host)
    if found and (found["name"] in LOOPBACK or host in access.hosts or found["name"] in access.hosts):
        return None
    return (
        f"403: this UI does not answer to the host {', '.join(named)!r:.100}. Open it as 127.0.0.1 or localhost, or "
        "start it with `tbrm ui --allow-host NAME` where a proxy serves it under another name."
    )


def _origin_refusal(scope: Scope, headers: Headers, access: Access) -> str | None:
    host = headers["host"].lower()
    for origin in headers.getlist("origin"):
        scheme, _, place = origin.lower().partition("://")
        if scheme not in ("http", "https") or (place != host and place not in access.hosts):
            return (
                f"403: the page {origin!r:.100} may not use this UI. Open the UI itself, in a tab of its own; where a "
                "proxy serves it under that name, start it with `tbrm ui --allow-host NAME`."
            )
    sites = headers.getlist("sec-fetch-site")
    if all(site in ("same-origin", "none") for site in sites) or _opens_a_page(scope, headers):
        return None
    return "403: a page of another site may not use this UI. Open the UI itself, in a tab of its own."


def _opens_a_page(scope: Scope, headers: Headers) -> bool:
    """Whether somebody follows a link to here: the whole tab changes, and the other page sees nothing of it."""
    aims = (headers.getlist("sec-fetch-mode"), headers.getlist("sec-fetch-dest"))
    return scope["type"] == "http" and scope["method"] == "GET" and aims == (["navigate"], ["document"])


def _method_refusal(scope: Scope, headers: Headers) -> tuple[int, str] | None:
    """(status, reason) for a request that could change something without being a POST of JSON."""
    path, method = scope["path"], scope["method"]
    if any(ord(c) < 32 or ord(c) == 127 for c in path):  # Starlette's routes match `/graphql\n` too
        return 403, "403: an address holds no control characters."
    if path in CLOSED:
        return 403, "403: notebooks are not shown here. Open the file with Jupyter."
    if method in ("GET", "HEAD"):
        if path == GRAPHQL and scope["query_string"]:
            return 405, f"405: send GraphQL as a POST of {_JSON}, not in the address."
        return None
    if method != "POST":
        return 405, f"405: {method[:20]} is not used here: GET reads, and a POST of {_JSON} changes."
    kinds = headers.getlist("content-type")
    if len(kinds) != 1 or kinds[0].partition(";")[0].strip().lower() != _JSON:
        return 415, f"415: send it with the header `Content-Type: {_JSON}`, which a page of another site cannot do."
    return None


def _knows(headers: Headers, access: Access, token: str) -> bool:
    """Whether the request carries the token. Every cookie of our name counts: other ports may have set more of them."""
    shown = [value.partition(" ") for value in headers.getlist("authorization")]
    given = [key.strip() for scheme, _, key in shown if scheme.lower() == "bearer"]
    for line in headers.getlist("cookie"):
        pairs = (pair.strip().partition("=") for pair in line.split(";"))
        given += [value for name, _, value in pairs if name == access.cookie]
    return _is_among(token, given)


def _is_among(token: str, given: Sequence[str]) -> bool:
    """Whether one of the strings is the token. How long each comparison takes does not tell how much of it is right."""
    return any(compare_digest(one.encode(), token.encode()) for one in given)


def _ask_for_token(scope: Scope, headers: Headers, access: Access, token: str) -> Response:
    """Set the cookie where the address has the right token; else say where the token is to be had."""
    opens = scope["type"] == "http" and scope["method"] == "GET"
    pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    given = [value for name, value in pairs if name == "token"] if opens else []
    if _is_among(token, given):
        rest = [pair for pair in pairs if pair[0] != "token"]
        answer = _go_on(scope, rest)
        answer.set_cookie(
            access.cookie,
            token,
            max_age=_COOKIE_DAYS * 86_400,
            httponly=True,
            samesite="strict",
            secure=scope.get("scheme") == "https",
        )
        return answer
    if not given and _opens_a_page(scope, headers) and headers.get("sec-fetch-site") not in ("same-origin", "none"):
        # A link on another site: the browser holds a SameSite=Strict cookie back until our own page asks for it.
        return _go_on(scope, pairs)
    wrong = "this is not (or no longer) its token" if given else "this UI asks for its token"
    text = f"401: {wrong}. {access.remedy}"
    known = {"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"}
    if opens and "text/html" in headers.get("accept", ""):
        form = '<form><input name="token" type="password" placeholder="token" autofocus> <button>Open</button></form>'
        return HTMLResponse(_page(f"<p>{escape(text)}</p>{form}"), 401, known)
    return PlainTextResponse(text + "\n", 401, known)


def _go_on(scope: Scope, pairs: Sequence[tuple[str, str]]) -> Response:
    """A page that opens the same address with the query `pairs`.

    No redirect: after a link from another site the browser would hold the cookie back in the redirect as well.
    """
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    # One slash in front: `//host` and `/\host` would be another host.
    path = "/" + quote(raw.decode("latin-1"), safe=_KEPT_IN_A_PATH).lstrip("/")
    address = escape(path + (f"?{urlencode(pairs)}" if pairs else ""))
    head = f'<meta http-equiv="refresh" content="0; url={address}">'
    known = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return HTMLResponse(_page(f'<p><a href="{address}">Open the UI</a></p>', head), headers=known)


def _page(body: str, head: str = "") -> str:
    head = f'<meta charset="utf-8"><title>tbrm ui</title>{head}'
    return f"<!doctype html><html><head>{head}</head><body>{body}</body></html>"


def _with_headers(send: Send) -> Send:
    """Answers that no other site can frame, embed or read as something else."""

    async def sent(message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            headers = MutableHeaders(scope=message)
            headers.append("Content-Security-Policy", _NEVER_IN_A_FRAME)
            headers["X-Frame-Options"] = "DENY"
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Cross-Origin-Resource-Policy"] = "same-origin"
        await send(message)

    return sent
