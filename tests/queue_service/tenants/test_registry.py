"""The tenants in force: where they come from, and how they change while the service runs."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from lengthwise_queue.errors import WrongKey
from lengthwise_queue.settings import Settings
from lengthwise_queue.tenants import keys as api_keys
from lengthwise_queue.tenants.registry import TenantRegistry

KEY, OTHER = api_keys.new_key(), api_keys.new_key()


def content(**keys: str) -> bytes:
    tenants = [{"name": n, "keys": [api_keys.hash_key(k)], "admin": True} for n, k in keys.items()]
    return json.dumps({"tenants": tenants}).encode()


def registry(path: Path) -> TenantRegistry:
    return TenantRegistry(Settings(tenants_file=path))


def reload_twice(tenants: TenantRegistry) -> None:
    tenants.reload()
    tenants.reload()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tenants.yaml"
    file.write_bytes(content(a=KEY))
    return file


def test_a_changed_file_is_used(path: Path) -> None:
    tenants = registry(path)
    path.write_bytes(content(b=OTHER))
    reload_twice(tenants)
    assert tenants.authenticate(OTHER).name == "b"
    with pytest.raises(WrongKey):
        tenants.authenticate(KEY)
    assert (tenants.named("a"), len(tenants)) == (None, 1)


def test_a_file_behind_a_swapped_link_is_used(tmp_path: Path) -> None:
    # The kubelet does the same: tenants.yaml -> ..data/tenants.yaml, ..data -> ..<time>, and the
    # second link is replaced by a rename.
    for version, key in (("..1", KEY), ("..2", OTHER)):
        (tmp_path / version).mkdir()
        file = tmp_path / version / "tenants.yaml"
        file.write_bytes(content(a=key))
        os.utime(file, (1, 1))  # both files have the same times and the same length
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "tenants.yaml").symlink_to("..data/tenants.yaml")
    tenants = registry(tmp_path / "tenants.yaml")
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    reload_twice(tenants)
    assert tenants.authenticate(OTHER).name == "a"
    with pytest.raises(WrongKey):
        tenants.authenticate(KEY)


def test_a_broken_file_keeps_the_tenants_and_is_logged_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tenants = registry(path)
    path.write_text(f"tenants: [{KEY}")
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            tenants.reload()
    assert tenants.authenticate(KEY).name == "a"
    assert not tenants.healthy
    assert len(caplog.records) == 1
    assert KEY not in str(vars(caplog.records[0]))


def test_a_missing_file_keeps_the_tenants_until_it_is_back(path: Path) -> None:
    tenants = registry(path)
    path.unlink()
    reload_twice(tenants)
    assert tenants.authenticate(KEY).name == "a"
    assert not tenants.healthy
    path.write_bytes(content(b=OTHER))
    reload_twice(tenants)
    assert tenants.authenticate(OTHER).name == "b"
    assert tenants.healthy


def test_a_broken_file_that_is_restored_is_valid_again(path: Path) -> None:
    tenants = registry(path)
    path.write_text("tenants: [")
    reload_twice(tenants)
    path.write_bytes(content(a=KEY))
    tenants.reload()
    assert tenants.healthy


def test_a_half_written_file_is_not_used(path: Path) -> None:
    tenants = registry(path)
    path.write_text(f'tenants:\n  - {{name: b, keys: ["{api_keys.hash_key(OTHER)}"]}}\n')
    tenants.reload()
    with path.open("a") as file:
        file.write(f'  - {{name: a, keys: ["{api_keys.hash_key(KEY)}"]}}\n')
    tenants.reload()
    assert len(tenants) == 1
    assert tenants.authenticate(KEY).name == "a"
    tenants.reload()
    assert len(tenants) == 2
    assert tenants.authenticate(KEY).name == "a"


@pytest.mark.parametrize("raw", [None, b"tenants: ["], ids=["absent", "broken"])
def test_a_service_does_not_start_with_an_invalid_file(tmp_path: Path, raw: bytes | None) -> None:
    if raw is not None:
        (tmp_path / "t").write_bytes(raw)
    with pytest.raises(ValueError, match=r"t (cannot be read|is invalid)"):
        registry(tmp_path / "t")


@pytest.mark.parametrize("given", [KEY, api_keys.hash_key(KEY)], ids=["a key", "its hash"])
def test_one_key_in_the_environment_is_an_admins(given: str) -> None:
    tenants = TenantRegistry(Settings(api_key=SecretStr(given)))
    assert tenants.authenticate(KEY).admin
    for wrong in (None, "", OTHER, api_keys.hash_key(KEY)):
        with pytest.raises(WrongKey):
            tenants.authenticate(wrong)


@pytest.mark.parametrize("weak", ["", "hunter2", "sha256:12"])
def test_a_weak_key_in_the_environment_is_refused_and_not_quoted(weak: str) -> None:
    with pytest.raises(ValueError, match="new-key") as refused:
        TenantRegistry(Settings(api_key=SecretStr(weak)))
    assert not weak or weak not in str(refused.value)


def test_a_file_and_a_key_at_once_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="not both"):
        Settings(tenants_file=path, api_key=SecretStr(KEY))


def test_the_open_mode_is_logged_and_accepts_every_client(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        tenants = TenantRegistry(Settings())
    assert "OPEN MODE" in caplog.text
    assert tenants.is_open
    for key in (None, "", "none"):
        tenant = tenants.authenticate(key)
        assert (tenant.name, tenant.admin) == ("default", True)


def test_labels_are_existing_tenants_or_other(path: Path) -> None:
    tenants = registry(path)
    assert [tenants.label(name) for name in ("a", "b", "")] == ["a", "other", "other"]
