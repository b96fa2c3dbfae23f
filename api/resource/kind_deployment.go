package resource

import "k8s.io/apimachinery/pkg/runtime/schema"

// deployments are also served in the three groups of old posts; a Deployment made in one is seen in all.
func deployments() *Resource {
	return &Resource{
		Name: "deployments", Singular: "deployment", Kind: "Deployment", ListKind: "DeploymentList", Namespaced: true,
		ShortNames: []string{"deploy"}, Categories: categoryAll, Verbs: allVerbs,
		Storage: appsV1, Served: served(appsV1, appsV1beta2, appsV1beta1, extensionsV1),
		Subresources: map[string]Subresource{
			"status": statusOf(appsV1, "Deployment"),
			"scale":  {Kind: autoscaleV1.WithKind("Scale"), Verbs: readWrite},
			"rollback": {
				Kind: appsV1beta1.WithKind("DeploymentRollback"), Verbs: createOne,
				Only: []schema.GroupVersion{appsV1beta1, extensionsV1},
			},
		},
	}
}
