package resource

import apiservercel "k8s.io/apiserver/pkg/cel"

// The types of the variables request and namespaceObject, with the names and fields that expressions may use
// (k8s.io/apiserver/pkg/admission/plugin/cel: BuildRequestType, BuildNamespaceType).
var (
	celText  = apiservercel.StringType
	celTexts = apiservercel.NewListType(celText, -1)

	celRequest = celObject("AdmissionRequest", celFields{
		"kind": celGVK, "resource": celGVR, "requestKind": celGVK, "requestResource": celGVR, "name": celText, "operation": celText,
		"userInfo": celUser,
	}, celFields{
		"subResource": celText, "requestSubResource": celText, "namespace": celText,
		"dryRun": apiservercel.BoolType, "options": apiservercel.DynType,
	})
	celGVK  = celObject("GroupVersionKind", celFields{"group": celText, "version": celText, "kind": celText}, nil)
	celGVR  = celObject("GroupVersionResource", celFields{"group": celText, "version": celText, "resource": celText}, nil)
	celUser = celObject("UserInfo", nil, celFields{
		"username": celText, "uid": celText, "groups": celTexts, "extra": apiservercel.NewMapType(celText, celTexts, -1),
	})

	celNamespace = celObject("Namespace", celFields{
		"metadata": celObject("NamespaceMetadata", celFields{
			"name": celText, "generateName": celText, "namespace": celText, "labels": celMap, "annotations": celMap, "UID": celText,
			"creationTimestamp": apiservercel.TimestampType, "deletionGracePeriodSeconds": apiservercel.IntType,
			"deletionTimestamp": apiservercel.TimestampType, "generation": apiservercel.IntType, "resourceVersion": celText, "finalizers": celTexts,
		}, nil),
		"spec": celObject("NamespaceSpec", celFields{"finalizers": celTexts}, nil),
		"status": celObject("NamespaceStatus", celFields{
			"phase": celText,
			"conditions": apiservercel.NewListType(celObject("NamespaceCondition", celFields{
				"status": celText, "type": celText, "lastTransitionTime": apiservercel.TimestampType, "message": celText, "reason": celText,
			}, nil), -1),
		}, nil),
	}, nil)
	celMap = apiservercel.NewMapType(celText, celText, -1)
)

type celFields map[string]*apiservercel.DeclType

// celObject declares an object type of Kubernetes' by its required and optional fields.
func celObject(name string, required, optional celFields) *apiservercel.DeclType {
	fields := map[string]*apiservercel.DeclField{}
	for n, t := range required {
		fields[n] = apiservercel.NewDeclField(n, t, true, nil, nil)
	}
	for n, t := range optional {
		fields[n] = apiservercel.NewDeclField(n, t, false, nil, nil)
	}
	return apiservercel.NewObjectType("kubernetes."+name, fields)
}
