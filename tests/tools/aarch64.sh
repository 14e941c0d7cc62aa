#!/usr/bin/env bash
# Build the extension for 64-bit ARM and run the kernel tests on it, under qemu.
# Usage: aarch64.sh PYTHON [ARGUMENTS OF PYTEST, by default the kernel tests]
#
# Needs Debian's packages qemu-user-static and g++-aarch64-linux-gnu, and no rights. Python comes
# from Debian's archive, wheels from PyPI, all for ARM and into build/aarch64/, once. On another
# system AARCH64_ROOT may name a folder with the files of an ARM system that has Python and its
# headers.
# Code runs some twenty times slower than the machine's own, vectors more. So the laws of the noise
# are left out (that its bits are the right ones is tested), and the largest products.
set -euo pipefail
python=$(command -v "$1")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
shift
cd "$(dirname "$0")/../.."

missing=()
qemu=$(command -v qemu-aarch64-static || command -v qemu-aarch64) || missing+=(qemu-user-static)
compiler=$(command -v aarch64-linux-gnu-g++) || missing+=(g++-aarch64-linux-gnu)
if [ ${#missing[@]} -gt 0 ]; then
  echo "to run ARM's code here, install: ${missing[*]}" >&2
  exit 2
fi
PATH="$(dirname "$python"):$PATH"
build=$PWD/build/aarch64
root=${AARCH64_ROOT:-$build/root}
mkdir -p "$build"

# Of this system's own release: no library must be older than those that the compiler links with.
if [ ! -e "$root/usr/bin/python3" ]; then
  release=$(. /etc/os-release && echo "${ID:-} ${VERSION_CODENAME:-}")
  if [[ $release != debian\ ?* ]]; then
    echo "this is not Debian: set AARCH64_ROOT to a folder with the files of an ARM system" >&2
    exit 2
  fi
  apt=$build/apt
  mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
  : >"$apt/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
    "http://deb.debian.org/debian ${release#* } main" >"$apt/sources.list"
  options=(-q -y -o APT::Architecture=arm64 -o APT::Architectures=arm64
    -o Dir::State="$apt" -o Dir::State::Lists="$apt/lists" -o Dir::State::status="$apt/status"
    -o Dir::Cache="$apt/cache" -o Dir::Etc::SourceList="$apt/sources.list"
    -o Dir::Etc::SourceParts=/dev/null -o Debug::NoLocking=1 -o APT::Sandbox::User=
    -o APT::Install-Recommends=false)
  apt-get "${options[@]}" update >"$apt/log"
  apt-get "${options[@]}" --download-only install \
    python3 libpython3-dev libgomp1 libstdc++6 >>"$apt/log"
  for package in "$apt"/cache/archives/*.deb; do dpkg-deb -x "$package" "$root"; done
fi

# A script in the interpreter's place, which Python takes for itself: so it can start its like.
cat >"$build/python" <<END
#!/bin/sh
exec "$qemu" -L "$root" -0 "\$0" "$root/usr/bin/python3" "\$@"
END
chmod +x "$build/python"
version=$("$build/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [ ! -e "$build/site/.done" ]; then
  rm -rf "$build/site"
  platforms=()
  for glibc in 28 27 17; do platforms+=(--platform "manylinux_2_${glibc}_aarch64"); done
  "$python" -m pip --disable-pip-version-check install -q --no-compile --target "$build/site" \
    "${platforms[@]}" --platform manylinux2014_aarch64 --only-binary=:all: \
    --implementation cp --python-version "$version" -c constraints.txt \
    hypothesis mpmath numpy pytest pytest-benchmark pytest-xdist scipy
  touch "$build/site/.done"
fi

# Debian keeps one header apart for each machine.
rm -rf "$build/include"
cp -r "$root/usr/include/python$version" "$build/include"
if [ -e "$root/usr/include/aarch64-linux-gnu/python$version/pyconfig.h" ]; then
  cp "$root/usr/include/aarch64-linux-gnu/python$version/pyconfig.h" "$build/include/"
fi
cmake -S . -B "$build/cmake" -G Ninja \
  -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER="$compiler" \
  -DPython_EXECUTABLE="$python" -DPython_INCLUDE_DIR="$build/include" \
  -DPYTHON_MODULE_EXTENSION=.so \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" >"$build/configure.log"
cmake --build "$build/cmake" >"$build/build.log" || { tail -50 "$build/build.log"; exit 1; }
rm -rf "$build/package"
mkdir "$build/package"
cp -r python/dpslice "$build/package/"
find "$build/package" -name '*.so' -delete
cp "$build/cmake/_core.so" "$build/package/dpslice/"

[ $# -gt 0 ] || set -- -n auto --dist worksteal -m "not slow" -k "not (moments or tails or \
distribution_is_normal or uncorrelated or angles or are_independent or shuffle_is_uniform or \
sends_a_row_anywhere or (threads_change_nothing and shape3))" \
  tests/test_pair_kernels.py tests/test_kernel_sum.py tests/test_logsumexp.py tests/test_reach.py \
  tests/test_density_ratio.py tests/test_sliced_wasserstein.py tests/test_median_distance.py \
  tests/test_project.py tests/test_random.py tests/test_feature_maps.py tests/test_isa.py
PYTHONPATH="$build/package:$build/site" PYTHONDONTWRITEBYTECODE=1 DPSLICE_BUILD="$build/cmake" \
  OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 OMP_WAIT_POLICY=passive \
  "$build/python" -m pytest -q -p no:cacheprovider --benchmark-disable "$@"
