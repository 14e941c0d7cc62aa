#!/usr/bin/env bash
# Build the extension with sanitizers and run the kernel tests on it.
# Usage: sanitize.sh PYTHON [SANITIZERS], by default address,undefined; or thread.
set -euo pipefail
if [ "$(uname)" != Linux ]; then
  echo "sanitizers are loaded before Python by LD_PRELOAD, which takes Linux" >&2
  exit 2
fi
sanitizers=${2:-address,undefined}
python=$(command -v "$1")
python=$(cd "$(dirname "$python")" && pwd)/$(basename "$python")
cd "$(dirname "$0")/../.."
build=build/sanitize-${sanitizers/,/-}
rm -rf "$build/package"
mkdir -p "$build/package"
PATH="$(dirname "$python"):$PATH"
# Without OpenMP: what GNU's OpenMP orders, ThreadSanitizer takes for races. And so the kernels are
# tested without it, too.
cmake -S . -B "$build" -G Ninja -DDPSLICE_OPENMP=OFF \
  -DPython_EXECUTABLE="$python" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" \
  -DDPSLICE_SANITIZE="$sanitizers" >"$build/configure.log"
cmake --build "$build" >"$build/build.log" || { tail -50 "$build/build.log"; exit 1; }
cp -r python/dpslice "$build/package/"
find "$build/package" -name '*.so' -delete
cp "$build"/_core*.so "$build/package/dpslice/"
# The sanitizer's runtime has to be there before Python. ThreadSanitizer does not see what orders the
# threads of other libraries: for it torch is kept out, and OpenBLAS kept to one thread.
if [ "$sanitizers" = thread ]; then
  echo 'raise ModuleNotFoundError("kept out for ThreadSanitizer", name="torch")' >"$build/package/torch.py"
  export OPENBLAS_NUM_THREADS=1
  runtime="$(g++ -print-file-name=libtsan.so) $(g++ -print-file-name=libstdc++.so)"
else
  runtime="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so) $(g++ -print-file-name=libstdc++.so)"
fi
env LD_PRELOAD="$runtime" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
  TSAN_OPTIONS=halt_on_error=1 \
  PYTHONPATH="$build/package" OMP_NUM_THREADS=2 \
  "$python" -m pytest -q -p no:cacheprovider --benchmark-disable -m "not slow" \
  -n auto --dist worksteal \
  tests/test_pair_kernels.py tests/test_kernel_sum.py tests/test_logsumexp.py tests/test_reach.py \
  tests/test_density_ratio.py tests/test_sliced_wasserstein.py tests/test_median_distance.py \
  tests/test_project.py tests/test_random.py tests/test_feature_maps.py tests/test_threads.py
