"""The wall between the packages (docs/architecture.md): who may import what, and what that costs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dinodeploy import load_embeddings
from dinodeploy.cli.app import COMMANDS
from tests.support.images.photographs import photograph

ROOT = Path(__file__).parent.parent
OURS = ("dinodeploy", "exporters", "dinov3_ref")

# package -> (of ours, of others, of others inside functions only). The standard library is free.
RULES: dict[str, tuple[set[str], set[str], set[str]]] = {
    "dinov3_ref": (
        set(),
        {"torch", "safetensors", "omegaconf", "torchvision", "numpy", "PIL"},
        {"huggingface_hub", "pyarrow", "skimage", "sklearn", "tensorboard", "rich", "tokenizers"},
    ),
    "exporters": (
        {
            "dinov3_ref.models",
            "dinov3_ref.checkpoints",
            "dinov3_ref.layers",
            "dinov3_ref.heads",
            "dinov3_ref.text",
            "dinov3_ref.tasks",
            "dinov3_ref.errors",
            "dinov3_ref.ranges",
            "dinov3_ref.torchvision_shim",
            "dinodeploy",
        },
        {"torch", "onnx", "onnx_ir", "onnxscript", "numpy", "PIL", "google"},
        {"onnxruntime", "transformers", "timm", "nncf", "polygraphy"},
    ),
    "dinodeploy": (
        set(),
        {"numpy", "PIL", "safetensors", "typer", "rich"},
        {
            "onnxruntime",
            "openvino",
            "cuda",
            "pyarrow",
            "fsspec",
            "datasets",
            "aiohttp",
            "av",
            "tifffile",
            "imagecodecs",
            "lance",
            "scipy",
            "faiss",
            "ray",
            "triton_python_backend_utils",
            "model_signing",
            "cryptography",  # which model_signing needs
            "jinja2",
            "markupsafe",
            "matplotlib",
            "tokenizers",
            "huggingface_hub",
        },
    ),
    # reached by the command line alone, and late: not loaded without the extra [serve]
    "dinodeploy.serve": (
        {"dinodeploy"},
        {
            "numpy",
            "PIL",
            "fastapi",
            "starlette",
            "python_multipart",
            "pydantic",
            "uvicorn",
            "h11",
            "prometheus_client",
        },
        set(),
    ),
    # imported by users alone, each module with the library that it is for
    "dinodeploy.integrations": (
        {"dinodeploy"},
        {"numpy", "PIL", "lancedb", "pydantic", "sklearn", "torch"},
        set(),
    ),
}


def imports_of(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, inside a function or a TYPE_CHECKING block) for every import of a file."""
    tree = ast.parse(path.read_text())
    late: set[ast.AST] = set()
    for node in ast.walk(tree):
        checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if checking or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            late.update(ast.walk(node))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in late
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:  # `from a import b` may mean the module a.b
                inner = f"{node.module}.{alias.name}"
                is_module = (ROOT / inner.replace(".", "/")).with_suffix(".py").is_file()
                yield inner if is_module else str(node.module), node in late


def files_of(package: str) -> list[Path]:
    """Its Python files, without those of a package inside it that has rules of its own."""
    inner = [name for name in RULES if name.startswith(f"{package}.")]
    apart = {path for name in inner for path in (ROOT / name.replace(".", "/")).rglob("*.py")}
    return sorted(set((ROOT / package.replace(".", "/")).rglob("*.py")) - apart)


@pytest.mark.parametrize("package", RULES)
def test_imports_keep_to_the_table(package: str) -> None:
    ours, others, late_others = RULES[package]
    for path in files_of(package):
        for module, late in imports_of(path):
            top = module.partition(".")[0]
            inside = package == "dinodeploy.integrations"
            assert inside or not module.startswith("dinodeploy.integrations"), f"{path} imports {module}"
            if top in sys.stdlib_module_names or top == package:
                continue
            if top in OURS:
                assert any(module == allowed or module.startswith(f"{allowed}.") for allowed in ours), (
                    f"{path} imports {module}"
                )
            else:
                assert top in others or (late and top in late_others), f"{path} imports {module}"


def test_there_is_no_import_circle() -> None:
    """No module imports itself through others, in functions and for types included."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in OURS
        for path in (ROOT / package).rglob("*.py")
    }
    # `from a.b import c` waits for a.b alone: its parents are already being imported then
    edges = {
        name: {module for module, _ in imports_of(path) if module in modules and module != name}
        for name, path in modules.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"import circle: {' -> '.join((*trail, name))}"
        if name in done:
            return
        for target in sorted(edges[name]):
            visit(target, (*trail, name))
        done.add(name)

    for name in modules:
        visit(name, ())


HEAVY = ("torch", "onnxruntime", "tensorrt", "tensorrt_rtx", "onnx", "pyarrow", "dinov3_ref", "exporters")
# Times numpy, which is most of it and knows how slow the machine is.
IMPORT_LIMIT = 2.5  # measured 1.8 to 1.9


def test_importing_the_runtime_is_light(tmp_path: Path) -> None:
    """In CPU time. Both are timed from compiled files, as `pip install` leaves them: of sources,
    which a checkout may have alone, compiling them would be half of it."""
    program = f"""
import sys, time
started = time.process_time()
import numpy
numpy_seconds = time.process_time() - started
from dinodeploy import Embedder, load_embeddings
seconds = time.process_time() - started
print(numpy_seconds, seconds, [name for name in {HEAVY!r} if name in sys.modules])
"""
    compiled = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path)}
    compiled.pop("PYTHONDONTWRITEBYTECODE", None)
    runs = []
    for _ in range(8):
        run = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=compiled
        )
        of_numpy, seconds, loaded = run.stdout.strip().split(" ", 2)
        runs.append((float(of_numpy), float(seconds)))
        assert loaded == "[]"
    runs = runs[1:]  # the first one compiles
    of_numpy_at_best, at_best = map(
        min, zip(*runs, strict=True)
    )  # other work on the machine adds to the rest
    assert at_best < IMPORT_LIMIT * of_numpy_at_best


# Not needed to open a bundle and to embed an image; each costs tens of milliseconds, or hides a dependency.
NOT_NEEDED = (
    *(name for name in HEAVY if name != "onnxruntime"),
    *("typer", "rich", "click", "asyncio", "http", "urllib.request", "email", "ssl", "socket", "xml"),
    *("multiprocessing", "concurrent.futures", "csv", "sqlite3", "unittest", "numpy.testing", "numpy.random"),
    *("importlib.metadata", "sympy", "google.protobuf", "packaging", "PIL.ImageDraw", "PIL.ImageFont"),
    *("PIL.TiffImagePlugin", "PIL.PdfImagePlugin", "PIL.Jpeg2KImagePlugin"),
)


def loaded_by(program: str, *arguments: object) -> set[str]:
    """The modules that a Python of its own has loaded at the end of `program`, beyond those of its start."""
    program = f"import sys\nbefore = set(sys.modules)\n{program}\nprint(*sorted(set(sys.modules) - before))"
    command = [sys.executable, "-c", program, *map(str, arguments)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_importing_the_package_loads_its_errors_alone() -> None:
    """Which needs no clock: see `benchmarks/cold_start.py` for what it takes."""
    loaded = loaded_by("import dinodeploy")
    assert {name for name in loaded if name.startswith("dinodeploy")} == {"dinodeploy", "dinodeploy.errors"}
    others = {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names}
    assert others == {"dinodeploy", "dinodeploy.errors"}
    assert len(loaded) < 15, loaded


def test_a_first_embedding_loads_no_more_than_it_needs(tiny_bundle: Path, tmp_path: Path) -> None:
    photograph("coffee").save(tmp_path / "coffee.jpg")
    program = """
from dinodeploy import Embedder
with Embedder.open(sys.argv[1], device="onnxruntime") as embedder:
    embedder.embed([sys.argv[2]])
    embedder.encode(sys.argv[2])
"""
    loaded = loaded_by(program, tiny_bundle, tmp_path / "coffee.jpg")
    assert "onnxruntime" in loaded, "else the test would prove nothing"
    assert not loaded & set(NOT_NEEDED)
    ours = {name.split(".")[1] for name in loaded if name.startswith("dinodeploy.")}
    assert {name for name in loaded if name.startswith("dinodeploy.pipeline.")} == {
        "dinodeploy.pipeline.encode",
        "dinodeploy.pipeline.pooling",
        "dinodeploy.pipeline.runner",
    }
    assert not ours & {
        "cli",
        "serve",
        "search",
        "sources",
        "doctor",
        "heads",
        "standalone",
    }


def test_the_command_line_starts_without_torch() -> None:
    program = (
        "import sys, dinodeploy.cli.app; print([m for m in ('torch', 'onnxruntime') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_command_imports_no_other_and_no_pandas(tiny_bundle: Path, tmp_path: Path) -> None:
    """Each of them would cost a short command a part of a second; pyarrow imports pandas where it can."""
    photograph("coffee").save(tmp_path / "coffee.jpg")
    program = """
import atexit, sys
atexit.register(lambda: print(sorted(
    m for m in sys.modules
    if m.startswith("dinodeploy.cli.") or m in ("pandas", "asyncio", "pyarrow", "rich.console")
)))
from dinodeploy.cli.app import main
main()
"""
    options = ["--engine", str(tiny_bundle), "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", program, "embed", str(tmp_path / "coffee.jpg"), *options]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    found = set(ast.literal_eval(run.stdout.splitlines()[-1]))
    commands = {f"dinodeploy.cli.{name.replace('-', '_')}" for name in COMMANDS}
    assert found & commands == {"dinodeploy.cli.embed"}
    assert {"pandas", "asyncio", "pyarrow", "rich.console"} & found == {"pyarrow"}  # rich draws on terminals


def test_public_names() -> None:
    import dinodeploy

    assert sorted(dinodeploy.__all__) == [
        "Bundle",
        "BundleError",
        "DinodeployError",
        "EmbedReport",
        "Embedder",
        "ExportError",
        "HubError",
        "ImageError",
        "JudgementError",
        "LintError",
        "MisuseError",
        "OutputExistsError",
        "OutsideProfileError",
        "PredictReport",
        "TamperedError",
        "TransformersFolder",
        "UnavailableError",
        "classify",
        "embed",
        "export",
        "export_transformers",
        "load_embeddings",
        "merge",
        "predict",
        "segment",
    ]
    assert all(hasattr(dinodeploy, name) for name in dinodeploy.__all__)


def test_embedding_and_judging_need_no_torch(tiny_bundle: Path, tmp_path: Path) -> None:
    """As on a device that has the wheel alone: every heavier package is made impossible to import."""
    photograph("coffee").save(tmp_path / "coffee.jpg")
    absent = ("torch", "onnx", "onnxscript", "pyarrow", "huggingface_hub", "omegaconf")
    for arguments in (
        ["check", str(tiny_bundle)],
        ["embed", str(tmp_path / "coffee.jpg"), "--engine", str(tiny_bundle), "--out", str(tmp_path / "out")],
    ):
        program = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
sys.argv = ["dinodeploy", *{arguments!r}]
from dinodeploy.cli.app import main
main()
"""
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
    assert len(load_embeddings(tmp_path / "out")[0]) == 1
