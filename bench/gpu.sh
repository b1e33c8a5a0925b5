#!/usr/bin/env bash
# Everything there is to know of the CUDA executor on a machine with a GPU: builds, conformance of the PTX wrappers,
# the kernels against double precision, golden vectors, compute-sanitizer, then the benchmark beside its rivals.
# Needs nvcc and CMake; Python with PyTorch for golden vectors and rivals; node, where there is one, runs the suites too.
#
#   bench/gpu.sh [folder of golden vectors] [repeats]      GPU_ARCHITECTURES=90 compiles for that GPU (default: native)
set -uo pipefail
cd "$(dirname "$0")/.."
golden=${1:-../shared/golden}
repeats=${2:-20}
build=build/gpu
failed=0

say() { printf '\n== %s\n' "$*"; }
must() { "$@" || { echo "FAILED ($?): $*"; failed=1; }; }

say "machine: $(date -u +%F)"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
nvcc --version | tail -1

say 'build'
mkdir -p build
cmake -S bench/gpu -B "$build" -DCMAKE_CUDA_ARCHITECTURES="${GPU_ARCHITECTURES:-native}" > "$build.log" 2>&1 &&
  cmake --build "$build" --parallel >> "$build.log" 2>&1 || { tail -20 "$build.log"; exit 1; }

say 'conformance of the PTX wrappers'
must "$build/conformance"

say 'kernels against double precision (twice: the same bits)'
must "$build/steps"
first=$("$build/steps" | tail -1)
[ "$first" = "$("$build/steps" | tail -1)" ] || { echo 'FAILED: other bits on the second run'; failed=1; }

say 'golden vectors'
must python3 bench/gpu/golden.py "$build/libstep.so" "$golden"

for tool in memcheck racecheck synccheck initcheck; do
  say "compute-sanitizer $tool"
  if command -v compute-sanitizer > /dev/null; then
    must compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/steps" | tail -2
  else
    echo 'compute-sanitizer: not installed'
  fi
done

if command -v node > /dev/null && [ -d node_modules ]; then
  say 'suites on the GPU (node)'
  for suite in loss loss-edges head topk probability cross-entropy; do
    MARGIN_SOFTMAX_DEVICE=cuda must node --import tsx "test/$suite.test.ts" | tail -6
  done
fi

say 'benchmark'
must "$build/bench" "$repeats"
must python3 bench/gpu/peers.py --repeats "$repeats"

[ "$failed" = 0 ] && say 'all well' || say 'something FAILED: see above'
exit "$failed"
