"""The page in a browser: no error, no sideways scroll, no text on text, tables that sort; on a desk and on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from asym_analysis import sample_adapters
from asym_analysis.report.page import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

# Runs in the page after its own script, and leaves what it found in the title.
PROBE = """
<script>
window.addEventListener("load", () => {
  const found = { errors: window.seen, inner: innerWidth, width: document.documentElement.scrollWidth, overlaps: [] };
  for (const picture of document.querySelectorAll("figure svg")) {
    const boxes = [...picture.querySelectorAll("text")].map((t) => [t.textContent.trim(), t.getBoundingClientRect()]);
    boxes.forEach(([one, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (one && other && across > 3 && down > 5) found.overlaps.push(`${one} / ${other}`);
    }));
  }
  const table = document.querySelector("table");
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[0].textContent);
  const button = table.querySelector("thead button");
  button.click();
  found.ascending = column();
  button.click();
  found.descending = column();
  found.sorted = table.querySelector("thead th").getAttribute("aria-sort");
  found.downloads = document.querySelectorAll("button.download").length;
  found.tables = document.querySelectorAll("table").length;
  found.background = getComputedStyle(document.body).backgroundColor;
  const report = document.createElement("pre");
  report.id = "probe";
  report.textContent = JSON.stringify(found);
  document.body.append(report);
});
</script>
"""
WATCH = "<script>window.seen = []; addEventListener('error', (e) => window.seen.push(e.message));</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if BROWSER is None:
        pytest.skip("no Chromium here")
    folder = tmp_path_factory.mktemp("report")
    written = write_report(sample_adapters()[:4], folder / "report.html")
    html = written.page.read_text().replace("<head>", f"<head>{WATCH}").replace("</body>", f"{PROBE}</body>")
    written.page.write_text(html)
    return written.page


def _probe(page: Path, width: int, *options: str) -> dict:
    """What the probe finds, in a frame of that width: a window is never narrower than 500 pixels."""
    frame = page.parent / f"frame-{width}.html"
    frame.write_text(f'<body style="margin:0"><iframe id=f src="{page.name}" width={width} height=900></iframe>'
                     "<script>f.onload = () => { document.body.append(f.contentDocument.getElementById('probe')"
                     ".cloneNode(true)); };</script>")  # fmt: skip
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", *options]
    command += ["--virtual-time-budget=8000", "--dump-dom", "--window-size=1500,1000", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, flags=re.S)
    assert found is not None, done.stderr[-2000:]
    return json.loads(found[1].replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">"))


@pytest.mark.parametrize("width", [1400, 390])
def test_the_page_in_a_browser(page: Path, width: int) -> None:
    found = _probe(page, width)
    assert found["errors"] == []
    assert found["width"] <= found["inner"]
    assert found["overlaps"] == []
    assert found["ascending"] == sorted(found["ascending"])
    assert found["descending"] == found["ascending"][::-1]
    assert found["sorted"] == "descending"
    assert found["downloads"] == found["tables"] > 3


def test_dark_where_the_reader_wants_it(page: Path) -> None:
    light = _probe(page, 1400)["background"]
    dark = _probe(page, 1400, "--blink-settings=preferredColorScheme=0")["background"]
    assert light == "rgb(255, 255, 255)"
    assert dark == "rgb(21, 24, 28)"


def test_print_cuts_nothing(page: Path, tmp_path: Path) -> None:
    """Pages of A4 with every word: a table that is cut at the edge loses the text of its last column."""
    pdftotext = shutil.which("pdftotext")
    if pdftotext is None:
        pytest.skip("no pdftotext here")
    target = tmp_path / "page.pdf"
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--print-to-pdf={target}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    text = subprocess.run([pdftotext, "-layout", str(target), "-"], capture_output=True, text=True, check=True).stdout
    flat = re.sub(r"\s+", "", text)
    for heading in ("sharewithp<.01", "energyofthesum", "sha256", "Howthiswasmade"):
        assert heading.lower() in flat.lower()
