#!/bin/sh
# An OpenID provider is compromised: check that its entry is disabled, and list what its tokens got.
#
#   issuer-compromised.sh -c mayfly.yaml -i ISSUER -t SINCE -o DIR
#
#   -i  the issuer URL; for an entry of meta-issuers its pattern
#   -t  the earliest time of the theft: 2026-12-01T08:00:00Z, or 6h for six hours ago
#   -o  a folder for the lists
#   -w  how many seconds to wait until this machine's server refuses the issuer (10)
#
# It changes no configuration: add "disabled: true" to the entry in the issuer file first, on every server.

. "$(dirname "$0")/lib.sh"

issuer='' since='' out='' wait=10
while getopts ':c:i:t:o:w:h' option; do
  case $option in
  c) config=$OPTARG ;;
  i) issuer=$OPTARG ;;
  t) since=$OPTARG ;;
  o) out=$OPTARG ;;
  w) wait=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -i "$issuer"
need -t "$since"
need -o "$out"

# disabled reports whether the server has the entry as disabled.
disabled() { "$mayfly" status --url "$(ops)" | grep -F -- "$issuer " | grep -q ' disabled '; }

"$mayfly" config check "$config"
say "waiting for the server: the entry $issuer of $(setting issuers) needs the line \"disabled: true\""
await "$wait" "the server refuses tokens of $issuer" disabled
mkdir -p "$out"
for name in $(setting 'ct.logs.*.embedded.name'); do
  set -- --config "$config" --name "$name" --issuer "$issuer" --since "$since" --limit 0
  "$mayfly" ctlog search "$@" -o json >"$out/log-$name.jsonl"
  "$mayfly" ctlog search "$@"
done >"$out/certificates.txt"
audit=$(setting audit.dir)
[ -z "$audit" ] || "$mayfly" audit show "$audit" --issuer "$issuer" --since "$since" -o json >"$out/audit.jsonl"
say "certificates by identity; certificates.txt has each:"
while read -r index _ identity _; do
  [ "$index" = INDEX ] || printf '%s\n' "$identity"
done <"$out/certificates.txt" | sort | uniq -c | sort -rn | tee "$out/identities.txt"
say "ask the owner of each identity; have verifiers reject what no owner requested. Search the logs of other operators too:"
for url in $(setting 'ct.logs.*.url'); do
  printf '  mayfly ctlog search --url %s --issuer %s --since %s --limit 0\n' "$url" "$issuer" "$since"
done
