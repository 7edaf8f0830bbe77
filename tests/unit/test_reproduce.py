"""A committed table is read with its commands, and each row is compared with the rebuilt one."""

from pathlib import Path

import pytest
import typer

from bench.reproduce import (
    Row,
    Table,
    check_wanted,
    compare,
    fill,
    judge,
    read_table,
    rebuild,
    show,
)
from msrrec.cli import app
from msrrec.comparison.registry import system_names
from msrrec.config import load_config
from msrrec.errors import DataError

COMPARED = [
    path
    for path in sorted(Path("tables").glob("*.md"))
    if "    msrrec compare" in path.read_text(encoding="utf-8")
]
TEXT = """# Systems on Shop

| system | HitRatio@1 | ValidRatio | MRR | difference | p (Holm) |
|---|---|---|---|---|---|
| random | 0.1800 [0.145, 0.221] | 1.0000 [0.990, 1.000] | 0.4166 [0.389, 0.446] | – | – |
| MSR-Rec · fused | 0.5350 [0.486, 0.583] | 0.9900 [0.975, 0.996] | – | – | – |
| broken | failed: no such file | | | | |

    msrrec prepare --source table --out DATASET --interactions FILE --items FILE data.k_core=1
    msrrec compare --dataset DATASET --out OUT --systems random,msrrec 'train.sides=["full"]'
"""
FUSED = Row(0.535, 0.486, 0.583, 0.99)


def test_rows_and_commands_are_read() -> None:
    table = read_table(TEXT, "t.md")
    assert table.rows == {"random": Row(0.18, 0.145, 0.221, 1.0), "MSR-Rec · fused": FUSED}
    assert table.commands[1][-2:] == ["random,msrrec", 'train.sides=["full"]']


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_every_committed_table_has_rows_and_commands(path: Path) -> None:
    table = read_table(path.read_text(encoding="utf-8"), path.name)
    assert len(table.rows) >= 8
    assert table.commands[0][0] == "prepare"
    assert table.commands[-1][0] == "compare"


@pytest.mark.parametrize("path", COMPARED, ids=lambda path: path.stem)
def test_every_committed_command_has_options_settings_and_systems_of_today(path: Path) -> None:
    commands = typer.main.get_command(app)
    for name, *arguments in read_table(path.read_text(encoding="utf-8"), path.name).commands:
        command = commands.get_command(None, name)  # type: ignore[attr-defined]
        given = command.make_context(name, list(arguments)).params
        load_config(overrides=given["overrides"] or ())
        assert {*(given.get("systems") or "random").split(",")} <= {*system_names()}


def test_something_else_is_refused() -> None:
    with pytest.raises(DataError, match=r"notes\.md: 0 rows and 0 commands found"):
        read_table("# Notes", "notes.md")


def test_commands_get_folders_files_and_the_wanted_systems() -> None:
    prepare, run = read_table(TEXT, "t.md").commands
    files = {"--interactions": "a.csv", "--items": "b.csv"}
    filled = fill(prepare, files, Path("out"), "random")
    assert " ".join(filled or ()).startswith(
        "prepare --source table --out out/dataset --interactions a.csv --items b.csv"
    )
    assert "--systems random train" in " ".join(fill(run, files, Path("out"), "random") or ())
    assert "random,msrrec" in (fill(run, files, Path("out"), None) or ())
    assert fill(run, files, Path("out"), "category") is None
    with pytest.raises(DataError, match="--interactions: the table was made from a file"):
        fill(prepare, {"--interactions": None, "--items": "b.csv"}, Path("out"), None)


def test_a_system_that_the_table_lacks_is_refused() -> None:
    table = read_table(TEXT, "t.md")
    check_wanted(table, "msrrec,random")
    with pytest.raises(DataError, match="--systems sasrec: no system of this table; expected some"):
        check_wanted(table, "random,sasrec")


STAND_IN = """import sys
from pathlib import Path
command, out, system = sys.argv[1:]
if command == "compare":
    report = Path(out) / "compare" / "report"
    report.mkdir(parents=True, exist_ok=True)
    row = "failed: no" if system == "c" else "0.5000 [0.400, 0.600] | 1.0000 [0.900, 1.000]"
    (report / "table.md").write_text(f"| {system} | {row} |\\n    msrrec compare\\n")
sys.exit({"c": 1, "broken": 3}.get(system, 0))
"""
"""A package whose ``compare`` makes a table of one system, of which the system ``c`` fails."""


def test_rows_of_several_comparisons_are_put_together_and_failed_systems_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "package" / "msrrec"
    package.mkdir(parents=True)
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.chdir(package.parent)
    out = str(tmp_path)
    compared = [["compare", out, system] for system in "abc"]
    found = rebuild([["prepare", out, ""], *compared], tmp_path)
    assert list(found.rows) == ["a", "b"]
    assert found.failed == {"c"}
    old = Table({"a": FUSED, "c": FUSED, "d": FUSED}, ())
    assert compare(old, found, whole=False) == [("a", "within"), ("c", "outside")]
    with pytest.raises(SystemExit) as ended:
        rebuild([*compared, ["synthesize", out, "broken"]], tmp_path)
    assert ended.value.code == 3


def test_a_row_is_the_same_within_its_interval_or_outside() -> None:
    assert judge(FUSED, FUSED) == "same"
    assert judge(FUSED, Row(0.5, 0.45, 0.55, 0.99)) == "within"
    assert judge(FUSED, Row(0.535, 0.486, 0.583, 0.5)) == "within"
    assert judge(FUSED, Row(0.48, 0.43, 0.53, 0.99)) == "outside"
    assert judge(FUSED, None) == "outside"


def test_of_a_part_only_rebuilt_rows_are_compared_and_of_the_whole_all() -> None:
    old = read_table(TEXT, "t.md")
    new = Table({"random": old.rows["random"]}, old.commands)
    assert compare(old, new, whole=False) == [("random", "same")]
    verdicts = compare(old, new, whole=True)
    assert verdicts == [("random", "same"), ("MSR-Rec · fused", "outside")]
    assert show(old, new, verdicts).endswith(
        "| MSR-Rec · fused | 0.5350 [0.486, 0.583] | – | outside |"
    )
