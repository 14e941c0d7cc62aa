#!/usr/bin/env bash
# Everything there is to do on a machine with a GPU, within ten minutes: build, run the CUDA tests,
# run the benchmarks and write their report to bench/results, watch tests with compute-sanitizer.
#
#   bench/gpu.sh
#
# It needs nvcc (12.8 or newer), g++, and a Python (PYTHON, default python3) with torch, CMake,
# ninja, pytest and pybind11; CuPy and KeOps take part where they are installed. Without a network,
# put the wheel of pybind11 into a folder and name it in DPSLICE_WHEELS. A package that was built
# elsewhere, with its extension modules, is taken as it is where DPSLICE_PACKAGE names the folder
# that holds it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
build=build/gpu
started=$SECONDS
say() { echo "== $1 (after $((SECONDS - started)) s)"; }

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
[ "$capability" != 90 ] || capability=90a  # with the instructions that only Hopper has

mkdir -p "$build/package"
if [ -n "${DPSLICE_PACKAGE:-}" ]; then
  cp -r "$DPSLICE_PACKAGE/dpslice" "$build/package/"
else
  if ! "$python" -c "import pybind11" 2>/dev/null; then
    "$python" -m pip install --quiet ${DPSLICE_WHEELS:+--no-index --find-links "$DPSLICE_WHEELS"} pybind11
  fi

  say "building for sm_$capability"
  cmake -S . -B "$build" -G Ninja \
    -DPython_EXECUTABLE="$(command -v "$python")" \
    -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
    -DDPSLICE_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$capability" >"$build/configure.log"
  cmake --build "$build" >"$build/build.log" || { tail -50 "$build/build.log"; exit 1; }
  cp -r python/dpslice "$build/package/"
  find "$build/package" -name '*.so' -delete
  cp "$build"/_core*.so "$build"/_cuda*.so "$build/package/dpslice/"
fi
export PYTHONPATH="$PWD/$build/package${PYTHONPATH:+:$PYTHONPATH}"

# Without tests/conftest.py, which wants what a machine with a GPU may lack.
tests=("$python" -m pytest -q -rs -p no:cacheprovider -p no:benchmark --noconftest -W default
  tests/test_cuda.py)

# KeOps compiles for half a minute, or crashes: let it do so apart, and meanwhile.
timeout 200 "$python" bench/gpu.py --warm-keops >"$build/keops.log" 2>&1 &
keops=$!

# What fails is said at the end: a test that fails, or a sanitizer that takes too long on this
# machine, costs no report. The benchmarks come before the sanitizers, for one command on a lent
# machine may be cut off.
failed=()
say "tests"
timeout 150 "${tests[@]}" || failed+=("tests ($?)")

if wait "$keops"; then
  with_keops=--keops
else
  with_keops=
  echo "KeOps takes no part: $(tail -1 "$build/keops.log")"
fi
say "benchmarks"
timeout 240 "$python" bench/gpu.py --out bench/results $with_keops || failed+=("benchmarks ($?)")

if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    say "compute-sanitizer, $tool"
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout 100 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      "${tests[@]}" -k "(kernel_sums and shape4 and float32) or (density_ratio and 33) or project or (sliced_wasserstein and (sizes1- or sizes2-) and 2.0) or test_median_distance[64 or test_median_distance[1001 or test_median_of_equal_distances[2" \
      || failed+=("$tool ($?)")
  done
else
  echo "compute-sanitizer is not installed: skipped"
fi
say "done"
if [ ${#failed[@]} -gt 0 ]; then
  echo "failed, with exit code: ${failed[*]}"
  exit 1
fi
