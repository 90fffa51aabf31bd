#!/bin/sh
# Removes from the installed packages what nothing in the image uses: sh prune.sh SITE-PACKAGES
set -eu
cd "$1"

# Names of countries in other languages.
rm -rf pycountry/locales

# Formats of numbers and dates of languages that no mail is written in. root is what every language stands on.
languages=" root "
for file in shop/notifications/languages/*.toml; do
    language=$(basename "$file" .toml)
    languages="$languages${language%%[-_]*} "
done
for file in babel/locale-data/*.dat; do
    language=$(basename "$file" .dat)
    case "$languages" in *" ${language%%_*} "*) ;; *) rm "$file" ;; esac
done

# Debug symbols. The libraries of wheels (*.libs) were repacked, which strip cannot read reliably.
find . -name '*.so*' -type f -not -path '*.libs/*' -exec strip --strip-debug {} +
