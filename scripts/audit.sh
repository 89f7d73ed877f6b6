#!/usr/bin/env bash
# Compare the installed packages with the published advisories (pip-audit, in an environment of its own). Needs access to
# PyPI. Fails on an advisory that is not among the reviewed ones below.
set -euo pipefail
cd "$(dirname "$0")/.."

# Advisory, and why this system is not affected.
reviewed=(
    CVE-2026-24747 # torch < 2.10, torch.load of a crafted file: nothing is loaded so, except the image network's
    #                weights, whose SHA-256 is checked before
)
ignored=()
for advisory in "${reviewed[@]}"; do ignored+=(--ignore-vuln "$advisory"); done
# --path: the environment to look at; --skip-editable: qarm itself is on no index; --strict: what cannot be looked up is
# a failure, not a pass.
exec .venv/bin/uv tool run --from pip-audit==2.9.0 pip-audit \
    --path "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" --skip-editable --strict "${ignored[@]}"
