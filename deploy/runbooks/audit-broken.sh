#!/bin/sh
# Verify the audit log with all that is known; where it is broken, keep it as evidence.
#
#   audit-broken.sh -c mayfly.yaml -o DIR [-H HEAD]...
#
#   -H  a hash that the line "audit head" of the ordinary log had, from another machine; the newest is the best
#   -o  a folder for the evidence: a copy of the files, and what was found
#
# It changes nothing in the audit log. The exit code is 1 if it is broken.

. "$(dirname "$0")/lib.sh"

out='' heads=''
while getopts ':c:o:H:h' option; do
  case $option in
  c) config=$OPTARG ;;
  o) out=$OPTARG ;;
  H) heads="$heads --head $OPTARG" ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -o "$out"
[ ! -e "$out" ] || fail "$out exists; evidence is never written over"
case $heads in *[!a-z0-9\ -]*) invalid "a head has 64 hexadecimal digits" ;; esac
audit=$(setting audit.dir)
[ -n "$audit" ] || fail "$config has no audit.dir"
mkdir -p "$out/audit"
cp -p -- "$audit"/audit-*.jsonl "$out/audit/"
status=0
# shellcheck disable=SC2086 # the heads are words
"$mayfly" audit verify "$out/audit" $heads >"$out/findings.txt" 2>&1 || status=1
setting 'ct.logs.*.embedded.dir' >"$out/logs.txt"
while read -r dir; do
  "$mayfly" audit verify "$out/audit" --ctlog "$dir" >>"$out/findings.txt" 2>&1 || status=1
done <"$out/logs.txt"
(cd "$out" && sha256sum audit/* findings.txt >SHA256SUMS)
cat "$out/findings.txt"
if [ $status = 0 ]; then
  say "the audit log is whole"
else
  say "the audit log is broken, or a certificate has no record. Keep $out on another machine, and treat the CA's key as"
  say "stolen until you know why (docs/rotation.md#a-key-was-stolen). To go on, set audit.dir to a new directory and restart"
fi
exit $status
