"""What the site does to the pages: the pages of the root folder are in it, and links to source files become names."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# A README.md would be the start page, which is docs/index.md.
ROOT_PAGES = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
LINK = re.compile(r"\[([^\]]+)\]\(([^)#\s:]+)(#[^)\s]+)?\)")


def on_files(files: Files, config: Any) -> Files:
    for name, page in ROOT_PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    folder = ROOT if page.file.src_uri in ROOT_PAGES.values() else (ROOT / "docs" / page.file.src_uri).parent
    up = "../" * page.file.src_uri.count("/")

    def link(match: re.Match[str]) -> str:
        text, target, anchor = match.groups()
        path = (folder / target).resolve()
        if path.parent == ROOT and path.name in ROOT_PAGES:
            return f"[{text}]({up}{ROOT_PAGES[path.name]}{anchor or ''})"
        if path.is_relative_to(ROOT / "docs") and path.is_file():
            return f"[{text}]({up}{path.relative_to(ROOT / 'docs')}{anchor or ''})"
        return text if "`" in text else f"{text} (`{path.relative_to(ROOT)}`)"

    return LINK.sub(link, markdown)
