"""Draw the pictures of the README and of the pages again: the code on the pages runs, and what it draws is kept.

    python docs/draw.py [--browser chromium]

The explorer and the report are pages, so their pictures are taken with Chromium; where there is none, the pictures
that are there stay.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

DOCS = Path(__file__).resolve().parent
PICTURES = DOCS / "figures" / "gallery"
LARGE = 150_000  # bytes
PAGES = (
    "../README.md",
    "gallery.md",
    *(
        f"howto/{name}.md"
        for name in ("figures", "own_task", "own_scores", "transformer_lens", "own_model", "add_a_detector")
    ),
)
WINDOWS = {"explorer.html": "1400,1120", "report.html": "1000,1100"}  # in pixels


def run_page(page: Path) -> None:
    """Run the Python of a page from top to bottom in the current folder."""
    names = {"__name__": "page"}
    for body in re.findall(r"^```python\n(.*?)^```$", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL):
        exec(compile(body, page.name, "exec"), names)


def keep(drawn: Path, kept: Path) -> None:
    """Copy a picture; a large one gets a palette, so that a page of them loads quickly."""
    if drawn.stat().st_size <= LARGE:
        shutil.copyfile(drawn, kept)
    else:
        picture = Image.open(drawn).convert("RGB")
        palette = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE)
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(kept, optimize=True)
    print(f"{kept.stat().st_size / 1000:4.0f} kB {kept.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--browser", default=shutil.which("chromium"))
    browser = parser.parse_args().browser
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for page in PAGES:
            run_page(DOCS / page)
        if browser is None:
            print("no Chromium on this machine: the pictures of the explorer and of the report stay as they are")
        else:
            command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
            for page, size in WINDOWS.items():
                file, picture = Path(folder, page), Path(page).with_suffix(".png")
                subprocess.run(
                    [*command, f"--window-size={size}", f"--screenshot={picture}", file.as_uri()], check=True
                )
        for picture in sorted(Path(folder).glob("*.png")):
            keep(picture, PICTURES / picture.name)


if __name__ == "__main__":
    main()
