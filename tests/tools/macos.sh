#!/usr/bin/env bash
# Compile and link the extension for macOS, on Linux: for Apple silicon and for Intel.
# Usage: macos.sh PYTHON [VERSION OF ZIG]
#
# Nothing is run: that takes a Mac. Zig (ziglang on PyPI) brings clang, libc++ and the headers of
# macOS; 0.16.0 has LLVM 21, and 0.11.0 LLVM 16, as Xcode 15, the oldest that CMakeLists.txt takes.
# Not 0.17, where <cfloat> defines nothing after <cmath>. Needs Debian's packages llvm and file.
# Python's headers are those of PYTHON, on Linux. For macOS they differ in pyconfig.h alone, in what
# Python's own sources ask; what the headers do (sizes of types, thread locals) is the same.
set -euo pipefail
python=$(command -v "$1")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
version=${2:-0.16.0}
cd "$(dirname "$0")/../.."
missing=()
nm=$(command -v llvm-nm) || missing+=(llvm)
command -v file >/dev/null || missing+=(file)
if [ ${#missing[@]} -gt 0 ]; then
  echo "to look into what is linked, install: ${missing[*]}" >&2
  exit 2
fi
PATH="$(dirname "$python"):$PATH"
build=$PWD/build/macos-zig-$version
export ZIG_GLOBAL_CACHE_DIR=$build/cache ZIG_LOCAL_CACHE_DIR=$build/cache

if [ ! -e "$build/venv/.done" ]; then
  rm -rf "$build"
  "$python" -m venv "$build/venv"
  "$build/venv/bin/python" -m pip --disable-pip-version-check install -q "ziglang==$version"
  touch "$build/venv/.done"
fi

# Threads have half a megabyte of stack on macOS, so large frames are errors, too.
for target in aarch64-macos.11.0 x86_64-macos.10.15; do
  processor=${target%%-*}
  cat >"$build/$processor-c++" <<END
#!/bin/sh
# Python loads libraries as well as bundles, which Zig cannot link.
for argument; do
  shift
  [ "\$argument" != -bundle ] || argument=-dynamiclib
  set -- "\$@" "\$argument"
done
exec "$build/venv/bin/python" -m ziglang c++ -target $target "\$@"
END
  chmod +x "$build/$processor-c++"
  cmake -S . -B "$build/$processor" -G Ninja \
    -DCMAKE_SYSTEM_NAME=Darwin -DCMAKE_SYSTEM_PROCESSOR=$processor \
    -DCMAKE_CXX_COMPILER="$build/$processor-c++" -DCMAKE_INSTALL_NAME_TOOL=false \
    -DCMAKE_CXX_FLAGS="-Werror -Wframe-larger-than=65536" \
    -DPython_EXECUTABLE="$python" -DPYTHON_MODULE_EXTENSION=.so \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$build/configure.log"
  cmake --build "$build/$processor" >"$build/build.log" || { tail -50 "$build/build.log"; exit 1; }

  module=$build/$processor/_core.so
  "$nm" --defined-only "$module" | grep ' T _PyInit__core$' >/dev/null
  # What the linker was told to leave to the interpreter must be the interpreter's. What tells Intel's
  # processors apart (__builtin_cpu_supports) is in the runtime of Apple's clang, but not in Zig's.
  if "$nm" -m --undefined-only "$module" | grep -v '(from ' |
    grep -vE ' _+Py| ___cpu_(model|indicator_init)$'; then
    echo "$module: neither macOS nor Python has these" >&2
    exit 1
  fi
  # As tests/test_isa.py has it: what the linker may merge bears the name of its instruction set.
  for isa in avx2 avx512; do
    for object in "$build/$processor/CMakeFiles/dpslice_$isa.dir"/csrc/*.o; do
      if [ -e "$object" ] && "$nm" -m --defined-only "$object" | grep ' weak ' |
        grep -v "${#isa}$isa"; then
        echo "$object: instructions that not every machine has, under names for all" >&2
        exit 1
      fi
    done
  done
  file "$module" | grep "Mach-O 64-bit"
done
