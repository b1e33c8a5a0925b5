#!/usr/bin/env bash
# Everything there is to know of the CUDA executor on a machine with a GPU, the most valuable first: is it right, what does it
# cost, what do the sanitizers say, the suites from Node, the CPU executor on many cores, PyTorch on the same GPU.
#
#   bench/gpu.sh [seconds in all, default 540]
#
# It takes what `npm run gpu:bundle` left in .gpu/ and builds what is not there: nvcc and CMake for the programs, node_modules
# for the suites. Each stage has a limit of time and its file in $OUT, written as it goes, so that one that hangs loses
# nothing. The exit code is 0 where nothing was wrong; a tool that is not installed is said to be so, and is not wrong.
#
#   1-correct.txt    the machine, conformance, kernels twice, golden vectors, float64, training
#   2-times.txt      steps of three sizes, cross-entropy, and the ceilings of the same minute
#   3-kernels.txt    microseconds of each kernel           4-ncu.txt        what bounds the five tile kernels
#   5-sanitizer.txt  compute-sanitizer                     6-node.txt       the suites; the CPU executor on 1 to 16 threads
#   7-peers.txt      PyTorch, one size at a time           summary.txt      at most 40 lines, printed last
#
#   OUT=folder (default out/gpu)      GPU_BUNDLE=folder (default .gpu)      GPU_ARCHITECTURES=90a-real: builds for that one
#   STAGE_LIMIT=seconds: no stage takes longer
set -uo pipefail
cd "$(dirname "$0")/.."
begin=$SECONDS
deadline=$((begin + ${1:-540}))
out=${OUT:-out/gpu}
bundle=${GPU_BUNDLE:-.gpu}
most=${STAGE_LIMIT:-600}
mkdir -p "$out"
work=$(mktemp -d)
rm -f "$out"/[1-7]-*.txt "$out/summary.txt"
export PYTHONUNBUFFERED=1 NO_COLOR=1
sources=$(bench/gpu/sources.sh)
stages=0 wrong=() running=
declare -A missing=() # names by what they would need

has() { command -v "$1" > /dev/null; }

# run FILE LIMIT NAME COMMAND…: appends what the command prints and how it ended to FILE; returns its exit code.
run() {
  local file=$out/$1.txt limit=$2 name=$3 start=$SECONDS code pause=0.02 ended
  shift 3
  [ "$limit" -le "$most" ] || limit=$most
  [ $((deadline - SECONDS)) -ge "$limit" ] || limit=$((deadline - SECONDS))
  if [ "$limit" -lt 1 ]; then lacks "$(basename "$file" .txt)" "$name" 'no time was left'; return 1; fi
  printf '\n== %s: %s\n' "$name" "$*" >> "$file"
  timeout -k 3 "$limit" "$@" >> "$file" 2>&1 < /dev/null &
  running=$!
  # `timeout` itself waits for ever for a process that the driver holds: that one is left behind.
  while kill -0 "$running" 2> /dev/null && [ $((SECONDS - start)) -lt $((limit + 6)) ]; do
    sleep "$pause"
    [ $((SECONDS - start)) -lt 2 ] || pause=0.3
  done
  if kill -0 "$running" 2> /dev/null; then code=137; else wait "$running"; code=$?; fi
  running=
  case $code in
    0) ended=well ;;
    124 | 137) ended="KILLED at its limit of $limit s" ;;
    *) ended="exit $code" ;;
  esac
  stages=$((stages + 1))
  [ "$code" = 0 ] || wrong+=("$name: $ended")
  printf -- '-- %s after %d s\n' "$ended" $((SECONDS - start)) >> "$file"
  printf '%3d s  %s: %s\n' $((SECONDS - start)) "$name" "$ended"
  return "$code"
}

# lacks FILE NAME REASON: says that a stage is not run.
lacks() {
  printf '\n== %s: not run, %s\n' "$2" "$3" | tee -a "$out/$1.txt"
  missing[$3]+="; $2"
}

# The figures of a file that begin so, at most so many.
figures() { grep -hE "$2" "$out/$1.txt" 2> /dev/null | head -"$3"; }

summary() {
  echo "margin-softmax, sources $sources, $(date -u +%F), ${gpu:-no GPU}"
  echo "$((stages - ${#wrong[@]})) of $stages stages well, ${#wrong[@]} wrong, $((SECONDS - begin)) s"
  printf 'WRONG  %s\n' "${wrong[@]+"${wrong[@]}"}" | grep -v '^WRONG  $' | head -7
  figures 1-correct '^WRONG' 3
  for reason in "${!missing[@]}"; do echo "not run, $reason: ${missing[$reason]:2}" | cut -c1-300; done | sort | head -4
  figures 2-times '^\| [cm]' 10
  figures 2-times '^(ceiling|cross-entropy|PyTorch cross)' 5
  figures 3-kernels '^\| [a-zA-Z]+ \| [0-9]' 6
  figures 6-node '^\| .*×' 10 | tail -2
  figures 7-peers '^\| .*[0-9]x' 6
}

finish() {
  trap - EXIT
  [ -z "$running" ] || kill "$running" 2> /dev/null
  rm -rf "$work"
  echo
  summary | head -40 | tee "$out/summary.txt"
  exit $((${#wrong[@]} > 0))
}
trap finish EXIT
trap 'wrong+=("ended by a signal"); exit 1' INT TERM

# unpack PART: from the bundle to where this run works; fails where there is none.
unpack() {
  [ -f "$bundle/$1.txz" ] || return 1
  if has xz; then run 1-correct 30 "unpack $1" tar -xJf "$bundle/$1.txz" -C "$work"
  else
    local unpacker='import sys, tarfile; tarfile.open(sys.argv[1]).extractall(sys.argv[2])'
    run 1-correct 30 "unpack $1" python3 -c "$unpacker" "$bundle/$1.txz" "$work"
  fi
}

# ------------------------------------------------------------------------------------------- the machine, and what to run on it
query='name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,mig.mode.current'
gpu=
run 1-correct 15 'the GPU' nvidia-smi "--query-gpu=$query" --format=csv,noheader &&
  gpu=$(sed -n '/^== the GPU/{n;p;q}' "$out/1-correct.txt")
capability=$(cut -d, -f3 <<< "$gpu" | tr -d '. ')
# The bundle's machine code is of compute capability 9.0. Without a GPU the stages only show that they fail as they should.
case $capability in '' | 90) ;; *) bundle=/nonexistent ;; esac
[ -n "$gpu${GPU_ARCHITECTURES:-}" ] || [ "$most" -lt 15 ] || most=15
run 1-correct 10 'the processor' sh -c '
  date -u; nproc; grep -m1 "model name" /proc/cpuinfo; nvcc --version | tail -1; python3 --version; exit 0'

programs=$work
if unpack programs && ! ldd "$work/steps" 2>&1 | grep -q 'not found'; then
  run 1-correct 5 'the bundle is of these sources' grep -Fx "$sources" "$bundle/sources"
elif [ -n "$gpu${GPU_ARCHITECTURES:-}" ]; then
  programs=build/gpu
  architecture=${GPU_ARCHITECTURES:-${capability/#90/90a}-real}
  run 1-correct 30 'configure' cmake -S bench/gpu -B "$programs" "-DCMAKE_CUDA_ARCHITECTURES=$architecture" &&
    run 1-correct 150 'build' cmake --build "$programs" --parallel
fi
library=$programs/libstep.so
golden=${MARGIN_SOFTMAX_GOLDEN:-../shared/golden}
unpack golden && golden=$work/golden
torch=$(timeout 60 python3 -c 'import torch; print(torch.__version__)' 2> /dev/null)

# with_torch FILE LIMIT NAME SCRIPT…: a stage that needs PyTorch.
with_torch() {
  if [ -n "$torch" ]; then run "$1" "$2" "$3" python3 "${@:4}"; else lacks "$1" "$3" 'PyTorch is not installed'; fi
}

# ---------------------------------------------------------------------------------------------------------------- is it right?
run 1-correct 20 'conformance of the PTX wrappers' "$programs/conformance"
for time in first second; do run 1-correct 45 "kernels against double precision, the $time time" "$programs/steps"; done
run 1-correct 5 'both times the same bits' bash -c '
  hashes=$(grep "^hash " "$1"); echo "$hashes"; [ "$(wc -l <<< "$hashes")" = 2 ] && [ "$(sort -u <<< "$hashes" | wc -l)" = 1 ]
' - "$out/1-correct.txt"
if [ -d "$golden" ] && has python3; then run 1-correct 45 'golden vectors' python3 bench/gpu/golden.py "$library" "$golden"
else lacks 1-correct 'golden vectors' "they are not in $golden, or there is no Python"; fi
with_torch 1-correct 120 'gradients and training against float64' bench/gpu/agree.py "$library"

# ----------------------------------------------------------------------------------------------------------- what does it cost?
run 2-times 90 'steps and cross-entropy' "$programs/bench" 10 128x512x10000 512x512x100000 512x512x1000000 4096x100000
with_torch 2-times 45 'ceilings' bench/gpu/peers.py --repeats 10 --ceilings
with_torch 3-kernels 45 'kernels at 512x512x100000' bench/gpu/kernels.py "$library" 512x512x100000
with_torch 3-kernels 30 'kernels at 128x512x10000' bench/gpu/kernels.py "$library" 128x512x10000 bfloat16
with_torch 3-kernels 60 'kernels at 512x512x1000000' bench/gpu/kernels.py "$library" 512x512x1000000 bfloat16
if has ncu; then
  # Of bench's first precision, bfloat16: the second launch of each.
  for kernel in weightGradient gradientTile forwardTile inputGradient prepareClasses; do
    run 4-ncu 30 "ncu $kernel" ncu --clock-control none --kernel-name "regex:$kernel" --launch-skip 1 --launch-count 1 \
      --section SpeedOfLight --section MemoryWorkloadAnalysis --section WarpStateStats --section SchedulerStats \
      --section Occupancy "$programs/bench" 1 512x512x100000
  done
else lacks 4-ncu 'what bounds the tile kernels' 'ncu is not installed'; fi

# ------------------------------------------------------------------------------------------------ what do the sanitizers say?
# sanitize TOOL [few]: racecheck takes the short list of steps, for it is the slowest.
sanitize() {
  local command=(compute-sanitizer --tool "$1" --error-exitcode 9)
  if has compute-sanitizer; then
    run 5-sanitizer 30 "$1 of conformance" "${command[@]}" "$programs/conformance"
    run 5-sanitizer 60 "$1 of steps" "${command[@]}" "$programs/steps" "${@:2}"
  else lacks 5-sanitizer "$1" 'compute-sanitizer is not installed'; fi
}
sanitize memcheck
sanitize racecheck few
sanitize synccheck

# -------------------------------------------------------------------------- the suites from Node, and the CPU executor's cores
node=
unpack node && node=$work/node
[ -n "$node" ] || node=$(command -v node)
export MARGIN_SOFTMAX_BINARY=${MARGIN_SOFTMAX_BINARY:-$PWD/build/Release/margin_softmax.node}
unpack addon && MARGIN_SOFTMAX_BINARY=$work/margin_softmax.node
[ -f "$bundle/suites.txz" ] || [ -z "$node" ] || [ ! -f "$MARGIN_SOFTMAX_BINARY" ] || [ ! -d node_modules ] ||
  run 6-node 30 'suites as single files' "$node" scripts/gpu-bundle.cjs suites
if [ -n "$node" ] && [ -f "$MARGIN_SOFTMAX_BINARY" ] && unpack suites; then
  run 6-node 20 'devices' "$node" "$work/devices.js"
  for suite in "$work"/suites/*.js; do
    run 6-node 30 "suite $(basename "$suite" .js)" env MARGIN_SOFTMAX_DEVICE=cuda "MARGIN_SOFTMAX_GOLDEN=$golden" "$node" "$suite"
  done
  run 6-node 60 'the CPU executor on many cores' "$node" "$work/threads.js"
else lacks 6-node 'suites, and the CPU executor' 'Node.js, the addon or the suites are not here'; fi

# --------------------------------------------------------------------------------------------------------------------- rivals
for size in 512x512x100000 128x512x10000 512x512x1000000; do
  with_torch 7-peers 70 "PyTorch at $size" bench/gpu/peers.py --repeats 10 "$size"
done
sanitize initcheck
