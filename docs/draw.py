"""Draw the pictures of the README and of the gallery again: the code on the pages runs, and what it draws is kept.

    python docs/draw.py [--browser chromium]

The explorer is a page, so its picture is taken with Chromium; where there is none, the picture that is there stays.
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
WINDOW = "1000,1040"  # of the explorer, in pixels: down to the strongest examples


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
        run_page(DOCS.parent / "README.md")
        run_page(DOCS / "gallery.md")
        if browser is None:
            print("no Chromium on this machine: the explorer's picture stays as it is")
        else:
            command = [browser, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={folder}/profile"]
            page = Path(folder, "explorer.html").as_uri()
            subprocess.run([*command, f"--window-size={WINDOW}", "--screenshot=explorer.png", page], check=True)
        for picture in sorted(Path(folder).glob("*.png")):
            keep(picture, PICTURES / picture.name)


if __name__ == "__main__":
    main()
