#!/usr/bin/env bash
# build_horovod.sh PYTHON: build the Horovod version that setup.py pins from its source distribution, against PYTHON's
# torch. Prints the path of the wheel on stdout, everything else on stderr. Wheels are cached; the cache key is what they
# were compiled against: Horovod, torch, Python, platform, C++ compiler, CUDA toolkit, GPU settings.
#
#   QARM_CACHE              cache folder (default: $XDG_CACHE_HOME/qarm, else ~/.cache/qarm)
#   CXX                     C++ compiler (default: g++, else c++)
#   HOROVOD_GPU_OPERATIONS  NCCL for collectives on GPUs; needs the CUDA toolkit and a CUDA build of torch. Horovod's other
#                           build settings (HOROVOD_NCCL_HOME, HOROVOD_CUDA_HOME, ...) are passed through too.
#   MAKEFLAGS               for example -j4 (default: one job per core)
set -euo pipefail
python=${1:?usage: build_horovod.sh PYTHON}
here=$(cd "$(dirname "$0")" && pwd)
say() { echo "    $*" >&2; }

version=$(sed -n 's/.*"horovod==\([^"]*\)".*/\1/p' "$here/../setup.py")
[ -n "$version" ] || { echo "no horovod==VERSION in setup.py" >&2; exit 1; }
# torch/version.py names the build (+cpu, +cu128). Reading it takes milliseconds, importing torch takes seconds.
built_for=$("$python" - <<'EOF'
import importlib.util, pathlib, runpy, sys, sysconfig

spec = importlib.util.find_spec("torch")
if spec is None:
    sys.exit(f"no torch in {sys.executable}: install torch first, because Horovod is compiled against it")
torch = runpy.run_path(str(pathlib.Path(spec.origin).with_name("version.py")))["__version__"]
tag = f"cp{sys.version_info[0]}{sys.version_info[1]}-{sysconfig.get_platform()}"
print(f"torch-{torch}_{tag}")
EOF
)
cxx=${CXX:-$(command -v g++ || command -v c++)}
# shellcheck disable=SC2086  # CXX may be "ccache g++"
compiler=$(basename "${cxx##* }")-$($cxx -dumpfullversion -dumpversion)
nvcc=${HOROVOD_CUDA_HOME:-${CUDA_HOME:-/usr/local/cuda}}/bin/nvcc
[ -x "$nvcc" ] || nvcc=$(command -v nvcc || true)
cuda=${nvcc:+_nvcc-$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')}
settings=$(env | grep -E '^HOROVOD_(GPU|NCCL|CUDA|ROCM|CPU|WITH|WITHOUT|BUILD)' | LC_ALL=C sort || true)
settings_key=${settings:+_$(cksum <<<"$settings" | cut -d ' ' -f 1)}
wheels=${QARM_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/qarm}/wheels
shelf=$wheels/horovod-${version}_${built_for}_$compiler$cuda${HOROVOD_GPU_OPERATIONS:+_$HOROVOD_GPU_OPERATIONS}$settings_key

for wheel in "$shelf"/horovod-*.whl; do
    if [ -f "$wheel" ]; then
        say "Horovod $version: using the cached wheel in $shelf"
        echo "$wheel"
        exit 0
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$wheels/build-$version.log
mkdir -p "$wheels"
say "Horovod $version: building against ${built_for/_/, } with $compiler (2 to 3 minutes on 2 cores)"
say "build log: $log"

# Horovod asks for C++14 (its bundled gloo for C++11), but torch's headers need C++20. Without debug information the
# build takes a third less time, and the wheel has a twentieth of the size.
cat >"$work/cxx" <<EOF
#!/usr/bin/env bash
args=()
for arg in "\$@"; do
    case "\$arg" in -std=c++11 | -std=gnu++11 | -std=c++14 | -std=gnu++14) arg=-std=gnu++20 ;; esac
    args+=("\$arg")
done
exec $cxx "\${args[@]}" -g0
EOF
chmod +x "$work/cxx"

build() {
    "$python" -c 'import setuptools, wheel' 2>/dev/null || "$python" -m pip install --quiet "setuptools>=78.1.1,<82" wheel
    # Without CMake on the machine, its wheel is unpacked for this build only.
    if [ -z "${HOROVOD_CMAKE:-}" ] && ! command -v cmake >/dev/null; then
        "$python" -m pip install --quiet --no-deps --target "$work/cmake" "cmake>=3.26,<5"
        export HOROVOD_CMAKE=$work/cmake/cmake/data/bin/cmake
    fi
    # Unless the user names an NCCL, use the one of torch: a process must not load two.
    if [ "${HOROVOD_GPU_OPERATIONS:-}" = NCCL ] && ! grep -q '^HOROVOD_NCCL' <<<"$settings"; then
        nccl=$("$python" -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0])' || true)
        if [ -f "$nccl/include/nccl.h" ]; then
            mkdir "$work/nccl"
            ln -s "$nccl/include" "$work/nccl/include"
            ln -s "$nccl"/lib/libnccl.so.? "$work/nccl/libnccl.so"
            export HOROVOD_NCCL_LINK=SHARED HOROVOD_NCCL_INCLUDE=$work/nccl/include HOROVOD_NCCL_LIB=$work/nccl
        fi
    fi
    # CMAKE_POLICY_VERSION_MINIMUM: without it, CMake 4 rejects "cmake_minimum_required(2.8.12)" of the bundled gloo.
    # MAKEFLAGS: if it is set, as under `make setup`, Horovod adds no -j.
    # --no-cache-dir: the key of pip's own wheel cache does not include torch and the compiler.
    unset MAKELEVEL MFLAGS
    env CXX="$work/cxx" \
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI="${HOROVOD_WITHOUT_MPI:-1}" \
        CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="$jobs" \
        "$python" -m pip wheel --no-cache-dir --no-binary horovod --no-build-isolation --no-deps \
        --wheel-dir "$work/wheel" "horovod==$version"
    # Check that the wheel loads and has gloo before it is published.
    "$python" -m pip install --quiet --no-deps --target "$work/try" "$work"/wheel/horovod-*.whl
    PYTHONPATH=$work/try "$python" -c 'import horovod.torch as hvd; hvd.init(); assert hvd.gloo_built(); hvd.shutdown()'
}

case "${MAKEFLAGS:-}" in
    *-j[0-9]*) jobs=-j$(sed 's/.*-j\([0-9]*\).*/\1/' <<<"$MAKEFLAGS") ;;
    *) jobs=-j$(getconf _NPROCESSORS_ONLN) ;;
esac
# In a subshell: `set -e` has no effect on the left of || or in a condition.
set +e
(set -e; build) >"$log" 2>&1
status=$?
set -e
if [ "$status" -ne 0 ]; then
    # The log ends with pip's traceback; the cause is far above it.
    { grep -nE -A 4 'CMake Error|error:|Error(:|$)|ERROR:' "$log" || true; } | sed -n 1,60p >&2
    echo "Horovod $version did not build (exit status $status). Full log: $log" >&2
    exit 1
fi

# The rename is atomic, so no reader sees a partial wheel.
wheel=$(basename "$work"/wheel/horovod-*.whl)
mkdir -p "$shelf"
cp "$work/wheel/$wheel" "$shelf/.$wheel.$$"
mv -f "$shelf/.$wheel.$$" "$shelf/$wheel"
echo "$shelf/$wheel"
