"""Another host's name, another origin, no token: 403, and nothing of the storage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_up import MadeUp, write_results
from served import TOKEN, Client, known

from rl_alliteration.results.storage import Storage


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Client:
    storage = Storage(tmp_path_factory.mktemp("security") / "results")
    write_results(storage, [MadeUp(generations=100)])
    return Client(known(storage, measured=False))


@pytest.mark.parametrize(
    "headers",
    [
        {"cookie": None},
        {"cookie": "rl_alliteration_8686=another"},
        {"cookie": "rl_alliteration_8687=" + TOKEN},
        {"host": "evil.example"},
        {"host": "evil.example:8686"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "localhost@evil.example"},
        {"host": None},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8686"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"},
        {"sec-fetch-site": "same-site", "sec-fetch-mode": "cors"},
    ],
)
@pytest.mark.parametrize("path", ["/", "/static/app.js", "/changes", "/download/", "/no-such-page"])
def test_what_is_not_ours_is_refused(client: Client, headers: dict[str, str | None], path: str) -> None:
    answer = client.ask(path, headers)
    assert answer.status == 403
    assert answer.text == "403: open the link that `rl-alliteration serve` has printed\n"


def test_the_printed_link_sets_a_strict_cookie_and_goes_on_without_the_token(client: Client) -> None:
    answer = client.ask(f"/curves?y=variety&token={TOKEN}", {"cookie": None, "sec-fetch-site": "none"})
    assert answer.status == 200
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie and "path=/" in cookie
    assert 'content="0;url=http://127.0.0.1:8686/curves?y=variety"' in answer.text
    assert TOKEN not in answer.text
    assert client.ask(f"/?token={TOKEN}x", {"cookie": None}).status == 403
    assert client.ask(f"/note?token={TOKEN}", {"cookie": None}, "POST").status == 403


@pytest.mark.parametrize("host", ["127.0.0.1:8686", "localhost:8686", "[::1]:8686", "localhost:9000"])
def test_this_machines_names_are_accepted_and_pages_may_not_be_framed(client: Client, host: str) -> None:
    answer = client.ask("/", {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"})
    assert answer.status == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
    assert scripts == "script-src 'self'"
    assert answer.headers["referrer-policy"] == "same-origin" and answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_a_link_from_elsewhere_may_open_a_page_but_not_write(client: Client) -> None:
    navigation = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert client.ask("/", navigation).status == 200
    body = json.dumps({"trial": "x/y", "name": "", "note": "", "starred": True}).encode()
    assert client.ask("/note", navigation, "POST", body).status == 403
    assert client.ask("/note", {}, "POST", body).status == 403  # nothing says where it comes from
    ours = {"origin": "http://127.0.0.1:8686"}
    assert client.ask("/note", ours, "POST", body).status == 400  # there is no such trial


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2f..%2fpyproject.toml",
        "/static/../server.py",
        "/rollouts?trial=../../etc/passwd",
        "/rollouts?trial=made_up/../../x",
        "/trial?trial=%00",
        "/compare?trial=/etc/passwd&trial=a/b",
        "/texts?search=x&in=../..",
        "/download/rollouts?trial=../x",
    ],
)
def test_no_path_of_an_address_reaches_the_file_system(client: Client, path: str) -> None:
    answer = client.ask(path)
    assert answer.status in (400, 404)
    assert "Traceback" not in answer.text and "root:" not in answer.text


def test_the_token_is_not_in_any_page(client: Client, tmp_path: Path) -> None:
    for path in ("/", "/curves", "/rollouts", "/frontier", "/static/app.js"):
        assert TOKEN not in client.ask(path).text
