#!/usr/bin/env bash
# build_horovod.sh PYTHON: build the Horovod that setup.py pins from its sdist, against PYTHON's torch, and print the
# path of the wheel (everything else goes to stderr). A wheel built before is taken from the cache, which is keyed by
# all that it was compiled against: Horovod, torch, Python, platform, C++ compiler, CUDA toolkit, GPU settings.
#
#   QARM_CACHE              the cache's folder (else $XDG_CACHE_HOME/qarm, else ~/.cache/qarm)
#   CXX                     the C++ compiler (else g++, else c++)
#   HOROVOD_GPU_OPERATIONS  NCCL for collectives on GPUs; needs the CUDA toolkit and a CUDA torch. It and Horovod's other
#                           build settings (HOROVOD_NCCL_HOME, HOROVOD_CUDA_HOME, ...) are passed through.
#   MAKEFLAGS               e.g. -j4 (else one job a core)
set -euo pipefail
python=${1:?usage: build_horovod.sh PYTHON}
here=$(cd "$(dirname "$0")" && pwd)
say() { echo "    $*" >&2; }

version=$(sed -n 's/.*"horovod==\([^"]*\)".*/\1/p' "$here/../setup.py")
[ -n "$version" ] || { echo "no horovod==VERSION in setup.py" >&2; exit 1; }
# torch/version.py tells the build (+cpu, +cu128) in milliseconds; importing torch takes seconds.
built_for=$("$python" - <<'EOF'
import importlib.util, pathlib, runpy, sys, sysconfig

spec = importlib.util.find_spec("torch")
if spec is None:
    sys.exit(f"no torch in {sys.executable}: install it first, Horovod is compiled against it")
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
        say "Horovod $version: cached ($shelf)"
        echo "$wheel"
        exit 0
    fi
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
log=$wheels/build-$version.log
mkdir -p "$wheels"
say "Horovod $version: building against ${built_for/_/, } with $compiler; 2 to 3 minutes on 2 cores"
say "the build's log: $log"

# Horovod asks for C++14 (its bundled gloo for C++11), torch's headers for C++17. No debug information: a third less
# time, a twentieth of the size.
cat >"$work/cxx" <<EOF
#!/usr/bin/env bash
args=()
for arg in "\$@"; do
    case "\$arg" in -std=c++11 | -std=gnu++11 | -std=c++14 | -std=gnu++14) arg=-std=gnu++17 ;; esac
    args+=("\$arg")
done
exec $cxx "\${args[@]}" -g0
EOF
chmod +x "$work/cxx"

build() {
    "$python" -c 'import setuptools, wheel' 2>/dev/null || "$python" -m pip install --quiet "setuptools>=77,<82" wheel
    # A machine without CMake: its wheel serves, unpacked for this build alone.
    if [ -z "${HOROVOD_CMAKE:-}" ] && ! command -v cmake >/dev/null; then
        "$python" -m pip install --quiet --no-deps --target "$work/cmake" "cmake>=3.26,<5"
        export HOROVOD_CMAKE=$work/cmake/cmake/data/bin/cmake
    fi
    # Collectives on GPUs use the NCCL that torch brings, if the user names none: two in one process would not do.
    if [ "${HOROVOD_GPU_OPERATIONS:-}" = NCCL ] && ! grep -q '^HOROVOD_NCCL' <<<"$settings"; then
        nccl=$("$python" -c 'import nvidia.nccl; print(nvidia.nccl.__path__[0])' || true)
        if [ -f "$nccl/include/nccl.h" ]; then
            mkdir "$work/nccl"
            ln -s "$nccl/include" "$work/nccl/include"
            ln -s "$nccl"/lib/libnccl.so.? "$work/nccl/libnccl.so"
            export HOROVOD_NCCL_LINK=SHARED HOROVOD_NCCL_INCLUDE=$work/nccl/include HOROVOD_NCCL_LIB=$work/nccl
        fi
    fi
    # CMAKE_POLICY_VERSION_MINIMUM: CMake 4 refuses the bundled gloo's "cmake_minimum_required(2.8.12)" without it.
    # MAKEFLAGS: Horovod adds no -j where it is set, and under `make setup` it is.
    # --no-cache-dir: pip's own cache of built wheels knows nothing of torch or the compiler.
    unset MAKELEVEL MFLAGS
    env CXX="$work/cxx" \
        HOROVOD_WITH_PYTORCH=1 HOROVOD_WITHOUT_TENSORFLOW=1 HOROVOD_WITHOUT_MXNET=1 \
        HOROVOD_WITH_GLOO=1 HOROVOD_WITHOUT_MPI="${HOROVOD_WITHOUT_MPI:-1}" \
        CMAKE_POLICY_VERSION_MINIMUM=3.5 MAKEFLAGS="$jobs" \
        "$python" -m pip wheel --no-cache-dir --no-binary horovod --no-build-isolation --no-deps \
        --wheel-dir "$work/wheel" "horovod==$version"
    # It must load, and have gloo, before anybody gets it.
    "$python" -m pip install --quiet --no-deps --target "$work/try" "$work"/wheel/horovod-*.whl
    PYTHONPATH=$work/try "$python" -c 'import horovod.torch as hvd; hvd.init(); assert hvd.gloo_built(); hvd.shutdown()'
}

case "${MAKEFLAGS:-}" in
    *-j[0-9]*) jobs=-j$(sed 's/.*-j\([0-9]*\).*/\1/' <<<"$MAKEFLAGS") ;;
    *) jobs=-j$(getconf _NPROCESSORS_ONLN) ;;
esac
# In a shell of its own: `set -e` does not act on the left of || or in a condition.
set +e
(set -e; build) >"$log" 2>&1
status=$?
set -e
if [ "$status" -ne 0 ]; then
    # The cause is far above the end, which is pip's traceback.
    grep -nE -A 4 'CMake Error|error:|Error(:|$)|ERROR:' "$log" | head -n 60 >&2
    echo "Horovod $version did not build (exit status $status); the whole log: $log" >&2
    exit 1
fi

# The rename is atomic: no reader ever sees half a wheel.
wheel=$(basename "$work"/wheel/horovod-*.whl)
mkdir -p "$shelf"
cp "$work/wheel/$wheel" "$shelf/.$wheel.$$"
mv -f "$shelf/.$wheel.$$" "$shelf/$wheel"
echo "$shelf/$wheel"
