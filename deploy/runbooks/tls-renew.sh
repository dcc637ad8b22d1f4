#!/bin/sh
# The certificate of the listeners ends soon: put the new one in the place of the old one.
#
#   tls-renew.sh -c mayfly.yaml CERTIFICATE KEY
#
#   -n  print what would be done
#
# Both are PEM files. The server takes them over within two seconds, and keeps the old ones if they do not fit.
# The old files stay beside the new ones, with the suffix .old.

. "$(dirname "$0")/lib.sh"

while getopts ':nc:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
need -c "$config"
[ $# = 2 ] || invalid "a certificate and a key are expected, found $#"
certificate=$(setting tls.certificate) key=$(setting tls.key)
[ -n "$certificate" ] || fail "$config has no tls.certificate: what terminates TLS has the certificate"
MAYFLY_TLS_CERTIFICATE=$1 MAYFLY_TLS_KEY=$2 "$mayfly" config check "$config"
run cp -p -- "$key" "$key.old"
run cp -p -- "$certificate" "$certificate.old"
# The owner and the mode of the old files stay; a rename replaces each file at once.
run cp -p -- "$key" "$key.new"
run cp -p -- "$certificate" "$certificate.new"
run cp -- "$2" "$key.new"
run cp -- "$1" "$certificate.new"
run mv -- "$key.new" "$key"
run mv -- "$certificate.new" "$certificate"
run "$mayfly" config check "$config"
say "way back: move the files with the suffix .old to their places"
