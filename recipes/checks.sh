# shellcheck shell=bash
# Sourced by the scripts: checks of the words that they were given, before anything starts, and what is shown of a part that fails.

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# expect NAME WHAT: the variable must not be empty.
expect() {
  [[ -n ${!1:-} ]] || fail "$1 is not set; expected $2"
}

# one_of NAME WORD...: the variable must be one of the words.
one_of() {
  local name=$1 word
  shift
  for word in "$@"; do
    [[ ${!name-} != "$word" ]] || return 0
  done
  fail "$name=${!name-}; expected one of $(sed 's/ /, /g' <<< "$*")"
}

# whole_number LEAST NAME...: each variable must be a whole number of at least LEAST (and of at most 9 digits).
whole_number() {
  local least=$1 name
  shift
  for name in "$@"; do
    [[ ${!name-} =~ ^(0|[1-9][0-9]{0,8})$ ]] && ((${!name} >= least)) ||
      fail "$name=${!name-}; expected a whole number of at least $least"
  done
}

# number_or_word WORD LEAST NAME...: the same, or that word.
number_or_word() {
  local word=$1 least=$2 name
  shift 2
  for name in "$@"; do
    [[ ${!name-} == "$word" ]] || [[ ${!name-} =~ ^(0|[1-9][0-9]{0,8})$ ]] && [[ ${!name-} == "$word" || ${!name} -ge $least ]] ||
      fail "$name=${!name-}; expected a whole number of at least $least, or $word"
  done
}

# decimal NAME...: each variable must be a number such as 1e-6, 0.1 or 2, not negative.
decimal() {
  local name
  for name in "$@"; do
    [[ ${!name-} =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$ ]] ||
      fail "$name=${!name-}; expected a number of at least 0, such as 0.1 or 1e-6"
  done
}

# logged LOG COMMAND...: run a command with its output in a file, and show why it failed if it does.
logged() {
  local log=$1 code=0
  shift
  "$@" > "$log" 2>&1 || code=$?
  if ((code != 0)); then
    python3 "$(dirname "${BASH_SOURCE[0]}")/failure_report.py" "$log" "$code" >&2
    exit "$code"
  fi
}
