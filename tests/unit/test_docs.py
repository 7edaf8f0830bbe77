"""What the documentation tells people to type exists: commands, options, settings, code, links."""

import ast
import importlib
import importlib.util
import json
import re
import subprocess
import sys
import types
from collections.abc import Sequence
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from msrrec import __version__
from msrrec.baselines import BASELINES, Entry, build_baseline
from msrrec.cli import app
from msrrec.config import PRESETS, Config, RunConfig
from serve.http_models import RecommendRequest
from tests.support.dataset import write_cycle, write_dataset
from tests.support.manifests import job_commands
from tests.support.pages import (
    PAGES,
    ROOT,
    Block,
    find_blocks,
    iter_commands,
    read_page,
    split_commands,
)

COMMANDS = [(page, words) for page in PAGES for words in iter_commands(page)]
SECTIONS = tuple(RunConfig.model_fields)
GUIDE = "docs/cli.md"


def commands(*start: str) -> list[tuple[str, ...]]:
    """The documented commands that begin with some words, each once."""
    return list(dict.fromkeys(tuple(w) for _, w in COMMANDS if tuple(w[: len(start)]) == start))


def jobs() -> list[tuple[str, ...]]:
    """Submitted jobs as the commands that they run."""
    found = []
    for words in commands("ray", "job", "submit"):
        if "-m" in words:
            module, *arguments = words[words.index("-m") + 1 :]
            found.append(("msrrec", module.removeprefix("jobs."), *arguments))
    return found


def replace_dataset(words: Sequence[str], dataset: Path) -> list[str]:
    """The words with another folder after ``--dataset``."""
    named = [n for n, word in enumerate(words) if word == "--dataset"]
    return [str(dataset) if n - 1 in named else word for n, word in enumerate(words)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dataset")
    write_cycle(folder)
    return folder


@pytest.mark.parametrize("words", [*commands("msrrec"), *jobs(), *job_commands()], ids=" ".join)
def test_every_documented_command_parses_and_uses_its_settings(
    words: tuple[str, ...], dataset: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name, *arguments = replace_dataset(words[1:], dataset)
    group = typer.main.get_command(app)
    is_stage = not name.startswith("-") and "--help" not in arguments
    if is_stage:
        command = group.commands[name]  # type: ignore[attr-defined]
        takes = {option for parameter in command.params for option in parameter.opts}
        if "--dry-run" not in takes or "--hits" in arguments:  # hits are read, nothing is run
            command.make_context(name, arguments)
            return
        arguments = [*(a for a in arguments if a != "--dry-run"), "--dry-run"]
    result = CliRunner().invoke(app, [name, *arguments], catch_exceptions=True)
    assert result.exit_code == 0, result.exception or result.output
    assert "does not use" not in caplog.text
    if is_stage:
        assert isinstance(json.loads(result.stdout.splitlines()[-1]), dict)


@pytest.mark.parametrize("words", commands("make"), ids=" ".join)
def test_every_documented_make_target_exists(words: tuple[str, ...]) -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for word in words[1:]:
        assert "=" in word or word in targets, word


@pytest.mark.parametrize("words", commands("python", "-m"), ids=" ".join)
def test_every_documented_module_exists_and_knows_its_options(words: tuple[str, ...]) -> None:
    found = importlib.util.find_spec(words[2])
    assert found is not None
    assert found.origin is not None
    source = Path(found.origin).read_text()
    for option in (word for word in words[3:] if word.startswith("--")):
        assert f'"{option}"' in source, option


@pytest.mark.parametrize("page", [page for page in PAGES if page != "cluster/RUNBOOK.md"])
def test_every_setting_that_a_page_names_exists(page: str) -> None:
    named = re.findall(rf"`((?:{'|'.join(SECTIONS)})(?:\.[a-z_0-9]+)+)[=`\s]", read_page(page))
    for name in set(named):
        if not (ROOT / "msrrec" / name).exists():  # a file of the library
            assert has_setting(name), name


def has_setting(name: str) -> bool:
    """Whether a dotted name leads to a setting or a section of them."""
    found: object = RunConfig()
    for part in name.split("."):
        if not isinstance(found, Config) or part not in type(found).model_fields:
            return False
        found = getattr(found, part)
    return True


def python_blocks() -> list[Block]:
    return [block for page in PAGES for block in find_blocks(page, "python", "py")]


@pytest.mark.parametrize("block", python_blocks(), ids=lambda b: f"{b.page}: {b.heading}")
def test_every_python_block_compiles_and_its_imports_resolve(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module or "")
            assert not [alias.name for alias in node.names if not hasattr(module, alias.name)]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)


def test_every_yaml_block_is_a_settings_file() -> None:
    blocks = [block for page in PAGES for block in find_blocks(page, "yaml", "yml")]
    assert blocks
    for block in blocks:
        RunConfig.model_validate(yaml.safe_load(block.text))


def test_every_documented_request_is_one_that_the_service_takes() -> None:
    pages = "\n".join(map(read_page, PAGES))
    bodies = re.findall(r"/v1/recommend\b[^']*'Content-Type[^{]*-d '(\{.*?\})'", pages, re.DOTALL)
    assert len(bodies) >= 3
    for body in bodies:
        RecommendRequest.model_validate_json(body)


def test_the_guide_names_every_command_section_and_preset() -> None:
    guide = read_page(GUIDE)
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        assert f"`msrrec {name}`" in guide, name
    for section in SECTIONS:
        assert f"`{section}`" in guide, section
    for preset in PRESETS.glob("*.yaml"):
        assert f"`{preset.stem}`" in guide, preset.stem


def test_the_citation_is_of_this_version() -> None:
    cited = yaml.safe_load(read_page("CITATION.cff"))
    assert cited["version"] == __version__
    assert cited["preferred-citation"]["title"] in read_page("README.md").replace("\n", " ")


def contributing(heading: str) -> list[str]:
    blocks = [b.text for b in find_blocks("CONTRIBUTING.md", "python") if b.heading == heading]
    assert blocks
    return blocks


def test_the_baseline_of_the_guide_works_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, line = contributing("Add a baseline")
    module = types.ModuleType("msrrec.baselines.same_brand")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    table: dict[str, Entry] = {}
    exec(line, {"BASELINES": table, "Entry": Entry})
    for name, entry in table.items():
        monkeypatch.setitem(BASELINES, name, entry)
    data = write_dataset(tmp_path, 20)
    baseline = build_baseline("same-brand", RunConfig())
    assert baseline.fit(data, "") == {"items_with_a_brand": len(data.items)}
    asked = data.examples("train")
    (first, *_), brands = asked, {i: item.brand for i, item in data.items.items()}
    expected = [sum(brands[i] == brands[c] for i in first.history) for c in first.candidates]
    assert baseline.score(asked)[0] == expected
    assert any(map(any, baseline.score(asked)))


def test_the_teacher_of_the_guide_has_what_a_client_needs() -> None:
    import asyncio

    scope: dict[str, object] = {}
    exec(contributing("Add a teacher")[0], scope)

    async def ask() -> str:
        client = scope["FirstCandidate"]()  # type: ignore[operator]
        completion = await client.ask("a prompt of five words", 0)
        await client.close()
        assert completion.usage["prompt_tokens"] == 5
        return str(completion.text)

    assert asyncio.run(ask()).startswith("Step 5.")


def test_commands_over_several_lines_are_one_and_comments_are_none() -> None:
    text = "msrrec report \\\n  runs  # a page\n# nothing\nmake docs | tail -1\necho 'half\n"
    assert split_commands(text) == [["msrrec", "report", "runs"], ["make", "docs"]]


def test_the_site_builds_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.relative_to(tmp_path).as_posix(): path for path in tmp_path.rglob("*.html")}
    assert {"index.html", "cli/index.html", "tables/embedded/index.html"} <= pages.keys()
    for path in pages.values():
        text = path.read_text()
        loaded = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]*)", text)
        assert not loaded, path
