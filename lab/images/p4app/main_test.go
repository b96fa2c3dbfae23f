package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestPage(t *testing.T) {
	tests := map[string]struct {
		path string
		n    int64
		err  error
		want []string
		code int
	}{
		"counted":       {path: "/", n: 7, want: []string{"Served by: pod-1", "Visits: 7"}, code: 200},
		"without redis": {path: "/", err: errors.New("no such host"), want: []string{"Served by: pod-1", "not counted"}, code: 200},
		"other path":    {path: "/favicon.ico", want: []string{"not found"}, code: 404},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			h := handler("pod-1", func(context.Context) (int64, error) { return tt.n, tt.err })
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest("GET", tt.path, nil))
			if w.Code != tt.code {
				t.Errorf("status %d, want %d", w.Code, tt.code)
			}
			for _, s := range tt.want {
				if !strings.Contains(w.Body.String(), s) {
					t.Errorf("page has no %q:\n%s", s, w.Body)
				}
			}
		})
	}
}

func TestIncrement(t *testing.T) {
	tests := map[string]struct {
		reply string
		want  int64
		fails bool
	}{
		"number": {reply: ":42\r\n", want: 42},
		"error":  {reply: "-ERR value is not an integer\r\n", fails: true},
		"cut":    {reply: "", fails: true},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			go func() {
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				r := bufio.NewReader(c)
				for range 5 { // *2, $4, INCR, $6, visits
					if _, err := r.ReadString('\n'); err != nil {
						return
					}
				}
				_, _ = io.WriteString(c, tt.reply)
			}()
			n, err := increment(t.Context(), l.Addr().String(), "visits")
			if (err != nil) != tt.fails || n != tt.want {
				t.Errorf("increment = %d, %v", n, err)
			}
		})
	}
}
