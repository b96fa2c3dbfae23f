# First process of a node: sets up what a machine of its own has, then does
# nothing but reap. Everything else on the node ends when it is killed.
#   in: NAME (host name), ETC (directory with resolv.conf, hosts), READY (file to make)
set -eu
echo "$NAME" >/proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
for f in resolv.conf hosts; do
	target=$(readlink -m "/etc/$f")
	mkdir -p "$(dirname "$target")"
	[ -e "$target" ] || : >"$target"
	mount --bind "$ETC/$f" "$target"
done
# The engine writes a key there, and would read the machine's own settings.
mkdir -p /etc/docker
mount -t tmpfs tmpfs /etc/docker
: >"$READY"
trap : TERM INT HUP
while :; do
	sleep 2147483647 &
	wait "$!" || :
done
