"""The rules of the house that no linter knows: small files, small functions, no blanket except, a whole wheel."""

import ast
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import slotune

PACKAGES = ("commands", "profiler", "simulator", "traces", "tuner")
FOLDERS = (*PACKAGES, "tests", "benchmarks")
NOT_OF_THE_PACKAGE = (".*", "__pycache__", "*.egg-info", "benchmarks", "build", "dist", "parts", "studies", "tests")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
BLANKET_EXCEPT_ALLOWED = {"cli.py:main"}  # the one place where an unforeseen error becomes a line


def sources(repository: Path) -> Iterator[Path]:
    yield from repository.glob("*.py")
    for folder in FOLDERS:
        yield from (repository / folder).rglob("*.py")


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def long_files(sizes: dict[str, int]) -> list[str]:
    return [f"{name}: {lines} lines" for name, lines in sizes.items() if lines > MAX_FILE_LINES]


def long_functions(name: str, source: str) -> list[str]:
    spans = ((node, (node.end_lineno or node.lineno) - node.lineno + 1) for node in functions(ast.parse(source)))
    return [f"{name}:{node.lineno} {node.name}: {span} lines" for node, span in spans if span > MAX_FUNCTION_LINES]


def blanket_excepts(name: str, source: str) -> list[str]:
    found = []
    for function in functions(ast.parse(source)):
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and catches_everything(node.type) and not raises_on(node):
                found.append(f"{name}:{function.name}")
    return sorted(set(found) - BLANKET_EXCEPT_ALLOWED)


def catches_everything(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(catches_everything(one) for one in caught.elts)
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def raises_on(handler: ast.ExceptHandler) -> bool:
    """Whether it ends in a bare `raise`: what is caught to clean up is not swallowed."""
    last = handler.body[-1]
    return isinstance(last, ast.Raise) and last.exc is None


def test_files_and_functions_stay_small(repository: Path) -> None:
    texts = {str(path.relative_to(repository)): path.read_text() for path in sources(repository)}
    assert len(texts) > 20
    assert long_files({name: text.count("\n") for name, text in texts.items()}) == []
    assert [line for name, text in texts.items() for line in long_functions(name, text)] == []


def test_no_blanket_except(repository: Path) -> None:
    texts = {str(path.relative_to(repository)): path.read_text() for path in sources(repository)}
    assert [line for name, text in texts.items() for line in blanket_excepts(name, text)] == []


def test_the_rules_find_what_breaks_them() -> None:
    assert long_files({"a.py": MAX_FILE_LINES, "b.py": MAX_FILE_LINES + 1}) == ["b.py: 401 lines"]
    body = "\n".join(["    x = 1"] * MAX_FUNCTION_LINES)
    assert long_functions("a.py", f"def f():\n{body}\n") == ["a.py:1 f: 61 lines"]
    for caught in ("", " Exception", " (OSError, BaseException)"):
        assert blanket_excepts("a.py", f"def f():\n    try:\n        g()\n    except{caught}:\n        pass\n") == [
            "a.py:f"
        ]
    for handler in ("except OSError:\n        pass", "except BaseException:\n        close()\n        raise"):
        assert blanket_excepts("a.py", f"def f():\n    try:\n        g()\n    {handler}\n") == []


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The names in a wheel built from an sdist of a copy of the checkout, so that the build leaves nothing here."""
    out = tmp_path_factory.mktemp("out")
    copy = shutil.copytree(repository, out / "checkout", ignore=shutil.ignore_patterns(*NOT_OF_THE_PACKAGE))
    build = f"from setuptools import build_meta; print(build_meta.build_sdist({str(out)!r}))"
    name = subprocess.run([sys.executable, "-c", build], cwd=copy, check=True, capture_output=True, text=True)
    sdist = out / name.stdout.split()[-1]
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, sdist]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return zipfile.ZipFile(built).namelist()


def test_the_wheel_holds_every_module_and_data_file_and_nothing_else(repository: Path, wheel: list[str]) -> None:
    in_wheel = {name.removeprefix("slotune/") for name in wheel if name.startswith("slotune/")}
    data = {"py.typed"}
    modules = {path.name for path in repository.glob("*.py")}
    for package in PACKAGES:
        for path in (repository / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                (modules if path.suffix == ".py" else data).add(str(path.relative_to(repository)))
    assert in_wheel == modules | data


def test_every_public_name_is_there() -> None:
    assert {name for names in slotune._MODULES.values() for name in names} == set(slotune.__all__)
    for name in slotune.__all__:
        assert getattr(slotune, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = slotune.nothing


def test_nothing_outside_the_package_is_in_the_wheel(wheel: list[str]) -> None:
    assert {name.split("/")[0].split("-")[0] for name in wheel} == {"slotune"}
