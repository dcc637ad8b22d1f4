#!/bin/sh
# Another party may have the CA's key: stop it, let another authority sign, find forged certificates.
#
#   ca-key-leaked.sh -c mayfly.yaml -a OLD -t SINCE -r ROOT -i NEW -o DIR
#   ca-key-leaked.sh -c mayfly.yaml -a OLD -t SINCE -i NEW -o DIR          NEW is in the set already
#
#   -a  the authority with the leaked key
#   -t  the earliest time at which the key may have been in other hands: 2026-12-01T08:00:00Z, or 6h for six hours ago
#   -r  the folder of the root: NEW is created below it
#   -o  a folder for what verifiers need, and for the lists
#   -n  print what would be done
#
# docs/rotation.md#a-key-was-stolen explains each step.

. "$(dirname "$0")/lib.sh"

old='' since='' root='' id='' out=''
while getopts ':nc:a:t:r:i:o:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  a) old=$OPTARG ;;
  t) since=$OPTARG ;;
  r) root=$OPTARG ;;
  i) id=$OPTARG ;;
  o) out=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -a "$old"
need -t "$since"
need -i "$id"
need -o "$out"
# compromised reports whether an earlier run has stopped OLD already.
compromised() { "$mayfly" ca status --set "$set" | grep -q "^$old  *compromised "; }

set=$(ca_set)
[ -z "$root" ] || [ -d "$root" ] || fail "$root is no folder: bring the root here first"
run mkdir -p "$out"
run "$mayfly" ca retire --set "$set" "$old" --compromised --since "$since" || compromised || exit 1
sign_with "$root" "$id"
say "copy $set to every server; disable or delete the key of $old"
publish "$out"
audit=$(setting audit.dir)
for name in $(setting 'ct.logs.*.embedded.name'); do
  into "$out/log-$name.jsonl" "$mayfly" ctlog search --config "$config" --name "$name" --since "$since" --limit 0 -o json
done
[ -n "$dry" ] && exit
if [ -z "$audit" ]; then
  say "there is no audit log: compare the lists with the lines \"certificate issued\" of the servers' logs"
  exit
fi
setting 'ct.logs.*.embedded.dir' >"$out/logs.txt"
status=0
while read -r dir; do
  say "certificates of $dir without a record in $audit (forged, or of another server):"
  "$mayfly" audit verify "$audit" --ctlog "$dir" || status=1
done <"$out/logs.txt"
exit $status
