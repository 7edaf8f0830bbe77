"""Hooks of the site: pages that lie beside ``docs/`` in the repository, under working links.

In the repository a page of ``docs/`` reaches them by ``../``, and CONTRIBUTING reaches ``docs/`` by
its name; in the site all of them share one root.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
BESIDE = ("CONTRIBUTING.md", "CHANGELOG.md", "cluster/RUNBOOK.md", "tables/*.md")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """All pages of the site: those of ``docs/`` and those beside it."""
    for pattern in BESIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """A page with the links that hold in the site."""
    del config, files
    outer = page.file.src_uri in BESIDE[:2]
    return markdown.replace("](docs/", "](") if outer else markdown.replace("](../", "](")
