# shellcheck shell=bash
# Sourced by the scripts: checks of their arguments and variables before anything starts, and what is shown of a part that fails.

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# expect NAME WHAT: the variable must not be empty.
expect() {
  [[ -n ${!1:-} ]] || fail "$1 is not set; expected $2"
}

is_one_of() {
  local value=$1 word
  shift
  for word in "$@"; do
    [[ $value != "$word" ]] || return 0
  done
  return 1
}

# enumerate CHOICE...: "a, b or c".
enumerate() {
  local all
  all=$(printf ', %s' "${@:1:$#-1}")
  printf '%s or %s' "${all:2}" "${!#}"
}

# one_of NAME CHOICE...: the variable must be one of the choices.
one_of() {
  local name=$1
  shift
  is_one_of "${!name-}" "$@" || fail "$name=${!name-}; expected $(enumerate "$@")"
}

# some_of NAME CHOICE...: the variable must be one or several of the choices, each once.
some_of() {
  local name=$1 value seen=" "
  shift
  [[ -n ${!name// /} ]] || fail "$name is empty; expected some of $(enumerate "$@")"
  for value in ${!name}; do
    is_one_of "$value" "$@" || fail "$name has $value; expected some of $(enumerate "$@")"
    [[ $seen != *" $value "* ]] || fail "$name has $value twice; expected each once"
    seen+="$value "
  done
}

# A number without sign, leading zeros or more digits than bash can count with.
is_whole_number() {
  [[ $1 =~ ^(0|[1-9][0-9]{0,8})$ ]]
}

# whole_number LEAST NAME...: each variable must be a whole number of at least LEAST.
whole_number() {
  local least=$1 name
  shift
  for name in "$@"; do
    is_whole_number "${!name-}" && [[ ${!name} -ge $least ]] || fail "$name=${!name-}; expected a whole number of at least $least"
  done
}

# whole_numbers LEAST NAME: the variable must be one or several whole numbers, each once.
whole_numbers() {
  local least=$1 name=$2 value seen=" "
  [[ -n ${!name// /} ]] || fail "$name is empty; expected whole numbers of at least $least"
  for value in ${!name}; do
    is_whole_number "$value" && [[ $value -ge $least ]] || fail "$name has $value; expected whole numbers of at least $least"
    [[ $seen != *" $value "* ]] || fail "$name has $value twice; expected each once"
    seen+="$value "
  done
}

# whole_number_or CHOICE LEAST NAME...: the same, or the choice.
whole_number_or() {
  local word=$1 least=$2 name
  shift 2
  for name in "$@"; do
    [[ ${!name-} == "$word" ]] && continue
    is_whole_number "${!name-}" && [[ ${!name} -ge $least ]] ||
      fail "$name=${!name-}; expected a whole number of at least $least, or $word"
  done
}

# decimal NAME...: each variable must be a number that is not negative, such as 2, 0.1 or 1e-6.
decimal() {
  local name
  for name in "$@"; do
    [[ ${!name-} =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$ ]] ||
      fail "$name=${!name-}; expected a number of at least 0, such as 0.1 or 1e-6"
  done
}

# Hydra's grammar gives a meaning to most punctuation; lists, [a,b], and null are left as they are.
quoted() {
  if [[ $1 == \[* || $1 == null ]]; then printf '%s' "$1"; else printf "'%s'" "${1//\'/\\\'}"; fi
}

# logged LOG COMMAND...: run a command with its output in a file; if it fails, show why and where the file is, and end.
logged() {
  local log=$1 code=0
  shift
  "$@" > "$log" 2>&1 || code=$?
  ((code == 0)) || {
    python3 "$HERE/failure_report.py" "$log" "$code" >&2 || true
    exit "$code"
  }
}
