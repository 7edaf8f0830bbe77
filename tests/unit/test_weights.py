"""A model's files are looked at before anything heavy starts; names are asked for once."""

import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from msrrec.config import ModelConfig, PromptConfig
from msrrec.errors import ModelError
from msrrec.models import ModelSource, locate_base, locate_model
from msrrec.weights import check_folder, check_shard, check_source
from tests.support.models import LFS_POINTER, write_safetensors, write_shards

ROOT = Path(__file__).parents[2]
CLOSED = "http://127.0.0.1:9"
"""Nothing listens there, as on a machine without a network."""


def test_whole_shards_pass_and_so_does_the_embedded_backbone(tmp_path: Path) -> None:
    write_shards(tmp_path)
    check_folder(tmp_path)
    check_source(locate_base(ModelConfig()))


def test_a_shard_that_is_a_git_lfs_pointer_is_named(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").write_text(LFS_POINTER)
    with pytest.raises(ModelError, match=r"00002-of-00002\.safetensors: a Git LFS pointer .* pull"):
        check_folder(tmp_path)


@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors.index.json", "config.json"])
def test_any_other_file_may_be_a_pointer_too(tmp_path: Path, name: str) -> None:
    write_shards(tmp_path)
    (tmp_path / name).write_text(LFS_POINTER)
    with pytest.raises(ModelError, match=f"{name}: a Git LFS pointer"):
        check_folder(tmp_path)


@pytest.mark.parametrize("cut", [1, 4])
def test_a_shard_that_is_cut_in_its_data_is_not_whole(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ("a", "b"))
    whole = path.stat().st_size
    os.truncate(path, whole - cut)
    with pytest.raises(ModelError, match=f"not whole, it has {whole - cut} bytes"):
        check_shard(path)


@pytest.mark.parametrize("size", [0, 5, 30])
def test_a_shard_that_is_cut_in_its_header_is_not_whole(tmp_path: Path, size: int) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, ("a", "b"))
    os.truncate(path, size)
    with pytest.raises(ModelError, match=f"not whole, it has {size} bytes"):
        check_shard(path)


@pytest.mark.parametrize(
    "info",
    [
        {"dtype": "F32", "shape": [1], "data_offsets": ["0", "4"]},
        {"dtype": "F32", "shape": [1], "data_offsets": None},
        {"dtype": "F32", "shape": [20], "data_offsets": [0, 4]},
        [[]] * 9,
    ],
)
def test_a_header_that_tells_nonsense_is_refused(tmp_path: Path, info: object) -> None:
    header = json.dumps({"a": info}).encode()
    path = tmp_path / "model.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    with pytest.raises(ModelError, match="not whole, it has"):
        check_shard(path)


@pytest.mark.parametrize("named", [None, [], "x", {}, {"a": 5}, {"a": ["x"]}, {"a": "../../etc/b"}])
def test_an_index_names_files_beside_it(tmp_path: Path, named: object) -> None:
    write_shards(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    with pytest.raises(ModelError, match=r"index\.json: names .*; expected weight_map with"):
        check_folder(tmp_path)


@pytest.mark.parametrize("content", ["", '{"a":', "[" * 200_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "config.json", "model.safetensors.index.json"])
def test_a_damaged_file_beside_the_weights_is_named(
    tmp_path: Path, name: str, content: str
) -> None:
    write_shards(tmp_path)
    (tmp_path / name).write_text(content)
    with pytest.raises(ModelError, match=f"{name}: not a JSON file"):
        check_folder(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>"])
def test_a_page_in_the_place_of_an_old_checkpoint_is_refused(
    tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match="no PyTorch file"):
        check_shard(tmp_path / "pytorch_model.bin")


def test_an_old_checkpoint_that_is_cut_is_not_whole(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.pkl", b"0" * 99)
    check_shard(path)
    os.truncate(path, 80)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin: not whole"):
        check_shard(path)


def test_a_shard_that_the_index_names_and_the_folder_lacks_is_missing(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match=r"00001-of-00002\.safetensors: missing"):
        check_folder(tmp_path)


def test_a_folder_without_weights_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="holds no weights"):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config\.json: not a JSON file"):
        check_folder(tmp_path)


def test_an_adapter_that_is_cut_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "adapter").mkdir()
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    write_safetensors(path, ("a",))
    source = ModelSource("m", str(tmp_path), str(tmp_path / "adapter"))
    check_source(source)
    os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: not whole"):
        check_source(source)


def test_a_folder_that_is_not_there_is_told_from_one_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="none: no such folder"):
        locate_model(str(tmp_path / "none"))
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        locate_model(str(tmp_path))


@pytest.mark.parametrize("name", ["runs/of/april", "my model", "a//b"])
def test_what_can_be_no_hub_name_is_refused_without_a_request(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder, and no hub name"):
        check_source(locate_base(ModelConfig(name_or_path=name)))


class Hub(BaseHTTPRequestHandler):
    """A hub that has one model, lets nobody see another, and knows no third."""

    def do_HEAD(self) -> None:
        known = {"/shop/open": (200, None), "/shop/gated": (403, "GatedRepo")}
        name = "/".join(self.path.split("/")[:3])
        status, code = known.get(name, (404, "RepoNotFound"))
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        for header, value in (("ETag", '"1"'), ("X-Repo-Commit", "a" * 40), ("Content-Length", 2)):
            self.send_header(header, str(value))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(code: str, home: Path, endpoint: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Python in a process of its own, as the hub's library reads its environment once."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    environment = {**keep, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, **more}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


def ask(name: str, home: Path, endpoint: str, **more: str) -> str:
    """What check_hub says of a name, and whether it leaves the process offline."""
    code = (
        "import os\nfrom msrrec.errors import ModelError\nfrom msrrec.hub import check_hub\n"
        f"try:\n    check_hub({name!r})\n    print('fine', os.environ.get('HF_HUB_OFFLINE'))\n"
        "except ModelError as error:\n    print(error)\n"
    )
    done = run(code, home, endpoint, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write_cache(home: Path, name: str) -> None:
    """A model in the hub's cache, in the cache's own layout."""
    folder = home / "hub" / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("c0ffee")
    (folder / "snapshots").mkdir()
    write_shards(folder / "snapshots" / "c0ffee")


def test_a_hub_that_answers_decides_whether_there_is_such_a_model(tmp_path: Path, hub: str) -> None:
    assert ask("shop/open", tmp_path, hub) == "fine None"
    assert ask("typo/path", tmp_path, hub).startswith(
        "typo/path: no such folder, and the hub has no such model"
    )
    assert "accept its terms there and set HF_TOKEN" in ask("shop/gated", tmp_path, hub)


def test_without_a_hub_a_name_is_refused_at_once_and_a_cached_one_stays_offline(
    tmp_path: Path,
) -> None:
    write_cache(tmp_path, "shop/cached")
    assert ask("typo/path", tmp_path, CLOSED).startswith(
        "typo/path: no such folder, and no hub can be reached ("
    )
    assert ask("shop/cached", tmp_path, CLOSED) == "fine 1"


def test_hf_hub_offline_is_obeyed_though_a_hub_would_answer(tmp_path: Path, hub: str) -> None:
    write_cache(tmp_path, "shop/cached")
    assert "while HF_HUB_OFFLINE is set" in ask("shop/open", tmp_path, hub, HF_HUB_OFFLINE="1")
    assert ask("shop/cached", tmp_path, hub, HF_HUB_OFFLINE="1") == "fine 1"


@pytest.mark.parametrize("command", ["evaluate", "train", "recommend", "serve"])
def test_every_command_refuses_a_cut_shard_in_one_sentence(tmp_path: Path, command: str) -> None:
    write_shards(tmp_path / "model")
    cut = tmp_path / "model" / "model-00001-of-00002.safetensors"
    os.truncate(cut, cut.stat().st_size - 1)
    model, out = str(tmp_path / "model"), ["--out", str(tmp_path / "out")]
    words = {
        "evaluate": ["--model", model, "--dataset", "none", *out],
        "train": [
            "--dataset",
            "none",
            *out,
            f"model.name_or_path={model}",
            "train.arm=none",
        ],
        "recommend": ["--model", model, "--history", "a", "--candidate", "b", "--candidate", "c"],
        "serve": ["--model", model],
    }
    done = subprocess.run(
        [sys.executable, "-m", "msrrec", command, *words[command]],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.strip()]
    assert "model-00001-of-00002.safetensors: not whole" in line
    assert not (tmp_path / "out" / "run.json").exists()


def test_settings_of_older_models_have_the_date_of_templates(tmp_path: Path) -> None:
    write_shards(tmp_path / "merged")
    told = {"kind": "msrrec", "answer_format": "title", "domain": "Home"}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert locate_model(str(tmp_path)).template_date == "2024-07-26"
    (tmp_path / "config.json").write_text(json.dumps({**told, "template_date": "2031-01-02"}))
    assert locate_model(str(tmp_path)).template_date == "2031-01-02"


def test_a_trained_model_is_prompted_as_it_was_trained_whatever_the_settings(
    tmp_path: Path,
) -> None:
    write_shards(tmp_path / "merged")
    config, asked = tmp_path / "config.json", PromptConfig(instruction="short")
    told = {"kind": "msrrec", "answer_format": "title", "domain": "Home"}
    config.write_text(json.dumps(told))  # an older model names its answer format alone
    assert locate_model(str(tmp_path), None, asked).form == PromptConfig(answer_format="title")
    told = {"kind": "msrrec", "prompt": {"order": "candidates_first"}, "domain": "Home"}
    config.write_text(json.dumps(told))
    assert locate_model(str(tmp_path), None, asked).form == PromptConfig(order="candidates_first")
    config.write_text(json.dumps({**told, "prompt": {"order": "sideways"}}))
    with pytest.raises(ModelError, match=r"config.json: prompt.order: .*found 'sideways'"):
        locate_model(str(tmp_path))
    base = tmp_path / "merged"
    assert locate_model(str(base), None, asked).form == asked
