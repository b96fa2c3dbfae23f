#!/bin/sh
# First start: make the system tables, then let the server itself run the
# statements for the database and the user before it takes a connection
# (--init-file). So there is no second server to start and stop.
set -eu
data=/var/lib/mysql
case "${1:-}" in '' | -*) set -- mysqld "$@" ;; esac
if [ "$1" != mysqld ] && [ "$1" != mariadbd ]; then
	exec "$@"
fi
shift

from_file() { # NAME: takes NAME_FILE's content where that is set
	eval "file=\${${1}_FILE:-}"
	[ -z "$file" ] || eval "$1=\$(cat \"\$file\"); export $1"
}
literal() { # quotes its argument as a string of SQL
	printf "'%s'" "$(printf '%s' "$1" | sed -e 's/\\/\\\\/g' -e "s/'/''/g")"
}
name() { # quotes its argument as a name of SQL
	printf '`%s`' "$(printf '%s' "$1" | sed -e 's/`/``/g')"
}

mkdir -p /run/mysqld "$data"
chown mysql:mysql /run/mysqld "$data"
if [ ! -d "$data/mysql" ]; then
	for v in MYSQL_ROOT_PASSWORD MYSQL_DATABASE MYSQL_USER MYSQL_PASSWORD; do from_file $v; done
	if [ -z "${MYSQL_ROOT_PASSWORD:-}${MYSQL_ALLOW_EMPTY_PASSWORD:-}${MYSQL_RANDOM_ROOT_PASSWORD:-}" ]; then
		echo "[ERROR] [Entrypoint]: Database is uninitialized and password option is not specified" >&2
		echo "    You need to specify one of MYSQL_ROOT_PASSWORD, MYSQL_ALLOW_EMPTY_PASSWORD and MYSQL_RANDOM_ROOT_PASSWORD" >&2
		exit 1
	fi
	if [ -n "${MYSQL_RANDOM_ROOT_PASSWORD:-}" ]; then
		MYSQL_ROOT_PASSWORD=$(od -An -N18 -tx1 /dev/urandom | tr -d ' \n')
		echo "[Note] [Entrypoint]: GENERATED ROOT PASSWORD: $MYSQL_ROOT_PASSWORD"
	fi
	echo "[Note] [Entrypoint]: Initializing database files"
	mariadb-install-db --user=mysql --datadir="$data" --skip-test-db --auth-root-authentication-method=normal >/dev/null
	rm -rf /run/mysql-init
	(umask 077 && mkdir -p /run/mysql-init)
	{
		root=$(literal "${MYSQL_ROOT_PASSWORD:-}")
		echo "CREATE USER IF NOT EXISTS root@'%' IDENTIFIED BY $root;"
		echo "GRANT ALL PRIVILEGES ON *.* TO root@'%' WITH GRANT OPTION;"
		echo "ALTER USER root@localhost IDENTIFIED BY $root;"
		if [ -n "${MYSQL_DATABASE:-}" ]; then
			echo "CREATE DATABASE IF NOT EXISTS $(name "$MYSQL_DATABASE");"
		fi
		if [ -n "${MYSQL_USER:-}" ] && [ -n "${MYSQL_PASSWORD:-}" ]; then
			user="$(literal "$MYSQL_USER")@'%'"
			echo "CREATE USER IF NOT EXISTS $user IDENTIFIED BY $(literal "$MYSQL_PASSWORD");"
			if [ -n "${MYSQL_DATABASE:-}" ]; then
				# _ and % are wildcards in the database name of a GRANT.
				db=$(printf '%s' "$MYSQL_DATABASE" | sed -e 's/[_%]/\\&/g')
				echo "GRANT ALL PRIVILEGES ON $(name "$db").* TO $user;"
			fi
		fi
	} >/run/mysql-init/init.sql
	chown -R mysql:mysql /run/mysql-init
	set -- --init-file=/run/mysql-init/init.sql "$@"
	echo "[Note] [Entrypoint]: MySQL init process done. Ready for start up."
fi
exec mariadbd --user=mysql --datadir="$data" "$@"
