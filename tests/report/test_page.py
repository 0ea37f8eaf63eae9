"""The report page in a real browser."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import plotly.io
import pytest
from conftest import run_command
from torchvision.io import decode_image

from funn.report.readme import between, draw

BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.loaded = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "a":
            self.found.append(values["href"])
        else:
            self.loaded += [values[name] for name in ("src", "href") if name in values]


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="needs Chromium, to look at the page")
def test_the_page_draws_and_its_links_lead_somewhere(outputs, tmp_path):
    for name in ("funn", "classic"):
        done = run_command("evaluate.py", f"run={outputs}/latest/{name}", "suite=table1",
                           "images=20", "logger=csv", f"output_dir={outputs}",
                           "suite.attacks.local_search.R=2")  # fmt: skip
        assert done.returncode == 0, done.stderr
    done = run_command("report.py", f"output_dir={outputs}")
    assert done.returncode == 0, done.stderr
    page = outputs / "report/index.html"
    seen = subprocess.run(
        [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}",
         "--enable-logging=stderr", "--virtual-time-budget=10000", "--dump-dom", page.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert not re.search(r"CONSOLE.*(error|Uncaught)", seen.stderr, re.IGNORECASE), seen.stderr
    # What is written by the script is not in the file: the plots were drawn.
    assert seen.stdout.count('<svg class="main-svg"') >= 2
    assert '<svg class="main-svg"' not in page.read_text()
    # Figures 1, 3a, 3b and 3c are in it.
    assert page.read_text().count("<figure><svg ") == 4
    # Nothing on the paper's claim: these are other images.
    assert "does not hold" not in seen.stdout
    # A copy of the folder, elsewhere and without its dates, gives the same page.
    copy = tmp_path / "copy"
    left_out = shutil.ignore_patterns("report", "log")
    shutil.copytree(outputs, copy, True, left_out, copy_function=shutil.copyfile)
    done = run_command("report.py", f"output_dir={copy}")
    assert done.returncode == 0, done.stderr
    assert (copy / "report/index.html").read_text() == page.read_text()
    links = Links(page.read_text())
    assert len(links.found) > 20
    for link in links.found:
        assert (page.parent / link).exists(), link
    assert all(source.startswith("data:") for source in links.loaded)
    # The plots are kept for the README too.
    plot = plotly.io.from_json((outputs / "report/iterations-l2.json").read_text())
    draw(plot, tmp_path / "plot.png")
    picture = decode_image(str(tmp_path / "plot.png"))
    assert picture.shape[1:] == (plot.layout.height, 900)
    assert len(picture[:3].flatten(1).unique(dim=1).T) > 20


def test_a_block_of_the_readme_is_replaced():
    text = "before <!-- a -->\nold\n<!-- /a --> after <!-- b --><!-- /b -->"
    new = between(between(text, "a", "one"), "b", "two")
    assert new == ("before <!-- a -->\n\none\n<!-- /a --> after <!-- b -->\n\ntwo\n<!-- /b -->")
