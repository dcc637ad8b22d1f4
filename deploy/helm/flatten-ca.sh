#!/bin/sh
# Splits a CA set, as `mayfly ca` writes it, into the files of a ConfigMap and those of a Secret, which have no
# folders: flatten-ca.sh ca OUT writes OUT/config (ca.yaml and chains) and OUT/secret (keys, passwords and PINs).
#
#   kubectl create configmap mayfly-ca --from-file=OUT/config
#   kubectl create secret generic mayfly-ca-keys --from-file=OUT/secret
#
# The root stays where it is. OUT must not exist. Delete it afterwards.
set -eu
[ $# = 2 ] || { echo "usage: $0 CA-FOLDER OUT" >&2; exit 2; }
[ -f "$1/ca.yaml" ] || { echo "$1 has no ca.yaml; a folder of mayfly ca init is expected" >&2; exit 1; }
umask 077
mkdir "$2" || { echo "delete $2, if it is of an earlier run" >&2; exit 1; }
trap 'rm -r "$2"' EXIT # half of a set is of no use
mkdir "$2/config" "$2/secret"
cp "$1/ca.yaml" "$2/config/ca.yaml"
for chain in "$1"/*/chain.pem; do
  folder=${chain%/chain.pem}
  id=${folder##*/}
  for file in "$folder"/*; do
    name=${file##*/}
    case $name in
      chain.pem) cp "$file" "$2/config/$id.$name" ;;
      *.csr) ;; # a request that has been signed
      *) cp "$file" "$2/secret/$id.$name" ;;
    esac
  done
  # chain: ID/chain.pem becomes chain: ID.chain.pem, and so do the files of keys.
  pattern=$(printf '%s' "$id" | sed 's/[.]/\\./g')
  sed -E "s#((chain|key|password_file|pin_file): *\"?)$pattern/#\\1$id.#g" "$2/config/ca.yaml" > "$2/config/new"
  mv "$2/config/new" "$2/config/ca.yaml"
done
if grep -nE '^[^#]*(chain|key|password_file|pin_file): *"?[^"/,} ]+/' "$2/config/ca.yaml" >&2; then
  echo "these files are not in the folder of their authority, beside its chain.pem: move them there" >&2
  exit 1
fi
trap - EXIT
