"""No compiled file of a body has a function that the linker could use for another body.

Of a weak symbol, such as an inline function of the C++ library, the linker keeps one copy. If it kept the copy compiled for AVX-512, a CPU
without AVX-512 would stop in code that looks harmless. A static initialiser would run on every CPU too.

Here the compiled files of the build are read. tests/cpus/check_symbols.py compiles all files without inlining, as other compilers may.
"""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NATIVE = ROOT / "src" / "rwkvquant" / "native"
CMAKE = (ROOT / "CMakeLists.txt").read_text()
X86, ARM = platform.machine() in ("x86_64", "AMD64"), platform.machine() in ("aarch64", "arm64")
ARCHITECTURE = ["-DRWKVQUANT_X86"] if X86 else ["-DRWKVQUANT_ARM"] if ARM else []
HARMLESS = {"DW.ref.__gxx_personality_v0"}  # no code: the address of the library's own function


def listed(name: str) -> list[str]:
    """A list of sources in CMakeLists.txt."""
    match = re.search(rf"set\({name} ([^)]+)\)", CMAKE)
    assert match, f"CMakeLists.txt has no list {name}"
    return match[1].split()


def bodies() -> dict[str, tuple[list[str], list[str]]]:
    """(flags, sources) of each body that this machine's compiler can build, from CMakeLists.txt."""
    result = {}
    for name, products_only, given in re.findall(r"^ *rwkvquant_body\((\w+)( PRODUCTS_ONLY)?(?: FLAGS ([^)]+))?\)", CMAKE, re.MULTILINE):
        flags = [flag for flag in given.split() if not flag.startswith("$")]
        if name == "plain" or (("-march=arm" in given) == ARM and (X86 or ARM)):
            more = ["-DRWKVQUANT_PRODUCTS_ONLY"] if products_only else []
            result[name] = (flags + more, listed("PRODUCTS") + ([] if products_only else listed("VECTORS")))
    return result


BODIES = bodies()


def tool(*names: str) -> str:
    path = next((path for name in names if (path := shutil.which(name))), None)
    assert path, f"this test needs one of {', '.join(names)}: install binutils and a C++ compiler"
    return path


def build(source: Path, body: str, output: Path, *more: str) -> None:
    """Compiles a file as a part of a body."""
    flags = ["-std=c++20", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wno-psabi", "-w", *ARCHITECTURE, *BODIES[body][0]]
    defined = [f"-DRWKVQUANT_BODY={body}", f'-DRWKVQUANT_LANES="lanes_{body}.h"', f"-I{NATIVE}"]
    command = [tool("g++", "clang++", "c++"), *flags, *defined, *more, str(source), "-o", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]


def built(source: str, body: str) -> Path:
    """The compiled file of a body in the newest build for this Python."""
    folder = f"build/cp{sys.version_info.major}{sys.version_info.minor}-*/CMakeFiles/body_{body}.dir/src/rwkvquant/native"
    files = (path for path in ROOT.glob(f"{folder}/{source}.o*") if path.suffix in (".o", ".obj"))  # not make's .o.d
    found = sorted(files, key=lambda path: path.stat().st_mtime)
    assert found, f"there is no {folder}/{source}.o: build the module with pip install -e ."
    return found[-1]


def uninlined(source: Path, body: str, folder: Path) -> Path:
    """The file, compiled without inlining: then every inline function that is called is really there, and what is absent now is absent with
    more optimisation. Without any, products take minutes.
    """
    compiled = folder / f"{source.stem}.o"
    build(source, body, compiled, "-O1", "-fno-inline", "-c")
    return compiled


def shared_symbols(compiled: Path) -> list[str]:
    """The symbols that a file of a body must not share with other files but does: weak and unique ones, and static initialisers."""
    table = subprocess.run([tool("nm", "llvm-nm"), "-C", str(compiled)], capture_output=True, text=True, check=True).stdout
    parts = [line.split(maxsplit=2) for line in table.splitlines() if line and line[0] != " "]
    assert parts, f"{compiled} has no symbols"
    return [name for _, kind, name in parts if name not in HARMLESS and (kind in "WVuw" or "_GLOBAL__sub_I" in name)]


def test_the_bodies_and_their_sources_are_found() -> None:
    assert "plain" in BODIES and len(BODIES) >= (3 if X86 or ARM else 1)
    for _, sources in BODIES.values():
        assert len(sources) >= 9 and all((NATIVE / source).exists() for source in sources)


@pytest.mark.parametrize("body", BODIES)
def test_no_weak_symbol_leaves_a_body(body: str) -> None:
    shared = {source: shared_symbols(built(source, body)) for source in BODIES[body][1]}
    assert not any(shared.values()), {source: symbols for source, symbols in shared.items() if symbols}


def test_a_vector_or_a_static_initialiser_in_a_body_is_noticed(tmp_path: Path) -> None:
    body = list(BODIES)[-1]
    text = (NATIVE / "norms.cpp").read_text()
    harmful = tmp_path / "harmful.cpp"
    use = "namespace other { float last(int n) { std::vector<float> a(n); return a[n - 1]; } }"
    harmful.write_text(f"#include <vector>\n{text}\n{use}\n")
    assert any("std::vector<float" in symbol for symbol in shared_symbols(uninlined(harmful, body, tmp_path)))
    harmful.write_text(f"{text}\nnamespace other {{ int ask(); int answer = ask(); }}\n")
    assert any("_GLOBAL__sub_I" in symbol for symbol in shared_symbols(uninlined(harmful, body, tmp_path)))


def test_the_body_for_avx_vnni_has_no_instruction_of_avx_512(tmp_path: Path) -> None:
    """Its CPUs have no AVX-512. An EVEX instruction begins with the byte 62; the VEX form of vpdpbusd with c4."""
    if platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip("needs x86-64")
    assert "avxvnni" in BODIES
    build(NATIVE / "dot_rate.cpp", "avxvnni", tmp_path / "compiled.o", "-O2", "-c")
    code = subprocess.run([tool("objdump", "llvm-objdump"), "-d", str(tmp_path / "compiled.o")], capture_output=True, text=True, check=True)
    instructions = [line.split("\t") for line in code.stdout.splitlines() if line.count("\t") >= 2]
    assert not [line for line in instructions if line[1].startswith("62 ")]
    dots = [line[1] for line in instructions if "vpdpbusd" in line[2]]
    assert dots and all(encoded.startswith("c4 ") for encoded in dots)


# Every byte of a, every byte of x, in every place, and the largest sums: each line of the output is a sum that is wrong.
DOT = """
#include "lanes.h"
#include <cstdio>
using namespace rwkvquant::RWKVQUANT_BODY;
int main() {
    for (int a = 0; a < 256; ++a) {
        for (int x = -128; x < 128; ++x) {
            std::uint8_t bytes[64];
            for (int i = 0; i < 64; ++i) bytes[i] = a < 128 ? static_cast<std::uint8_t>((a + 37 * i) % 256) : static_cast<std::uint8_t>(a);
            const std::int8_t four[4] = {static_cast<std::int8_t>(x), 127, static_cast<std::int8_t>(a - 128), static_cast<std::int8_t>(x)};
            const Ints got = dot<8>(splat(x * 1000003), bytes_from(bytes), four);
            std::int32_t sums[16];
            static_assert(sizeof sums == sizeof got);
            std::memcpy(sums, &got, sizeof sums);
            for (int r = 0; r < 16; ++r) {
                std::int32_t want = x * 1000003;
                for (int c = 0; c < 4; ++c) want += bytes[4 * r + c] * four[c];
                if (sums[r] != want) std::printf("a %d x %d row %d: %d, not %d\\n", a, x, r, sums[r], want);
            }
        }
    }
}
"""


def test_the_dot_product_of_avx_vnni_is_the_sum_of_products(tmp_path: Path) -> None:
    """In EVEX, the encoding of AVX-512, where the CPU lacks the one in VEX: the instruction does the same."""
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set[str]()
    if "avx_vnni" in flags:
        encoding = []
    elif {"avx512vl", "avx512_vnni"} <= flags:
        encoding = ["-DRWKVQUANT_VNNI_IN_EVEX"]
    else:
        pytest.skip("needs a CPU with AVX-VNNI, or with AVX-512 VL and VNNI")
    (tmp_path / "dot.cpp").write_text(DOT)
    build(tmp_path / "dot.cpp", "avxvnni", tmp_path / "dot", "-O1", *encoding)
    assert subprocess.run([str(tmp_path / "dot")], capture_output=True, text=True, check=True).stdout == ""
