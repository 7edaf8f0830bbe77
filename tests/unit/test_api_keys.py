"""Keys of the service: several, from a file that changes, each with a rate and a quota."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from msrrec.config import ServeConfig
from msrrec.errors import ConfigError
from serve.http_models import HttpError
from serve.keys import KeyRing, Keys, is_loopback
from serve.quotas import Quotas


class Clock:
    """A clock that a test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def scope(token: str = "", path: str = "/v1/recommend", host: str = "127.0.0.1") -> dict[str, Any]:
    headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
    return {"path": path, "method": "POST", "headers": headers, "server": (host, 8000)}


def status(ring: KeyRing, *args: str) -> int:
    try:
        ring.check(scope(*args))
    except HttpError as error:
        return error.status
    return 200


def test_any_of_several_keys_opens_and_the_admin_key_alone_changes_items(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MSRREC_API_KEY", "old key, new")
    monkeypatch.setenv("MSRREC_ADMIN_KEY", "admin")
    settings = ServeConfig()
    ring = KeyRing(Keys.read(settings), settings)
    tokens = ("old key", "new", "old key, new", "admin", "")
    assert [status(ring, token) for token in tokens] == [200, 200, 401, 401, 401]
    items = [status(ring, token, "/v1/items/a") for token in tokens]
    assert items == [401, 401, 401, 200, 401]


def test_keys_of_a_file_rotate_without_a_restart(tmp_path: Path) -> None:
    file, clock = tmp_path / "keys", Clock()
    file.write_text("# team a\none\n\n")
    settings = ServeConfig(api_keys_file=str(file))
    ring = KeyRing(Keys.read(settings), settings, clock)
    assert (status(ring, "one"), status(ring, "two")) == (200, 401)
    fresh = tmp_path / "fresh"
    fresh.write_text("two\n")
    os.replace(fresh, file)
    assert status(ring, "one") == 200  # for up to a second
    clock.now += 1
    assert (status(ring, "one"), status(ring, "two")) == (401, 200)
    file.unlink()
    clock.now += 1
    assert status(ring, "two") == 200  # never open by accident
    assert status(ring) == 401


@pytest.mark.parametrize(("content", "found"), [("# none\n", "found no key"), (None, "can't be")])
def test_a_file_without_keys_is_refused_at_the_start(
    tmp_path: Path, content: str | None, found: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=f"serve.api_keys_file={file}: {found}"):
        Keys.read(ServeConfig(api_keys_file=str(file)))


def test_without_a_key_other_machines_are_not_answered_unless_that_is_said() -> None:
    settings = ServeConfig()
    for host in ("0.0.0.0", "::", "10.0.0.7", "shop.example"):
        assert not is_loopback(host)
        with pytest.raises(ConfigError, match=r"serve\.host=.*listen_without_key=true"):
            Keys.read(settings).check_host(host)
        Keys((b"digest",)).check_host(host)
        Keys(is_open=True).check_host(host)
    for host in ("127.0.0.1", "::1", "localhost"):
        Keys.read(settings).check_host(host)
    ring = KeyRing(Keys(), settings)
    assert status(ring, "", "/v1/recommend", "10.0.0.7") == 401
    assert status(ring, "", "/healthz", "10.0.0.7") == 200
    assert status(ring, "", "/v1/recommend", "::1") == 200
    opened = KeyRing(Keys(is_open=True), settings)
    assert status(opened, "", "/v1/recommend", "10.0.0.7") == 200


def test_each_key_has_its_own_rate_and_is_told_when_to_come_back() -> None:
    clock = Clock()
    quotas = Quotas(ServeConfig(requests_per_minute=6, fusion_replicas=2), clock)  # 3 a replica
    for _ in range(3):
        quotas.count(b"a")
    with pytest.raises(HttpError) as refused:
        quotas.count(b"a")
    assert (refused.value.status, refused.value.retry_after_s) == (429, 20)
    quotas.count(b"b")
    clock.now += 20
    quotas.count(b"a")
    with pytest.raises(HttpError):
        quotas.count(b"a")


def test_a_quota_ends_with_the_day() -> None:
    clock = Clock()
    clock.now = 86_400 * 10 - 90.5
    quotas = Quotas(ServeConfig(requests_per_day=2), clock)
    quotas.count(b"a")
    quotas.count(b"a")
    with pytest.raises(HttpError, match="quota of the day") as refused:
        quotas.count(b"a")
    assert refused.value.retry_after_s == 91
    clock.now += 91
    quotas.count(b"a")


def test_a_batch_has_no_more_of_the_day_than_is_left() -> None:
    quotas = Quotas(ServeConfig(requests_per_day=10), Clock())
    for _ in range(4):  # four batches, before the body of any was read
        quotas.count(b"a")
    quotas.add(b"a", 6)
    with pytest.raises(HttpError, match="quota of the day") as refused:
        quotas.add(b"a", 1)
    assert refused.value.status == 429


def test_batches_that_come_at_once_wait_for_each_other() -> None:
    quotas = Quotas(ServeConfig(requests_per_minute=6), Clock())
    quotas.count(b"a")
    quotas.count(b"a")
    quotas.add(b"a", 10)  # 4 were left
    with pytest.raises(HttpError, match="its rate") as refused:
        quotas.add(b"a", 10)
    assert refused.value.retry_after_s == 60
    Quotas(ServeConfig(), Clock()).count(b"a")


def test_a_clock_that_is_set_back_takes_nothing_from_a_key() -> None:
    clock = Clock()
    quotas = Quotas(ServeConfig(requests_per_minute=6), clock)
    quotas.count(b"a")
    clock.now -= 600
    quotas.count(b"a")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, 200),
        ({b"sec-fetch-site": b"same-origin", b"origin": b"http://localhost:8000"}, 200),
        ({b"sec-fetch-site": b"cross-site"}, 401),
        ({b"sec-fetch-site": b"same-site"}, 401),
        ({b"origin": b"http://localhost:8000"}, 200),
        ({b"origin": b"https://elsewhere.example"}, 401),
        ({b"origin": b"null"}, 401),
    ],
)
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rollout/promote"])
def test_without_a_key_no_page_of_another_site_can_ask(
    path: str, headers: dict[bytes, bytes], expected: int
) -> None:
    asked = scope(path=path) | {"headers": [(b"host", b"localhost:8000"), *headers.items()]}
    ring = KeyRing(Keys(), ServeConfig())
    try:
        ring.check(asked)
        found = 200
    except HttpError as error:
        found = error.status
    assert found == expected
    ring.check({**asked, "method": "GET"})


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (b"localhost:8000", 200),
        (b"LOCALHOST.", 200),
        (b"127.0.0.1:8000", 200),
        (b"127.0.0.1.:8000", 200),
        (b"[::1]:8000", 200),
        (b"10.0.0.7:8000", 200),  # through a tunnel; no page of another site has such a name
        (b"", 200),
        (b"rebound.example:8000", 421),
        (b"localhost.rebound.example", 421),
        (b"127.0.0.1.rebound.example", 421),
        (b"[rebound.example", 421),
    ],
)
@pytest.mark.parametrize("path", ["/v1/recommend", "/v1/rollout", "/metrics"])
def test_without_a_key_a_site_whose_name_leads_here_is_not_answered(
    path: str, host: bytes, expected: int
) -> None:
    asked = scope(path=path) | {"method": "GET", "headers": [(b"host", host)]}
    ring = KeyRing(Keys(), ServeConfig())
    if expected == 200:
        ring.check(asked)
        return
    with pytest.raises(HttpError, match="ask for localhost or 127") as refused:
        ring.check(asked)
    assert refused.value.status == expected
    ring.check({**asked, "path": "/healthz"})
    ring.check({**asked, "server": ("/run/msrrec.sock", None)})


def test_with_a_key_or_where_it_is_wanted_any_name_is_answered() -> None:
    digest = hashlib.sha256(b"secret").digest()
    named = [(b"host", b"shop.example"), (b"authorization", b"Bearer secret")]
    asked = scope() | {"headers": named}
    KeyRing(Keys((digest,)), ServeConfig()).check(asked)
    opened = KeyRing(Keys(is_open=True), ServeConfig())
    opened.check(asked)
    with pytest.raises(HttpError) as refused:  # whoever rolls out could have any code run
        opened.check({**asked, "path": "/v1/rollout"})
    assert refused.value.status == 421
