"""The tenants file and its content."""

from __future__ import annotations

import json

import pytest

from lengthwise_queue.tenants import keys as api_keys
from lengthwise_queue.tenants.tenant import Tenant, read_tenants

KEY = api_keys.new_key()
HASH = api_keys.hash_key(KEY)


def file(**tenant: object) -> bytes:
    return json.dumps({"tenants": [{"name": "a", **tenant}]}).encode()


def test_a_file_may_be_yaml_or_json() -> None:
    yaml = f"""
tenants:
  - name: research
    keys: ["{HASH}"]
    weight: 2
    services: ["qwen*"]
    admin: true
""".encode()
    [one] = read_tenants(yaml)
    want = Tenant(name="research", keys=(HASH,), weight=2, services=("qwen*",), admin=True)
    assert one == want
    assert read_tenants(json.dumps({"tenants": [want.model_dump()]}).encode()) == (want,)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "the file"),
        (b"tenants: []", "tenants"),
        (b"tenants: [", "line 1"),
        (b"\xff\xfe\xff", "neither YAML nor JSON"),
        (b"[" * 100_000, "neither YAML nor JSON"),
        (b"- 1", "the file"),
        (b"x" * (2**20 + 1), "the limit is"),
        (file(nmae="b"), "tenants.0.nmae"),
        (file(weight=0), "tenants.0.weight"),
        (file(depth_share=1.5), "tenants.0.depth_share"),
        (file(requests_per_minute=0), "tenants.0.requests_per_minute"),
        (file(name="A:b"), "tenants.0.name"),
        (b"tenants: [{name: a}, {name: a}]", "twice"),
        (
            json.dumps(
                {"tenants": [{"name": "a", "keys": [HASH]}, {"name": "b", "keys": [HASH]}]}
            ).encode(),
            "the same key",
        ),
    ],
    ids=[
        "empty",
        "no tenants",
        "broken",
        "not text",
        "deep",
        "a list",
        "too large",
        "unknown field",
        "weight of nothing",
        "share over one",
        "no requests",
        "a name that would reach into other keys",
        "a name twice",
        "one key for two",
    ],
)
def test_an_invalid_file_is_refused_with_the_place_and_the_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read_tenants(raw)


def test_a_key_in_place_of_its_hash_is_refused_and_never_quoted() -> None:
    with pytest.raises(ValueError, match="hash-key") as refused:
        read_tenants(file(keys=[KEY]))
    assert KEY not in str(refused.value)


def test_a_broken_file_is_not_quoted() -> None:
    with pytest.raises(ValueError, match="line 3") as refused:
        read_tenants(f"tenants:\n  - keys: [{KEY}\n  - [".encode())
    assert KEY not in str(refused.value)


@pytest.mark.parametrize(
    ("services", "name", "want"),
    [
        (["*"], "org/model", True),
        (["qwen*"], "qwen2.5-7b", True),
        (["qwen*"], "llama", False),
        (["org/*", "llama"], "org/m", True),
        (["org/*", "llama"], "llama", True),
        (["org/*"], "Org/m", False),
        ([], "llama", False),
    ],
)
def test_a_tenant_may_use_the_models_that_its_patterns_match(
    services: list[str], name: str, want: bool
) -> None:
    assert Tenant(name="a", services=tuple(services)).may_use(name) is want


@pytest.mark.parametrize(("share", "want"), [(1, None), (0.5, 5), (0.01, 1), (0.999, 9)])
def test_a_share_of_the_queue_is_at_least_one_job(share: float, want: int | None) -> None:
    assert Tenant(name="a", depth_share=share).max_depth(10) == want


def test_keys_are_long_random_and_recognisable() -> None:
    keys = {api_keys.new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith("sk-lw-") and len(key) >= 48 for key in keys)


def test_a_ring_finds_the_owner_of_each_of_several_keys_and_of_no_other() -> None:
    old, new = api_keys.new_key(), api_keys.new_key()
    a = Tenant(name="a", keys=(api_keys.hash_key(old), api_keys.hash_key(new)))
    b = Tenant(name="b", keys=(HASH,))
    ring = api_keys.KeyRing([a, b])
    assert [ring.owner(key) for key in (old, new, KEY)] == [a, a, b]
    for wrong in ("", "x", old[:-1], old + "x", HASH, HASH.removeprefix("sha256:"), "ä€\0"):
        assert ring.owner(wrong) is None


@pytest.mark.parametrize("weak", ["", "secret", "x" * 31])
def test_a_key_that_could_be_guessed_is_not_hashed(weak: str) -> None:
    with pytest.raises(ValueError, match="new-key"):
        api_keys.hash_key(weak)


def test_a_hash_is_not_hashed_again() -> None:
    with pytest.raises(ValueError, match="already"):
        api_keys.hash_key(HASH)
