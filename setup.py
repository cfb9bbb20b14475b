"""Builds the native libraries of fusedsplit; without a C++ compiler the package installs without them.

`fusedsplit/libfusedsplit_core.so` is the core, which `fusedsplit/_op.so` (the TensorFlow op) and
`fusedsplit/_core.<abi>.so` (the pybind11 module) find beside them. None links against TensorFlow. What was built
and how, or why nothing was, is recorded in `fusedsplit/_build_info.json`, which `fusedsplit.info()` prints.

Environment:
    FUSEDSPLIT_SKIP_BUILD=1   build nothing native
    FUSEDSPLIT_FORCE_BUILD=1  fail the install where the native build fails
    FUSEDSPLIT_WERROR=1       warnings are errors
    CXX, CXXFLAGS, LDFLAGS    as usual
"""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from setuptools import Command, Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CORE_SOURCES = sorted((ROOT / "csrc/core").rglob("*.cc"))
OP_SOURCES = sorted((ROOT / "csrc/tensorflow").glob("*.cc"))
BINDING_SOURCES = sorted((ROOT / "csrc/python").glob("*.cc"))
# In every library: which build it is of.
BUILD_SOURCE = ROOT / "csrc/build.cc"
CORE_LIBRARY = "libfusedsplit_core.so"
# Programs of their own in csrc/core/tools (`make ulp`, `make sanitize`): each is the files that begin with its name.
PROGRAMS = ("selftest", "bench", "ulp", "fuzz", "scaling", "train_bench")

# Never -ffast-math: its start-up code switches denormals off for the whole process, and NaN must stay NaN.
# Products are contracted only where the source says fma, or bits would depend on the compiler.
FLAGS = [
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-pthread",
    "-fvisibility=hidden",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    # Else where a function begins depends on the order of linking: gradients of one row took 12.2 or 16.4 us by it.
    "-falign-functions=64",
    "-Wall",
    "-Wextra",
]
# On Linux: a wild write ends the process instead of steering it, and what the loader fills in is read-only after.
HARDENING = ["-fstack-protector-strong", "-U_FORTIFY_SOURCE", "-D_FORTIFY_SOURCE={level}"]
HARDENING_LINK = ["-Wl,-z,relro", "-Wl,-z,now"]
INCLUDES = ["-I", str(ROOT / "csrc")]
# One unit for each instruction set, chosen from at run time; every other file is compiled for the oldest CPU.
ISA_FLAGS = {
    "isa_avx2.cc": ["-mavx2", "-mfma"],
    "isa_avx512.cc": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl"],
}

# How each kind of file is linked, on Linux and on macOS. Names are resolved while a library is loaded ("now"), so
# that one which does not fit the core library is refused instead of ending the process at its first call. The core
# library calls its own functions directly: nobody may step between.
LINK_FLAGS = {
    "core": (
        ["-shared", "-Wl,-z,defs,-z,now,-Bsymbolic-functions", f"-Wl,-soname,{CORE_LIBRARY}"],
        ["-dynamiclib", f"-Wl,-install_name,@rpath/{CORE_LIBRARY}"],
    ),
    "library": (["-shared", "-Wl,-z,defs,-z,now,-rpath,$ORIGIN"], ["-dynamiclib", "-Wl,-rpath,@loader_path"]),
    "module": (
        ["-shared", "-Wl,-z,now,-rpath,$ORIGIN"],
        ["-bundle", "-undefined", "dynamic_lookup", "-Wl,-rpath,@loader_path"],
    ),
    "program": ([], []),
}


def switched_on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "off", "no")


def package_version() -> str:
    for line in (ROOT / "fusedsplit/__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            return line.split('"')[1]
    raise RuntimeError("expected __version__ in fusedsplit/__init__.py")


def build_name() -> str:
    """The release, and a hash of the core's sources: by it libraries know whether they fit together."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "csrc/core").rglob("*.[ch]*")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"{package_version()}+{digest.hexdigest()[:12]}"


class BuildError(Exception):
    """Why there is no native library."""


def run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"{command[0]} could not be run: {error}") from error
    if done.returncode:
        shown = (done.stderr or done.stdout).strip()
        raise BuildError(f"{' '.join(command)} failed with exit code {done.returncode}:\n{shown[-4000:]}")
    if done.stderr.strip():
        print(done.stderr.strip(), file=sys.stderr)
    return done.stdout


class Toolchain:
    """The C++ compiler, and how it is called."""

    def __init__(self) -> None:
        if sys.platform not in ("linux", "darwin"):
            raise BuildError(f"the native code supports Linux and macOS. Received: {sys.platform}")
        self.command = self.find()
        self.version = run([*self.command, "--version"]).splitlines()[0]
        self.machine = run([*self.command, "-dumpmachine"]).strip()
        self.flags = [*FLAGS, *self.hardening(), *shlex.split(os.environ.get("CXXFLAGS", ""))]
        if switched_on("FUSEDSPLIT_WERROR"):
            self.flags.append("-Werror")
        hardening = HARDENING_LINK if sys.platform == "linux" else []
        self.ldflags = [*hardening, *shlex.split(os.environ.get("LDFLAGS", ""))]

    @staticmethod
    def find() -> list[str]:
        given = shlex.split(os.environ.get("CXX", ""))
        if given:
            if shutil.which(given[0]) is None:
                raise BuildError(f"CXX: expected a C++ compiler. Received: {' '.join(given)}, which was not found")
            return given
        for name in ("c++", "g++", "clang++"):
            if shutil.which(name):
                return [name]
        raise BuildError("no C++ compiler was found (looked for c++, g++ and clang++; set CXX to name one)")

    def hardening(self) -> list[str]:
        """HARDENING with the highest level of checked string functions that compiler and C library know."""
        if sys.platform != "linux":
            return []
        for level in (3, 2):
            flags = [flag.format(level=level) for flag in HARDENING]
            probe = [*self.command, "-O2", *flags, "-Werror", "-x", "c++", "-fsyntax-only", "-"]
            if subprocess.run(probe, input="#include <string.h>\n", text=True, capture_output=True).returncode == 0:
                return flags
        return []

    @property
    def x86(self) -> bool:
        return self.machine.startswith(("x86_64", "amd64"))

    def isa_units(self) -> list[str]:
        return [s.stem.removeprefix("isa_") for s in core_sources(self) if s.stem.startswith("isa_")]

    def compile(self, source: Path, directory: Path, includes: list[str]) -> Path:
        """Compiles one file, unless its object is newer than everything that it was made of."""
        flags = [*self.flags, *ISA_FLAGS.get(source.name, []), *includes]
        key = hashlib.sha256("\0".join([self.version, self.machine, *self.command, *flags]).encode()).hexdigest()[:12]
        name = "-".join(source.relative_to(ROOT / "csrc").with_suffix("").parts)
        target = directory / f"{name}-{key}.o"
        if not up_to_date(target):
            run([*self.command, *flags, "-MMD", "-c", str(source), "-o", str(target)])
        return target

    def link(self, objects: list[Path], target: Path, kind: str) -> None:
        linux, darwin = LINK_FLAGS[kind]
        libraries = ["-ldl"] if sys.platform == "linux" else []
        # Written beside and renamed: a process that has the old library mapped must not see it change.
        fresh = target.with_name(target.name + ".new")
        flags = [*self.flags, *(darwin if sys.platform == "darwin" else linux)]
        run([*self.command, *flags, "-o", str(fresh), *map(str, objects), *self.ldflags, *libraries])
        os.replace(fresh, target)


def up_to_date(target: Path) -> bool:
    depfile = target.with_suffix(".d")
    if not target.exists() or not depfile.exists():
        return False
    made = target.stat().st_mtime
    sources = depfile.read_text().replace("\\\n", " ").partition(":")[2].split()
    return all(os.path.exists(path) and os.path.getmtime(path) <= made for path in sources)


def belongs_to(source: Path, program: str) -> bool:
    return source.parent.name == "tools" and source.stem.startswith(program)


def core_sources(toolchain: Toolchain) -> list[Path]:
    sources = [source for source in CORE_SOURCES if not any(belongs_to(source, name) for name in PROGRAMS)]
    return [source for source in sources if toolchain.x86 or source.name not in ISA_FLAGS]


def compile_all(toolchain: Toolchain, temporary: Path, groups: list[tuple[Path, list[str]]]) -> dict[Path, Path]:
    """The objects of (source, flags), compiled side by side."""
    # The longest compilations first, or one of them is left alone at the end.
    groups = sorted(groups, key=lambda g: (not g[0].stem.startswith("isa_"), g[0] not in BINDING_SOURCES))
    with concurrent.futures.ThreadPoolExecutor(max(2, os.cpu_count() or 1)) as pool:
        futures = {source: pool.submit(toolchain.compile, source, temporary, flags) for source, flags in groups}
        return {source: future.result() for source, future in futures.items()}


def core_groups(toolchain: Toolchain) -> list[tuple[Path, list[str]]]:
    """The core's sources, and the one that says which build it is, with the flags of each."""
    build = [f'-DFUSEDSPLIT_VERSION="{package_version()}"', f'-DFUSEDSPLIT_BUILD="{build_name()}"']
    return [*((source, INCLUDES) for source in core_sources(toolchain)), (BUILD_SOURCE, [*INCLUDES, *build])]


def build_program(name: str, temporary: Path, target: Path) -> None:
    """One of PROGRAMS, linked with the core."""
    toolchain = Toolchain()
    temporary.mkdir(parents=True, exist_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    own = [source for source in CORE_SOURCES if belongs_to(source, name)]
    groups = [*core_groups(toolchain), *((source, INCLUDES) for source in own)]
    toolchain.link(list(compile_all(toolchain, temporary, groups).values()), target, "program")


def build_native(temporary: Path, package: Path, module_name: str) -> dict:
    """Compiles and links the libraries into `package`, and returns the build metadata."""
    import pybind11

    toolchain = Toolchain()
    temporary.mkdir(parents=True, exist_ok=True)
    package.mkdir(parents=True, exist_ok=True)
    python = [*INCLUDES, "-isystem", pybind11.get_include(), "-isystem", sysconfig.get_path("include")]
    core = core_groups(toolchain)
    groups = [*core, *((source, INCLUDES) for source in OP_SOURCES), *((source, python) for source in BINDING_SOURCES)]
    objects = compile_all(toolchain, temporary, groups)
    shared = [objects[BUILD_SOURCE], package / CORE_LIBRARY]
    toolchain.link([objects[source] for source, _ in core], package / CORE_LIBRARY, "core")
    toolchain.link([*(objects[s] for s in OP_SOURCES), *shared], package / "_op.so", "library")
    toolchain.link([*(objects[s] for s in BINDING_SOURCES), *shared], package / module_name, "module")
    return {
        "compiler": toolchain.version,
        "target": toolchain.machine,
        "flags": " ".join(toolchain.flags),
        "isa_units": {unit: ISA_FLAGS.get(f"isa_{unit}.cc", []) for unit in toolchain.isa_units()},
        "build": build_name(),
        "files": [CORE_LIBRARY, "_op.so", module_name],
    }


def write_build_info(package: Path, details: dict) -> Path:
    info = {
        "version": package_version(),
        "python": platform.python_version(),
        "built": "reason" not in details,
        **details,
    }
    package.mkdir(parents=True, exist_ok=True)
    path = package / "_build_info.json"
    path.write_text(json.dumps(info, indent=2) + "\n")
    return path


def remove_libraries(package: Path) -> None:
    """What an earlier build left must not be used by an install that says it has none."""
    for path in (package / CORE_LIBRARY, package / "_op.so", *package.glob("_core.*.so")):
        path.unlink(missing_ok=True)


class BuildNative(build_ext):
    """Builds all libraries in one go; the Extension only says that the wheel is for one platform."""

    def package_dir(self) -> Path:
        in_place = self.inplace or getattr(self, "editable_mode", False)
        return ROOT / "fusedsplit" if in_place else Path(self.build_lib) / "fusedsplit"

    def module_name(self) -> str:
        return self.get_ext_filename("_core")

    def run(self) -> None:
        package = self.package_dir()
        try:
            details = build_native(Path(self.build_temp) / "fusedsplit", package, self.module_name())
        except BuildError as error:
            if switched_on("FUSEDSPLIT_FORCE_BUILD"):
                raise SystemExit(f"fusedsplit: the native build failed: {error}") from error
            print(f"fusedsplit: installing without the native op: {error}", file=sys.stderr)
            remove_libraries(package)
            details = {"reason": f"the native build failed: {error}"}
        write_build_info(package, details)

    def get_outputs(self) -> list[str]:
        package = self.package_dir()
        names = (CORE_LIBRARY, "_op.so", self.module_name(), "_build_info.json")
        return [str(package / name) for name in names if (package / name).exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class BuildProgram(Command):
    """`setup.py build_program --name ulp`: a checking program of the core, from the objects of the libraries."""

    user_options = [("name=", None, f"one of {PROGRAMS}"), ("target=", None, "the file to make")]

    def initialize_options(self) -> None:
        self.name = self.target = ""

    def finalize_options(self) -> None:
        if self.name not in PROGRAMS:
            raise SystemExit(f"--name: expected one of {PROGRAMS}. Received: {self.name!r}")
        self.target = self.target or f"build/programs/{self.name}"

    def run(self) -> None:
        build_ext_command = self.get_finalized_command("build_ext")
        try:
            build_program(self.name, Path(build_ext_command.build_temp) / "fusedsplit", Path(self.target))
        except BuildError as error:
            raise SystemExit(f"fusedsplit: {error}") from error


class BuildPython(build_py):
    """Records that the native build was skipped; otherwise `BuildNative` writes the record."""

    def run(self) -> None:
        super().run()
        if switched_on("FUSEDSPLIT_SKIP_BUILD"):
            in_place = getattr(self, "editable_mode", False)
            package = ROOT / "fusedsplit" if in_place else Path(self.build_lib) / "fusedsplit"
            remove_libraries(package)
            write_build_info(package, {"reason": "the native build was skipped (FUSEDSPLIT_SKIP_BUILD)"})


def main() -> None:
    skip = switched_on("FUSEDSPLIT_SKIP_BUILD")
    if skip and switched_on("FUSEDSPLIT_FORCE_BUILD"):
        raise SystemExit("expected one of FUSEDSPLIT_SKIP_BUILD and FUSEDSPLIT_FORCE_BUILD. Received: both")
    # Paths relative to the project, as setuptools asks for; they also put csrc into the sdist.
    sources = [*CORE_SOURCES, *OP_SOURCES, *BINDING_SOURCES, BUILD_SOURCE]
    setup(
        ext_modules=[] if skip else [Extension("fusedsplit._core", [str(p.relative_to(ROOT)) for p in sources])],
        cmdclass={"build_ext": BuildNative, "build_py": BuildPython, "build_program": BuildProgram},
    )


main()
