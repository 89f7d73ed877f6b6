#!/usr/bin/env bash
# Make the environment in .venv: packages at the pins of setup.py, Horovod built from source, Delta's jars, and qarm
# itself (editable). Does nothing if nothing has changed since the last run.
#   PYTHON       interpreter to use (3.11 or 3.12)
#   QARM_CACHE   see build_horovod.sh; its other variables are used too
# Packages come from the index that pip is configured for. PIP_EXTRA_INDEX_URL serves torch alone, such as its CPU-only
# build: indexes are never mixed, so that none can put a package of another's name into the environment.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/step.sh
venv=$PWD/.venv

python=$(scripts/check_system.sh)

# What the environment depends on. The path is part of it: scripts in .venv/bin contain absolute paths.
stamp=$venv/.qarm-setup
inputs=$(
    "$python" --version
    pwd
    env | grep -E '^(HOROVOD_(GPU|NCCL|CUDA|ROCM|CPU)|CXX=)' | LC_ALL=C sort || true
    cksum setup.py spark-defaults.conf scripts/setup.sh scripts/build_horovod.sh scripts/share_classes.py
    java -version 2>&1
)
if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$inputs" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    echo "==> environment in .venv: up to date"
    exit 0
fi
rm -f "$stamp"

make_venv() {
    # Rebuild an environment that belongs to another Python or was moved.
    if [ -x "$venv/bin/python" ] && [ "$("$venv/bin/python" --version)" = "$("$python" --version)" ] &&
        [ "$("$venv/bin/python" -c 'import sys; print(sys.prefix)')" = "$venv" ] && "$venv/bin/pip" --version >/dev/null 2>&1; then
        echo "    keeping the existing environment"
    else
        "$python" -m venv --clear "$venv"
    fi
}

pip_setting() { "$venv/bin/python" -m pip config get "$1" 2>/dev/null || true; }

install_packages() {
    local wanted=(--editable ".[all]" wheel==0.48.0) torch
    torch=$(grep -oE 'torch==[0-9.]+' setup.py)
    # uv resolves and unpacks several times faster than pip. If it is not available or fails, pip is used.
    if "$venv/bin/python" -m pip install --quiet --disable-pip-version-check uv==0.13.9; then
        # uv does not read pip's configuration: pass on the settings that select the index.
        local index extra cert=${PIP_CERT:-$(pip_setting global.cert)}
        index=${PIP_INDEX_URL:-$(pip_setting global.index-url)}
        extra=${PIP_EXTRA_INDEX_URL:-$(pip_setting global.extra-index-url)}
        uv_install() {
            env -u UV_INDEX -u UV_INDEX_STRATEGY ${cert:+SSL_CERT_FILE="$cert"} UV_HTTP_TIMEOUT="${UV_HTTP_TIMEOUT:-180}" \
                "$venv/bin/uv" pip install --python "$venv/bin/python" "$@"
        }
        if { [ -z "$extra" ] || uv_install --no-deps --default-index "$extra" "$torch"; } &&
            uv_install ${index:+--default-index "$index"} "${wanted[@]}"; then
            return
        fi
        echo "    uv failed; trying pip" >&2
    fi
    local pip=("$venv/bin/python" -m pip install --disable-pip-version-check --progress-bar off)
    local extra=${PIP_EXTRA_INDEX_URL:-$(pip_setting global.extra-index-url)}
    [ -z "$extra" ] || PIP_EXTRA_INDEX_URL="" "${pip[@]}" --no-deps --index-url "$extra" "$torch"
    PIP_EXTRA_INDEX_URL="" "${pip[@]}" "${wanted[@]}"
}

install_horovod() {
    local wheel
    wheel=$(scripts/build_horovod.sh "$venv/bin/python")
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-index --force-reinstall "$wheel"
}

fetch_jars() {
    # spark-submit fetches spark.jars.packages before it starts a main class. This main class only prints the version.
    local log
    log=$(mktemp)
    if ! SPARK_LOCAL_IP=${SPARK_LOCAL_IP:-127.0.0.1} PYSPARK_PYTHON=$venv/bin/python "$venv/bin/spark-submit" \
        --properties-file spark-defaults.conf --class org.apache.spark.deploy.SparkSubmit spark-internal --version \
        >"$log" 2>&1; then
        cat "$log" >&2
        echo "Delta's jars could not be fetched from Maven Central; Spark's output is above." >&2
        rm -f "$log"
        return 1
    fi
    rm -f "$log"
}

step "environment in .venv ($("$python" --version))" make_venv
step "packages at the pins of setup.py" install_packages
step "Horovod" install_horovod
step "Delta jars" fetch_jars
step "class archive of Spark and Delta" "$venv/bin/python" scripts/share_classes.py
echo "$inputs" >"$stamp"
echo "==> set-up finished in $SECONDS s"
