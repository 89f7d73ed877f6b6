#!/usr/bin/env bash
# Check what the operating system must provide: Python, Java, a C++20 compiler, make.
# Prints the chosen Python interpreter on stdout. Prints missing packages, with the commands that
# install them, on stderr, and exits 1 if anything is missing.
#   PYTHON  interpreter to use (default: the first of python3.11, python3.12, python3)
#   CXX     C++ compiler (default: g++, else c++)
set -u
missing=0

# lacks WHAT DEBIAN-PACKAGES RHEL-PACKAGES MACOS-COMMAND
lacks() {
    missing=1
    {
        echo "missing: $1"
        echo "    Debian, Ubuntu:  sudo apt-get install $2"
        echo "    RHEL, Fedora:    sudo dnf install $3"
        echo "    macOS:           $4"
    } >&2
}

# One start of an interpreter gives its version, whether venv works (it needs ensurepip, which Debian
# packages separately), whether Python.h exists (Horovod needs it), and its path.
probe='
import importlib.util, os, sys, sysconfig
print("%d.%d" % sys.version_info[:2])
print(int(all(map(importlib.util.find_spec, ("venv", "ensurepip")))))
print(int(os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))))
print(sys.executable)
'
python=""
for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
    { read -r version && read -r has_venv && read -r has_headers && read -r path; } \
        < <("$candidate" -c "$probe" 2>/dev/null) || continue
    case "$version" in
        3.11 | 3.12)
            python=$path
            break
            ;;
    esac
done
if [ -z "$python" ]; then
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is not Python 3.11 or 3.12" >&2
    fi
    lacks "Python 3.11 or 3.12 (developed on 3.11)" \
        "python3.11 python3.11-venv python3.11-dev" "python3.11 python3.11-devel" \
        "brew install python@3.11"
else
    if [ "$has_venv" -eq 0 ]; then
        lacks "the venv module of Python $version" \
            "python$version-venv" "python$version" "brew install python@$version"
    fi
    if [ "$has_headers" -eq 0 ]; then
        lacks "the C headers of Python $version" \
            "python$version-dev" "python$version-devel" "brew install python@$version"
    fi
fi

# Spark makes the same choice: JAVA_HOME, else the PATH.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
java_version=$("$java" -version 2>&1 | sed -n 's/.* version "\([0-9]*\).*/\1/p' | head -n 1)
case "$java_version" in
    17 | 21) ;;
    *)
        lacks "Java 17 for Spark 4.0 (found: ${java_version:-none}${JAVA_HOME:+ in JAVA_HOME=$JAVA_HOME})" \
            "openjdk-17-jdk-headless" "java-17-openjdk-headless" \
            'brew install openjdk@17 && export JAVA_HOME="$(brew --prefix openjdk@17)"'
        ;;
esac

cxx=${CXX:-$(command -v g++ || command -v c++)}
# Also include a header: the compiler needs libstdc++.
if ! printf '#include <concepts>\nint main() { return std::integral<int> ? 0 : 1; }\n' |
    ${cxx:-g++} -std=gnu++20 -x c++ -fsyntax-only - 2>/dev/null; then
    lacks "a C++20 compiler, to build Horovod (tried: ${cxx:-g++, c++})" "g++" "gcc-c++" "xcode-select --install"
fi

if ! command -v make >/dev/null; then
    lacks "make, to build Horovod" "make" "make" "xcode-select --install"
fi

if [ "$missing" -ne 0 ]; then
    echo "Install the missing packages, then run the command again." >&2
    exit 1
fi
echo "$python"
