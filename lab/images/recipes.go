package images

import (
	"embed"
	"io/fs"
)

// files holds what the recipes put on top of the packages, a folder each.
//
//go:embed all:rootfs
var files embed.FS

// Recipe says how one image is made.
type Recipe struct {
	Name string   // of the recipe
	From string   // recipe whose layers lie beneath; empty for the first
	Tags []string // what engines may ask for, as in "library/redis:6.0"; none for a base

	Packages []string // to install, without what they only recommend
	Files    string   // folder under rootfs that is copied over the result
	Setup    string   // shell script run in the new root after that
	// Scratch makes the layer of /out instead of the root, on nothing at all:
	// for programs that need no distribution beneath.
	Scratch bool
	// Program is a static executable of ours that becomes the only file of the
	// image, without any packages.
	Program string

	Config Config
}

// Config is the part of an image's configuration that recipes set. The JSON names
// are those of the OCI image specification.
type Config struct {
	Entrypoint   []string            `json:"Entrypoint,omitempty"`
	Cmd          []string            `json:"Cmd,omitempty"`
	Env          []string            `json:"Env,omitempty"`
	ExposedPorts map[string]struct{} `json:"ExposedPorts,omitempty"`
	WorkingDir   string              `json:"WorkingDir,omitempty"`
	StopSignal   string              `json:"StopSignal,omitempty"`
}

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func port(p string) map[string]struct{} { return map[string]struct{}{p: {}} }

// Recipes is every image of the lab, each after the one it stands on.
//
// The stop signals are those of the images on Docker Hub: with them the servers
// finish the requests in hand.
var Recipes = []Recipe{
	{
		Name:     "base",
		Packages: []string{"ca-certificates"},
	},
	{
		Name: "httpd", From: "base", Tags: tags("library/httpd", "latest", "2.4", "2"),
		Packages: []string{"apache2"},
		Files:    "httpd",
		Setup: `a2dismod -f status >/dev/null
sed -i 's/^MaxKeepAliveRequests.*/MaxKeepAliveRequests 1000/; s/^KeepAliveTimeout.*/KeepAliveTimeout 5/' /etc/apache2/apache2.conf
echo 'GracefulShutdownTimeout 10' >>/etc/apache2/apache2.conf
a2disconf other-vhosts-access-log >/dev/null
ln -sf /proc/self/fd/2 /var/log/apache2/error.log
rm -rf /var/www/html`,
		Config: Config{
			Env: []string{path}, Cmd: []string{"httpd-foreground"}, WorkingDir: "/usr/local/apache2",
			ExposedPorts: port("80/tcp"), StopSignal: "SIGWINCH",
		},
	},
	{
		Name: "wordpress", From: "httpd", Tags: tags("library/wordpress", "latest", "6", "apache"),
		Packages: []string{"libapache2-mod-php", "php-mysql", "php-gd", "php-getid3", "libjs-cropper", "libjs-underscore"},
		Files:    "wordpress",
		Setup:    wordpressSetup,
		Config: Config{
			Env: []string{path}, Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"apache2-foreground"},
			WorkingDir: "/var/www/html", ExposedPorts: port("80/tcp"), StopSignal: "SIGWINCH",
		},
	},
	{
		Name: "wordpress-fpm", From: "wordpress", Tags: tags("library/wordpress", "fpm", "6-fpm"),
		Packages: []string{"php-fpm", "systemd-standalone-tmpfiles"},
		Files:    "fpm",
		Setup: `ln -s "$(ls /usr/sbin/php-fpm[0-9]* | head -n 1)" /usr/local/sbin/php-fpm
mkdir -p /run/php`,
		Config: Config{
			Env: []string{path}, Entrypoint: []string{"docker-entrypoint.sh"},
			Cmd:        []string{"php-fpm", "--nodaemonize", "--fpm-config", "/etc/php-fpm.d/lab.conf"},
			WorkingDir: "/var/www/html", ExposedPorts: port("9000/tcp"), StopSignal: "SIGQUIT",
		},
	},
	{
		Name: "mysql", From: "base", Tags: tags("library/mysql", "latest", "5.6", "5.7", "8", "8.0"),
		Packages: []string{"mariadb-server-core", "mariadb-client"},
		Files:    "mysql",
		Setup: `id mysql >/dev/null 2>&1 || useradd --system --home-dir /nonexistent --shell /bin/false --uid 999 mysql
grep -q conf.d /etc/mysql/my.cnf 2>/dev/null || printf '[client-server]\n!includedir /etc/mysql/conf.d/\n' >/etc/mysql/my.cnf
rm -rf /var/lib/mysql /usr/share/mysql/test
mkdir -p /var/lib/mysql
for p in mysql mysqldump mysqladmin mysqlcheck; do
	m=$(echo $p | sed 's/^mysql/mariadb-/; s/-$//')
	[ ! -e /usr/bin/$m ] || [ -e /usr/bin/$p ] || ln -s $m /usr/bin/$p
done
for m in access backup binlog conv convert-table-format find-rows fix-extensions hotcopy import plugin secure-installation \
	setpermission show slap tzinfo-to-sql waitpid; do
	rm -f /usr/bin/mariadb-$m
done
dpkg --purge --force-depends perl libperl5.36 perl-modules-5.36 libconfig-inifiles-perl >/dev/null 2>&1 || :
[ -e /usr/sbin/mysqld ] || ln -s mariadbd /usr/sbin/mysqld`,
		Config: Config{
			Env: []string{path}, Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"mysqld"},
			ExposedPorts: port("3306/tcp"),
		},
	},
	{
		Name: "redis", From: "base", Tags: tags("library/redis", "latest", "6.0", "6", "7"),
		Packages: []string{"redis-server"},
		Files:    "redis",
		Config: Config{
			Env: []string{path}, Entrypoint: []string{"docker-entrypoint.sh"}, Cmd: []string{"redis-server"},
			WorkingDir: "/data", ExposedPorts: port("6379/tcp"),
		},
	},
	{
		Name: "nginx", From: "base", Tags: tags("library/nginx", "latest", "1.25", "1.14.2", "1"),
		Packages: []string{"nginx-light"},
		Files:    "nginx",
		Setup: `rm -f /etc/nginx/sites-enabled/default
ln -sf /dev/stdout /var/log/nginx/access.log
ln -sf /dev/stderr /var/log/nginx/error.log
[ -e /usr/share/nginx/html/index.html ] || ln -s index.nginx-debian.html /usr/share/nginx/html/index.html`,
		Config: Config{
			Env: []string{path}, Cmd: []string{"nginx", "-g", "daemon off;"},
			ExposedPorts: port("80/tcp"), StopSignal: "SIGQUIT",
		},
	},
	{
		Name: "busybox", From: "base", Tags: tags("library/busybox", "latest", "1", "1.28", "1.36"),
		Packages: []string{"busybox-static"},
		Scratch:  true,
		Setup: `mkdir -p /out/bin /out/etc /out/tmp /out/root /out/home /out/var /out/usr/bin /out/usr/sbin
cp "$(command -v busybox)" /out/bin/busybox
for a in $(busybox --list); do [ "$a" = busybox ] || ln -s busybox /out/bin/$a; done
ln -s ../../bin/env /out/usr/bin/env
chmod 1777 /out/tmp
echo 'root:x:0:0:root:/root:/bin/sh' >/out/etc/passwd
echo 'root:x:0:' >/out/etc/group`,
		Config: Config{Env: []string{path}, Cmd: []string{"sh"}},
	},
	{
		Name: "p4app", Tags: tags("kurokobo/p4app", "0.0.1", "latest"),
		Program: "p4app",
		Config:  Config{Env: []string{path}, Entrypoint: []string{"/p4app"}, ExposedPorts: port("8080/tcp")},
	},
}

// wordpressSetup unpacks the wordpress package rather than installing it: its
// dependencies bring a database client and Perl, which an image has no use for.
// Its links into other packages become files, and /usr/src/wordpress and
// /var/www/html are hard links to each other, so that an empty volume can be
// filled without the image carrying WordPress twice.
const wordpressSetup = `mkdir /tmp/wp && cd /tmp/wp
apt-get -q -o APT::Sandbox::User=root download wordpress wordpress-theme-twentytwentythree
for d in *.deb; do dpkg-deb -x "$d" x; done
cp -a x/usr/share/wordpress /usr/share/
cp -a x/var/lib/wordpress /var/lib/
mv /usr/src/wp-config.php /tmp/wp/
rm /usr/share/wordpress/.htaccess
cp -rL /usr/share/wordpress /usr/src/wordpress
rm -rf /usr/share/wordpress /var/lib/wordpress
cp /tmp/wp/wp-config.php /usr/src/wordpress/wp-config.php
cd /usr/src/wordpress
mkdir -p wp-content/uploads wp-content/plugins
chown -R www-data:www-data .
mkdir -p /var/www
cp -al /usr/src/wordpress /var/www/html
sed -i 's,/usr/local/apache2/htdocs,/var/www/html,; s/AllowOverride None/AllowOverride All/' /etc/apache2/sites-available/000-default.conf
a2enmod rewrite expires >/dev/null`

func tags(repository string, names ...string) []string {
	var all []string
	for _, n := range names {
		all = append(all, repository+":"+n)
	}
	return all
}

// overlay returns the files that a recipe puts into its image.
func (r Recipe) overlay() (fs.FS, error) {
	if r.Files == "" {
		return nil, nil
	}
	return fs.Sub(files, "rootfs/"+r.Files)
}
