<?php
/*
 * Read at each request, so that the environment of the container decides. The
 * names of the variables are those of the wordpress image on Docker Hub.
 */
function lab_env( $name, $default ) {
	$file = getenv( $name . '_FILE' );
	if ( $file !== false && $file !== '' ) {
		return rtrim( file_get_contents( $file ), "\r\n" );
	}
	$value = getenv( $name );
	return $value === false ? $default : $value;
}

define( 'DB_NAME', lab_env( 'WORDPRESS_DB_NAME', 'wordpress' ) );
define( 'DB_USER', lab_env( 'WORDPRESS_DB_USER', 'example username' ) );
define( 'DB_PASSWORD', lab_env( 'WORDPRESS_DB_PASSWORD', 'example password' ) );
define( 'DB_HOST', lab_env( 'WORDPRESS_DB_HOST', 'mysql' ) );
define( 'DB_CHARSET', lab_env( 'WORDPRESS_DB_CHARSET', 'utf8' ) );
define( 'DB_COLLATE', lab_env( 'WORDPRESS_DB_COLLATE', '' ) );
$table_prefix = lab_env( 'WORDPRESS_TABLE_PREFIX', 'wp_' );

/* The same keys in every replica, or a login would hold on one of them only. */
foreach ( array( 'AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT', 'SECURE_AUTH_SALT', 'LOGGED_IN_SALT', 'NONCE_SALT' ) as $key ) {
	define( $key, lab_env( 'WORDPRESS_' . $key, hash( 'sha256', $key . DB_HOST . DB_NAME . DB_PASSWORD ) ) );
}

define( 'WP_DEBUG', (bool) lab_env( 'WORDPRESS_DEBUG', '' ) );
/* The lab has no way out: without this, each look for updates waits for a timeout. */
define( 'WP_HTTP_BLOCK_EXTERNAL', true );
define( 'AUTOMATIC_UPDATER_DISABLED', true );

if ( isset( $_SERVER['HTTP_X_FORWARDED_PROTO'] ) && strpos( $_SERVER['HTTP_X_FORWARDED_PROTO'], 'https' ) !== false ) {
	$_SERVER['HTTPS'] = 'on';
}
$extra = lab_env( 'WORDPRESS_CONFIG_EXTRA', '' );
if ( $extra !== '' ) {
	eval( $extra );
}
if ( ! defined( 'ABSPATH' ) ) {
	define( 'ABSPATH', __DIR__ . '/' );
}
require_once ABSPATH . 'wp-settings.php';
