# shellcheck shell=bash
# Sourced by the recipes before their own settings: PRESET="NAME ..." takes settings from presets/NAME.sh. A preset sets what is
# not set yet, so what you set yourself wins over all, then the preset that is named first, then the recipe's own default.

# shellcheck source=checks.sh
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
RECIPES=$HERE

for preset in ${PRESET:-}; do
  [[ -f $RECIPES/presets/$preset.sh ]] ||
    fail "PRESET names '$preset'; expected some of $(basename -as .sh "$RECIPES"/presets/*.sh | xargs)"
  # shellcheck source=/dev/null
  source "$RECIPES/presets/$preset.sh"
done
