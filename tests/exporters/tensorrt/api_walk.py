"""Find the members of TensorRT's classes that our code uses, from its source.

An expression's class comes from annotations with the names of `exporters/tensorrt/api.py`: of parameters, of
variables, of what functions return. What a TensorRT method returns has no class until it is annotated, and
using a member of such a value is reported as a fault, and so is using one of a value typed `Any`. So no use
is missed.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MODULE, OPAQUE, ANY = "TensorRT", "(unannotated)", "(Any)"
OURS = {"messages", "log"}  # members of our own subclasses, which are typed Any where they are passed on


@dataclass(frozen=True)
class Use:
    """`owner.member` at a line; owner `OPAQUE` or `ANY` is a fault of the walk."""

    owner: str
    member: str
    where: str


@dataclass
class Scope:
    """Variable -> what it is: a TensorRT class, `class X` for the class itself, OPAQUE, ANY, or None."""

    names: dict[str, str | None] = field(default_factory=dict)


def class_names(api_file: Path) -> set[str]:
    """The aliases that api.py defines."""
    tree = ast.parse(api_file.read_text())
    return {
        node.target.id
        for node in tree.body
        if isinstance(node, ast.AnnAssign)
        and isinstance(node.target, ast.Name)
        and ast.unparse(node.annotation) == "TypeAlias"
    }


def returned(sources: Mapping[str, str], classes: set[str]) -> dict[str, str]:
    """Function -> the TensorRT class it returns or yields, over all files."""
    found = {}
    for text in sources.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and node.returns is not None:
                names = [n.id for n in ast.walk(node.returns) if isinstance(n, ast.Name) and n.id in classes]
                if len(names) == 1:
                    found[node.name] = names[0]
    return found


def uses(sources: Mapping[str, str], classes: set[str]) -> list[Use]:
    """Every use of a member of a TensorRT object in `sources` (name -> text)."""
    functions = returned(sources, classes)
    found: list[Use] = []
    for name, text in sources.items():
        walker = _Walker(name, classes, functions, found)
        walker.block(ast.parse(text).body, Scope())
    return found


class _Walker:
    def __init__(self, file: str, classes: set[str], functions: Mapping[str, str], found: list[Use]) -> None:
        self.file, self.classes, self.functions, self.found = file, classes, functions, found

    def block(self, body: list[ast.stmt], scope: Scope) -> None:
        for statement in body:
            self.statement(statement, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        if isinstance(node, ast.FunctionDef):
            self.function(node, scope)
        elif isinstance(node, ast.ClassDef):
            self.definition(node, scope)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.value is not None:
                self.kind(node.value, scope)
            scope.names[node.target.id] = self.annotated(node.annotation)
        elif isinstance(node, ast.Assign):
            self.assign(node, scope)
        elif isinstance(node, ast.For):
            self.bind(node.target, self.kind(node.iter, scope), scope)
            self.block([*node.body, *node.orelse], scope)
        else:
            for child in ast.iter_child_nodes(node):
                self.child(child, scope)

    def child(self, node: ast.AST, scope: Scope) -> None:
        if isinstance(node, ast.stmt):
            self.statement(node, scope)
        elif isinstance(node, ast.expr):
            self.kind(node, scope)
        else:  # handlers, with-items, keywords
            for child in ast.iter_child_nodes(node):
                self.child(child, scope)

    def function(self, node: ast.FunctionDef, outer: Scope) -> None:
        scope = Scope(dict(outer.names))
        for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
            scope.names[argument.arg] = self.annotated(argument.annotation)
        self.block(node.body, scope)

    def definition(self, node: ast.ClassDef, scope: Scope) -> None:
        """A subclass of one of TensorRT's overrides that class's methods: their names are uses too."""
        for base in node.bases:
            kind = self.kind(base, scope)
            if kind is not None and kind.startswith("class "):
                for method in node.body:
                    if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                        self.use(kind.removeprefix("class "), method.name, method)
        self.block(node.body, scope)

    def assign(self, node: ast.Assign, scope: Scope) -> None:
        kind = self.kind(node.value, scope)
        for target in node.targets:
            if isinstance(target, ast.Name) and scope.names.get(target.id) not in self.classes:
                scope.names[target.id] = kind
            else:
                self.bind(target, None, scope)

    def bind(self, target: ast.expr, kind: str | None, scope: Scope) -> None:
        if isinstance(target, ast.Name):
            if kind is not None:
                scope.names[target.id] = kind
        elif isinstance(target, ast.Attribute):
            self.kind(target, scope)
        else:
            for child in ast.iter_child_nodes(target):
                if isinstance(child, ast.expr):
                    self.bind(child, None, scope)

    def annotated(self, annotation: ast.expr | None) -> str | None:
        text = ast.unparse(annotation) if annotation is not None else ""
        return text if text in self.classes else ANY if text == "Any" else None

    def kind(self, node: ast.expr, scope: Scope) -> str | None:
        """What an expression is, its uses noted on the way."""
        if isinstance(node, ast.Name):
            return scope.names.get(node.id)
        if isinstance(node, ast.Attribute):
            return self.attribute(node, scope)
        if isinstance(node, ast.Call):
            return self.call(node, scope)
        if isinstance(node, (ast.GeneratorExp, ast.ListComp, ast.DictComp, ast.SetComp)):
            inner = Scope(dict(scope.names))
            for generator in node.generators:
                self.bind(generator.target, self.kind(generator.iter, inner), inner)
            for child in ast.iter_child_nodes(node):
                self.child(child, inner)
            return None
        if isinstance(node, ast.Lambda):
            return self.kind(node.body, scope) and None
        kinds = [
            self.kind(child, scope) for child in ast.iter_child_nodes(node) if isinstance(child, ast.expr)
        ]
        return next((kind for kind in kinds if kind), None) if isinstance(node, ast.IfExp) else None

    def attribute(self, node: ast.Attribute, scope: Scope) -> str | None:
        base = self.kind(node.value, scope)
        if base is None or node.attr.startswith("_"):
            return None
        if base == MODULE:
            self.use(MODULE, node.attr, node)
            return f"class {node.attr}"
        if base == ANY and node.attr in OURS:
            return None
        self.use(base.removeprefix("class "), node.attr, node)
        return OPAQUE

    def call(self, node: ast.Call, scope: Scope) -> str | None:
        function = self.kind(node.func, scope)
        for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.kind(argument, scope)
        if isinstance(node.func, ast.Name):
            return self.functions.get(node.func.id)
        if function is not None and function.startswith("class "):
            return function.removeprefix("class ")
        return OPAQUE if function == OPAQUE else None

    def use(self, owner: str, member: str, node: ast.AST) -> None:
        self.found.append(Use(owner, member, f"{self.file}:{getattr(node, 'lineno', 0)}"))


def uses_in(package: Path, classes: set[str]) -> list[Use]:
    """Uses in every file of `package`."""
    return uses({path.name: path.read_text() for path in sorted(package.glob("*.py"))}, classes)
