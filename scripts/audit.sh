#!/usr/bin/env bash
# Compare the installed packages with the published advisories (pip-audit, in an environment of its own). Needs access to
# PyPI. Fails on any advisory.
set -euo pipefail
cd "$(dirname "$0")/.."
# --path: the environment to look at; --skip-editable: qarm itself is on no index; --strict: what cannot be looked up is
# a failure, not a pass. --ignore-vuln ID accepts a reviewed advisory: say here why it does not apply.
exec .venv/bin/uv tool run --from pip-audit==2.9.0 pip-audit \
    --path "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" --skip-editable --strict
