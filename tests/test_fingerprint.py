"""The fingerprint follows the meaning of code: nothing else moves it, and nothing of it is missed."""

import ast

import pytest

from dgmbench import fingerprint
from dgmbench.fingerprint import canonical, code_fingerprint, covered, local_imports

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


def test_descriptions_of_settings_are_read_by_people_alone():
    one = "epochs: int = Field(10, ge=1, description='Passes.')\n"
    assert same(one, one.replace("Passes", "Passes over the data"))
    assert not same(one, one.replace("10", "11"))


def test_imports_are_found_wherever_they_stand():
    source = (
        "from dgmbench.models import base\nimport dgmbench.files as f\nfrom dgmbench.models.base import Model as M\n"
        "def f():\n    from dgmbench.models.density import gaussian\n    from . import registry\n    import numpy\n"
    )
    found = local_imports(ast.parse(source), "dgmbench.models.mine")
    assert found == {
        "base": (("dgmbench.models.base", None),),
        "f": (("dgmbench.files", None),),
        "M": (("dgmbench.models.base", "Model"),),
        "gaussian": (("dgmbench.models.density.gaussian", None),),
        "registry": (("dgmbench.models.registry", None),),
    }


FILES = {
    "model.py": "from dgmbench import maths\nfrom dgmbench.errors import UserError\n"
    "from dgmbench.base import Model as M\nclass Mine(M):\n    def fit(self):\n        return maths.f(2)\n",
    "maths.py": "from dgmbench.base import LIMIT\nSCALE: float = 2.0\nOTHER = 3.0\n"
    "def f(x):\n    from dgmbench.deep import g\n    return g(x) * SCALE\ndef unused(x):\n    return LIMIT\n",
    "deep.py": "def g(x):\n    return x + 1\ndef h(x):\n    return x\n",
    "base.py": "LIMIT = 1\nclass Root:\n    a = 1\nclass Model(Root):\n    pass\nclass Other:\n    pass\n",
    "errors.py": "class UserError(Exception):\n    pass\n",
    "__init__.py": "",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package whose model names some of what others define; `edit` changes a file and gives the new fingerprint."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(fingerprint, "ROOT", tmp_path)

    def edit(name: str, old: str, new: str) -> str:
        assert old in FILES[name]
        for file, content in FILES.items():
            (tmp_path / file).write_text(content)
        (tmp_path / name).write_text(FILES[name].replace(old, new))
        fingerprint._parsed.cache_clear()
        return code_fingerprint("dgmbench.model")

    fingerprint._parsed.cache_clear()
    yield edit
    fingerprint._parsed.cache_clear()


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("model.py", "f(2)", "f(3)"),
        ("maths.py", "SCALE: float = 2.0", "SCALE: float = 2.5"),  # a constant that f names
        ("deep.py", "x + 1", "x + 2"),  # through an import within a function
        ("base.py", "a = 1", "a = 2"),  # through a base class
        ("base.py", "class Root:", "import os\nos.environ['x'] = '1'\nclass Root:"),  # what importing does
        ("base.py", "class Root:", "class Model:\n    b = 1\nclass Root:"),  # bound twice: either may be meant
        ("model.py", "maths.f(2)", "maths.f(2) + len(vars(maths))"),  # a module as a value is all of it
    ],
)
def test_what_the_model_leads_to_moves_it(package, file, old, new):
    assert package(file, old, new) != package("model.py", "f(2)", "f(2)")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("deep.py", "def g", "# a remark\ndef g"),
        ("deep.py", "def h(x):\n    return x", "def h(x):\n    return 2 * x"),
        ("maths.py", "OTHER = 3.0", "OTHER = 4.0"),
        ("maths.py", "return LIMIT", "return 2 * LIMIT"),
        ("base.py", "LIMIT = 1", "LIMIT = 2"),  # named by what is not named
        ("base.py", "class Other:", "class Other(Root):"),
        ("errors.py", "pass", "sentence = ''"),
    ],
)
def test_what_it_does_not_lead_to_does_not(package, file, old, new):
    assert package(file, old, new) == package("model.py", "f(2)", "f(2)")


def test_a_module_used_as_a_value_is_covered_whole(package):
    whole = ("model.py", "maths.f(2)", "(maths.f(2), maths)")
    package(*whole)
    before = code_fingerprint("dgmbench.model")
    path = fingerprint.ROOT / "maths.py"
    path.write_text(path.read_text().replace("OTHER = 3.0", "OTHER = 4.0"))
    fingerprint._parsed.cache_clear()
    assert code_fingerprint("dgmbench.model") != before


def test_a_missing_module_is_named():
    with pytest.raises(ModuleNotFoundError, match=r"dgmbench\.nowhere"):
        code_fingerprint("dgmbench.nowhere")


def test_every_model_depends_on_its_own_file_and_on_the_interfaces():
    from dgmbench.models.registry import model_modules

    for module in model_modules().values():
        modules = {name for name, _ in covered(module)}
        assert {module, "dgmbench.models.base", "dgmbench.training.session"} <= modules
        assert not fingerprint.NOT_SEMANTIC & modules
        own = {statement for name, statement in covered(module) if name == module}
        assert own == fingerprint._parsed(module).statements


def test_a_new_capability_retrains_no_model(monkeypatch, tmp_path):
    """The interfaces may grow: only what a model names of them counts."""
    from dgmbench.models.registry import model_modules

    before = {name: code_fingerprint(module) for name, module in model_modules().items()}
    base = fingerprint.module_path("dgmbench.models.base")
    longer = tmp_path / "base.py"
    longer.write_text(base.read_text() + "\n\nclass New(ABC):\n    @abstractmethod\n    def new(self): ...\n")
    found = fingerprint.module_path
    monkeypatch.setattr(fingerprint, "module_path", lambda m: longer if m == "dgmbench.models.base" else found(m))
    fingerprint._parsed.cache_clear()
    assert {name: code_fingerprint(module) for name, module in model_modules().items()} == before
    fingerprint._parsed.cache_clear()
