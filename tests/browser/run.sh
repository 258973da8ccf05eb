#!/usr/bin/env bash
# The page of the server and that of a report in a real browser: `make test-browser`. Debian's chromium is installed where it is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
PYTHON=${PYTHON:-.venv/bin/python}

if ! command -v chromium > /dev/null; then
    echo "chromium is missing: installing Debian's chromium"
    as_root=$(test "$(id -u)" = 0 || echo sudo)
    $as_root apt-get -o DPkg::Lock::Timeout=300 update -qq
    $as_root apt-get -o DPkg::Lock::Timeout=300 install -y -qq --no-install-recommends chromium fonts-dejavu-core
fi
chromium --version
exec "$PYTHON" -m pytest tests/browser/check_page.py tests/browser/check_report.py "$@"
