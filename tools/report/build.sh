#!/bin/sh
# Rebuilds crates/midblock/src/report/assets/echarts.min.js. Needed only to change the chart library's version or parts:
# the result is committed, and neither building nor using midblock needs Node.
set -eu
cd "$(dirname "$0")"
assets=../../crates/midblock/src/report/assets

npm install --no-audit --no-fund --no-package-lock
version_of() { node -p "JSON.parse(require('fs').readFileSync('node_modules/$1/package.json')).version"; }
version=$(version_of echarts)
notice="/*! Apache ECharts $version, Copyright 2017-2026 The Apache Software Foundation, Apache-2.0; contains zrender (BSD-3-Clause, Baidu Inc.), parts of d3 (BSD-3-Clause, Michael Bostock) and tslib (0BSD, Microsoft). Reduced to the parts midblock uses. */"

npx esbuild entry.js --bundle --minify --format=iife --target=es2020 --legal-comments=none \
  --banner:js="$notice" --outfile="$assets/echarts.min.js"

{
  echo "The file echarts.min.js beside this one is built by tools/report/build.sh from:"
  for package in echarts zrender tslib; do
    echo
    echo "==== $package $(version_of "$package") ===="
    for file in NOTICE LICENSE LICENSE.txt; do
      [ ! -f "node_modules/$package/$file" ] || cat "node_modules/$package/$file"
    done
  done
} >"$assets/echarts.LICENSES.txt"

# A closing tag inside of the script would end it early in the page.
if grep -qi '</script' "$assets/echarts.min.js"; then
  echo "echarts.min.js holds a closing script tag" >&2
  exit 1
fi
ls -l "$assets"
