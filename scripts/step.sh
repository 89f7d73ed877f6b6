# Sourced by setup.sh and the Makefile.
# step LABEL COMMAND...: run the command, say what it is and how long it took; return its exit status.
step() {
    local label=$1 start=$SECONDS status flags=$-
    shift
    echo "==> $label"
    # A shell of its own, so that a function stops at its first failing command (`set -e` sleeps in conditions).
    set +e
    (set -e; "$@")
    status=$?
    case "$flags" in *e*) set -e ;; esac
    if [ "$status" -eq 0 ]; then
        echo "    $label: $((SECONDS - start)) s"
    else
        echo "    $label: failed with exit status $status after $((SECONDS - start)) s" >&2
    fi
    return "$status"
}
