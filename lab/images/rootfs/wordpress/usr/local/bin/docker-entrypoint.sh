#!/bin/sh
# An empty volume over the document root gets a copy of WordPress, as with the
# image that Docker Hub has.
set -eu
case "${1:-}" in -*) set -- apache2-foreground "$@" ;; esac
if [ ! -e /var/www/html/index.php ]; then
	echo "WordPress not found in /var/www/html - copying now..." >&2
	cp -a /usr/src/wordpress/. /var/www/html/
fi
exec "$@"
