#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs what the suite in this folder runs, from the Go module proxy and npm alone, into the
# git-ignored .cache/tools: one folder for each tool, named after it and its version.
#
#   tools.sh          install what is missing
#   tools.sh NAME...  the same, for these alone (cosign3, crane, npm, ...)
#
# Versions and checksums stand in tools/NAME/go.mod and go.sum, and in npm/package-lock.json; to
# move to another version, change them there ('go get -tool PACKAGE@VERSION', 'npm install'). A
# folder that exists is complete, since it gets its name only after a successful build.
set -eu
cd "$(dirname "$0")"
here=$PWD
cache=$(cd ../.. && pwd)/.cache/tools
mkdir -p "$cache"

# build NAME MODULE PACKAGE TOOL: builds MODULE/PACKAGE, as pinned in tools/NAME, into the folder
# TOOL-VERSION. Each tool has a module of its own, so that it is built from exactly the
# dependencies that its release was made with.
build() {
	version=$(awk -v module="$2" '$1 == module { print $2 }' "tools/$1/go.mod")
	target=$cache/$4-$version
	if [ -d "$target" ]; then return; fi
	echo "building $4 $version" >&2
	rm -rf "$target.partial"
	mkdir "$target.partial"
	go build -C "tools/$1" -mod=readonly -buildvcs=false -ldflags='-s -w' -o "$target.partial/" "$2/$3"
	mv "$target.partial" "$target"
}

# npm_packages installs npm/package-lock.json without running any package's scripts.
npm_packages() {
	version=$(sed -n 's/^ *"sigstore": "\([0-9.]*\)".*/\1/p' npm/package.json)
	target=$cache/npm-sigstore-$version
	if [ -d "$target" ]; then return; fi
	echo "installing npm sigstore $version" >&2
	rm -rf "$target.partial"
	mkdir "$target.partial"
	cp npm/package.json npm/package-lock.json "$target.partial/"
	npm ci --prefix "$target.partial" --ignore-scripts --no-audit --no-fund >&2
	mv "$target.partial" "$target"
}

install() {
	case $1 in
	cosign3) build cosign3 github.com/sigstore/cosign/v3 cmd/cosign cosign ;;
	cosign2) build cosign2 github.com/sigstore/cosign/v2 cmd/cosign cosign ;;
	timestamp-server) build timestamp-server github.com/sigstore/timestamp-authority/v2 cmd/timestamp-server timestamp-server ;;
	rekor-server) build rekor-server github.com/sigstore/rekor-tiles/v2 cmd/rekor-server/posix rekor-server ;;
	tesseract) build tesseract github.com/transparency-dev/tesseract cmd/tesseract/posix tesseract ;;
	crane) build crane github.com/google/go-containerregistry cmd/crane crane ;;
	npm) npm_packages ;;
	*)
		echo "$here/tools.sh: no tool is named $1" >&2
		exit 2
		;;
	esac
}

if [ $# -eq 0 ]; then
	set -- crane timestamp-server rekor-server tesseract cosign3 cosign2 npm
fi
for tool in "$@"; do
	install "$tool"
done
