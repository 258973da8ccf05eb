"""The page at `/`: one file that holds no data, and the headers it is sent with.

The browser runs only the scripts and styles that are in the file (their hashes are in the policy), lets them talk to this server alone,
and refuses to make HTML of a text (`require-trusted-types-for`). So what a model writes stays text, even if the page had a mistake.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib import resources

PAGE = "page.html"


@cache
def page() -> bytes:
    return resources.files("rwkvquant.serve").joinpath(PAGE).read_bytes()


@cache
def headers() -> dict[str, str]:
    return {
        "content-security-policy": policy(page().decode()),
        "cache-control": "no-cache",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }


def policy(html: str) -> str:
    """Content-Security-Policy for a page with inline scripts and styles, which connects to where it came from."""

    def hashes(tag: str) -> str:
        found = re.findall(rf"<{tag}(?: [^>]*)?>(.*?)</{tag}>", html, re.DOTALL)
        return " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in found)

    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes('script')}",
            f"style-src {hashes('style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        )
    )
