"""The pages of the documentation, and the code that stands in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

ROOT = Path(__file__).parents[2]
PAGES = (
    *("README.md", "CONTRIBUTING.md", "cluster/RUNBOOK.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^ {4}\S.*\n)+", re.MULTILINE)
_ENDS = {"|", ">", "<", "&", "&&", ";"}
_ASSIGNED = re.compile(r"^(\w+)=([^\s$\"']+)$", re.MULTILINE)
_RUNBOOK = "cluster/RUNBOOK.md"


@dataclass(frozen=True)
class Block:
    """Some code of a page.

    Attributes:
        page: The page's path from the repository's root.
        heading: The nearest heading above, without its number signs.
        language: As after the fence.
        text: What stands between the fences.
    """

    page: str
    heading: str
    language: str
    text: str


def read_page(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def find_blocks(page: str, *languages: str) -> list[Block]:
    """The fenced blocks of a page in some languages, in order."""
    text = read_page(page)
    found = []
    for match in _FENCED.finditer(text):
        if match[1] in languages:
            headings = re.findall(r"^#+ (.+)$", text[: match.start()], re.MULTILINE)
            found.append(Block(page, headings[-1], match[1], match[2]))
    return found


def split_commands(text: str) -> list[list[str]]:
    """The commands of some shell text as words, comments and what follows a pipe left out.

    Lines that are no whole command, such as the first of a quoted text over several, are left out.
    """
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            continue
        end = next((n for n, word in enumerate(words) if word in _ENDS), len(words))
        found.append(words[:end])
    return [words for words in found if words]


def find_variables(page: str) -> dict[str, str]:
    """The variables that a page's shell blocks set to plain words.

    Those that hold a URI are left out, as even a dry run might look there.
    """
    blocks = "".join(block.text for block in find_blocks(page, "sh"))
    return {name: value for name, value in _ASSIGNED.findall(blocks) if "://" not in value}


def runbook_commands() -> dict[str, str]:
    """The runbook's shell blocks in order, by the heading that each stands under.

    A test that runs one puts its own values of the block "Names" before it.
    """
    return {block.heading: block.text for block in find_blocks(_RUNBOOK, "sh")}


def iter_commands(page: str) -> Iterator[list[str]]:
    """Every command of a page's shell blocks, fenced or indented, with its variables replaced."""
    variables = find_variables(page)
    for block in find_blocks(page, "sh", "bash", "shell", "console"):
        yield from split_commands(Template(block.text).safe_substitute(variables))
    for match in _INDENTED.finditer(_FENCED.sub("", read_page(page))):
        yield from split_commands(match[0])
