// Package netfiles writes what a pod's processes read about names: host name, /etc/hosts and /etc/resolv.conf.
// Its functions return content; who writes it where is not its business.
package netfiles
