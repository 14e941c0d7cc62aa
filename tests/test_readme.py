"""What README.md, docs/ and examples/ show must run: every Python block, every dpslice command.

Training is cut down to a few steps; everything else runs as printed, in a directory with a table
that follows the page's own schema. Blocks of a page of docs/ run in order and check their own
figures, by what they assert or by the text that follows them, which is what they print; files and
definitions that it or CONTRIBUTING.md names must be there.
"""

from __future__ import annotations

import ast
import functools
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")

from dpslice._cli._commands import app
from dpslice.tabular import Encoding, Schema, synthesizer, write_table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
EXAMPLES = ROOT / "examples"
PRIVACY = ROOT / "docs" / "privacy.md"
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
OTHER_PAGES = [ROOT / "docs" / "index.md", *sorted((ROOT / "docs" / "reference").glob("*.md"))]

TRAINED = {"synthesize", "train", "demo"}


def test_what_follows_a_release_imports_no_mechanism() -> None:
    """Losses, training and kernels can have no private row."""
    package = ROOT / "python" / "dpslice"
    later = [*package.glob("torch/*.py"), package / "kernels.py", package / "divergences.py"]
    assert len(later) > 6
    for path in later:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            parts = {part for name in names for part in name.split(".")}
            assert not parts & {"mechanism", "adaptive"}, path


_FENCED = re.DOTALL | re.MULTILINE


def _blocks(language: str, page: Path = README) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=_FENCED)


def _write_table(schema: Schema, path: Path, n: int) -> None:
    """Write a random table of a schema: decoded noise is one."""
    encoding = Encoding(schema)
    rows = np.random.default_rng(1).normal(size=(n, encoding.d))
    write_table(encoding.decode(rows), path)


def _few_steps(code: str) -> str:
    return re.sub(r"\bsteps=\d+", "steps=3", code)


def _write_files(page: Path, folder: Path, n: int) -> None:
    """Write the files that a page shows, under the names in their first lines, and its table."""
    for text in _blocks("toml", page):
        name = re.match(r"# (\w+\.toml)\n", text)
        assert name is not None, text
        (folder / name[1]).write_text(text, encoding="utf-8")
    if (folder / "people.toml").exists():
        _write_table(Schema.load(folder / "people.toml"), folder / "people.csv", n)


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory as the README's reader has it, and training that takes a moment."""
    _write_files(README, tmp_path, 300)
    monkeypatch.chdir(tmp_path)
    short = functools.partial(synthesizer.MixtureOptions, steps=3)
    monkeypatch.setattr(synthesizer, "default_options", lambda method: short())
    return tmp_path


@pytest.mark.parametrize("code", _blocks("python"), ids=["table", "generator", "sums", "kernels"])
def test_python_block_runs(code: str, workplace: Path) -> None:
    exec(compile(_few_steps(code), "README.md", "exec"), {"__name__": "readme"})


def _commands(block: str) -> list[str]:
    lines = (line.split("  #")[0].strip() for line in block.splitlines())
    return [line for line in lines if line.startswith("dpslice ")]


def _run_command(line: str) -> None:
    arguments = shlex.split(line)[1:]
    if arguments[0] in TRAINED:
        arguments += ["--steps", "3"]
    result = CliRunner().invoke(app, arguments, prog_name="dpslice")
    assert result.exit_code == 0, (line, result.output)


def test_commands_run_in_order(workplace: Path) -> None:
    lines = [line for block in _blocks("sh") for line in _commands(block)]
    assert {line.split()[1] for line in lines} >= {"synthesize"}
    for line in lines:
        _run_command(line)


def test_guides_show_the_steps_of_a_table() -> None:
    blocks = _blocks("sh", ROOT / "docs" / "guides" / "tables.md")
    shown = {line.split()[1] for block in blocks for line in _commands(block)}
    assert shown >= {"release", "verify", "train", "sample", "report", "schema", "synthesize"}


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_guide_runs_in_order(
    page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python and commands, as they follow one another; text after Python is what that prints."""
    _write_files(page, workplace, 2000)
    text = page.read_text(encoding="utf-8")
    fences = re.finditer(r"^```(python|sh)\n(.*?)^```$(?:\n+```text\n(.*?)^```$)?", text, _FENCED)
    names: dict[str, object] = {"__name__": page.name}
    for language, code, printed in (fence.groups() for fence in fences):
        if language == "sh":
            for line in _commands(code):
                _run_command(line)
            continue
        capsys.readouterr()
        exec(compile(_few_steps(code), page.name, "exec"), names)
        if printed is not None:
            assert capsys.readouterr().out == printed


@pytest.mark.parametrize(
    ("page", "least"),
    [(README, {"demo", "test"}), (CONTRIBUTING, {"lint", "test"})],
    ids=["README", "CONTRIBUTING"],
)
def test_make_targets_exist(page: Path, least: set[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.findall(r"^make (\w+)", "\n".join(_blocks("sh", page)), flags=re.MULTILINE)
    assert least <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def _anchors(page: Path) -> set[str]:
    """Names that GitHub gives to headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=_FENCED)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def _left_out(path: Path) -> bool:
    """Whether these tests run in a source distribution, which has no such file by intention."""
    if not (ROOT / "PKG-INFO").exists():
        return False
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    excluded = pyproject["tool"]["scikit-build"]["sdist"]["exclude"]
    return any(path.is_relative_to(ROOT / each.strip("/")) for each in excluded)


@pytest.mark.parametrize(
    "page", [README, CONTRIBUTING, PRIVACY, *GUIDES, *OTHER_PAGES], ids=lambda page: page.name
)
def test_links_hold(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if "://" in link:
            continue
        target = page.parent / link if link else page
        if link and _left_out(target):
            continue
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), anchor


def test_privacy_argument_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": PRIVACY.name}
    blocks = _blocks("python", PRIVACY)
    assert blocks
    for code in blocks:
        exec(compile(code, PRIVACY.name, "exec"), names)


def _defined(path: Path) -> set[str]:
    """Names that a file defines, methods as Class.method; of C++, all its words."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        return set(re.findall(r"\w+", text))
    tree = ast.parse(text)
    kinds = (ast.FunctionDef, ast.ClassDef)
    found = {node.name for node in tree.body if isinstance(node, kinds)}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, kinds)}
    return found


@pytest.mark.parametrize(
    "page",
    [CONTRIBUTING, PRIVACY, ROOT / "docs/guides/architecture.md"],
    ids=lambda page: page.name,
)
def test_what_docs_name_is_there(page: Path) -> None:
    """`file` or `file::definition`, from the root, the package or tests/; NAME is any name."""
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"`([\w./-]+\.(?:py|h|cpp|cuh?|toml|sh))(?:::([\w.]+))?`", text)
    assert len(named) > 20
    places = (ROOT, ROOT / "python" / "dpslice", ROOT / "tests")
    for file, definition in named:
        if "NAME" in file:
            continue
        path = next((place / file for place in places if (place / file).is_file()), None)
        assert path is not None, file
        assert not definition or definition in _defined(path), f"{file}::{definition}"


@pytest.mark.parametrize(
    "name", ["conditional_generator.py", "custom_generator.py", "kernels_on_arrays.py"]
)
def test_example_runs(name: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (EXAMPLES / name).read_text(encoding="utf-8")
    exec(compile(_few_steps(code), name, "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def test_adult_example_runs(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_table(Schema.load(EXAMPLES / "adult.toml"), workplace / "adult.csv", 300)
    monkeypatch.setattr(sys, "argv", ["adult_table.py", "adult.csv"])
    runpy.run_path(str(EXAMPLES / "adult_table.py"))
    assert "tv_complement" in capsys.readouterr().out
    assert (workplace / "adult-report.html").exists()
    assert (workplace / "adult-synthetic.csv").exists()


def test_adult_schema_has_the_codebook() -> None:
    schema = Schema.load(EXAMPLES / "adult.toml")
    sizes = {c.name: len(c.categories) for c in schema if c.type == "categorical"}  # type: ignore[union-attr]
    assert len(schema) == 15
    assert sizes == {  # adult.names, and "?" where it occurs
        "workclass": 8 + 1,
        "education": 16,
        "marital-status": 7,
        "occupation": 14 + 1,
        "relationship": 6,
        "race": 5,
        "sex": 2,
        "native-country": 41 + 1,
        "income": 2,
    }
