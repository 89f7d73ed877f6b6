# Sourced by setup.sh and the Makefile.
# step LABEL COMMAND...: run the command, print its label and its duration, and return its exit status.
step() {
    local label=$1 start=$SECONDS status flags=$-
    shift
    echo "==> $label"
    # In a subshell, so that a function stops at its first failing command (`set -e` has no effect in conditions).
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
