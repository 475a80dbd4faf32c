"""Dagster's own web app, bare and behind the guard: every attack works on the one and not on the other."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from httpx import Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse

from assets.app.guard import Access, guarded
from tests.support.dagster_app import Served, dagster_app
from tests.support.tiny import write_tiny

HERE = "http://127.0.0.1:3000"
TOKEN = "a-token-of-the-tests-with-43-characters-abc"
ACCESS = Access(TOKEN, remedy="Open the address that `tbrm ui` prints.")
LAUNCH = """mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename
  ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
VARIABLES: dict[str, Any] = {
    "p": {
        "selector": {
            "repositoryLocationName": "assets.definitions",
            "repositoryName": "__repository__",
            "pipelineName": "evaluate_a_policy",
        },
        "mode": "default",
        "runConfigData": {"ops": {"evaluated_policies": {"config": {"benchmarks": ["heldout"]}}}},
        "executionMetadata": {"tags": [{"key": "dagster/partition", "value": "nobody/nothing"}]},
    }
}
BODY: dict[str, Any] = {"query": LAUNCH, "variables": VARIABLES}
CHANGE = 'mutation { setConcurrencyLimit(concurrencyKey: "KEY", limit: 1) }'
"""A mutation that is quick."""
IN_THE_ADDRESS = "/graphql?" + urlencode({"query": CHANGE})
REPORTS = ("report_asset_materialization", "report_asset_observation", "report_asset_check")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("app")
    write_tiny(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("DAGSTER_HOME", "")
        patch.setenv("TBRM_ROOT", "")
        with dagster_app(folder / "data") as found:
            yield found


@pytest.fixture
def bare(served: Served) -> TestClient:
    return TestClient(served.app, base_url=HERE)


@pytest.fixture
def client(served: Served) -> TestClient:
    """A browser that has our cookie, and sends it whoever asks."""
    return TestClient(guarded(served.app, ACCESS), base_url=HERE, cookies={ACCESS.cookie: TOKEN})


@pytest.fixture
def open_client(served: Served) -> TestClient:
    """Without a token, as behind a proxy that logs users in."""
    return TestClient(guarded(served.app, Access(None)), base_url=HERE)


Attack = Callable[[TestClient, str], Response]


def got(target: str) -> Attack:
    return lambda client, key: client.get(target.replace("KEY", key))


def posted(kind: str | None, target: str = "/graphql", body: str | None = None, **headers: str) -> Attack:
    """A POST with this Content-Type of `body`, or of the mutation as JSON."""
    text = json.dumps({"query": CHANGE}) if body is None else body
    sent = headers | ({"Content-Type": kind} if kind else {})
    return lambda client, key: client.post(
        target.replace("KEY", key), content=text.replace("KEY", key) if kind else None, headers=sent
    )


JSON = "application/json"
NAVIGATION = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
ATTACKS: dict[str, Attack] = {
    "an image, a link, a script": got(IN_THE_ADDRESS),
    "a line feed after the path": got(IN_THE_ADDRESS.replace("/graphql", "/graphql%0A")),
    "a letter of the path in other words": got(IN_THE_ADDRESS.replace("/graphql", "/%67raphql")),
    "two queries": got(f"/graphql?query=%7Bversion%7D&{urlencode({'query': CHANGE})}"),
    "a form of text": posted("text/plain", IN_THE_ADDRESS),
    "a form": posted("application/x-www-form-urlencoded", IN_THE_ADDRESS),
    "a beacon without a type": posted(None, IN_THE_ADDRESS),
    "text that says JSON": posted("text/plain; x=application/json"),
    "an upload that says JSON": posted("multipart/form-data; boundary=application/json"),
    "text, JSON": posted("text/plain, application/json"),
    "JSON, text": posted("application/json, text/plain"),
    "nearly JSON": posted("application/json-seq"),
    "GraphQL itself": posted("application/graphql", body=CHANGE),
    "a name that is made to resolve to us": posted(JSON, Host="attacker.example:3000"),
    "a name that begins with ours": posted(JSON, Host="127.0.0.1.attacker.example:3000"),
    "a name before ours": posted(JSON, Host="attacker.example@127.0.0.1:3000"),
    "no host": posted(JSON, Host=""),
    "another site": posted(JSON, Origin="http://attacker.example"),
    "a page in a sandbox, or of a file": posted(JSON, Origin="null"),
    "another port of this machine": posted(JSON, Origin="http://127.0.0.1:8888"),
    "another name of this machine": posted(JSON, Origin="http://localhost:3000"),
    "an extension": posted(JSON, Origin="chrome-extension://127.0.0.1:3000"),
    "another site, says the browser": posted(JSON, **{"Sec-Fetch-Site": "cross-site"}),
    "another port, says the browser": posted(JSON, **{"Sec-Fetch-Site": "same-site"}),
    "a form of another site that fills the tab": posted(JSON, **NAVIGATION, **{"Sec-Fetch-Site": "cross-site"}),
}


def changes(served: Served) -> set[str]:
    return served.instance.event_log_storage.get_concurrency_keys()


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_changes_the_bare_app_only(
    served: Served, bare: TestClient, client: TestClient, open_client: TestClient, name: str
) -> None:
    key = f"attacked by {name}"
    for guarded_client in (client, open_client):
        answer = ATTACKS[name](guarded_client, key)
        assert answer.status_code in (403, 405, 415), answer.text
        assert re.match(r"4\d\d: .{20,}", answer.text), "it says why, and what to do"
        assert key not in changes(served)
    ATTACKS[name](bare, key)
    assert key in changes(served), "the attack is none"


def test_one_address_launches_a_run_of_the_bare_app_only(served: Served, bare: TestClient, client: TestClient) -> None:
    address = f"/graphql?{urlencode({'query': LAUNCH, 'variables': json.dumps(VARIABLES)})}"
    before = served.runs()
    assert client.get(address).status_code == 405
    assert served.runs() == before
    bare.get(address)
    assert len(served.runs()) == len(before) + 1


@pytest.mark.parametrize("report", REPORTS)
@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_events_are_not_reported_by_what_any_page_can_send(
    served: Served, bare: TestClient, client: TestClient, report: str, kind: str | None
) -> None:
    target = f"/{report}/attacked?check_name=c&passed=true&data_version=1"
    headers = {"Content-Type": kind} if kind else {}
    answer = client.post(target, headers=headers)
    assert answer.status_code == 415
    assert "application/json" in answer.text
    if kind is None:
        assert bare.post(target).status_code == 200, "the attack is none"
    assert client.post(target, json={}).status_code == 200, "JSON passes"


def test_a_neighbour_without_the_token_sees_and_does_nothing(served: Served) -> None:
    neighbour = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    before = served.runs()
    wrong = [
        {},
        {"Authorization": "Bearer guess"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Cookie": f"other={TOKEN}"},
        {"Cookie": f"{ACCESS.cookie}="},
        {"Cookie": f"{ACCESS.cookie}={TOKEN}x"},
    ]
    for headers in wrong:
        answers = [neighbour.get(path, headers=headers) for path in ("/", "/server_info", "/favicon.png", "/runs/x")]
        answers += [neighbour.get("/?token=guess"), neighbour.post("/graphql", json=BODY, headers=headers)]
        answers += [neighbour.post(f"/graphql?token={TOKEN}", json=BODY, headers=headers)]
        for answer in answers:
            assert answer.status_code == 401
            assert "tbrm ui" in answer.text
            assert TOKEN not in answer.text
    assert served.runs() == before


def test_the_printed_link_lets_the_browser_in(served: Served) -> None:
    browser = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    answer = browser.get(f"/runs/abc?tab=logs&token={TOKEN}", headers={"Sec-Fetch-Site": "none"})
    assert answer.status_code == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    assert "secure" not in cookie
    assert TOKEN not in answer.text
    assert 'url=/runs/abc?tab=logs"' in answer.text
    page = browser.get("/runs/abc?tab=logs")
    assert page.status_code == 200
    assert '<div id="__next">' in page.text or "/_next/" in page.text
    script = re.search(r'src="(/_next/[^"]+\.js)"', page.text)
    assert script, "the page loads scripts"
    assert browser.get(script[1]).status_code == 200
    assert browser.get("/favicon.png").headers["content-type"] == "image/png"
    assert browser.post("/graphql", json={"query": "{ version }"}).json()["data"]


def test_own_requests_pass(served: Served, client: TestClient, open_client: TestClient) -> None:
    own = {"Origin": HERE, "Sec-Fetch-Site": "same-origin"}
    tunnel = {"Host": "localhost:8080", "Origin": "http://localhost:8080"}
    requests = [posted(JSON), posted(JSON, **own), posted(JSON, **tunnel), posted(JSON, Host="[::1]:3000")]
    requests.append(posted(f"{JSON}; charset=utf-8"))
    for number, request in enumerate(requests):
        for one in (client, open_client):
            key = f"own {number} {one is client}"
            request(one, key)
            assert key in changes(served)
    before = len(served.runs())
    assert client.post("/graphql", json=BODY).json()["data"]["launchRun"]["__typename"] == "LaunchRunSuccess"
    assert len(served.runs()) == before + 1
    program = TestClient(guarded(served.app, ACCESS), base_url=HERE, headers={"Authorization": f"Bearer {TOKEN}"})
    assert program.get("/server_info").status_code == 200


def test_a_proxys_name_is_allowed_where_it_is_named(served: Served) -> None:
    named = TestClient(guarded(served.app, Access(None, ("ui.example", "gate.example:8443"))), base_url=HERE)
    query = {"query": "{ version }"}

    def status(host: str, origin: str) -> int:
        return named.post("/graphql", json=query, headers={"Host": host, "Origin": origin}).status_code

    assert status("ui.example", "https://ui.example") == 200
    assert status("UI.example", "https://ui.example") == 200
    assert status("gate.example:8443", "https://gate.example:8443") == 200
    assert status("127.0.0.1:3000", "https://ui.example") == 200, "the proxy may write its own Host"
    assert status("gate.example", "https://gate.example") == 403
    assert status("ui.example", "https://ui.example:8443") == 403
    assert status("ui.example", "https://attacker.example") == 403
    assert status("ui.example.attacker.example", "https://ui.example.attacker.example") == 403


def test_a_link_on_another_site_opens_the_ui(client: TestClient, served: Served) -> None:
    """The browser holds the cookie back then; the answer goes on by itself, from our own page."""
    followed = NAVIGATION | {"Sec-Fetch-Site": "cross-site"}
    without_cookie = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    answer = without_cookie.get("/runs/abc", headers=followed)
    assert answer.status_code == 200
    assert 'url=/runs/abc"' in answer.text
    assert "/_next/" not in answer.text
    again = without_cookie.get("/runs/abc", headers=followed | {"Sec-Fetch-Site": "same-origin"})
    assert again.status_code == 401
    framed = followed | {"Sec-Fetch-Dest": "iframe"}
    assert client.get("/runs/abc", headers=framed).status_code == 403


@pytest.mark.parametrize(
    "path", ["//attacker.example/x", "/\\attacker.example", "/%5Cattacker.example", "/%2F/a.example"]
)
def test_the_token_page_leads_nowhere_else(served: Served, path: str) -> None:
    client = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    answer = client.get(f"{HERE}{path}?token={TOKEN}")
    target = re.search(r'url=([^"]*)"', answer.text)
    assert target
    assert re.match(r"/[^/\\]", target[1]), target[1]


def test_the_token_page_holds_no_markup_of_the_address(served: Served) -> None:
    client = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    answer = client.get(f'/"><script>x</script>?a="><script>y</script>&token={TOKEN}')
    assert "<script" not in answer.text


def test_the_page_for_people_asks_for_the_token(served: Served) -> None:
    browser = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    answer = browser.get("/", headers={"Accept": "text/html,*/*"})
    assert answer.status_code == 401
    assert 'name="token"' in answer.text
    assert "tbrm ui" in answer.text
    assert "no longer" in browser.get("/?token=old", headers={"Accept": "text/html,*/*"}).text


def test_no_other_site_can_frame_or_embed_a_page(client: TestClient) -> None:
    for path in ("/", "/server_info", "/favicon.png", "/graphql?query=x"):
        headers = client.get(path).headers
        assert headers["x-frame-options"] == "DENY"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/notebook", "/dagit/notebook", "/notebook%0A"])
def test_notebooks_of_the_machine_are_not_shown(served: Served, client: TestClient, tmp_path: Path, path: str) -> None:
    book = tmp_path / "evil.ipynb"
    book.write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    answer = client.get(path, params={"path": str(book), "repoLocName": "assets.definitions"})
    assert answer.status_code == 403


SUBSCRIPTION = {
    "type": "start",
    "id": "1",
    "payload": {"query": "subscription { locationStateChangeEvents { event { message } } }"},
}


def subscribe(client: TestClient, **headers: str) -> None:
    """Start a subscription over a WebSocket, and ask for a mutation. Raises WebSocketDenialResponse when refused."""
    with client.websocket_connect("ws://127.0.0.1:3000/graphql", headers=headers) as socket:
        socket.send_json({"type": "connection_init"})
        assert socket.receive_json() == {"type": "connection_ack"}
        socket.send_json(SUBSCRIPTION)
        socket.send_json(SUBSCRIPTION | {"id": "2", "payload": {"query": LAUNCH, "variables": VARIABLES}})
        assert socket.receive_json()["id"] == "2", "the subscription goes on, the mutation is refused"


def is_refused(client: TestClient, **headers: str) -> bool:
    with pytest.raises(WebSocketDenialResponse) as refused:
        subscribe(client, **headers)
    return refused.value.status_code in (401, 403) and bool(re.match(r"40\d: .{20,}", refused.value.text))


def test_a_websocket_is_asked_the_same(served: Served, bare: TestClient, client: TestClient) -> None:
    before = served.runs()
    foreign: list[dict[str, str]] = [
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8888"},
        {"Host": "attacker.example:3000"},
        {"Host": "attacker.example:3000", "Origin": "http://attacker.example:3000"},
        {"Sec-Fetch-Site": "cross-site"},
    ]
    for headers in foreign:
        subscribe(bare, **headers)  # so it is an attack
        assert is_refused(client, **headers)
    neighbour = TestClient(guarded(served.app, ACCESS), base_url=HERE)
    assert is_refused(neighbour)
    assert is_refused(neighbour, Origin=HERE)
    subscribe(client, Origin=HERE)
    subscribe(neighbour, Authorization=f"Bearer {TOKEN}")
    assert served.runs() == before


ROUTES = {
    "/server_info": {"GET"},
    "/dagit_info": {"GET"},
    "/graphql": {"GET", "POST"},
    "/logs/{path:path}": {"GET"},
    "/notebook": {"GET"},
    "/dagit/notebook": {"GET"},
    "/download_debug/{run_id:str}": {"GET"},
    "/report_asset_materialization/{asset_key:path}": {"POST"},
    "/report_asset_check/{asset_key:path}": {"POST"},
    "/report_asset_observation/{asset_key:path}": {"POST"},
    "/{path:path}": {"GET"},
    "/": {"GET"},
}
"""What was read for this guard: a GET that changes something, or a new WebSocket, would need words in it."""


def test_dagsters_routes_are_those_that_were_read(served: Served) -> None:
    found: dict[str, set[str]] = {}
    sockets: list[str] = []
    for route in served.app.routes:
        if isinstance(route, WebSocketRoute):
            sockets.append(route.path)
        elif isinstance(route, Mount) or (isinstance(route, Route) and str(route.name).endswith("_static")):
            assert str(route.name).endswith("_static"), route
            assert isinstance(route, Mount) or route.methods == {"GET", "HEAD"}
        else:
            assert isinstance(route, Route)
            found[route.path] = set(route.methods or ()) - {"HEAD"}
    assert found == ROUTES
    assert sockets == ["/graphql"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"])
def test_no_route_is_reached_by_a_method_that_could_change_something(
    served: Served, client: TestClient, method: str
) -> None:
    for path in ROUTES:
        target = re.sub(r"\{.*?\}", "x", path)
        assert client.request(method, target, headers={"Content-Type": "text/plain"}).status_code in (403, 405, 415)
