"""Semantic fingerprints of code: a run depends on what its code means, not on how it is written.

The fingerprint of a module covers its abstract syntax tree and those of the `dgmbench` modules that it
imports, directly or through others, without comments, docstrings, positions and formatting. Nothing is
imported to compute it.
"""

import ast
import hashlib
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
            if name == "body" and isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                value = _without_docstring(value)
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


def local_imports(tree: ast.AST, module: str, is_package: bool = False) -> set[str]:
    """The `dgmbench` modules that a module's tree imports, anywhere in it; relative imports are resolved."""
    found: set[str] = set()
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *([node.module] if node.module else [])])
            found.add(origin)
            found.update(f"{origin}.{alias.name}" for alias in node.names)
    return {name for name in found if module_path(name) is not None}


@cache
def _module_digest(module: str) -> tuple[str, frozenset[str]]:
    path = module_path(module)
    if path is None:
        raise ModuleNotFoundError(f"no module {module} in {PACKAGE}")
    tree = ast.parse(path.read_text())
    imports = local_imports(tree, module, is_package=path.name == "__init__.py")
    return hashlib.sha256(canonical(tree).encode()).hexdigest(), frozenset(imports - NOT_SEMANTIC)


def code_fingerprint(*modules: str, length: int = 12) -> str:
    """A short hash of the meaning of modules and of every local module that they import."""
    pending, seen = list(modules), {}
    while pending:
        module = pending.pop()
        if module in seen:
            continue
        seen[module], imports = _module_digest(module)
        pending.extend(imports)
    joined = "\n".join(f"{name} {digest}" for name, digest in sorted(seen.items()))
    return hashlib.sha256(joined.encode()).hexdigest()[:length]
