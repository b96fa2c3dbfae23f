# Makes one layer: the packages and files of a recipe upon the layers beneath.
# Runs in mount and process namespaces of its own, so that whatever it mounts and
# whatever a package starts ends with it.
#   in: LOWER (rootfs directories, first is topmost), UPPER, WORK, ROOT, APT (the
#   /etc/apt to use), LISTS, PACKAGES, FILES (may be empty), SETUP (script)
set -eu
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mkdir -p "$WORK/../tmp"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
mount -t tmpfs tmpfs "$ROOT/run"
mkdir "$ROOT/run/lock"
mount --bind "$WORK/../tmp" "$ROOT/tmp"
mount -t tmpfs tmpfs "$ROOT/var/cache/apt"
mount --bind "$APT" "$ROOT/etc/apt"
mount --bind "$LISTS" "$ROOT/var/lib/apt/lists"
if [ -d /usr/share/keyrings ]; then
	mount --bind /usr/share/keyrings "$ROOT/usr/share/keyrings"
fi
mount --bind "$(readlink -f /etc/resolv.conf)" "$ROOT/etc/resolv.conf"
printf '#!/bin/sh\nexit 101\n' >"$ROOT/usr/sbin/policy-rc.d"
chmod 755 "$ROOT/usr/sbin/policy-rc.d"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 HOME=/root
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
if [ -n "$PACKAGES" ]; then
	chroot "$ROOT" apt-get -q -y --no-install-recommends -o APT::Sandbox::User=root \
		-o Dpkg::Options::=--force-unsafe-io install $PACKAGES
fi
if [ -n "$FILES" ]; then
	cp -a "$FILES/." "$ROOT/"
fi
if [ -n "$SETUP" ]; then
	chroot "$ROOT" sh -eu -c "$SETUP"
fi
rm -f "$ROOT/usr/sbin/policy-rc.d"
rm -rf "$ROOT"/var/log/apt "$ROOT"/var/log/dpkg.log "$ROOT"/var/log/alternatives.log \
	"$ROOT"/var/cache/debconf/*-old "$ROOT"/var/lib/dpkg/*-old
