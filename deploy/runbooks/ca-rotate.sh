#!/bin/sh
# The certificate of the CA ends soon: create the next authority, and let it sign in a day.
#
#   ca-rotate.sh -c mayfly.yaml -r ROOT -i NEW -o DIR
#
#   -r  the folder of the root; without it, NEW is in the set already, by a run that stopped
#   -t  when NEW begins to sign (+25h)
#   -o  a folder for what verifiers need
#   -n  print what would be done

. "$(dirname "$0")/lib.sh"

root='' id='' out='' at=+25h
while getopts ':nc:r:i:o:t:h' option; do
  case $option in
  n) dry=1 ;;
  c) config=$OPTARG ;;
  r) root=$OPTARG ;;
  i) id=$OPTARG ;;
  o) out=$OPTARG ;;
  t) at=$OPTARG ;;
  h) help && exit ;;
  *) invalid "unknown option, or an option without its value: -$OPTARG" ;;
  esac
done
shift $((OPTIND - 1))
[ $# = 0 ] || invalid "no argument is expected, found $1"
need -c "$config"
need -i "$id"
need -o "$out"
set=$(ca_set)
run mkdir -p "$out"
[ -z "$root" ] || run "$mayfly" ca add --set "$set" --root "$root" "$id"
run "$mayfly" ca activate --set "$set" "$id" --at "$at"
run "$mayfly" ca status --set "$set"
publish "$out"
say "copy $set to every server before NEW begins to sign, and take the root offline again"
