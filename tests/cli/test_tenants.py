"""`lengthwise tenants`: keys, their hashes, and the check of a file."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from lengthwise_cli.errors import BadUsage
from lengthwise_cli.main import build
from lengthwise_queue.tenants import keys as api_keys


def test_a_new_key_comes_with_the_hash_that_the_file_takes(tmp_path: Path) -> None:
    done = CliRunner().invoke(build(), ["tenants", "new-key"])
    key, kept = done.stdout.split()
    assert api_keys.hash_key(key) == kept
    file = tmp_path / "tenants.yaml"
    file.write_text(f"tenants:\n  - name: research\n    keys: [{kept}]\n")
    checked = CliRunner().invoke(build(), ["tenants", "check", str(file)])
    assert checked.exit_code == 0
    assert "research" in checked.stdout


def test_a_key_is_read_from_standard_input() -> None:
    key = api_keys.new_key()
    done = CliRunner().invoke(build(), ["tenants", "hash-key"], input=f"{key}\n")
    assert done.stdout.strip() == api_keys.hash_key(key)


def test_a_weak_key_is_refused_and_not_repeated() -> None:
    done = CliRunner().invoke(build(), ["tenants", "hash-key"], input="hunter2\n")
    assert isinstance(done.exception, BadUsage)
    assert "hunter2" not in str(done.exception)


def test_an_invalid_file_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tenants.json"
    file.write_text(json.dumps({"tenants": [{"name": "a", "weight": -1}]}))
    done = CliRunner().invoke(build(), ["tenants", "check", str(file)])
    assert isinstance(done.exception, BadUsage)
    assert "tenants.0.weight" in str(done.exception)


def test_the_example_of_the_guide_has_one_error_for_each_hash_that_it_cuts_short(
    tmp_path: Path,
) -> None:
    # A fourth one said that there was no tenant: none was left after the three errors.
    guide = Path(__file__).parents[2] / "docs" / "guides" / "tenants.md"
    file = tmp_path / "tenants.yaml"
    file.write_text(guide.read_text().split("```yaml\n")[1].split("```")[0])
    done = CliRunner().invoke(build(), ["tenants", "check", str(file)])
    assert isinstance(done.exception, BadUsage)
    problems = str(done.exception).split(" is not valid: ")[1]
    places = [text.split(": ")[0] for text in problems.split("; ") if text.startswith("tenants")]
    assert places == ["tenants.0.keys.0", "tenants.1.keys.0", "tenants.1.keys.1"]


def test_a_file_without_tenants_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "tenants.yaml"
    file.write_text("tenants: []")
    done = CliRunner().invoke(build(), ["tenants", "check", str(file)])
    assert "at least 1 item" in str(done.exception)
