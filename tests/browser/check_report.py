"""The page of `rwkvquant report` in headless Chromium: nothing fetched, nothing on the console, and axe-core finds nothing serious."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.browser.check_page import SIZES, browser, clean, picture  # noqa: F401
from tests.report.test_report import folder, made, plan_of, write  # noqa: F401


@SIZES
def test_the_report_is_whole_without_the_network(browser: Browser, folder: Path, size: dict[str, int], theme: Any) -> None:  # noqa: F811
    Path("work").mkdir()
    write("work/plan.json", plan_of(Path("model.safetensors")))
    assert run_report() == 0
    context = browser.new_context(viewport=size, color_scheme=theme)
    page = context.new_page()
    said: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    address = (folder / "report.html").as_uri()
    page.goto(address)
    for table in page.locator("details").all():
        table.locator("summary").click()
    clean(page, f"{size['width']} {theme}")
    assert page.locator("svg").count() >= 5 and said == [] and [each for each in asked if not each.startswith("data:")] == [address]
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    picture(page, f"report-{size['width']}-{theme}")
    context.close()


def run_report() -> int:
    from rwkvquant.cli.main import run

    return run(["report", "model.safetensors", "--original", "model.pth", "-o", "report.html"])
