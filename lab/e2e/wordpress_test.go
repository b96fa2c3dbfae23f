//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/whalepod/whalepod/lab"
)

// blogHost is a name that leads to every node, as a user's own domain with one
// address record a server would. WordPress redirects to the name that it was
// installed under.
const (
	blogHost = "blog.example:30080"
	blogURL  = "http://" + blogHost
	blogUser = "captain"
	blogPass = "correct-horse-battery"
)

// blog is a browser for which the blog's name resolves to one node.
func blog(n *lab.Node) place {
	return place{"through " + n.Name, func(ctx context.Context, network, _ string) (net.Conn, error) {
		return cluster.Dial(ctx, network, net.JoinHostPort(n.Address.String(), "30080"))
	}}
}

// installWordPress fills in the form that a new WordPress shows.
func installWordPress(t *testing.T, n *lab.Node) {
	t.Helper()
	pageShows(t, blog(n), blogURL+"/wp-admin/install.php", "weblog_title")
	got, err := post(t, blog(n).client(), "/wp-admin/install.php?step=2", url.Values{
		"weblog_title": {"Whales"}, "user_name": {blogUser}, "admin_password": {blogPass}, "admin_password2": {blogPass},
		"admin_email": {"captain@blog.example"}, "blog_public": {"0"}, "Submit": {"Install WordPress"},
	})
	if err == nil {
		err = got.shows("wp-login.php")
	}
	if err != nil {
		t.Fatalf("the install form: %v", err)
	}
}

// writePost signs in through one node and publishes a post as the editor does,
// with the cookies of the login and a nonce. It returns the post's address.
func writePost(t *testing.T, n *lab.Node, title string) string {
	t.Helper()
	browser := blog(n).client()
	// The login form sets a cookie to see whether the browser takes cookies.
	if _, err := fetch(t.Context(), browser, blogURL+"/wp-login.php"); err != nil {
		t.Fatal(err)
	}
	got, err := post(t, browser, "/wp-login.php", url.Values{"log": {blogUser}, "pwd": {blogPass}, "testcookie": {"1"}, "redirect_to": {blogURL + "/wp-admin/profile.php"}})
	if err == nil {
		err = got.shows(`id="profile-page"`)
	}
	if err != nil {
		t.Fatalf("login %s: %v", blog(n).name, err)
	}
	nonce, err := fetch(t.Context(), browser, blogURL+"/wp-admin/admin-ajax.php?action=rest-nonce")
	if err != nil || nonce.status != http.StatusOK {
		t.Fatalf("no nonce: %v %+v", err, nonce)
	}
	body, err := json.Marshal(map[string]string{"title": title, "content": "written through " + n.Name, "status": "publish"})
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, blogURL+"/?rest_route=/wp/v2/posts", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-WP-Nonce", strings.TrimSpace(nonce.body))
	answer, err := do(browser, req)
	if err != nil {
		t.Fatal(err)
	}
	var created struct{ ID int }
	if err := json.Unmarshal([]byte(answer.body), &created); err != nil || answer.status != http.StatusCreated || created.ID == 0 {
		t.Fatalf("the post was not taken: %v, status %d: %.600s", err, answer.status, answer.body)
	}
	return fmt.Sprintf("%s/?p=%d", blogURL, created.ID)
}

// post submits a form.
func post(t testing.TB, browser *http.Client, path string, form url.Values) (page, error) {
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, blogURL+path, strings.NewReader(form.Encode()))
	if err != nil {
		return page{}, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return do(browser, req)
}

// useWordPress goes the whole way of a new user: install through the first node,
// write through the second, read through the third.
func useWordPress(t *testing.T) {
	t.Helper()
	installWordPress(t, cluster.Node(1))
	address := writePost(t, cluster.Node(2), "Thar she blows")
	got := pageShows(t, blog(cluster.Node(3)), address, "Thar she blows")
	if want := "written through " + cluster.Node(2).Name; !strings.Contains(got.body, want) {
		t.Errorf("the post has no %q: %.2000s", want, got.body)
	}
}
