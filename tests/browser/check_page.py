"""The page of the server in headless Chromium. `make test-browser` runs this; `make test` does not, because it needs a browser.

RWKVQUANT_SCREENSHOTS names a folder for pictures of what was tested.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.serve.servers import Server, serving

WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
SIZES = pytest.mark.parametrize(
    ("size", "theme"),
    [(WIDE, "light"), (WIDE, "dark"), (NARROW, "light"), (NARROW, "dark")],
    ids=["wide", "wide-dark", "narrow", "narrow-dark"],
)
HI = "Tell me of the ship"
QUICK = {"max_tokens": 24, "temperature": 0}
LONG = {"max_tokens": 4096, "temperature": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running
        assert "Traceback" not in running.said(), running.said()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = shutil.which("chromium")
    assert found, "the browser tests need Debian's chromium: apt-get install chromium (tests/browser/run.sh does this)"
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield opened
        opened.close()


@contextmanager
def visiting(browser: Browser, server: Server, sampling: dict[str, Any], known: tuple[str, ...] = (), **options: Any) -> Iterator[Page]:
    """The page in a new profile. At the end: nothing was said on the console but `known`, and nothing came from elsewhere."""
    context: BrowserContext = browser.new_context(**{"viewport": WIDE, **options})
    context.set_default_timeout(20_000)
    context.add_init_script(
        f"localStorage.getItem('rwkvquant.sampling') ?? localStorage.setItem('rwkvquant.sampling', '{json.dumps(sampling)}')"
    )
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(server.url)
    yield page
    assert [each for each in said if not any(word in each for word in known)] == []
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    context.close()


def ask(page: Page, text: str) -> None:
    page.get_by_label("Your message", exact=True).fill(text)
    page.keyboard.press("Enter")


def answered(page: Page) -> str:
    """The text of the last answer, when it is complete."""
    expect(page.get_by_role("button", name="Retry")).to_be_visible()
    return page.locator(".message.assistant .text").last.inner_text()


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("RWKVQUANT_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


def written(server: Server) -> float:
    return server.metrics()["written_tokens_total"]


def test_it_answers_and_an_answer_is_there_after_a_reload(browser: Browser, server: Server) -> None:
    with visiting(browser, server, QUICK) as page:
        expect(page.get_by_label("Your message", exact=True)).to_be_focused()
        ask(page, HI)
        text = answered(page)
        wanted = server.chat(HI, **QUICK)["choices"][0]["message"]["content"]
        assert text.split() == wanted.split() and text
        expect(page.locator(".foot").last).to_contain_text("24 tokens")
        expect(page.locator("#spoken")).to_contain_text("Answer complete.")
        expect(page.get_by_label("Your message", exact=True)).to_be_focused()
        page.reload()
        expect(page.locator(".message.user .text")).to_have_text(HI)
        assert answered(page) == text


def test_shift_enter_is_a_new_line_and_enter_sends(browser: Browser, server: Server) -> None:
    with visiting(browser, server, QUICK) as page:
        page.keyboard.type("one")
        page.keyboard.press("Shift+Enter")
        page.keyboard.type("two")
        expect(page.locator(".message")).to_have_count(0)
        page.keyboard.press("Enter")
        expect(page.locator(".message.user p")).to_have_text("one\ntwo")
        answered(page)


@pytest.mark.parametrize("how", ["Escape", "button", "reload"])
def test_an_answer_is_stopped_and_what_was_written_stays(browser: Browser, server: Server, how: str) -> None:
    with visiting(browser, server, LONG) as page:
        page.route("**/v1/chat/completions", never_ending)
        ask(page, HI)
        expect(page.locator(".message.assistant .text")).not_to_be_empty()
        if how == "reload":
            page.reload()
        elif how == "button":
            page.get_by_role("button", name="Stop").click()
        else:
            page.keyboard.press("Escape")
        assert answered(page)
        expect(page.get_by_role("button", name="Send")).to_be_visible()
        if how != "reload":
            expect(page.locator(".foot").last).to_contain_text("stopped")
            expect(page.get_by_label("Your message", exact=True)).to_be_focused()
    while server.metrics()["running"]:  # the server notices that the page left
        time.sleep(0.05)


def never_ending(route: Any) -> None:
    """The tiny model may end an answer early; token 0 and the words that end a turn are forbidden, so it does not."""
    body = json.loads(route.request.post_data)
    ends = {"0": -100, "10": -100}  # the end of a text, and a line break, which begins each stop text
    route.continue_(post_data=json.dumps(body | {"logit_bias": ends}))


def test_a_message_is_edited_and_an_answer_retried_from_cached_states(browser: Browser, server: Server) -> None:
    with visiting(browser, server, QUICK) as page:
        ask(page, HI)
        answered(page)
        ask(page, "And then?")
        answered(page)
        before = server.metrics()
        page.get_by_role("button", name="Retry").click()
        answered(page)
        after = server.metrics()
        assert after["prompt_tokens_total"] - before["prompt_tokens_total"] == after["cached_tokens_total"] - before["cached_tokens_total"]
        page.get_by_role("button", name="Edit").first.click()
        box = page.get_by_label("Edit your message")
        expect(box).to_be_focused()
        box.fill("Tell me of the sea")
        page.keyboard.press("Escape")
        expect(page.locator(".message")).to_have_count(4)
        page.get_by_role("button", name="Edit").first.click()
        page.get_by_label("Edit your message").fill("Tell me of the sea")
        page.keyboard.press("Enter")
        expect(page.locator(".message")).to_have_count(2)
        text = answered(page)
        assert text.split() == server.chat("Tell me of the sea", **QUICK)["choices"][0]["message"]["content"].split()


def test_conversations_are_made_renamed_and_deleted(browser: Browser, server: Server) -> None:
    with visiting(browser, server, QUICK) as page:
        ask(page, HI)
        answered(page)
        page.get_by_role("button", name="New conversation", exact=True).first.click()
        expect(page.locator(".message")).to_have_count(0)
        ask(page, "Another one")
        answered(page)
        page.get_by_role("button", name=f"Rename: {HI}").click()
        page.get_by_label("Name of the conversation").fill("Ships")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Ships", exact=True).click()
        expect(page.locator(".message.user .text")).to_have_text(HI)
        page.reload()
        expect(page.locator(".message.user .text")).to_have_text(HI)
        page.get_by_role("button", name="Delete: Ships").click()
        page.get_by_role("button", name="Delete", exact=True).click()
        expect(page.get_by_role("button", name="Ships", exact=True)).to_have_count(0)
        expect(page.locator(".message.user .text")).to_have_text("Another one")


def test_the_system_text_and_sampling_are_sent(browser: Browser, server: Server) -> None:
    sent: list[Any] = []
    with visiting(browser, server, {}) as page:
        page.on("request", lambda request: sent.append(request.post_data_json) if request.method == "POST" else None)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("System text").fill("You are a sailor.")
        page.get_by_label("Temperature").fill("0.5")
        page.get_by_label("Most tokens").fill("9")
        page.get_by_label("Presence penalty").fill("0.25")
        page.get_by_role("button", name="Done").click()
        ask(page, HI)
        answered(page)
    assert sent[0]["messages"] == [{"role": "system", "content": "You are a sailor."}, {"role": "user", "content": HI}]
    assert (sent[0]["temperature"], sent[0]["max_tokens"], sent[0]["presence_penalty"]) == (0.5, 9, 0.25) and "top_p" not in sent[0]


def test_html_in_an_answer_stays_text(browser: Browser, server: Server) -> None:
    evil = "<img src=x onerror=alert(1)> `<b>`\n\n```html\n<script>alert(1)</script>\n```\nend"
    chunk = {"choices": [{"index": 0, "delta": {"content": evil}, "finish_reason": "stop"}]}
    with visiting(browser, server, QUICK) as page:
        stream = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n"
        page.route("**/v1/chat/completions", lambda route: route.fulfill(content_type="text/event-stream", body=stream))
        ask(page, evil)
        answered(page)
        assert page.locator("#log img, #log script, #log b").count() == 0
        expect(page.locator(".message.assistant pre")).to_have_text("<script>alert(1)</script>")
        expect(page.locator(".message.assistant p code")).to_have_text("<b>")
        expect(page.locator(".message.user .text")).to_contain_text("<img src=x onerror=alert(1)>")


def test_an_error_of_the_server_is_shown_and_retried(browser: Browser, server: Server) -> None:
    with visiting(browser, server, QUICK | {"temperature": 999}, known=("400",)) as page:
        ask(page, HI)
        expect(page.locator(".error").first).to_contain_text("temperature")
        page.evaluate(f"localStorage.setItem('rwkvquant.sampling', '{json.dumps(QUICK)}')")
        page.get_by_role("button", name="Retry").click()
        expect(page.locator(".foot").last).to_contain_text("24 tokens")
        assert answered(page)


def test_the_key_is_asked_for_and_kept_in_this_tab_only(browser: Browser) -> None:
    with serving("--api-key", "secret") as server, visiting(browser, server, QUICK, known=("401",)) as page:
        page.get_by_label("Key", exact=True).fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_text("does not know this key")).to_be_visible()
        page.get_by_label("Key", exact=True).fill("secret")
        page.keyboard.press("Enter")
        expect(page.locator("#model")).to_have_text("rwkv7-tiny-rtn4")
        ask(page, HI)
        assert answered(page)
        assert (
            "secret" not in page.evaluate("JSON.stringify(localStorage)") and page.evaluate("sessionStorage['rwkvquant.key']") == "secret"
        )


def test_numbers_are_those_of_the_server(browser: Browser, server: Server) -> None:
    with visiting(browser, server, QUICK) as page:
        page.get_by_role("button", name="Numbers").click()
        page.get_by_role("button", name="Measure").click()
        expect(page.locator("#answers")).to_contain_text("Measured")
        expect(page.locator("#answers")).to_contain_text("128")
        props = server.ask("/props")[1]
        expect(page.locator("#tiles")).to_contain_text(props["file"]["name"])
        expect(page.locator("#tiles")).to_contain_text(f"{props['state_bytes'] / 1000:.3g} kB")
        expect(page.locator("#tiles")).to_contain_text(f"{props['file']['bits_per_weight']:.3g}")


@SIZES
def test_axe_finds_nothing_serious(browser: Browser, server: Server, size: Any, theme: str) -> None:
    name = f"{size['width']}-{theme}"
    with visiting(browser, server, QUICK, viewport=size, color_scheme=theme) as page:
        clean(page, "empty")
        picture(page, f"empty-{name}")
        ask(page, HI)
        answered(page)
        ask(page, "A list, please:\n\n```\nline\n```")
        answered(page)
        clean(page, "chat")
        picture(page, f"chat-{name}")
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.get_by_role("button", name="Edit").first.click()
        clean(page, "edit")
        picture(page, f"edit-{name}")
        page.keyboard.press("Escape")
        if size is NARROW:
            page.get_by_role("button", name="Conversations").click()
            expect(page.get_by_role("button", name="New conversation", exact=True)).to_be_focused()
            clean(page, "drawer")
            picture(page, f"drawer-{name}")
            page.keyboard.press("Escape")
            expect(page.get_by_role("button", name="Conversations")).to_be_focused()
        page.get_by_role("button", name="Settings").click()
        clean(page, "settings")
        picture(page, f"settings-{name}")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Numbers").click()
        page.get_by_role("button", name="Measure").click()
        expect(page.locator("#answers")).to_contain_text("Measured")
        expect(page.get_by_role("button", name="Measure")).to_be_enabled()
        clean(page, "numbers")
        picture(page, f"numbers-{name}")
        fits = "[...document.querySelectorAll('#numbers, #chats, #log')].every((each) => each.scrollWidth <= each.clientWidth)"
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"] and page.evaluate(fits)


def clean(page: Page, where: str) -> None:
    found = Axe().run(page).response["violations"]
    serious = [(each["id"], [node["html"][:200] for node in each["nodes"]]) for each in found if each["impact"] in ("serious", "critical")]
    assert serious == [], where


def test_the_theme_can_be_chosen(browser: Browser, server: Server) -> None:
    background = "getComputedStyle(document.body).backgroundColor"
    with visiting(browser, server, QUICK, color_scheme="dark") as page:
        dark = page.evaluate(background)
        page.get_by_role("button", name="Theme: as the system").click()
        light = page.evaluate(background)
        page.reload()
        assert page.evaluate(background) == light != dark
        page.get_by_role("button", name="Theme: light").click()
        assert page.evaluate(background) == dark
