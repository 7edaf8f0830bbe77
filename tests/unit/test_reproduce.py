"""A committed table is read with its commands, and each row is compared with the rebuilt one."""

from dataclasses import replace
from pathlib import Path

import pytest
import typer

from bench.reproduce import (
    Figure,
    Row,
    Table,
    check_dataset,
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

OF_BENCHMARKS = {"real-backbone", "reasons", "samples", "shared-words"}
TABLES = [path for path in sorted(Path("tables").glob("*.md")) if path.stem not in OF_BENCHMARKS]
"""All committed tables but those of benchmarks of their own."""
TEXT = """# Systems on Shop

| system | HitRatio@1 | ValidRatio | MRR | difference | p (Holm) |
|---|---|---|---|---|---|
| random | 0.1800 [0.145, 0.221] | 1.0000 [0.990, 1.000] | 0.4166 [0.389, 0.446] | – | – |
| MSR-Rec · fused | 0.5350 [0.486, 0.583] | 0.9900 [0.975, 0.996] | – | – | – |
| broken | failed: no such file | | | | |

    msrrec prepare --source table --out DATASET --interactions FILE --items FILE data.k_core=1
    msrrec compare --dataset DATASET --out OUT --systems random,msrrec 'train.sides=["full"]'
"""
FUSED = Row(Figure(0.535, 0.486, 0.583), Figure(0.99, 0.975, 0.996))
STUDY = """# Does reasoning help?

| arm | before the answer | HitRatio@1 | by seed | valid | learning rate |
|---|---|---|---|---|---|
| none | purchases alone (direct) | 0.2967 [0.274, 0.320] | 0.2967 | 0.984 | 0.0005 |
| Bayes ceiling of the generated world |  | 0.6600 (expected 0.7000) |  |  |  |

| contrast | points | p | p (Holm) | users | seeds | one of the two right |
|---|---|---|---|---|---|---|
| **chain − none** | +3.0 [+0.3, +5.7] | 0.033 | 0.033 | 1,500 | 1 | 0.283 |

    msrrec prepare --source table --out shop --interactions FILE --items FILE
    msrrec study --dataset shop --out OUT train.num_epochs=1

108 minutes in all, with 2 cores. Data: shop fa560ee2094a1cf1; python 3.11.7.
"""


RANDOM = Row(Figure(0.18, 0.145, 0.221), Figure(1.0, 0.99, 1.0))


def test_rows_and_commands_are_read() -> None:
    table = read_table(TEXT, "t.md")
    assert table.rows == {"random": RANDOM, "MSR-Rec · fused": FUSED}
    assert table.commands[1][-2:] == ["random,msrrec", 'train.sides=["full"]']


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_every_committed_table_has_rows_and_commands(path: Path) -> None:
    table = read_table(path.read_text(encoding="utf-8"), path.name)
    assert len(table.rows) >= 3
    assert table.commands[-1][0] in ("compare", "study")
    if table.commands[-1][0] == "compare":
        assert table.commands[0][0] == "prepare"
        assert table.data


@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
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
    files = {"--interactions": "a.csv", "--items": "b.csv", "--dataset": None}
    filled = fill(prepare, files, Path("out"), "random")
    assert " ".join(filled or ()).startswith(
        "prepare --source table --out out/dataset --interactions a.csv --items b.csv"
    )
    assert "--systems random train" in " ".join(fill(run, files, Path("out"), "random") or ())
    assert "random,msrrec" in (fill(run, files, Path("out"), None) or ())
    assert fill(run, files, Path("out"), "category") is None
    with pytest.raises(DataError, match="--interactions: the table was made from a file"):
        fill(
            prepare,
            {"--interactions": None, "--items": "b.csv", "--dataset": None},
            Path("out"),
            None,
        )


def test_the_table_of_a_study_is_read_and_rebuilt_likewise() -> None:
    table = read_table(STUDY, "s.md")
    assert table.rows == {"none": Row(Figure(0.2967, 0.274, 0.320), Figure(0.984, 0.984, 0.984))}
    assert table.data == "shop fa560ee2094a1cf1"
    files = {"--interactions": "a.csv", "--items": "b.csv", "--dataset": None}
    prepare, study = (fill(command, files, Path("o"), None) for command in table.commands)
    assert " ".join(prepare or ()).startswith("prepare --source table --out o/shop --interactions")
    assert " ".join(study or ()) == "study --dataset o/shop --out o/study train.num_epochs=1"
    check_dataset(table.commands, None)
    with pytest.raises(DataError, match="no command for the dataset shop; expected a folder"):
        check_dataset(table.commands[1:], None)
    check_dataset(table.commands[1:], "mine")
    given = fill(table.commands[1], {**files, "--dataset": "mine"}, Path("o"), None)
    assert given == ["study", "--dataset", "mine", "--out", "o/study", "train.num_epochs=1"]
    assert fill(table.commands[0], {**files, "--dataset": "mine"}, Path("o"), None) is None


def study_of(hit_ratios: dict[str, str]) -> str:
    """The table of a study with one arm on each of these datasets."""
    head = "| arm | HitRatio@1 | valid |\n|---|---|---|\n"
    parts = [f"## {name}\n\n{head}| none | {hit} | 0.984 |" for name, hit in hit_ratios.items()]
    return "\n\n".join(["# Does reasoning help?", *parts, "    msrrec study --out OUT\n"])


def test_an_arm_is_compared_on_each_dataset_of_a_study() -> None:
    old = read_table(study_of({"shop": "0.3000 [0.280, 0.320]", "toys": "0.2000"}), "s.md")
    assert list(old.rows) == ["shop: none", "toys: none"]
    new = read_table(study_of({"shop": "0.5000 [0.480, 0.520]", "toys": "0.2000"}), "s.md")
    assert compare(old, new, whole=True) == [("shop: none", "outside"), ("toys: none", "same")]


def test_the_dataset_of_a_study_of_one_may_have_another_name() -> None:
    old, new = (read_table(study_of({name: "0.3000"}), "s.md") for name in ("shop", "mine"))
    assert compare(old, new, whole=True) == [("none", "same")]


def test_a_system_that_the_table_lacks_is_refused() -> None:
    table = read_table(TEXT, "t.md")
    check_wanted(table, "msrrec,random")
    with pytest.raises(DataError, match="--systems sasrec: no system of this table; expected some"):
        check_wanted(table, "random,sasrec")


STAND_IN = """import sys
from dataclasses import replace
from pathlib import Path
command, out, system = sys.argv[1:]
if command == "compare":
    report = Path(out) / "compare" / "report"
    report.mkdir(parents=True, exist_ok=True)
    row = "failed: no" if system == "c" else "0.5000 [0.400, 0.600] | 0.9900 [0.900, 1.000]"
    head = "| system | HitRatio@1 | ValidRatio |"
    foot = "    msrrec compare\\nDataset 07201a4e98c744e1, seed 0;"
    (report / "table.md").write_text(f"{head}\\n| {system} | {row} |\\n{foot}\\n")
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
    assert found.data == "07201a4e98c744e1, seed 0"
    old = Table({"a": FUSED, "c": FUSED, "d": FUSED}, ())
    assert compare(old, found, whole=False) == [("a", "within"), ("c", "outside")]
    with pytest.raises(SystemExit) as ended:
        rebuild([*compared, ["synthesize", out, "broken"]], tmp_path)
    assert ended.value.code == 3


def test_a_row_is_the_same_within_its_interval_or_outside() -> None:
    assert judge(FUSED, FUSED) == "same"
    valid, other = FUSED.valid_ratio, Figure(0.5, 0.45, 0.55)
    assert judge(FUSED, Row(other, valid)) == "within"
    assert judge(FUSED, Row(FUSED.hit_ratio, Figure(0.98, 0.96, 0.99))) == "within"
    assert judge(FUSED, Row(FUSED.hit_ratio, other)) == "outside"
    assert judge(FUSED, Row(Figure(0.48, 0.43, 0.53), valid)) == "outside"
    assert judge(FUSED, None) == "outside"
    no_range = Row(FUSED.hit_ratio, Figure(0.99, 0.99, 0.99))
    assert judge(no_range, Row(other, other)) == "within"


def test_of_a_part_only_rebuilt_rows_are_compared_and_of_the_whole_all() -> None:
    old = read_table(TEXT, "t.md")
    new = Table({"random": old.rows["random"]}, old.commands)
    assert compare(old, new, whole=False) == [("random", "same")]
    verdicts = compare(old, new, whole=True)
    assert verdicts == [("random", "same"), ("MSR-Rec · fused", "outside")]
    assert show(old, new, verdicts).endswith(
        "| random | 0.1800 [0.145, 0.221] | 0.1800 | 1.0000 | 1.0000 | same |\n"
        "| MSR-Rec · fused | 0.5350 [0.486, 0.583] | – | 0.9900 | – | outside |"
    )
    before, after = replace(old, data="0089, seed 0"), replace(new, data="fa56, seed 0")
    assert show(before, after, verdicts).endswith(
        "\nThe data are others: 0089, seed 0 in the table, fa56, seed 0 here."
    )
    assert "others" not in show(before, replace(new, data="0089, seed 0"), verdicts)
