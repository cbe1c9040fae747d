"""The browser of the tests notices what is wrong with a page."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

GOOD = """<!doctype html><title>t</title><style>
:root { color-scheme: light dark } p { color: CanvasText }
</style><p>keys</p><button>one</button><button onclick="this.textContent = 'done'">two
</button><input>"""


def test_keys_pointer_and_colour_scheme_reach_a_page(browser, tmp_path):
    (tmp_path / "a page.html").write_text(GOOD)
    page = browser.open(tmp_path / "a page.html", width=400, dark=True)
    page.check()
    assert page.evaluate("innerWidth") == 400
    assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    page.press("Tab", "Tab", "Enter")
    assert page.evaluate("document.activeElement.textContent") == "done"
    page.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "one"
    page.point("input", click=True)
    page.press("a", "b")
    assert page.evaluate("document.querySelector('input').value") == "ab"


@pytest.mark.parametrize(
    "wrong",
    [
        "<script>throw Error('no')</script>",
        "<script>console.error('no')</script>",
        "<img src='http://192.0.2.1/x.png'>",
        "<link rel=stylesheet href=beside.css>",
        "<div style='width: 3000px'>wide</div>",
    ],
)
def test_what_is_wrong_with_a_page_is_noticed(browser, tmp_path, wrong):
    (tmp_path / "page.html").write_text(GOOD + wrong)
    (tmp_path / "beside.css").write_text("p { margin: 0 }")
    page = browser.open(tmp_path / "page.html")
    with pytest.raises(AssertionError):
        page.check()


def test_a_blank_page_is_noticed(browser, tmp_path):
    (tmp_path / "page.html").write_text("<!doctype html><title>t</title>")
    page = browser.open(tmp_path / "page.html")
    assert page.colours() == 1
