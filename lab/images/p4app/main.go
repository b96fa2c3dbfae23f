// Command p4app is the small web application of the articles that our users
// follow: it says which pod served the page and counts visits in Redis.
//
// It is written against the standard library alone, because it becomes an image
// of a few megabytes with nothing else in it. Without Redis it still answers, and
// says that it cannot count.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"html"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// redisTimeout bounds a whole exchange with Redis: a page must not hang because
// the counter does.
const redisTimeout = 2 * time.Second

func main() {
	redis := os.Getenv("REDIS_HOST")
	if redis == "" {
		redis = "redis"
	}
	if _, _, err := net.SplitHostPort(redis); err != nil {
		redis = net.JoinHostPort(redis, "6379")
	}
	name, err := os.Hostname()
	if err != nil {
		log.Fatal(err)
	}
	count := func(ctx context.Context) (int64, error) { return increment(ctx, redis, "visits") }
	server := &http.Server{Addr: ":8080", Handler: handler(name, count), ReadHeaderTimeout: 10 * time.Second}

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := server.Shutdown(grace); err != nil {
			log.Print(err)
		}
	}()
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		log.Fatal(err)
	}
	<-ended
}

// handler writes the page. count returns the number of visits so far.
func handler(name string, count func(context.Context) (int64, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/" {
			http.NotFound(w, r)
			return
		}
		visits := "Visits: not counted (no Redis)"
		if n, err := count(r.Context()); err == nil {
			visits = "Visits: " + strconv.FormatInt(n, 10)
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprintf(w, "<html><body><h1>p4app</h1>\n<p>Served by: %s</p>\n<p>%s</p>\n</body></html>\n",
			html.EscapeString(name), html.EscapeString(visits))
	})
}

// increment sends INCR in Redis' own protocol (RESP, https://redis.io/docs/reference/protocol-spec).
func increment(ctx context.Context, addr, key string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, redisTimeout)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return 0, err
	}
	if _, err := fmt.Fprintf(conn, "*2\r\n$4\r\nINCR\r\n$%d\r\n%s\r\n", len(key), key); err != nil {
		return 0, err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	line = strings.TrimRight(line, "\r\n")
	if !strings.HasPrefix(line, ":") {
		return 0, fmt.Errorf("redis answered %q", line)
	}
	return strconv.ParseInt(line[1:], 10, 64)
}
