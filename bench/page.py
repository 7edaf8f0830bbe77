"""Write docs/speed.md, and the README's figures of speed, from results and prose.

    python -m bench.page

The prose is ``bench/speed.md.j2``, the figures are ``bench/results``. In the template
``{{ summary() }}`` is the table of all comparisons, ``{{ rows("prepare") }}`` that of one result,
``{{ table("prepare", "parts") }}`` a further table of it, ``{{ made("prepare") }}`` the line on its
machine, and ``{{ notes("prepare").name }}`` a single figure.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from bench.record import RESULTS, Result

ROOT = Path(__file__).parents[1]
TEMPLATE = "speed.md.j2"
PAGE = ROOT / "docs" / "speed.md"
README = ROOT / "README.md"
_HEADS = ("what", "ours", "peer", "ratio", "spread", "aim", "", "floor")
BEGIN, END = "<!-- speed, by python -m bench.page -->", "<!-- end of speed -->"


@cache
def load(name: str) -> dict[str, Any]:
    """A kept result."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def names() -> list[str]:
    """The names of all kept results."""
    return sorted(path.stem for path in RESULTS.glob("*.json"))


def render() -> str:
    """The page."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    template = environment.get_template(TEMPLATE)
    return template.render(summary=summary, rows=rows, table=table, made=made, notes=notes)


def summary() -> str:
    """One table of all headline rows."""
    heads = (*_HEADS, "machine", "command")
    found = [
        [*_cells(row), machine(load(name)), f"`{load(name)['command']}`"]
        for name in names()
        for row in load(name)["rows"]
        if row["is_headline"]
    ]
    return to_markdown(heads, found)


def rows(name: str) -> str:
    """All rows of one result; where none is kept, how to make it."""
    if name not in names():
        return f"No result is kept yet; `make bench BENCH={name}` makes it."
    return to_markdown(_HEADS, [_cells(row) for row in load(name)["rows"]])


def summarize(result: Result) -> str:
    """A result that need not be kept, as it would be on the page."""
    parts = [to_markdown(_HEADS, [_cells(row.to_json()) for row in result.rows])]
    parts += [to_markdown(one.columns, one.rows) for one in result.tables.values()]
    return "\n\n".join([*parts, json.dumps(dict(result.notes))])


def table(name: str, which: str) -> str:
    """A further table of one result; nothing where none is kept."""
    found = load(name)["tables"].get(which) if name in names() else None
    return to_markdown(found["columns"], found["rows"]) if found else ""


def notes(name: str) -> dict[str, Any]:
    """The single figures of one result."""
    found: dict[str, Any] = load(name)["notes"]
    return found


def made(name: str) -> str:
    """How, on what, with which versions, and in how many rounds a result was made."""
    if name not in names():
        return ""
    found = load(name)
    packages = [f"{package} {found['versions'][package]}" for package in found["packages"]]
    rounds = "one round" if found["rounds"] == 1 else f"{found['rounds']} rounds"
    return f"`{found['command']}`, {rounds} on {machine(found)}; {', '.join(packages)}."


def machine(found: dict[str, Any]) -> str:
    """The hardware of a result in a few words."""
    had = found["machine"]
    if "gpu" in had:
        return str(had["gpu"])
    flags = ", ".join([*had["bfloat16"], *had["amx"]]) or "no bfloat16"
    return f"{had['cores']} cores, {', '.join(had['processor'])}, {flags}"


def _cells(row: dict[str, Any]) -> list[str]:
    """Cells of a row up to its floor."""
    low, high = row["spread"]
    peer = f"{row['peer_name']} {figure(median(row['peer']), row['unit'])}" if row["peer"] else ""
    return [
        row["what"],
        figure(median(row["ours"]), row["unit"]),
        peer,
        f"{row['ratio']:.3g}" if row["peer"] else "",
        "one round" if len(row["ours"]) == 1 else f"{low:.3g} to {high:.3g}",
        row["aim"] or "",
        {None: "", True: "met", False: "**missed**"}[row["met"]],
        row["floor"],
    ]


def figure(value: float, unit: str) -> str:
    """A figure of three digits with its unit."""
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{text} {unit}".strip()


def to_markdown(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [heads, ["---"] * len(heads), *body]
    return "\n".join(
        "|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines
    )


def render_readme(text: str) -> str:
    """The README with its figures of speed replaced."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    told = []
    for name, start, sentence in README_ROWS:
        rows = load(name)["rows"] if name in names() else []
        for row in (row for row in rows if f"{row['what']} / {row['peer_name']}".startswith(start)):
            ours = figure(median(row["ours"]), row["unit"])
            told.append(sentence.format(ratio=f"{row['ratio']:.3g}", ours=ours))
    return f"{before}{BEGIN}{'; '.join(told)}{END}{after}"


README_ROWS = (
    (
        "training",
        "LoRA step, vocabulary 32,000 / packed transformers + PEFT, freed memory kept",
        "a training step is {ratio} times as fast as a careful loop of transformers and PEFT with "
        "a vocabulary of 32,000",
    ),
    (
        "training",
        "LoRA step, vocabulary 128,000 / packed transformers + PEFT, freed memory kept",
        "{ratio} times with one of 128,000",
    ),
    ("inference", "batch inference,", "batch inference runs at {ratio} times vLLM alone"),
    (
        "serving",
        "online requests a second, one engine",
        "the service answers {ratio} times as many requests as two plain vLLM servers",
    ),
    ("prepare_small", "", "preparing 10,000 purchases takes {ours}"),
)
"""What the README tells: the result, how its row and peer begin, and the words."""


def main() -> None:
    """Write both."""
    PAGE.write_text(render(), encoding="utf-8")
    README.write_text(render_readme(README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
