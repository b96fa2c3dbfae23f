package master

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/whalepod/whalepod/master/internal/pki"
	"github.com/whalepod/whalepod/master/internal/registry"
)

const (
	// authenticationConfig is the ConfigMap in kube-system by which other API servers know whose certificates and headers to
	// believe; authenticationReader is the Role by which they may read it.
	authenticationConfig = "extension-apiserver-authentication"
	authenticationReader = "extension-apiserver-authentication-reader"
)

// publishAuthentication keeps the ConfigMap as this master is; other keys in it stay. The Role is only made.
func (m *Master) publishAuthentication(tx *registry.Tx) error {
	want := map[string]string{
		"client-ca-file":                     string(m.pki.CA()),
		"requestheader-client-ca-file":       string(m.pki.FrontProxyCA()),
		"requestheader-allowed-names":        `["` + pki.FrontProxyName + `"]`,
		"requestheader-username-headers":     `["X-Remote-User"]`,
		"requestheader-uid-headers":          `["X-Remote-Uid"]`,
		"requestheader-group-headers":        `["X-Remote-Group"]`,
		"requestheader-extra-headers-prefix": `["X-Remote-Extra-"]`,
	}
	err := ensure(tx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: metav1.NamespaceSystem, Name: authenticationReader,
			Labels:      map[string]string{"kubernetes.io/bootstrapping": "rbac-defaults"},
			Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "true"},
		},
		Rules: []rbacv1.PolicyRule{{
			Verbs: []string{"get", "list", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{authenticationConfig},
		}},
	})
	if err != nil {
		return err
	}
	old, err := registry.Get[*corev1.ConfigMap](tx, metav1.NamespaceSystem, authenticationConfig)
	if apierrors.IsNotFound(err) {
		_, err = registry.Create(tx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: authenticationConfig}, Data: want})
		return err
	}
	if err != nil {
		return err
	}
	next := old.DeepCopy()
	if next.Data == nil {
		next.Data = map[string]string{}
	}
	maps.Copy(next.Data, want)
	if maps.Equal(next.Data, old.Data) {
		return nil
	}
	_, err = registry.Put(tx, next)
	return err
}
