"""Write docs/study.md, its figures and the README's table: ``python -m study`` in research/."""

from __future__ import annotations

from pathlib import Path

from . import accuracy
from .page import FIGURES, compose
from .records import read

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    records = read(ROOT / "results")
    page = compose(records)
    (ROOT / "docs" / "study.md").write_text(page.markdown, encoding="utf-8")
    folder = ROOT / "docs" / FIGURES
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        if old.name not in page.figures:
            old.unlink()
    for name, content in page.figures.items():
        (folder / name).write_bytes(content)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(accuracy.readme(records, text), encoding="utf-8")
    print(f"docs/study.md, {len(page.figures)} files of figures and the README's table are written")


if __name__ == "__main__":
    main()
