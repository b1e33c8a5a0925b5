#!/usr/bin/env bash
# A hash of the sources that the programs of bench/gpu and the addon are made of: scripts/gpu-bundle.cjs writes down what it
# built, bench/gpu.sh says whether that is what lies here. A copy without git will do.
cd "$(dirname "$0")/../.."
find native lib bench/gpu test/simt -type f -regex '.*\.\(h\|cc\|cu\|cuh\|ts\|mts\|txt\|cmake\|map\)' |
  LC_ALL=C sort | xargs cat | sha256sum | cut -c1-16
