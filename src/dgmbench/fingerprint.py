"""Semantic fingerprints of code: a run depends on what its code means, not on how it is written.

The fingerprint of a module covers the whole of it and, of every other `dgmbench` module, the definitions that it leads
to: those that it names, those that these name, and so on. What is covered is hashed as abstract syntax, without
comments, docstrings, positions, formatting and the descriptions of settings. Nothing is imported to compute it.

A name stands for whatever the module binds it to anywhere, so that shadowing covers too much, never too little. A
module that is used as a value (and not as `module.name`), or of which something is asked that it does not define, is
covered whole. What a module does when it is imported (statements that define nothing) is covered with any part of it.
Objects that are reached by no name, through `importlib` or a string, are not seen: those who look modules up by name
fingerprint the module that they found.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE = "dgmbench"
ROOT = Path(__file__).parent

# Modules that can change a message, a picture or a path, but never a number.
NOT_SEMANTIC = frozenset(
    f"{PACKAGE}.{name}" for name in ("errors", "files", "progress", "fingerprint", "data.room", "training.checkpoint")
)

# Fields that hold positions, load/store context or old-style comments rather than meaning.
_IGNORED_FIELDS = frozenset({"ctx", "type_comment", "kind", "type_ignores"})
# Keyword arguments that are read by people alone.
_IGNORED_KEYWORDS = frozenset({"description"})
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def module_path(module: str) -> Path | None:
    """The file of a local module (`dgmbench.models.base`), or None where there is none."""
    parts = module.split(".")
    if parts[0] != PACKAGE:
        return None
    base = ROOT.joinpath(*parts[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


def canonical(node: object) -> str:
    """A spelling of a syntax tree that is equal across formatting, comments, docstrings and Python versions."""
    if isinstance(node, ast.AST):
        fields = []
        for name, value in ast.iter_fields(node):
            if name in _IGNORED_FIELDS or value is None or value == []:
                continue
            if name == "body" and isinstance(node, (ast.Module, *_DEFINITIONS)):
                value = _without_docstring(value)
            if name == "keywords" and isinstance(node, ast.Call):
                value = [keyword for keyword in value if keyword.arg not in _IGNORED_KEYWORDS]
            fields.append(f"{name}={canonical(value)}")
        return f"{type(node).__name__}({','.join(fields)})"
    if isinstance(node, list):
        return f"[{','.join(map(canonical, node))}]"
    return repr(node)


def _without_docstring(body: list[ast.stmt]) -> list[ast.stmt]:
    first = body[0] if body else None
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    return body[1:] if is_docstring else body


@dataclass(frozen=True)
class _Statement:
    """A statement of a module: its hash, and what it refers to as (name, attribute asked of it or None)."""

    digest: str
    uses: frozenset[tuple[str, str | None]]


@dataclass(frozen=True)
class _Module:
    """definitions: name -> the statements that bind it; others: statements that bind nothing; imports: name -> what
    it stands for, as (module, name in it or None)."""

    definitions: dict[str, tuple[_Statement, ...]]
    others: tuple[_Statement, ...]
    imports: dict[str, tuple[tuple[str, str | None], ...]]

    @property
    def statements(self) -> set[_Statement]:
        return {statement for bound in self.definitions.values() for statement in bound} | set(self.others)


def code_fingerprint(*modules: str, length: int = 12) -> str:
    """A short hash of the meaning of modules and of every local definition that they lead to.

    Raises:
        ModuleNotFoundError: a module that is not of this package.
    """
    lines = sorted(f"{module} {statement.digest}" for module, statement in covered(*modules))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:length]


def covered(*modules: str) -> set[tuple[str, _Statement]]:
    """Every statement that the fingerprint of the modules covers, with the module that it stands in."""
    pending: list[tuple[str, str | None]] = [(module, None) for module in modules]
    asked: set[tuple[str, str | None]] = set()
    found: set[tuple[str, _Statement]] = set()
    while pending:
        target = pending.pop()
        if target in asked:
            continue
        asked.add(target)
        module, name = target
        parsed = _parsed(module)
        wanted = parsed.statements if name is None else {*parsed.definitions[name], *parsed.others}
        for statement in wanted:
            if (module, statement) not in found:
                found.add((module, statement))
                pending.extend(_led_to(module, parsed, statement))
    return found


def _led_to(module: str, parsed: _Module, statement: _Statement) -> Iterator[tuple[str, str | None]]:
    """What a statement refers to, as (module, definition in it, or None for the whole of it)."""
    for name, attribute in statement.uses:
        if name in parsed.definitions:
            yield module, name
        for origin, imported in parsed.imports.get(name, ()):
            yield from _resolved(origin, imported if imported is not None else attribute)


def _resolved(module: str, name: str | None) -> Iterator[tuple[str, str | None]]:
    """The definition that a name of a module stands for: there, in a module below it, or where it is imported from."""
    if module_path(module) is None or module in NOT_SEMANTIC:
        return
    if name is None:
        yield module, None
        return
    parsed = _parsed(module)
    if name in parsed.definitions:
        yield module, name
    elif name in parsed.imports:
        for origin, imported in parsed.imports[name]:
            yield from _resolved(origin, imported)
    elif module_path(f"{module}.{name}") is not None:
        if f"{module}.{name}" not in NOT_SEMANTIC:
            yield f"{module}.{name}", None
    else:
        yield module, None


@cache
def _parsed(module: str) -> _Module:
    path = module_path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} in {PACKAGE}")
    tree = ast.parse(path.read_text())
    definitions: dict[str, list[_Statement]] = {}
    others: list[_Statement] = []
    for node in _without_docstring(tree.body):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        statement = _Statement(hashlib.sha256(canonical(node).encode()).hexdigest(), frozenset(_uses(node)))
        names = _bound(node)
        for name in names:
            definitions.setdefault(name, []).append(statement)
        if not names:
            others.append(statement)
    imports = local_imports(tree, module, is_package=path.name == "__init__.py")
    return _Module({name: tuple(bound) for name, bound in definitions.items()}, tuple(others), imports)


def _bound(node: ast.stmt) -> list[str]:
    """The names that a statement binds at the top of its module; [] for what does more than bind names."""
    if isinstance(node, _DEFINITIONS):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    names = [
        leaf for target in targets for leaf in ast.walk(target) if not isinstance(leaf, (ast.Tuple, ast.expr_context))
    ]
    return [leaf.id for leaf in names] if all(isinstance(leaf, ast.Name) for leaf in names) else []


def _uses(node: ast.stmt) -> Iterator[tuple[str, str | None]]:
    """Every name in a statement, with the attribute that is asked of it, or None where it is used by itself."""
    asked = set()
    for leaf in ast.walk(node):
        if isinstance(leaf, ast.Attribute) and isinstance(leaf.value, ast.Name):
            asked.add(leaf.value)
            yield leaf.value.id, leaf.attr
    for leaf in ast.walk(node):
        if isinstance(leaf, ast.Name) and leaf not in asked:
            yield leaf.id, None


def local_imports(
    tree: ast.AST, module: str, is_package: bool = False
) -> dict[str, tuple[tuple[str, str | None], ...]]:
    """Names that stand for something of this package, bound by imports anywhere in a module's tree.

    Each leads to (module, None) or (module, a name in it); relative imports are resolved.
    """
    found: dict[str, set[tuple[str, str | None]]] = {}
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                # `import a.b` binds a: whatever is asked of it, b is what was wanted.
                found.setdefault(alias.asname or alias.name.split(".")[0], set()).add((alias.name, None))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                below = f"{origin}.{alias.name}"
                target = (below, None) if module_path(below) is not None else (origin, alias.name)
                found.setdefault(alias.asname or alias.name, set()).add(target)
    local = {name: {t for t in targets if module_path(t[0]) is not None} for name, targets in found.items()}
    return {name: tuple(sorted(targets, key=str)) for name, targets in local.items() if targets}
