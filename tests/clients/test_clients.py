"""Real clients against a real stack (`make test-clients`), each in an environment of its own."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.clients.conftest import Stack

HERE = Path(__file__).parent
ROOT = HERE.parents[1]

pytestmark = [pytest.mark.clients, pytest.mark.slow, pytest.mark.timeout(600)]

#: The name of a client's requirements, and its program.
PROGRAMS = {
    "openai-2": "openai_python.py",
    "openai-3": "openai_python.py",
    "node": "client.mjs",
    "langchain": "langchain_program.py",
    "llamaindex": "llamaindex_program.py",
    "litellm": "litellm_program.py",
    "pydantic-ai": "pydantic_ai_program.py",
}


def scenarios(program: str) -> list[str]:
    """The names of the scenarios of a program, read from its text."""
    if program.endswith(".mjs"):
        return re.findall(r"^  async (\w+)\(\) \{", (HERE / "node" / program).read_text(), re.M)
    tree = ast.parse((HERE / "programs" / program).read_text())
    functions = (n for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    return [
        f.name for f in functions if any(ast.unparse(d) == "scenario" for d in f.decorator_list)
    ]


CASES = [(client, name) for client, program in PROGRAMS.items() for name in scenarios(program)]


@pytest.mark.parametrize(("client", "name"), CASES, ids=[f"{c}: {n}" for c, n in CASES])
def test_a_client_works_unchanged(
    outcomes: Callable[[str, str], dict[str, str]], client: str, name: str
) -> None:
    outcome = outcomes(client, PROGRAMS[client])[name]
    assert outcome == "ok", outcome


def test_every_client_has_its_requirements_and_every_file_a_client() -> None:
    files = {path.stem for path in (HERE / "requirements").glob("*.txt")}
    assert files == {*PROGRAMS, "llm", "guidellm"} - {"node"}


def test_the_guide_names_the_versions_that_are_tested() -> None:
    guide = (ROOT / "docs/guides/openai-clients.md").read_text()
    tested = list(json.loads((HERE / "node" / "package.json").read_text())["dependencies"].values())
    for client, package in {
        "openai-2": "openai",
        "openai-3": "openai",
        "langchain": "langchain-openai",
        "llamaindex": "llama-index-llms-openai-like",
        "litellm": "litellm",
        "pydantic-ai": "pydantic-ai-slim",
        "llm": "llm",
        "guidellm": "guidellm",
    }.items():
        pins = (HERE / "requirements" / f"{client}.txt").read_text().split()
        tested += [pin.split("==")[1] for pin in pins if pin.startswith(f"{package}==")]
    assert len(tested) == 9
    assert [version for version in tested if version not in guide] == []


@pytest.fixture(scope="session")
def llm(
    stack: Stack, python_of: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., str]:
    """Runs the command `llm`, which knows the models of the stack."""
    home = tmp_path_factory.mktemp("llm")
    entries = [
        f"- model_id: {name}\n  model_name: {name}\n  api_base: {stack.url}/v1\n"
        "  supports_schema: true\n  supports_tools: true\n"
        for name in (stack.scripted, stack.simulated)
    ]
    (home / "extra-openai-models.yaml").write_text("".join(entries))
    program = python_of("llm").with_name("llm")

    def run(*arguments: str) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "LLM_USER_PATH": str(home)}
        env |= {"OPENAI_API_KEY": "any", "NO_PROXY": "*"}
        done = subprocess.run(
            [str(program), *arguments],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    return run


def test_the_llm_command_answers_streamed_and_whole(llm: Callable[..., str], stack: Stack) -> None:
    for more in ((), ("--no-stream",)):
        answer = llm("-m", stack.scripted, *more, "Hello there")
        assert answer.strip() == "You said: Hello there"


def test_the_llm_command_uses_schemas_and_tools(llm: Callable[..., str], stack: Stack) -> None:
    answer = json.loads(llm("-m", stack.scripted, "--schema", "name, age int", "Hello"))
    assert answer == {"name": "Ada", "age": 36}
    tool = "def weather(city: str) -> str:\n    return 'sunny in ' + city\n"
    answer = llm("-m", stack.scripted, "--functions", tool, "Hello")
    assert answer.strip() == "You said: sunny in Paris"


def test_guidellm_measures_a_small_load(
    stack: Stack, python_of: Callable[[str], Path], tmp_path: Path
) -> None:
    # A tokenizer is the one thing that it would fetch from a hub.
    bundled = ROOT / "predictor_service/lengthwise_predictor/bundled/tokenizer.json"
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    (tokenizer / "tokenizer.json").write_bytes(bundled.read_bytes())
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    )
    report = tmp_path / "report.json"
    command = [
        str(python_of("guidellm").with_name("guidellm")),
        "run",
        *("--backend", f"kind=openai_http,target={stack.url},model={stack.simulated}"),
        *("--tokenizer", f"kind=hf_auto,model={tokenizer}"),
        *("--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=8"),
        *("--profile", "kind=concurrent,streams=4"),
        *("--constraint", "kind=max_requests,count=12"),
        *("--output", f"kind=json,path={report}"),
        "--disable-console-interactive",
    ]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command,
        env=env | {"NO_PROXY": "*"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:] + done.stdout[-3000:]
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (12, 0)
