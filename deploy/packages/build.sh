#!/usr/bin/env bash
# Builds the packages of the checked-out commit in .cache/packages: deb and rpm. The same commit gives the same
# bytes. ARCH is the processor (amd64, arm64), VERSION the package's version. make packages runs it.
# "build.sh version" prints the version alone.
set -euo pipefail
cd "$(dirname "$0")/../.."
export GO=${GO:-go} ARCH=${ARCH:-$(${GO:-go} env GOARCH)} TZ=UTC
# The tag, or before the first one the time and the hash of the commit, which sort before any version. ~ sorts a release
# candidate before its release, + a later commit after its tag.
described=${DESCRIBED:-$(git describe --tags --match 'v[0-9]*' 2>/dev/null || true)}
VERSION=${VERSION:-$(sed -E 's/^v//; s/-([0-9]+-g[0-9a-f]+)$/+\1/; s/^([^-+]*)-/\1~/; s/-/./g' <<< "$described")}
export VERSION=${VERSION:-0~$(TZ=UTC git log -1 --date=format-local:%Y%m%d%H%M%S --format=%cd.%h)}
[ "${1:-}" != version ] || { echo "$VERSION"; exit; }
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
out=.cache/packages stage=.cache/packages/stage
umask 022
rm -rf $out && mkdir -p $stage/usr/bin $stage/usr/share/doc/mayfly

make -s binaries man "PLATFORMS=linux/$ARCH"
cp ".cache/release/mayfly_linux_$ARCH" $stage/usr/bin/mayfly
cp docs/*.md LICENSE CHANGELOG.md config/mayfly.example.yaml $stage/usr/share/doc/mayfly/
install -D -t $stage/usr/share/mayfly/runbooks deploy/runbooks/*.sh
cat > $stage/usr/share/doc/mayfly/copyright <<'TEXT'
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: mayfly
Source: https://github.com/mayfly-ca/mayfly

Files: *
Copyright: The mayfly authors
License: Apache-2.0
 /usr/share/doc/mayfly/LICENSE is the text; on Debian /usr/share/common-licenses/Apache-2.0 too.
TEXT
mkdir -p $stage/usr/share/man/man1 $stage/usr/share/{bash-completion/completions,zsh/vendor-completions,fish/vendor_completions.d}
cp .cache/man/*.1.gz $stage/usr/share/man/man1/
cp .cache/completions/mayfly.bash $stage/usr/share/bash-completion/completions/mayfly
cp .cache/completions/_mayfly $stage/usr/share/zsh/vendor-completions/_mayfly
cp .cache/completions/mayfly.fish $stage/usr/share/fish/vendor_completions.d/mayfly.fish
find $stage -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +

for format in deb rpm; do
  $GO tool -modfile=tools/nfpm/go.mod nfpm package -f deploy/packages/nfpm.yaml -p $format -t $out/
done
