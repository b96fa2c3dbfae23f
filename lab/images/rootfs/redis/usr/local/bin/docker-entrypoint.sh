#!/bin/sh
set -eu
case "${1:-}" in '' | -* | *.conf) set -- redis-server "$@" ;; esac
if [ "$1" = redis-server ]; then
	shift
	mkdir -p /data
	chown redis:redis /data
	cd /data
	# Protected mode would refuse every client outside of the container.
	exec setpriv --reuid redis --regid redis --clear-groups redis-server "$@" --protected-mode no
fi
exec "$@"
