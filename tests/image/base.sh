#!/bin/sh
# What mmdebstrap runs with the folder of the new system: Python where official Python images have it, with pip.
# PIP is a folder with the module pip.
set -eu
root=$1
version=$(basename "$root"/usr/lib/python3.[0-9]*)
site=$root/usr/local/lib/$version/dist-packages
mkdir -p "$site"
cp -r "$PIP" "$site/pip"
find "$site" -name __pycache__ -prune -exec rm -r {} +
ln -s /usr/bin/python3 "$root/usr/local/bin/python"
ln -s /usr/bin/python3 "$root/usr/local/bin/python3"
printf '#!/bin/sh\nexec python -m pip "$@"\n' > "$root/usr/local/bin/pip"
chmod 755 "$root/usr/local/bin/pip"
