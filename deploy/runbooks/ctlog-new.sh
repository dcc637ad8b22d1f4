#!/bin/sh
# A log is lost, has forked, refuses to sign, or was restored from a backup: create its successor.
#
#   ctlog-new.sh -c mayfly.yaml -l NEW -o DIR
#
#   -l  the name of the new log, which mayfly.yaml has already as another entry of ct.logs
#   -o  a folder for the public key and trusted_root.json
#   -n  print what would be done
#
# The files of the old log stay as they are: they are evidence. Its key stays in the trust root.

. "$(dirname "$0")/lib.sh"

new='' out=''
while getopts ':nc:l:o:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  l) new=$OPTARG ;;
  o) out=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -l "$new"
need -o "$out"
set=$(ca_set)

found=''
for name in $(setting 'ct.logs.*.embedded.name'); do
  if [ "$name" = "$new" ]; then
    found=1
    continue
  fi
  say "log $name, as it is now:"
  "$mayfly" ctlog status --config "$config" --name "$name" || say "log $name takes no entry"
done
if [ -z "$found" ]; then
  cat <<END
$config has no log $new. Add it under ct.logs, before the old one, and run this again:

    - embedded: {name: "$new", dir: ctlog/$new, guard: ctlog-guard/$new.json, key: ctlog-$new.key, origin: ca.example/ctlog/$new}

If the directory of the old log is lost, replace its entry, so that verifiers keep its key:

    - {url: https://ca.example/ctlog/OLD, public_key: ctlog-OLD.pub, retire_at: $(date -u +%Y-%m-%dT%H:%M:%SZ)}
END
  exit 1
fi
run mkdir -p "$out"
public=$out/ctlog-$new.pub
if "$mayfly" ctlog status --config "$config" --name "$new" >/dev/null 2>&1; then
  say "log $new was created by an earlier run"
  [ -s "$public" ] || into "$public" openssl pkey -pubout -in "$(setting "ct.logs.$(index_of "$new").embedded.key")"
else
  [ ! -s "$public" ] || fail "$public exists, but log $new does not work: mayfly ctlog status --name $new"
  into "$public" "$mayfly" ctlog init --config "$config" --name "$new"
fi
run "$mayfly" config check "$config"
publish "$out"
say "once verifiers have the key (a day), restart the server. Verifiers without it refuse new certificates"
