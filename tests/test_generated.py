"""`make generated-check` detects stale output of `make generate`, and changes nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lengthwise_operator.llmservice import crd

ROOT = Path(__file__).parents[1]

PAGE = """\
<!-- [[[cog
from lengthwise_operator.llmservice.names import KIND
cog.outl(KIND)
]]] -->
%s
<!-- [[[end]]] -->
"""


def check(definition: Path, page: Path) -> subprocess.CompletedProcess[str]:
    """Run the target on two files outside the repository."""
    return subprocess.run(
        [
            *("make", "--silent", "--old-file=.venv/.installed", "generated-check"),
            *(f"BIN={Path(sys.executable).parent}", f"CRDS={definition}", f"PAGES={page}"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("definition", "page", "complaint"),
    [
        (crd.text(), "LLMService", ""),
        (crd.text().replace("v1alpha1", "v2"), "LLMService", "crd.yaml is stale"),
        (None, "LLMService", "crd.yaml is stale"),
        (crd.text(), "LLMServices", "page.md"),
    ],
    ids=["fresh", "stale definition", "missing definition", "stale page"],
)
def test_stale_output_fails_the_check_and_stays_as_it_is(
    tmp_path: Path, definition: str | None, page: str, complaint: str
) -> None:
    files = {tmp_path / "crd.yaml": definition, tmp_path / "page.md": PAGE % page}
    for path, text in files.items():
        if text is not None:
            path.write_text(text)
    done = check(*files)
    assert (done.returncode == 0) == (complaint == ""), done.stdout + done.stderr
    assert complaint in done.stdout + done.stderr
    for path, text in files.items():
        assert (path.read_text() if path.exists() else None) == text


def test_the_check_covers_every_definition_and_every_page_with_generated_parts() -> None:
    listed = subprocess.run(
        [shutil.which("make") or "", "--dry-run", "--old-file=.venv/.installed", "generated-check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    pages = [
        *ROOT.glob("*.md"),
        *(path for top in ("docs", "operator", "charts") for path in (ROOT / top).rglob("*.md")),
    ]
    generated = [page for page in pages if "[[[cog" in page.read_text()]
    assert generated
    definitions = [*ROOT.glob("crds/*.yaml"), *ROOT.glob("charts/*/files/crds/*.yaml")]
    assert len(definitions) == 2
    assert {str(p.relative_to(ROOT)) for p in [*generated, *definitions]} <= set(listed)
