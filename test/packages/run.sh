#!/usr/bin/env bash
# Tests the packages on a machine of its own: systemd in namespaces, over this machine's files, with every change in
# memory. It needs root, and Debian or Ubuntu with systemd. make test-packages runs it.
#
# It installs the Debian package, runs the commands of docs/linux.md to a first certificate, under a filter of
# system calls that kills the process at the first other call, restarts, upgrades, removes and purges.
set -euo pipefail
cd "$(dirname "$0")/../.."
say() { printf '\n== %s\n' "$*"; }
die() { echo "FAIL: $*" >&2; [ -z "${in:-}" ] || on journalctl -q --no-pager -n 20 -u mayfly -u mayfly-signer >&2; exit 1; }
[ "$(id -u)" = 0 ] || die "root is required, for namespaces"
[ -x /lib/systemd/systemd ] && command -v dpkg >/dev/null || die "systemd and dpkg are required: a Debian machine"

say "versions in the order of tags and commits"
before=0
for described in v1.0.0-rc.1 v1.0.0-rc.1-12-gabc1234 v1.0.0-rc.2 v1.0.0 v1.0.0-3-gabc1234 v1.0.1; do
  version=$(VERSION='' DESCRIBED=$described deploy/packages/build.sh version)
  dpkg --compare-versions "$before" lt "$version" || die "$version of $described does not sort after $before"
  before=$version
done

say "the packages: twice, the same bytes"
VERSION=0.0.1 deploy/packages/build.sh > /dev/null
before=$(cd .cache/packages && sha256sum ./*.deb ./*.rpm)
VERSION=0.0.2 deploy/packages/build.sh > /dev/null
work=$(mktemp -d)
cp .cache/packages/*.deb "$work"/
VERSION=0.0.1 deploy/packages/build.sh > /dev/null
[ "$before" = "$(cd .cache/packages && sha256sum ./*.deb ./*.rpm)" ] || die "two builds differ"
echo "$before"
cp .cache/packages/*.deb "$work"/

say "the RPM package, as rpm reads it"
rpm=(rpm)
if ! command -v rpm > /dev/null; then # downloaded, and not installed
  tools=$PWD/.cache/rpm
  if [ ! -d "$tools/usr" ]; then
    mkdir -p "$tools"
    (cd "$tools" && apt-get download -qq rpm rpm-common librpm9 librpmio9 liblua5.3-0 libpopt0 && for p in ./*.deb; do dpkg -x "$p" . && rm "$p"; done)
  fi
  libraries=$(echo "$tools"/usr/lib/*-linux-gnu | tr ' ' ':'):$(echo "$tools"/lib/*-linux-gnu | tr ' ' ':')
  rpm=(env "LD_LIBRARY_PATH=$libraries" "RPM_CONFIGDIR=$tools/usr/lib/rpm" "$tools/usr/bin/rpm")
fi
"${rpm[@]}" --dbpath "$work/db" -qp --qf '[%{FILEMODES:perms} %{FILEUSERNAME}:%{FILEGROUPNAME} %{FILEFLAGS:fflags}| %{FILENAMES}\n]' .cache/packages/*.rpm > "$work/rpm"
for line in "-rwxr-xr-x root:root | /usr/bin/mayfly" "-rw-r--r-- root:root cn| /etc/mayfly/mayfly.yaml" "-rw-r--r-- root:root | /usr/lib/systemd/system/mayfly.service" \
  "-rw-r--r-- root:root | /usr/share/man/man1/mayfly.1.gz" "-rwxr-xr-x root:root | /usr/share/mayfly/runbooks/backup.sh"; do
  grep -qxF -- "$line" "$work/rpm" || die "the RPM package lacks: $line"
done
[ "$(dpkg-deb --fsys-tarfile "$work"/*0.0.1*.deb | tar t | grep -v '/$' | sed 's/^\.//' | sort)" = "$(grep -v ^d "$work/rpm" | sed 's/.*| //' | sort)" ] || die "the two packages have different files"
"${rpm[@]}" --dbpath "$work/db" -qp --scripts .cache/packages/*.rpm | grep -q 'systemd-sysusers mayfly.conf' || die "the RPM package has no scripts"
grep -c . "$work/rpm"

say "a machine"
mkdir "$work/machine"
unshare --pid --fork --mount --uts --ipc --net --cgroup --kill-child test/packages/boot.sh "$work/machine" &
outer=$!
trap 'kill -9 $outer 2>/dev/null; wait $outer 2>/dev/null || true; rm -rf "$work"' EXIT
for _ in $(seq 200); do
  init=$(pgrep -P $outer -x systemd || true)
  [ -n "$init" ] && in=(timeout 60 nsenter -t "$init" -p -m -u -i -n -w) && "${in[@]}" systemctl is-system-running >/dev/null 2>&1 && break
  sleep 0.1
done
on() { "${in[@]}" "$@"; }
on systemctl is-system-running || die "systemd did not start in the namespaces"
deb1=$(ls "$work"/*0.0.1*.deb) deb2=$(ls "$work"/*0.0.2*.deb)
to() { on sh -c "cat > '$1'" < "$2"; }
to /tmp/1.deb "$deb1"
to /tmp/2.deb "$deb2"

# until SECONDS COMMAND… repeats a command until it succeeds.
until_() { local end=$((SECONDS + $1)); shift; until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || die "not in time: $*"; sleep 0.1; done; }
is() { [ "$2" = "$3" ] || die "$1: found $2, expected $3"; }
property() { on systemctl show -P "$2" "$1"; }
# the commands of docs/linux.md in the section $1
commands() { awk -v section="## $1" '$0 == section {on=1; next} /^## /{on=0} on && /^```sh/{code=1; next} /^```/{code=0} on && code' docs/linux.md; }

say "installation: owners, modes, nothing runs"
on dpkg -i /tmp/1.deb
for expected in \
  "/usr/bin/mayfly root:root 755" "/etc/mayfly root:root 755" "/etc/mayfly/mayfly.yaml root:root 644" "/etc/mayfly/ca mayfly:mayfly 700" \
  "/var/lib/mayfly mayfly:mayfly 700" "/usr/lib/systemd/system/mayfly.service root:root 644" "/usr/share/doc/mayfly/copyright root:root 644"; do
  read -r path rest <<< "$expected"
  is "$path" "$(on stat -c '%U:%G %a' "$path")" "$rest"
done
foreign=$(dpkg-deb -c "$deb1" | awk '$2 != "root/root" || $1 ~ /^.....w|^........w|s/' )
[ -z "$foreign" ] || die "owned by others, writable for others, or setuid: $foreign"
for unit in mayfly.service mayfly.socket mayfly-grpc.socket mayfly-signer.service mayfly-signer.socket; do
  is "$unit" "$(property $unit UnitFileState) $(property $unit ActiveState)" "disabled inactive"
done
on systemd-analyze verify --man=no mayfly.service mayfly-signer.service
for unit in mayfly.service mayfly-signer.service; do
  on systemd-analyze security --threshold=15 --no-pager $unit | tail -1
done
on mayfly version

say "a provider for tokens: mayfly dev"
on systemd-run -q --unit=provider -p DynamicUser=yes -p MemoryMax=300M /usr/bin/mayfly dev --listen 127.0.0.1:6555
until_ 30 on curl -sf 'http://127.0.0.1:6555/dev/token?email=person@example.com'

say "docs/linux.md, to a first certificate; the first system call outside of the filter kills"
for unit in mayfly.service mayfly-signer.service; do
  on mkdir -p /etc/systemd/system/$unit.d
  on sh -c "printf '[Service]\nSystemCallErrorNumber=kill\n' > /etc/systemd/system/$unit.d/strict.conf"
done
on systemctl daemon-reload
commands "To a first certificate" > "$work/first"
grep -c mayfly "$work/first" > /dev/null || die "docs/linux.md has no commands"
# The issuer of the test beside the one of the page.
awk '{print} /^mayfly config init/ {print "cat >> /etc/mayfly/issuers.yaml <<E\n  http://127.0.0.1:6555/dev/oidc: {issuer-url: http://127.0.0.1:6555/dev/oidc, client-id: sigstore, type: email, skip-email-verification: false, allowed-email-domains: [example.com]}\nE\necho \"oidc: {allow_loopback: true}\" >> /etc/mayfly/mayfly.yaml"}' "$work/first" > "$work/first.sh"
to /tmp/first.sh "$work/first.sh"
on sh -exu /tmp/first.sh || die "a command of docs/linux.md"
until_ 30 on mayfly status
on systemctl status --no-pager -n 0 mayfly.service
is STATUS "$(property mayfly.service StatusText | cut -d' ' -f1 | tr -d ';')" ready

request() { on sh -c 'curl -sf "http://127.0.0.1:6555/dev/token?email=person@example.com" > /tmp/token && rm -f /tmp/key.pem /tmp/chain.pem && mayfly request --url http://127.0.0.1:5555 --token-file /tmp/token --key /tmp/key.pem --certificate /tmp/chain.pem'; }
until_ 20 request
on mayfly inspect /tmp/chain.pem | sed -n 1,5p

say "a restart under load refuses nothing"
on sh -c 'curl -sf "http://127.0.0.1:6555/dev/token?email=person@example.com" > /tmp/token'
cat > "$work/load.sh" <<'LOAD'
n=0
while [ ! -e /tmp/enough ]; do
  n=$((n + 1)); rm -f /tmp/load.pem
  mayfly request --url http://127.0.0.1:5555 --token-file /tmp/token --key /tmp/load.pem --certificate /tmp/load-chain.pem 2>> /tmp/load.errors || echo failed >> /tmp/load.errors
  echo $n > /tmp/load.count
done
LOAD
to /tmp/load.sh "$work/load.sh"
on systemd-run -q --unit=load sh /tmp/load.sh
pid=$(property mayfly.service MainPID)
for _ in 1 2 3; do
  at=$(on cat /tmp/load.count 2>/dev/null || echo 0)
  until_ 20 on sh -c "[ \$(cat /tmp/load.count) -gt $((at + 3)) ]"
  on systemctl restart mayfly.service
done
on touch /tmp/enough
until_ 20 on sh -c '! systemctl is-active -q load'
! on cat /tmp/load.errors 2>/dev/null | grep . || die "requests failed"
[ "$pid" != "$(property mayfly.service MainPID)" ] || die "no restart"
echo "$(on cat /tmp/load.count) certificates over 3 restarts, none refused"

say "issuers are read again; nothing of it needs a forbidden system call"
on sh -c 'sed -i "s/example.com/example.com, example.org/" /etc/mayfly/issuers.yaml'
until_ 20 on sh -c 'curl -sf 127.0.0.1:2112/metrics | grep -q "^mayfly_config_generation 2"'
request
is "restarts" "$(property mayfly.service NRestarts)" 0

say "a process that hangs is started again"
on sh -c "printf '[Service]\nWatchdogSec=2s\n' > /etc/systemd/system/mayfly.service.d/watchdog.conf"
on systemctl daemon-reload
on systemctl restart mayfly.service
pid=$(property mayfly.service MainPID)
on kill -STOP "$pid"
until_ 20 on sh -c "[ \$(systemctl show -P NRestarts mayfly.service) -ge 1 ]"
until_ 30 on mayfly status
request
on rm /etc/systemd/system/mayfly.service.d/watchdog.conf
on systemctl daemon-reload
on systemctl restart mayfly.service

say "a socket whose address is not that of the configuration"
on sh -c "mkdir -p /etc/systemd/system/mayfly.socket.d && printf '[Socket]\nListenStream=\nListenStream=443\n' > /etc/systemd/system/mayfly.socket.d/port.conf"
on systemctl daemon-reload
on systemctl -q stop mayfly.service
on systemctl restart mayfly.socket
! on systemctl start mayfly.service 2>/dev/null || die "mayfly started with another address"
on journalctl -q --no-pager -u mayfly.service | grep -o 'found 127.0.0.1:5555.*ListenStream= of its unit' | tail -1 | grep 443
on systemctl -q stop mayfly.service
say "port 443 without a capability"
on sed -i 's/http: 127.0.0.1:5555/http: 0.0.0.0:443/' /etc/mayfly/mayfly.yaml
on systemctl start mayfly.service
until_ 20 on curl -sf http://127.0.0.1:443/readyz
on sed -i 's/http: 0.0.0.0:443/http: 127.0.0.1:5555/' /etc/mayfly/mayfly.yaml
on rm -r /etc/systemd/system/mayfly.socket.d
on systemctl daemon-reload
on systemctl -q stop mayfly.service
on systemctl restart mayfly.socket
on systemctl start mayfly.service
until_ 20 on mayfly status

say "docs/linux.md, keys in a process of their own; the password in a credential"
commands "Keys in a process of their own" > "$work/signer.sh"
on sh -c 'mkdir -p -m 700 /etc/credstore && cat /etc/mayfly/ca/*/pass > /etc/credstore/mayfly.ca-password && chmod 600 /etc/credstore/mayfly.ca-password'
on sh -c 'sed -i "s|password_file: [^,} ]*|password_file: /run/credentials/mayfly-signer.service/ca-password|" /etc/mayfly/ca/ca.yaml && rm /etc/mayfly/ca/*/pass'
to /tmp/signer.sh "$work/signer.sh"
on sh -exu /tmp/signer.sh || die "a command of docs/linux.md"
until_ 30 on mayfly status
request
on stat -c '%n %U:%G %a' /run/mayfly-signer/s
is "the server reads no key" "$(on runuser -u mayfly -- cat "$(on sh -c 'echo /etc/mayfly/ca/*/key.pem')" 2>&1 | grep -c 'Permission denied')" 1
on systemctl restart mayfly-signer.service
until_ 20 request
on systemctl status --no-pager -n 0 mayfly-signer.service | grep Status

say "docs/linux.md, rotation as root: both processes read the new authority"
commands Rotation > "$work/rotation.sh"
grep -q 'ca add' "$work/rotation.sh" || die "docs/linux.md has no commands for a rotation"
to /tmp/rotation.sh "$work/rotation.sh"
on sh -exu /tmp/rotation.sh || die "a command of docs/linux.md"
until_ 30 on sh -c 'curl -sf 127.0.0.1:2112/metrics | grep -q "^mayfly_ca_set_generation 3"'
on systemctl restart mayfly-signer.service mayfly.service
until_ 30 on mayfly status
request

say "an upgrade restarts what runs, and keeps the configuration"
pid=$(property mayfly.service MainPID)
on dpkg -i /tmp/2.deb
[ "$pid" != "$(property mayfly.service MainPID)" ] || die "the old release still runs"
on grep -q signer_socket /etc/mayfly/mayfly.yaml || die "the configuration was replaced"
until_ 30 on mayfly status
request

say "removal, then purge: keys and state stay"
on dpkg -r mayfly
on test ! -e /usr/bin/mayfly
for unit in mayfly.service mayfly.socket mayfly-signer.service; do
  is $unit "$(property $unit ActiveState) $(property $unit LoadState)" "inactive not-found"
done
on test -e /etc/mayfly/mayfly.yaml
on dpkg -P mayfly
on test ! -e /etc/mayfly/mayfly.yaml
on sh -c 'ls /etc/mayfly/ca/*/key.pem /var/lib/mayfly/ctlog-2026.key /var/lib/mayfly/ctlog-guard/2026.json /var/lib/mayfly/audit'
say "all of it works"
