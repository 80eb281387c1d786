# shellcheck shell=bash
# Sourced by the recipes before their own settings: PRESET="NAME ..." takes settings from presets/NAME.sh. A preset sets what is
# not set yet, so what you set yourself wins over all, then the preset that is named first, then the recipe's own default.

RECIPES=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 2
}

# Hydra's grammar gives a meaning to most punctuation; lists, [a,b], are left as they are.
quoted() {
  if [[ $1 == \[* ]]; then printf '%s' "$1"; else printf "'%s'" "${1//\'/\\\'}"; fi
}

for preset in ${PRESET:-}; do
  [[ -f $RECIPES/presets/$preset.sh ]] ||
    fail "PRESET names '$preset'; expected some of $(basename -as .sh "$RECIPES"/presets/*.sh | xargs)"
  # shellcheck source=/dev/null
  source "$RECIPES/presets/$preset.sh"
done
