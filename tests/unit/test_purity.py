"""A module says "Pure." exactly if the import contract keeps it pure."""

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _contract() -> set[str]:
    """Return the modules and packages that the contract names."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]
    (contract,) = [
        contract
        for contract in tools["importlinter"]["contracts"]
        if contract["name"] == "Modules that say they are pure have no effects"
    ]
    assert "allow_indirect_imports" not in contract
    return set(contract["source_modules"])


def _modules() -> dict[str, str]:
    """Return the docstring of each module except packages: theirs are about their modules."""
    return {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.get_docstring(
            ast.parse(path.read_text("utf-8"))
        )
        or ""
        for path in (ROOT / "pipeline").rglob("*.py")
        if path.name != "__init__.py"
    }


def _is_in_contract(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in _contract())


def test_modules_that_say_they_are_pure_are_exactly_those_in_the_contract() -> None:
    modules = _modules()

    pure = {name for name, docstring in modules.items() if re.search(r"\bPure\.", docstring)}
    assert pure == {name for name in modules if _is_in_contract(name)}


def test_every_name_in_the_contract_exists() -> None:
    modules = _modules()

    for name in _contract():
        assert any(module == name or module.startswith(f"{name}.") for module in modules), name


def test_imports_for_type_checking_count() -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]

    assert "exclude_type_checking_imports" not in tools["importlinter"]
