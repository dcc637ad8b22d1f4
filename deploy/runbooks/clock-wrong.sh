#!/bin/sh
# The server states CLOCK_WRONG: show what it observed, and wait until it issues again.
#
#   clock-wrong.sh -c mayfly.yaml
#
#   -u  the ops listener of another server, as http://HOST:2112
#   -w  how many seconds to wait (600)
#
# It changes nothing. Correct the clock with the NTP client of the machine, meanwhile or before.

. "$(dirname "$0")/lib.sh"

url='' wait=600
while getopts ':c:u:w:h' option; do
  case $option in
  c) config=$OPTARG ;;
  u) url=$OPTARG ;;
  w) wait=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
[ -n "$url" ] || need -c "$config"
url=${url:-$(ops)}

# trusted reports whether the server trusts its clock.
trusted() { "$mayfly" status --url "$url" | grep -q '^clock  *ok '; }

say "this machine: $(date -u +%Y-%m-%dT%H:%M:%SZ); compare it with another one"
state=$("$mayfly" status --url "$url") || [ $? = 1 ] || fail "the server at $url does not answer"
printf '%s\n' "$state" | sed -n '/^clock fails/,/runbook:/p; /^The kernel/,/runbook:/p'
if trusted; then
  say "the server trusts its clock"
  exit
fi
if command -v chronyc >/dev/null; then
  chronyc tracking || say "chrony does not answer"
elif command -v timedatectl >/dev/null; then
  timedatectl || say "timedatectl does not answer"
fi
await "$wait" "the server trusts its clock again" trusted
"$mayfly" status --url "$url" >/dev/null || say "the server is not ready for another reason: mayfly status"
