"""The one thing the wheel needs that pyproject.toml cannot say: the tracker's BPF object.

`replicad/tracker/build.py` knows how to compile it and is loaded by its path, because importing the
package here would need the dependencies that are not installed yet. The object is bytecode for the
kernel and relocates itself against the running kernel's types, so the wheel stays `py3-none-any`.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from setuptools import Command, setup
from setuptools.command.build import build
from setuptools.errors import SetupError

if TYPE_CHECKING:
    from types import ModuleType

ROOT = Path(__file__).resolve().parent
BUILDER = Path("replicad/tracker/build.py")
SOURCE = Path("replicad/tracker/bpf/tracker.bpf.c")
OBJECT = SOURCE.with_suffix(".o")


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("replicad_tracker_build", path)
    if spec is None or spec.loader is None:
        raise SetupError(f"{path}: not a Python module")
    module = importlib.util.module_from_spec(spec)
    # dataclasses and typing look their module up by name
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


class BuildBpf(Command):
    """Compile the tracker into the wheel, or, for an editable install, into the tree."""

    description = "compile the tracker's BPF object"
    user_options: ClassVar[list[tuple[str, str | None, str]]] = []
    editable_mode: bool = False
    build_lib: str | None = None

    def initialize_options(self) -> None:
        self.build_lib = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def _output(self) -> Path:
        return ROOT / OBJECT if self.editable_mode else Path(self.build_lib or "build") / OBJECT

    def run(self) -> None:
        if not (ROOT / BUILDER).exists() or not (ROOT / SOURCE).exists():
            raise SetupError(f"{SOURCE} or {BUILDER}: not in this source tree")
        output = self._output().resolve()
        output.parent.mkdir(parents=True, exist_ok=True)
        problem = "clang is not installed" if shutil.which("clang") is None else ""
        cause: Exception | None = None
        if not problem:
            try:
                _load(ROOT / BUILDER).compile_object(ROOT / SOURCE, output)
            except Exception as error:  # noqa: BLE001 - whatever it is, it must be told in one line
                problem, cause = f"{type(error).__name__}: {error}", error
        if not problem:
            return
        remedy = "apt-get install clang libbpf-dev libc6-dev, or what they are called here"
        text = f"cannot compile {SOURCE}: {problem} ({remedy})"
        if not self.editable_mode:
            raise SetupError(text) from cause
        # A developer without clang still gets a working tree: without the object every sync is a
        # compare pass. An object of an older source would be worse than none.
        output.unlink(missing_ok=True)
        print(f"warning: {text}; every sync will be a compare pass", file=sys.stderr)

    def get_source_files(self) -> list[str]:
        return [str(path) for path in (BUILDER, SOURCE) if (ROOT / path).exists()]

    def get_outputs(self) -> list[str]:
        return [str(self._output())] if self._output().exists() else []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The ordinary build, with the BPF object after the Python files."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_bpf", None)]


setup(cmdclass={"build": Build, "build_bpf": BuildBpf})
