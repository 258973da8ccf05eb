"""The page at /: what is sent, and that it needs nothing else. tests/browser/ runs it in a browser."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib import resources
from pathlib import Path

from rwkvquant.serve.page import headers, page, policy
from tests.serve.servers import Server

ROOT = Path(__file__).parents[2]


def test_the_page_is_sent_as_it_is_in_the_package(server: Server) -> None:
    status, text, got = server.ask("/")
    assert status == 200 and got["content-type"] == "text/html; charset=utf-8"
    assert text.encode() == resources.files("rwkvquant.serve").joinpath("page.html").read_bytes() == page()
    assert got["content-security-policy"] == headers()["content-security-policy"]
    assert server.ask("/", {})[0] == 405


def test_a_wheel_has_the_page() -> None:
    """scikit-build-core takes every file of the package that git does not ignore and that `wheel.exclude` does not name."""
    project = (ROOT / "pyproject.toml").read_text()
    assert 'wheel.packages = ["src/rwkvquant"]' in project and re.findall(r"wheel\.exclude = (.*)", project) == ['["rwkvquant/native/**"]']


def external(html: str) -> list[str]:
    """What a browser would load from elsewhere, and handlers in attributes."""
    addresses = re.findall(r"https?://[^'\"\s)]+|url\([^)]*\)|@import[^;]*|\b(?:src|srcset|href|action)=\"(?!data:)[^\"]*", html)
    known = "http://www.w3.org/2000/svg"  # the name of a kind of XML, which is not loaded
    handlers = re.findall(r"<[^>]*\son\w+=", html)
    return [each for each in addresses if each != known] + handlers


def test_the_page_refers_to_nothing_else() -> None:
    assert external(page().decode()) == []
    for bad in (
        '<script src="x.js">',
        "@import 'a.css';",
        "url(a.png)",
        '<a href="https://x.example">',
        '<p onclick="f()">',
        "http://x.example/",
    ):
        assert external(bad) != [], bad


def test_the_page_never_makes_html_of_text() -> None:
    script = page().decode()
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function", "DOMParser"):
        assert word not in script, word


def test_the_policy_allows_the_scripts_of_the_page_and_no_others() -> None:
    found = headers()["content-security-policy"]
    rules = dict(each.split(" ", 1) for each in found.split("; "))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'" and rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in found and "*" not in found
    html = "<style>a</style><script>b\n</script><script type='module'>c</script>"
    digest = lambda text: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()  # noqa: E731
    assert f"script-src 'sha256-{digest('b' + chr(10))}' 'sha256-{digest('c')}';" in policy(html)
    assert f"style-src 'sha256-{digest('a')}';" in policy(html)
    assert len(rules["script-src"].split()) == 2 and len(rules["style-src"].split()) == 1
