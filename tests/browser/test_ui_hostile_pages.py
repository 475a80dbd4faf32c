"""Pages of other sites in the browser of somebody who has the UI open: what they try works on the bare app only."""

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from assets.app.guard import Access, guarded
from tests.browser.test_ui_browser import FLAGS
from tests.support.dagster_app import Served, dagster_app
from tests.support.served_ui import free_port
from tests.support.tiny import write_tiny

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: sh scripts/install-system.sh (as root)")
TOKEN = "a-token-of-the-tests-with-43-characters-abc"
ATTACKERS = ("http://attacker.example:9999", "http://127.0.0.1:9999")
"""Another site, and another user's server on this machine: to that one the browser sends our cookies too."""
REBOUND = "rebound.example"
"""A name of the attacker's that resolves to 127.0.0.1 by now."""
CHANGE = 'mutation { setConcurrencyLimit(concurrencyKey: "KEY", limit: 1) }'
WAYS = {
    "image": "new Image().src = ADDRESS",
    "script": "document.head.appendChild(Object.assign(document.createElement('script'), {src: ADDRESS}))",
    "form": """document.body.innerHTML = '<form method=post enctype="text/plain"></form>';
        document.forms[0].action = ADDRESS; document.forms[0].submit()""",
    "form in a frame": """document.body.innerHTML = '<iframe name=f></iframe><form method=post target=f></form>';
        document.forms[0].action = ADDRESS; document.forms[0].submit()""",
    "fetch": "fetch(ADDRESS, {mode: 'no-cors', credentials: 'include'}).catch(() => 0)",
    "fetch that wants to read": "fetch(ADDRESS, {credentials: 'include'}).catch(() => 0)",
    "fetch of text": """fetch(TARGET, {method: 'POST', mode: 'no-cors', credentials: 'include',
        headers: {'Content-Type': 'text/plain; x=application/json'}, body: BODY}).catch(() => 0)""",
    "beacon": "navigator.sendBeacon(ADDRESS)",
}
"""What a page of another site does. ADDRESS has a mutation in the query, BODY is for TARGET."""
OPENS = """address => new Promise(resolve => {
    const socket = new WebSocket(address, 'graphql-ws');
    socket.onopen = () => resolve(true); socket.onerror = () => resolve(false) })"""


@dataclass(frozen=True)
class Ui:
    """A web app that listens, and the queries of the requests that it has answered."""

    url: str
    answered: list[str]


@dataclass(frozen=True)
class Pair:
    """The same app as Dagster serves it, and behind the guard."""

    dagster: Served
    bare: Ui
    guarded: Ui

    def changed(self, key: str) -> bool:
        return key in self.dagster.instance.event_log_storage.get_concurrency_keys()


@contextlib.contextmanager
def listening(app: ASGIApp) -> Generator[Ui]:
    """The app on a free port of 127.0.0.1, served by a thread."""
    answered: list[str] = []

    async def noted(scope: Scope, receive: Receive, send: Send) -> None:
        await app(scope, receive, send)
        answered.append(unquote(scope["query_string"].decode()))

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(noted, port=port, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.02)
    yield Ui(f"http://127.0.0.1:{port}", answered)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("hostile")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.chdir(folder)
        patch.setenv("DAGSTER_HOME", "")
        patch.setenv("TBRM_ROOT", "")
        dagster = stack.enter_context(dagster_app(folder / "data"))
        bare = stack.enter_context(listening(dagster.app))
        behind = stack.enter_context(listening(guarded(dagster.app, Access(TOKEN))))
        yield Pair(dagster, bare, behind)


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    rules = f"--host-resolver-rules=MAP attacker.example 127.0.0.1,MAP {REBOUND} 127.0.0.1"
    with sync_api.sync_playwright() as playwright:
        # Chromium's own protection of local servers asks the user, who may say yes; older browsers have none.
        unprotected = "--disable-features=LocalNetworkAccessChecks"
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*FLAGS, rules, unprotected])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def context(pair: Pair, browser: "Browser") -> "Iterator[BrowserContext]":
    """The browser of somebody who has opened the UI by its link."""
    context = browser.new_context()
    owner = context.new_page()
    owner.goto(f"{pair.guarded.url}/server_info?token={TOKEN}")
    owner.get_by_text("dagster_webserver_version").wait_for()
    assert owner.evaluate("() => document.cookie") == "", "no script reads the token"
    yield context
    context.close()


@pytest.fixture
def page(context: "BrowserContext") -> "Iterator[Page]":
    page = context.new_page()
    page.set_default_timeout(120_000)
    yield page
    page.close()


def open_attackers(page: "Page", site: str) -> None:
    """The page that the attacker serves at `site`; what it asks of other addresses reaches the network."""
    page.route(f"{site}/", lambda route: route.fulfill(content_type="text/html", body="<body></body>"))
    page.goto(f"{site}/")


def attack(page: "Page", ui: Ui, script: str, key: str, url: str = "") -> None:
    """Run a script until the UI has answered its request; `url` is another name of the UI."""
    url = url or ui.url
    change = CHANGE.replace("KEY", key)
    names = {"TARGET": f"{url}/graphql?{quote(key)}", "BODY": json.dumps({"query": change})}
    names["ADDRESS"] = f"{url}/graphql?query={quote(change)}"
    head = "".join(f"const {name} = {json.dumps(value)};" for name, value in names.items())
    page.evaluate(f"() => {{ setTimeout(() => {{ {head} {script} }}, 0) }}")
    deadline = time.monotonic() + 30
    while not any(key in query for query in ui.answered) and time.monotonic() < deadline:
        page.wait_for_timeout(20)
    assert any(key in query for query in ui.answered), "the request did not come"


@pytest.mark.parametrize("site", ATTACKERS)
def test_a_page_of_another_site_changes_the_bare_app_only(pair: Pair, page: "Page", site: str) -> None:
    open_attackers(page, site)
    for way, script in WAYS.items():
        key = f"{way} of {site}"
        for ui in (pair.guarded, pair.bare):
            attack(page, ui, script, key)
            assert pair.changed(key) == (ui is pair.bare), key
            if way == "form":  # the tab goes to the answer
                page.wait_for_url(f"{ui.url}/**")
            if way.startswith("form"):
                page.goto(f"{site}/")


@pytest.mark.parametrize("site", ATTACKERS)
def test_json_and_websockets_of_another_site(pair: Pair, page: "Page", site: str) -> None:
    open_attackers(page, site)
    posted = """address => fetch(address, {method: 'POST', credentials: 'include', body: '{"query": "{ version }"}',
        headers: {'Content-Type': 'application/json'}}).then(() => true, () => false)"""
    assert not page.evaluate(posted, f"{pair.guarded.url}/graphql")
    guarded_socket, bare_socket = (ui.url.replace("http", "ws") + "/graphql" for ui in (pair.guarded, pair.bare))
    assert not page.evaluate(OPENS, guarded_socket)
    assert page.evaluate(OPENS, bare_socket), "the attack is none"


OWN_POST = "fetch(TARGET, {method: 'POST', headers: {'Content-Type': 'application/json'}, body: BODY})"


def test_a_name_that_resolves_to_us_is_not_us(pair: Pair, page: "Page") -> None:
    """DNS rebinding: for the browser the page and the UI are one origin."""
    for ui, works in ((pair.guarded, False), (pair.bare, True)):
        site = ui.url.replace("127.0.0.1", REBOUND)
        open_attackers(page, site)
        attack(page, ui, OWN_POST, f"rebound {works}", site)
        assert pair.changed(f"rebound {works}") == works
        assert page.evaluate(OPENS, site.replace("http", "ws") + "/graphql") == works
        page.unroute(f"{site}/")
        answer = page.goto(f"{site}/")
        assert answer is not None
        assert ("does not answer to the host" in answer.text()) != works


def test_the_owners_page_works(pair: Pair, page: "Page") -> None:
    page.goto(f"{pair.guarded.url}/overview/jobs")
    page.get_by_text("evaluate_a_policy").first.wait_for()
    attack(page, pair.guarded, OWN_POST, "owner")
    assert pair.changed("owner")
    assert page.evaluate(OPENS, pair.guarded.url.replace("http", "ws") + "/graphql")


def test_a_link_on_another_site_opens_the_ui(pair: Pair, page: "Page") -> None:
    open_attackers(page, ATTACKERS[0])
    page.set_content(f'<a href="{pair.guarded.url}/overview/jobs">the UI</a>')
    page.get_by_text("the UI").click()
    page.get_by_text("evaluate_a_policy").first.wait_for()
