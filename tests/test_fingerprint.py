"""The fingerprint follows the meaning of code: nothing else moves it, and nothing of it is missed."""

import ast

import pytest

from dgmbench import fingerprint
from dgmbench.fingerprint import canonical, code_fingerprint, local_imports

EQUATION = "def energy(v, a):\n    return -(v @ a)\n"


def same(one: str, other: str) -> bool:
    return canonical(ast.parse(one)) == canonical(ast.parse(other))


@pytest.mark.parametrize(
    "rewritten",
    [
        "# why\ndef energy(v, a):  # v: (n, d)\n    return -(v @ a)\n",
        'def energy(v, a):\n    """E(v) = -v.a, in nats."""\n    return -(v @ a)\n',
        "def energy(\n    v,\n    a,\n):\n    return -(\n        v @ a\n    )\n",
        '"""A module."""\n\n\ndef energy(v, a):\n\n    return -(v @ a)\n',
    ],
)
def test_comments_docstrings_and_formatting_do_not_move_it(rewritten):
    assert same(EQUATION, rewritten)


@pytest.mark.parametrize(
    "rewritten",
    [
        "def energy(v, a):\n    return v @ a\n",
        "def energy(v, a):\n    return -(a @ v)\n",
        "def energy(v, a=0):\n    return -(v @ a)\n",
        "def energy(v, a):\n    return -(v @ a) + 0\n",
        'def energy(v, a):\n    print("""no docstring""")\n    return -(v @ a)\n',
    ],
)
def test_an_edited_equation_moves_it(rewritten):
    assert not same(EQUATION, rewritten)


def test_a_string_that_is_not_first_is_code():
    assert not same("x = 1\n'a'\n", "x = 1\n'b'\n")


def test_imports_are_found_wherever_they_stand():
    source = (
        "from dgmbench.models import base\nimport dgmbench.files\n"
        "def f():\n    from dgmbench.models.density import gaussian\n    from . import registry\n    import numpy\n"
    )
    found = local_imports(ast.parse(source), "dgmbench.models.mine")
    assert {"dgmbench.models.base", "dgmbench.files", "dgmbench.models.density.gaussian"} <= found
    assert "dgmbench.models.registry" in found
    assert not any(name.startswith("numpy") for name in found)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of three modules: model -> maths -> deep, and one that changes no number."""
    files = {
        "model.py": "from dgmbench import maths\nfrom dgmbench.errors import UserError\n",
        "maths.py": "def f(x):\n    from dgmbench.deep import g\n    return g(x)\n",
        "deep.py": "def g(x):\n    return x + 1\n",
        "errors.py": "class UserError(Exception):\n    pass\n",
        "__init__.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)

    def edit(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        fingerprint._module_digest.cache_clear()
        return code_fingerprint("dgmbench.model")

    fingerprint._module_digest.cache_clear()
    yield edit
    fingerprint._module_digest.cache_clear()


def test_what_is_imported_through_others_counts(package):
    before = code_fingerprint("dgmbench.model")
    assert package("deep.py", "# a remark\ndef g(x):\n    return x + 1\n") == before
    assert package("errors.py", "class UserError(Exception):\n    sentence = ''\n") == before
    assert package("deep.py", "def g(x):\n    return x + 2\n") != before


def test_a_missing_module_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"dgmbench\.nowhere"):
        code_fingerprint("dgmbench.nowhere")


def test_every_model_depends_on_its_own_file_and_on_the_interfaces(monkeypatch):
    from dgmbench.models.registry import model_modules

    seen = []
    original = fingerprint._module_digest
    monkeypatch.setattr(fingerprint, "_module_digest", lambda name: seen.append(name) or original(name))
    for module in model_modules().values():
        seen.clear()
        code_fingerprint(module)
        assert {module, "dgmbench.models.base"} <= set(seen)
        assert not fingerprint.NOT_SEMANTIC & set(seen)
